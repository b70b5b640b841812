"""The estimate of a step's memory against real modules, real caches and what autograd really keeps."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import JanusConfig, JanusForConditionalGeneration

import memory_world
from memory_world import allocated, row_peak
from pairuni.errors import InputError
from pairuni.policies import load_planner
from pairuni.policies.activations import Activations, Pass
from pairuni.policies.janus import cache as cache_module
from pairuni.policies.janus import model
from pairuni.policies.janus import planner as planner_module
from pairuni.policies.janus.cache import SharedCache
from pairuni.policies.janus.packing import answer_chunks, pack, pack_shape
from pairuni.policies.janus.planner import JanusPlanner
from pairuni.policies.janus.policy import JanusPolicy
from pairuni.policies.memory import OPTIMISER, RESIDENT, ROLLOUT, UPDATE, peak
from pairuni.policies.requests import PIXEL_BATCH
from pairuni.policies.scoring import LOGITS
from pairuni.tiny.build_janus import JanusSize, build_janus
from pairuni.train.measure import made_up
from pairuni.types import SamplingSpec, Side, Workload

WORK = replace(memory_world.WORK, spec=SamplingSpec(guidance=5.0, max_new_tokens=16), text_tokens=24, micro_batch=4)
# hidden, intermediate, layers, heads; all parameters; keys and values of a token where both are bf16
JANUS_PRO = {"1B": (2048, 5632, 24, 16, 2.077e9, 192), "7B": (4096, 11008, 30, 32, 7.408e9, 480)}


def janus_pro(name: str) -> JanusConfig:
    hidden, intermediate, layers, heads, *_ = JANUS_PRO[name]
    text = {"model_type": "llama", "hidden_size": hidden, "intermediate_size": intermediate, "vocab_size": 102400}
    text |= {"num_hidden_layers": layers, "num_attention_heads": heads, "max_position_embeddings": 16384}
    vision, vq = {"projection_dim": hidden}, {"projection_dim": hidden, "image_token_embed_dim": hidden}
    return JanusConfig(text_config=text, vision_config=vision, vq_config=vq, tie_word_embeddings=False)


def total(planner: JanusPlanner, work: Workload, stage: str) -> int:
    return peak(planner.estimate(work)[stage])


def planner_of(config: JanusConfig, folder: Path) -> JanusPlanner:
    config.save_pretrained(folder)
    planner = load_planner(str(folder))
    assert isinstance(planner, JanusPlanner)
    return planner


@pytest.fixture(scope="module")
def janus_1b(tmp_path_factory: pytest.TempPathFactory) -> JanusPlanner:
    return planner_of(janus_pro("1B"), tmp_path_factory.mktemp("1B"))


@pytest.fixture
def tiny(tiny_janus: JanusPolicy, tmp_path: Path) -> JanusPlanner:
    return planner_of(tiny_janus.module.config, tmp_path / "tiny")


# ---- sizes against the model ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", JANUS_PRO)
def test_janus_pro_from_its_config_alone(name: str, tmp_path: Path) -> None:
    planner = planner_of(janus_pro(name), tmp_path)
    hidden, _, layers, _, parameters, cached = JANUS_PRO[name]
    assert planner.parameters == pytest.approx(parameters, rel=0.001)
    alone = SamplingSpec(guidance=1.0)
    work = replace(WORK, prompts=1, rollouts=1, spec=alone, bf16=True, cuda=True)
    assert cached_bytes(planner, work) == (WORK.text_tokens + 576 - 1) * cached * 1024
    assert (planner.hidden, planner.depth) == (hidden, layers)
    assert (planner.image_codes, planner.image_tokens, planner.pixels, planner.codes) == (576, 576, 384, 16384)


def test_parameters_are_those_of_the_policy(tiny_janus: JanusPolicy, tiny: JanusPlanner) -> None:
    inner, trained = tiny_janus.module.model, dict(tiny_janus.trainable())
    assert tiny.parameters == sum(p.numel() for p in tiny_janus.module.parameters())
    assert tiny.sizes == {name: p.numel() for name, p in trained.items()}
    assert tiny.trained == sum(tiny.sizes.values()) < tiny.parameters
    assert tiny.linear == sum(p.numel() for p in inner.language_model.layers.parameters() if p.ndim == 2)
    assert (tiny.pixels, tiny.image_codes) == (tiny_janus.image_size, tiny_janus.image_codes)
    assert sorted(tiny.lora_targets) == sorted(tiny_janus.lora_targets())


def test_what_is_resident(tiny: JanusPlanner) -> None:
    trained, weights = tiny.trained, 4 * tiny.parameters
    assert total(tiny, WORK, RESIDENT) == weights + 8 * trained
    assert total(tiny, replace(WORK, reference=True), RESIDENT) == weights + 4 * trained + 8 * trained
    assert total(tiny, replace(WORK, cuda=True), OPTIMISER) == weights + 12 * trained
    more = total(tiny, replace(WORK, gradients=3), UPDATE[Side.UNDERSTANDING])
    assert more - total(tiny, WORK, UPDATE[Side.UNDERSTANDING]) == 8 * trained


def cached_bytes(planner: JanusPlanner, work: Workload) -> int:
    """Keys and values of the image rollout when the last codes are drawn."""
    (last,) = (phase for phase in planner.rollout(Side.GENERATION, work) if "logits" in phase)
    return last["keys and values"]


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
def test_cache_is_that_of_the_model(
    bf16: bool, copied: bool, tiny_janus: JanusPolicy, tiny: JanusPlanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four prompts, the unconditional one included, and twelve rows with a twin each."""
    for module in (cache_module, planner_module):
        monkeypatch.setattr(module, "SHORT", WORK.text_tokens if copied else 0)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        prefix = model.prefill(tiny_janus.module, torch.randn(4, WORK.text_tokens, tiny.hidden))
        slots = torch.cat([torch.arange(3).repeat_interleave(4), torch.full((12,), 3)])
        cache = SharedCache(prefix, slots, tiny_janus.image_codes - 1)
    held = {x.untyped_storage().data_ptr(): x.nbytes for x in [*prefix.keys, *prefix.values, *cache.tensors()]}
    assert sum(held.values()) == cached_bytes(tiny, replace(WORK, bf16=bf16))


