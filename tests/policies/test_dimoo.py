"""What only Lumina-DiMOO has: its names and numbers, padding, schedules, exactness, prompts, broken checkpoints."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import stats
from torch import Tensor

from dimoo_world import by_hand, sampled, sharp_dimoo
from pairuni.errors import InputError
from pairuni.policies import load_policy
from pairuni.policies.dimoo import decode, prompts
from pairuni.policies.dimoo.model import DimooConfig, DimooModel, states_at
from pairuni.policies.dimoo.policy import DimooPolicy
from pairuni.policies.sampling import counter_seed
from pairuni.tiny.build_dimoo import DimooSize
from pairuni.types import Prompt, Rollouts, SamplingSpec, Side

# ---- the model --------------------------------------------------------------------------------------------------


def test_names_and_shapes_are_those_of_the_release() -> None:
    """Lumina-DiMOO's published numbers; 8.08 billion parameters."""
    with torch.device("meta"):
        model = DimooModel(DimooConfig())
    width, inner, ids = 4096, 12288, 134_548
    expected: dict[str, tuple[int, ...]] = {
        "model.transformer.wte.weight": (ids, width),
        "model.transformer.ln_f.weight": (width,),
        "model.transformer.ff_out.weight": (ids, width),
    }
    for i in range(32):
        block = f"model.transformer.blocks.{i}."
        expected |= {f"{block}{norm}.weight": (width,) for norm in ("attn_norm", "ff_norm")}
        expected |= {f"{block}{name}.weight": (width, width) for name in ("q_proj", "k_proj", "v_proj", "attn_out")}
        expected |= {f"{block}{name}.weight": (inner, width) for name in ("ff_proj", "up_proj")}
        expected |= {f"{block}ff_out.weight": (width, inner)}
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == expected
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(8.08e9, rel=1e-3)
    c = model.config
    assert c.image_offset + 8192 == c.embedding_size and sorted(c.tokens().values()) == sorted(
        {126336, 126081, 126084, 126339, 126349, 126350, 126351, 126354, 126355}
    )


def test_forward_against_numpy(tiny_dimoo: DimooPolicy) -> None:
    model = tiny_dimoo.module.language
    ids = torch.randint(0, model.config.embedding_size, (1, 11), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model.head(model(ids))[0]
    np.testing.assert_allclose(logits.numpy(), by_hand(model, ids[0].numpy()), atol=2e-4)


def test_padding_is_not_seen(tiny_dimoo: DimooPolicy) -> None:
    """The released code hands attention no mask: a row beside a longer one then gets other logits."""
    model, layout = tiny_dimoo.module.language, tiny_dimoo.prompts.answer(4)
    rows = [torch.arange(5), torch.arange(17), torch.arange(9)]
    answers, places = layout.ids_A.expand(3, -1), layout.slots_N.expand(3, -1)
    with torch.no_grad():
        together = states_at(model, rows, answers, places)
        for i, row in enumerate(rows):
            alone = states_at(model, [row], answers[:1], places[:1])
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0)


# ---- schedules and orders ---------------------------------------------------------------------------------------


def test_the_cosine_schedule_of_1024_codes_in_35_steps() -> None:
    counts = [step.count for step in decode.image_steps(1024, 35)]
    assert len(counts) == 35 and sum(counts) == 1024
    assert counts[:6] == [2, 3, 5, 7, 9, 11] and counts[-2:] == [46, 45]


@pytest.mark.parametrize("steps", [1, 2, 7, 64])
def test_every_slot_is_filled_once(steps: int) -> None:
    for slots in (1, 5, 16):
        plan = decode.image_steps(slots, steps)
        assert sum(step.count for step in plan) == slots and all(step.count > 0 for step in plan)
        assert len(plan) <= steps
        for block in (0, 3, 100):
            plan = decode.text_steps(slots, steps, block)
            order = decode.random_order(torch.arange(4), plan)
            assert sorted(order.tolist()) == list(range(slots))
            done = 0
            for step in plan:
                assert all(step.block.start <= slot < step.block.stop for slot in order[done : done + step.count])
                done += step.count
            assert done == slots