def kept(module: JanusForConditionalGeneration, shape: tuple[int, int], bf16: bool, masked: int) -> int:
    """Bytes that autograd keeps of the language model's forward, weights and their copies aside.

    masked: how many of a row's last tokens have a mask, as packed answers do; all of them as padded rows do.
    """
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    copied = {p.numel() for p in module.parameters() if p.ndim == 2} if bf16 else set()
    found: dict[int, int] = {}

    def look(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights and not (value.dtype == torch.bfloat16 and value.numel() in copied):
            found[storage.data_ptr()] = storage.nbytes()
        return value.detach()  # an output that its own graph keeps would never be freed

    rows, length = shape
    embedded = torch.randn(rows, length, module.config.text_config.hidden_size, requires_grad=True)
    positions = torch.arange(length).expand(rows, -1)
    seen = torch.ones(rows, 1, masked, length, dtype=torch.bool) if 0 < masked < length else None
    attended = torch.ones(rows, length, dtype=torch.bool)
    attended[0, 0] = masked < length
    hooks = torch.autograd.graph.saved_tensors_hooks(look, lambda value: value)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        if seen is None:
            out = model.states(module, embedded, attended)
        else:
            out = model.packed_states(module, embedded, positions, seen)
    assert out.requires_grad
    return sum(found.values())


SMALL = JanusSize(16, 4, 48, 32, 2, 2, 48, 32, 1, 2, vq_multipliers=(1, 1, 1), vocabulary=300)


@pytest.fixture
def small(tmp_path: Path) -> JanusPlanner:
    return planner_of(JanusPolicy(*build_janus(SMALL, ["a"], 0)).module.config, tmp_path)


@pytest.mark.parametrize("masked", [0, 10, 27])
@pytest.mark.parametrize("bf16", [False, True])
def test_what_a_layer_keeps(bf16: bool, masked: int, small: JanusPlanner) -> None:
    """By hand, and as autograd has it of one layer more, in tokens whose number is that of no weight: to the byte.

    By hand: the input and the result of two norms in fp32, and what linear layers read of them; queries, keys, values
    and output of attention, three products and the activation of the MLP; the row sums of norms and attention; the mask
    in the numbers' own width; both parts of an output that is joined from queries with and without a mask.
    """
    policies = [JanusPolicy(*build_janus(replace(SMALL, layers=layers), ["a"], 0)) for layers in (2, 3)]
    rows, length, width = 2, 27, 2 if bf16 else 4
    few, many = (kept(policy.module.train(), (rows, length), bf16, masked) for policy in policies)
    read = 5 * 2 if bf16 else 2 * 4  # autocast copies what each of five linear layers reads
    token = (4 * 4 + read) * SMALL.hidden + width * 4 * (SMALL.hidden + SMALL.intermediate) + 8 + 4 * SMALL.heads
    joined = length * SMALL.hidden * width if 0 < masked < length else 0
    found = small.activations.row(Side.UNDERSTANDING, Pass(rows, length, 4, 0, masked), bf16)
    assert found.layer == length * token + masked * length * width + joined
    assert many - few == rows * found.layer


@pytest.mark.parametrize("masked", ["none", "part", "all"])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("side", Side)
def test_peaks_of_any_size_and_depth(side: Side, bf16: bool, masked: str, small: JanusPlanner) -> None:
    """What four measurements of two layers say of other sizes and of five layers is what measurements of those say."""
    frozen = "model.vision_model.", "model.vqmodel."
    deep = Activations(partial(small.build, 5), "model.language_model.layers", frozen, small.states, small.image_tokens)
    for length, read in ((27, 4), (60, 60), (3000, 7)):
        one = Pass(1, length, read, 0, {"none": 0, "part": min(read, length - 1), "all": length}[masked])
        found = small.activations.row(side, one, bf16)
        assert found == small.activations.measure(side, one, bf16)
        more = deep.measure(side, one, bf16)
        assert more == (found.kept + 3 * found.layer, found.layer, found.peak + 3 * found.layer)


@pytest.mark.parametrize("masked", [0, 10, 27])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("side", Side)
def test_peaks_are_those_of_the_allocator(side: Side, bf16: bool, masked: int, small: JanusPlanner) -> None:
    module = JanusPolicy(*build_janus(SMALL, ["a"], 0)).module.train()
    found = small.activations.row(side, Pass(1, 27, 4, 0, masked), bf16)
    assert found.peak == row_peak(small, module, side, (27, 4, masked), bf16)


@pytest.mark.parametrize("images", [3, 8])
def test_peaks_of_images_are_those_of_the_allocator(images: int, small: JanusPlanner) -> None:
    module = JanusPolicy(*build_janus(SMALL, ["a"], 0)).module
    with torch.no_grad():
        looked, drawn = (allocated(lambda run=run: run(module, images)) for run in (small._look, small._decode))
    rollouts = {side: small.rollout(side, replace(WORK, prompts=images, rollouts=1)) for side in Side}
    assert next(iter(rollouts[Side.UNDERSTANDING]))["vision encoder"] == looked
    assert next(iter(rollouts[Side.GENERATION]))["pixels"] == drawn


# ---- what the options do ----------------------------------------------------------------------------------------


def test_chunks_are_those_of_the_policy(tiny_janus: JanusPolicy, tiny: JanusPlanner) -> None:
    """The policy's are among those that are counted, and without micro_tokens they are the same ones."""
    prompts = made_up(tiny_janus, Side.UNDERSTANDING, WORK, tiny.image_tokens)
    seeds_BR = np.arange(12, dtype=np.uint64).reshape(3, 4)
    rollouts = tiny_janus.sample(Side.UNDERSTANDING, prompts, 4, WORK.spec, seeds_BR)
    longest = torch.ones(3, 4, WORK.spec.max_new_tokens, dtype=torch.bool)
    rollouts = replace(rollouts, mask_BRT=longest, sampled_logp_BRT=longest.float(), cond_logp_BRT=longest.float())
    lengths = {len(ids) for ids in rollouts.context.ids}
    assert lengths == {tiny.image_tokens + WORK.text_tokens}
    for micro in ((5, 0), (4, 0), (12, 0), (3, 0), (12, 70), (12, 90), (2, 60), (12, 1), (7, 150)):
        work = replace(WORK, micro_batch=micro[0], micro_tokens=micro[1])
        owners = [[row // 4 for row in chunk.rows] for chunk in tiny_janus.chunks(rollouts, *micro)]
        real = {tuple(rows.count(b) for b in dict.fromkeys(rows)) for rows in owners}
        counted = answer_chunks(work, *lengths)
        assert real <= counted
        assert work.micro_tokens or real == counted


@pytest.mark.parametrize("number", range(1, 9))
def test_shape_of_packs(number: int) -> None:
    prompt, answers = torch.zeros(30, dtype=torch.int64), [torch.zeros(20, dtype=torch.int64)] * number
    for width in (1, 32, 4096):
        packed = pack([prompt], [0] * number, answers, width, 0)
        packs, length = pack_shape(30, 20, number, width)
        assert tuple(packed.ids_QL.shape) == (packs, length)


@pytest.mark.parametrize("name", ["1B", "7B"])
def test_more_work_takes_more(name: str, tmp_path: Path) -> None:
    planner = planner_of(janus_pro(name), tmp_path)
    base = replace(WORK, prompts=4, rollouts=8, micro_tokens=4000, micro_batch=64, bf16=True, cuda=True)
    sampled, every = [*ROLLOUT.values()], [*ROLLOUT.values(), *UPDATE.values()]
    steps = {"prompts": (range(1, 12), every), "micro_tokens": (range(1, 12000, 371), every)}
    # The update's size is what micro_tokens lets through, not what there is.
    steps |= {"rollouts": (range(1, 200, 20), sampled), "text_tokens": (range(8, 600, 31), sampled)}
    for field, (values, stages) in steps.items():
        for stage in stages:
            sizes = [total(planner, replace(base, **{field: value}), stage) for value in values]
            assert sizes == sorted(sizes), (field, stage)
            assert sizes[0] < sizes[-1] or (field, stage in sampled) in {("prompts", False), ("micro_tokens", True)}
    long = replace(base, micro_tokens=0, spec=replace(base.spec, max_new_tokens=512))
    for stage in (ROLLOUT[Side.UNDERSTANDING], UPDATE[Side.UNDERSTANDING]):
        assert total(planner, long, stage) > total(planner, replace(base, micro_tokens=0), stage)


def test_options_that_save(janus_1b: JanusPlanner) -> None:
    planner = janus_1b
    work = replace(WORK, bf16=True, cuda=True, prompts=8, rollouts=16)
    cached = planner.estimate(work)[ROLLOUT[Side.GENERATION]]["keys and values"]
    alone = planner.estimate(replace(work, spec=replace(work.spec, guidance=1.0)))
    assert alone[ROLLOUT[Side.GENERATION]]["keys and values"] == pytest.approx(cached / 2, rel=0.01)
    for side in Side:
        saved = total(planner, work, UPDATE[side]) - total(planner, replace(work, checkpointing=True), UPDATE[side])
        assert saved > 0.6 * planner.estimate(work)[UPDATE[side]]["activations"]
        other = {stage for stage in planner.estimate(replace(work, sides=(side,))) if "text" in stage}
        assert bool(other) == (side is Side.UNDERSTANDING)
    guided = replace(work, spec=replace(work.spec, logprob_mode="cfg"))
    doubled = planner.estimate(guided)[UPDATE[Side.GENERATION]]["activations"]
    assert doubled == 2 * planner.estimate(work)[UPDATE[Side.GENERATION]]["activations"]


def test_logits_of_an_update_are_those_of_a_slice(janus_1b: JanusPlanner) -> None:
    """102,400 outputs for each of 16 x 512 answer tokens would be 50 GiB."""
    work = replace(WORK, rollouts=16, micro_batch=16, spec=replace(WORK.spec, max_new_tokens=512), checkpointing=True)
    assert janus_1b.estimate(work)[UPDATE[Side.UNDERSTANDING]].get("logits", 0) <= 12 * LOGITS


def test_pixels_are_decoded_in_batches(janus_1b: JanusPlanner) -> None:
    """An image takes four of its largest feature maps, 128 channels of 384 pixels each, and its pixels.

    The four: a block's input, its result so far, and what a convolution reads and writes.
    """
    few, many = (
        next(iter(janus_1b.rollout(Side.GENERATION, replace(WORK, prompts=n, rollouts=1, cuda=True))))
        for n in (PIXEL_BATCH, PIXEL_BATCH + 10)
    )
    assert few["pixels"] == many["pixels"] == pytest.approx(PIXEL_BATCH * 4 * 4 * 128 * 384**2, rel=0.005)
    assert many["images"] - few["images"] == 10 * 3 * 384**2


# ---- what is wrong with a config --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [{"hidden_size": "many"}, {"num_attention_heads": 0}, {"hidden_size": -4}, {"vocab_size": -1}], ids=str
)
def test_a_config_of_no_model(text: dict, tiny_janus: JanusPolicy, tmp_path: Path) -> None:
    tiny_janus.module.config.save_pretrained(tmp_path)
    source = (tmp_path / "config.json").read_text()
    for key, value in text.items():
        start = source.index('"text_config"')
        end = source.index(f'"{key}":', start)
        stop = source.index("\n", end)
        written = f'"{value}"' if isinstance(value, str) else value
        source = f'{source[:end]}"{key}": {written},{source[stop:]}'
    (tmp_path / "config.json").write_text(source)
    with pytest.raises(InputError, match=str(tmp_path)):
        load_planner(str(tmp_path))