def test_an_order_belongs_to_a_prompt() -> None:
    plan = decode.image_steps(64, 8)
    first, again, other = (decode.random_order(torch.tensor(ids), plan) for ids in ([1, 2], [1, 2], [1, 3]))
    assert torch.equal(first, again) and not torch.equal(first, other)
    firsts = [int(decode.random_order(torch.tensor([n]), plan)[0]) for n in range(2000)]
    assert stats.chisquare(np.bincount(firsts, minlength=64)).pvalue > 1e-3


# ---- exactness --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["random", "confidence"])
@pytest.mark.parametrize("side", list(Side))
def test_recorded_log_probs_are_the_scored_ones(tiny_dimoo: DimooPolicy, side: Side, order: str) -> None:
    tiny_dimoo.module.language.config.order = order
    rollouts = sampled(tiny_dimoo, side, SamplingSpec(guidance=3.0, logprob_mode="cfg", max_new_tokens=5))
    (chunk,) = tiny_dimoo.chunks(rollouts, 100)
    with torch.no_grad():
        scored = tiny_dimoo.logprobs(rollouts, chunk)
    torch.testing.assert_close(scored, rollouts.logp_BRT.flatten(0, 1), atol=1e-5, rtol=0)
    steps = rollouts.context.steps_nN
    assert steps.min() == 0 and steps.max() == (1 if side is Side.UNDERSTANDING else 4)


@pytest.fixture(scope="module")
def four_codes() -> DimooPolicy:
    """2 x 2 codes of 3 kinds: 81 images, so that probabilities can be enumerated."""
    size = DimooSize(
        image=4, codebook=3, hidden=16, layers=1, heads=2, intermediate=16, vq_channels=(8, 8), vq_latent=8,
        vocabulary=280, image_steps=3,
    )  # fmt: skip
    return sharp_dimoo(size, ["a"], 1.2, 3)


def frequencies(policy: DimooPolicy, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each of the 81 images: how often it is drawn, and its probability by the scored log-probs of random order."""
    spec, prompt = SamplingSpec(), policy.prompts.encode(Side.GENERATION, [Prompt(Side.GENERATION, "a")]).ids[0]
    task = policy._task(Side.GENERATION, spec)
    assert task.order == "random"
    seeds = np.array([counter_seed(0, 0, n, Side.GENERATION, 0) for n in range(rows)], dtype=np.uint64)
    with torch.no_grad():
        filled = decode.fill(policy.module.language, [[prompt] * rows], task, spec, seeds)
    counts = np.bincount(filled.actions_nN.numpy() @ [27, 9, 3, 1], minlength=81)
    images = torch.tensor(list(product(range(3), repeat=4)))
    base = sampled_once(policy)
    steps = torch.empty(4, dtype=torch.int64)
    done = 0
    for s, step in enumerate(task.plan):
        steps[decode.random_order(prompt, task.plan)[done : done + step.count]] = s
        done += step.count
    ones = torch.zeros(1, 81, 4)
    rollouts = replace(
        base,
        actions_BRT=images[None],
        mask_BRT=torch.ones(1, 81, 4, dtype=torch.bool),
        sampled_logp_BRT=ones,
        cond_logp_BRT=ones,
        context=replace(base.context, groups_nN=steps.expand(81, -1)),
        weight_BRT=None,
        counted_BR=None,
    )
    (chunk,) = policy.chunks(rollouts, 100)
    with torch.no_grad():
        logp = policy.logprobs(rollouts, chunk)
    return counts, logp.double().sum(1).exp().numpy()


def sampled_once(policy: DimooPolicy) -> Rollouts:
    seeds = np.zeros((1, 1), dtype=np.uint64)
    return policy.sample(Side.GENERATION, [Prompt(Side.GENERATION, "a")], 1, SamplingSpec(), seeds)


def test_random_order_samples_what_it_scores(four_codes: DimooPolicy) -> None:
    counts, probabilities = frequencies(four_codes, 8_000)
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert stats.chisquare(counts, probabilities / probabilities.sum() * counts.sum()).pvalue > 1e-3


def test_what_confidence_draws_is_likelier_than_it_says(four_codes: DimooPolicy) -> None:
    """The mean probability that is recorded of the first draw, and how often the likeliest code is drawn there."""
    policy, spec = four_codes, SamplingSpec()
    prompt = policy.prompts.encode(Side.GENERATION, [Prompt(Side.GENERATION, "a")]).ids[0]
    seeds = np.array([counter_seed(0, 0, n, Side.GENERATION, 0) for n in range(4_000)], dtype=np.uint64)
    gaps = {}
    for order in ("random", "confidence"):
        task = replace(policy._task(Side.GENERATION, spec), order=order)
        with torch.no_grad():
            filled = decode.fill(policy.module.language, [[prompt] * len(seeds)], task, spec, seeds)
        first = filled.steps_nN == 0
        recorded = filled.sampled_logp_nN[first].double().exp()
        # In expectation a draw's probability is sum p^2; it is more where likelier draws are kept.
        answers = task.layout.ids_A[None]
        with torch.no_grad():
            states = states_at(policy.module.language, [prompt], answers, task.layout.slots_N[None])
            p = (policy.module.language.head(states)[0, :, task.ids]).softmax(-1).double()
        expected = p.square().sum(-1)[first.nonzero()[:, 1]]
        error = float((recorded - expected).std()) / len(recorded) ** 0.5
        gaps[order] = float((recorded - expected).mean()) / error
    assert abs(gaps["random"]) < 4 and gaps["confidence"] > 10, gaps


@pytest.mark.parametrize("side", list(Side))
def test_rows_without_a_decision_are_scored_as_nothing(tiny_dimoo: DimooPolicy, side: Side) -> None:
    """As processes that work in step need: a forward and a backward, and no gradient."""
    rollouts = sampled(tiny_dimoo, side, SamplingSpec(max_new_tokens=5))
    (chunk,) = tiny_dimoo.chunks(rollouts, 100)
    none = replace(chunk, rows=chunk.rows[:1], mask_kN=torch.zeros_like(chunk.mask_kN[:1]))
    logp = tiny_dimoo.logprobs(rollouts, none)
    logp.sum().backward()
    assert not logp.any() and logp.shape == none.mask_kN.shape
    grads = [p.grad for _, p in tiny_dimoo.trainable()]
    assert all(grad is not None and not grad.any() for grad in grads)


@pytest.mark.parametrize("side", list(Side))
def test_a_token_budget_splits_steps(tiny_dimoo: DimooPolicy, side: Side) -> None:
    rollouts = sampled(tiny_dimoo, side, SamplingSpec(guidance=3.0, logprob_mode="cfg", max_new_tokens=5))
    (whole,) = tiny_dimoo.chunks(rollouts, 100)
    expected = tiny_dimoo.logprobs(rollouts, whole)
    for budget, tokens in ((100, 1), (2, 300), (100, 2000)):
        total, seen = torch.zeros_like(expected), torch.zeros(expected.shape, dtype=torch.int64)
        for chunk in tiny_dimoo.chunks(rollouts, budget, tokens):
            assert len(chunk.rows) <= budget and (tokens > 1 or (len(chunk.rows) == 1 and chunk.step is not None))
            total[list(chunk.rows)] += tiny_dimoo.logprobs(rollouts, chunk)
            seen[list(chunk.rows)] += chunk.mask_kN
        assert (seen == 1).all()
        torch.testing.assert_close(total, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("steps", "scored"), [(35, 4), (5, 2), (12, 12), (7, 0), (3, 5)])
def test_every_step_is_scored_as_often(steps: int, scored: int) -> None:
    grid = (torch.arange(0, 7000) + 0.5) / 7000
    chosen = decode.scored_steps(steps, scored, grid.double())
    number = scored if 0 < scored < steps else steps
    assert (chosen.sum(1) == number).all()
    np.testing.assert_allclose(chosen.double().mean(0).numpy(), number / steps, atol=2e-3)


def test_steps_that_are_not_scored_have_no_decision(tiny_dimoo: DimooPolicy) -> None:
    whole = sampled(tiny_dimoo, Side.GENERATION, SamplingSpec())
    tiny_dimoo.module.language.config.scored_image_steps = 2
    part = sampled(tiny_dimoo, Side.GENERATION, SamplingSpec())
    assert torch.equal(part.actions_BRT, whole.actions_BRT)
    mask, steps = part.mask_BRT.flatten(0, 1), part.context.steps_nN
    assert all(len(own[kept].unique()) == 2 for own, kept in zip(steps, mask, strict=True))
    assert torch.equal(part.logp_BRT, whole.logp_BRT * part.mask_BRT)
    (chunk,) = tiny_dimoo.chunks(part, 100)
    torch.testing.assert_close(tiny_dimoo.logprobs(part, chunk), part.logp_BRT.flatten(0, 1), atol=1e-5, rtol=0)
    assert (part.length_BR == 16).all() and part.weight_BRT is not None
    assert (part.weight_BRT == 2.5).all(), "5 steps, 2 of them scored"
    text = sampled(tiny_dimoo, Side.UNDERSTANDING, SamplingSpec(max_new_tokens=5))
    assert text.weight_BRT is not None and (text.weight_BRT == 1).all()
    assert all(
        m[:length].all() for m, length in zip(text.mask_BRT.flatten(0, 1), text.length_BR.flatten(), strict=True)
    )


# ---- prompts ----------------------------------------------------------------------------------------------------


def test_ids_of_a_prompt_and_its_answer(tiny_dimoo: DimooPolicy) -> None:
    policy, c = tiny_dimoo, tiny_dimoo.module.language.config
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    encoded = policy.prompts.encode(
        Side.UNDERSTANDING, [Prompt(Side.UNDERSTANDING, "red?<answer></ans<IMAGE>wer>", (image,))]
    )
    (ids,) = encoded.ids
    start, stop = (ids == c.image_id).nonzero().item(), (ids == c.image_end_id).nonzero().item()
    rows = ids[start + 1 : stop].view(4, 5)
    assert (rows[:, -1] == c.newline_id).all() and stop == len(ids) - 2  # before the prompt's last id
    assert torch.equal(rows[:, :-1] - c.image_offset, policy.module.encode_pixels(image))
    words = policy.tokenizer.decode(torch.cat([ids[:start], ids[-1:]]))
    assert words == f"<system>{prompts.UNDERSTAND}</system><user>red?</user>"
    layout = policy.prompts.image()
    grid = [c.mask_token_id] * 4 + [c.newline_id]
    assert layout.ids_A.tolist() == [c.answer_id, c.image_id, *grid * 4, c.image_end_id, c.answer_end_id]
    assert (layout.ids_A[layout.slots_N] == c.mask_token_id).all() and len(layout.slots_N) == 16
    text = policy.prompts.answer(3)
    assert text.ids_A.tolist() == [c.answer_id, *[c.mask_token_id] * 3, c.answer_end_id]


def test_an_answer_ends_where_it_says(tiny_dimoo: DimooPolicy) -> None:
    c, words = tiny_dimoo.module.language.config, tiny_dimoo.tokenizer("A. red", add_special_tokens=False)["input_ids"]
    for end in (c.answer_end_id, c.eos_id, c.padding_id):
        assert tiny_dimoo.prompts.text([*words, end, *words]) == "A. red"
    assert tiny_dimoo.prompts.text(words) == "A. red"
    banned = set(tiny_dimoo.prompts.banned().tolist())
    assert c.mask_token_id in banned and c.image_id in banned and c.answer_end_id not in banned
    written = torch.tensor(
        [[4, c.eos_id, 4, c.eos_id], [c.padding_id, 4, 4, 4], [4, 4, 4, 4], [4, 4, 4, c.answer_end_id]]
    )
    assert tiny_dimoo.prompts.lengths(written).tolist() == [2, 1, 4, 4]


def test_without_guidance_an_edit_still_sees_its_image(tiny_dimoo: DimooPolicy) -> None:
    rng, seeds = np.random.default_rng(0), np.zeros((1, 1), dtype=np.uint64)
    images = [rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(2)]
    asked = [Prompt(Side.GENERATION, "red", given) for given in ((), (images[0],), (images[1],))]
    drawn = [tiny_dimoo.sample(Side.GENERATION, [p], 1, SamplingSpec(guidance=2.0), seeds).actions_BRT for p in asked]
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])


@pytest.mark.parametrize("shape", [(100, 100), (30, 90), (90, 30), (7, 500), (512, 300)])
def test_sizes_that_images_are_cut_to(shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), dtype=np.uint8)
    image[shape[0] // 2, shape[1] // 2] = 255
    fitted = prompts.fit(image, 64, 16)
    h, w = fitted.shape[:2]
    assert h % 16 == w % 16 == 0 and h * w <= 64**2 and max(h, w) <= 4 * min(h, w)
    sides = range(16, 257, 16)
    shapes = [(a, b) for a in sides for b in sides if a * b <= 64**2 and max(a, b) <= 4 * min(a, b)]
    best = min(abs(math.log(b / a * shape[0] / shape[1])) for a, b in shapes)
    assert abs(math.log(w / h * shape[0] / shape[1])) == pytest.approx(best)
    assert fitted.max() > 0  # the middle is kept


@pytest.mark.parametrize("side", [2, 3])
def test_an_image_of_the_models_size_is_left_as_it_is(side: int) -> None:
    """Also where that is an odd number of codes; other sizes are multiples of two codes where the model's own is."""
    size = DimooSize(
        image=4 * side, codebook=64, hidden=16, layers=1, heads=2, intermediate=16, vq_channels=(8, 8, 8), vq_latent=8,
        vocabulary=280,
    )  # fmt: skip
    policy = sharp_dimoo(size, ["a"], 1.2, 3)
    pixels = np.random.default_rng(0).integers(0, 256, (4 * side, 4 * side, 3), dtype=np.uint8)
    encoded = policy.prompts.encode(Side.UNDERSTANDING, [Prompt(Side.UNDERSTANDING, "a", (pixels,))]).ids[0]
    offset = policy.module.language.config.image_offset
    assert torch.equal(encoded[encoded >= offset] - offset, policy.module.encode_pixels(pixels).flatten())
    assert policy.module.step == {2: 8, 3: 4}[side]


# ---- checkpoints ------------------------------------------------------------------------------------------------


def test_sharded_weights_load(tiny_dimoo: DimooPolicy, tmp_path: Path) -> None:
    tiny_dimoo.save(tmp_path / "one")
    tiny_dimoo.module.language.save_pretrained(tmp_path / "one", max_shard_size="20KB")
    (tmp_path / "one" / "model.safetensors").unlink()
    assert len(list((tmp_path / "one").glob("model-*.safetensors"))) > 2
    loaded = load_policy(str(tmp_path / "one"))
    for (name, p), (_, q) in zip(loaded.module.named_parameters(), tiny_dimoo.module.named_parameters(), strict=True):
        assert torch.equal(p, q) and p.dtype == torch.float32, name


def test_the_vocabulary_is_that_of_the_weights(tiny_dimoo: DimooPolicy, tmp_path: Path) -> None:
    tiny_dimoo.save(tmp_path / "model")
    real = tiny_dimoo.module.language.config.embedding_size
    # As a config.json that counts the words of the tokenizer alone.
    edited(tmp_path / "model", lambda c: c.update(embedding_size=c["image_offset"]))
    assert load_policy(str(tmp_path / "model")).module.language.config.embedding_size == real


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    said = json.loads((folder / "config.json").read_text())
    change(said)
    (folder / "config.json").write_text(json.dumps(said))


def weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    values = load_file(folder / "model.safetensors")
    change(values)
    save_file(values, folder / "model.safetensors", metadata={"format": "pt"})


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "another activation": (
        lambda f: edited(f, lambda c: c.update(activation_type="gelu")),
        "activation_type: is 'gelu'",
    ),
    "grouped heads": (lambda f: edited(f, lambda c: c.update(n_kv_heads=1)), "n_kv_heads: is 1"),
    "another order": (
        lambda f: edited(f, lambda c: c.update(order="left")),
        "order: must be one of random, confidence",
    ),
    "image codes beyond the ids": (lambda f: edited(f, lambda c: c.update(image_offset=999)), "image_offset: is 999"),
    "other ids": (lambda f: edited(f, lambda c: c.update(answer_id=3)), "the tokenizer gives <answer> the id"),
    "a weight is absent": (
        lambda f: weights(f, lambda w: w.pop("model.transformer.ln_f.weight")),
        "1 weights are missing",
    ),
    "a weight is NaN": (
        lambda f: weights(f, lambda w: w["model.transformer.ln_f.weight"].fill_(math.nan)),
        "1 weights hold NaN or infinity, e.g. language.model.transformer.ln_f.weight",
    ),
    "no image tokenizer": (lambda f: shutil.rmtree(f / "vqvae"), "cannot be loaded as a Lumina-DiMOO model"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "cannot be loaded as a Lumina-DiMOO model"),
    "a cut file": (
        lambda f: (f / "model.safetensors").write_bytes(b"1234"),
        "cannot be loaded as a Lumina-DiMOO model",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_broken_checkpoint_is_one_message(name: str, tiny_dimoo: DimooPolicy, tmp_path: Path) -> None:
    tiny_dimoo.save(tmp_path / "model")
    breaks, message = WRONG[name]
    breaks(tmp_path / "model")
    with pytest.raises(InputError, match=message.replace("(", r"\(")) as caught:
        load_policy(str(tmp_path / "model"))
    assert str(tmp_path / "model") in str(caught.value)


def test_sampler_options_stand_for_the_checkpoint_s_own(tiny_dimoo: DimooPolicy, tmp_path: Path) -> None:
    tiny_dimoo.save(tmp_path / "model")
    changed = {"order": "confidence", "scored_image_steps": 2, "masked_prompt": 0}
    policy = load_policy(str(tmp_path / "model"), sampler_options=changed)
    policy.save(tmp_path / "again")  # pyright: ignore
    for config in (policy.module.language.config, load_policy(str(tmp_path / "again")).module.language.config):  # pyright: ignore
        assert {name: getattr(config, name) for name in changed} == changed and config.image_steps == 5
    for name, value, message in (
        ("d_model", 3, "model.sampler_options.d_model: is none of image_steps, "),
        ("order", "left", "model.sampler_options.order: must be one of random, confidence, not 'left'"),
        (
            "estimator",
            "best",
            "model.sampler_options.estimator: must be one of trace, mean_field, random_mask, coupled",
        ),
        ("image_steps", 0, "model.sampler_options.image_steps: must be a whole number of at least 1, not 0"),
        ("text_steps", True, "model.sampler_options.text_steps: must be a whole number of at least 1, not True"),
        ("masked_prompt", 1.0, "model.sampler_options.masked_prompt: must be at least 0 and below 1"),
    ):
        with pytest.raises(InputError, match=message):
            load_policy(str(tmp_path / "model"), sampler_options={name: value})


def test_janus_has_no_sampler_options(tiny_janus_folder: Path) -> None:
    with pytest.raises(InputError, match=r"model.sampler_options.order: is no sampler option of a Janus model"):
        load_policy(str(tiny_janus_folder), sampler_options={"order": "random"})


def test_without_diffusers_one_line_says_what_to_install(tiny_dimoo: DimooPolicy, tmp_path: Path) -> None:
    tiny_dimoo.save(tmp_path / "model")
    code = "import sys; sys.modules['diffusers'] = None; from pairuni.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "sample", "--model", str(tmp_path / "model"), "--prompt", "a"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and 'pip install "pairuni[diffusion]"' in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
