"""HPSv2: a checkpoint in open_clip's layout loads strictly and scores as the layout's own definition does."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_world import END, MERGES, START, VOCABULARY, image_features, make_tensors, make_tokenizer, save_hps
from clip_world import text_features as plain_text_features
from safetensors.torch import save_file
from transformers import CLIPTokenizer

from pairuni.config import RewardOptions
from pairuni.errors import InputError
from pairuni.rewards import load_reward
from pairuni.rewards.base import RewardInput, score_all
from pairuni.rewards.clip import CaptionIds, clean
from pairuni.rewards.hps import preprocess
from pairuni.types import Quadruple, Side
from reference_cases import needs_reference, reference

PROMPTS = ["a red dog", "two “dogs”", "", "&amp;lt;red&amp;gt; " + "dog " * 100, "a red dog", "日本"]


@pytest.fixture(scope="module")
def tensors():
    return make_tensors()


@pytest.fixture
def options(tensors, tmp_path):
    path = save_hps(tmp_path / "hps", tensors)
    return RewardOptions(weights=str(path), tokenizer=str(path.parent / "tokenizer"), device="cpu", batch=4)


def items(prompts=PROMPTS):
    rng = np.random.default_rng(0)
    shapes = [(64, 64), (30, 50), (224, 90), (64, 64), (300, 224), (7, 9)]
    return [
        RewardInput(
            Side.GENERATION,
            Quadruple(str(n), None, "x.png", prompt, "q", "a"),
            image=rng.integers(0, 256, (*shapes[n % len(shapes)], 3), dtype=np.uint8),
        )
        for n, prompt in enumerate(prompts)
    ]


def expected(tensors, given, side=224):
    pixels = torch.stack([preprocess(item.image, side) for item in given])
    ids = CaptionIds(make_tokenizer(), 77, VOCABULARY - 1)([item.quadruple.prompt for item in given])
    images, texts = image_features(tensors, pixels), plain_text_features(tensors, ids)
    return torch.nn.functional.cosine_similarity(images.double(), texts.double()).numpy()


def test_scores_are_those_of_a_plain_forward_pass(tensors, options):
    given = items()
    found = score_all(load_reward("hps", Side.GENERATION, options), given)
    np.testing.assert_allclose(found, expected(tensors, given), atol=2e-6)
    assert np.ptp(found) > 0.1 and np.abs(found).max() <= 1, "scores that hardly differ would hide a mistake"


def test_one_by_one_and_together_and_again(options):
    given = items()
    reward = load_reward("hps", Side.GENERATION, options)
    together = score_all(reward, given)
    alone = [score_all(load_reward("hps", options=options), [item])[0] for item in given]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_array_equal(score_all(reward, given), together)
    assert score_all(reward, []).shape == (0,)
    assert torch.is_grad_enabled()


def test_captions_are_embedded_once_per_call(options, monkeypatch):
    reward = load_reward("hps", Side.GENERATION, options)
    model, asked = reward.load().model, []
    forward = model.text_model.forward
    monkeypatch.setattr(
        model.text_model, "forward", lambda input_ids, **k: asked.append(len(input_ids)) or forward(input_ids, **k)
    )
    given = items([f"dog {n // 2}" for n in range(10)])
    first = score_all(reward, given)
    assert sum(asked) == 5, "five captions, each of two images"
    np.testing.assert_allclose(score_all(reward, given[::-1]), first[::-1], atol=1e-6)


def test_the_file_its_folder_and_safetensors_are_the_same(tensors, options, tmp_path):
    given, found = items(), {}
    folder = Path(options.weights).parent
    save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "hps.safetensors")
    torch.save(tensors, tmp_path / "plain.pt")  # no `state_dict` around them
    for weights in (options.weights, folder, tmp_path / "hps.safetensors", tmp_path / "plain.pt"):
        changed = RewardOptions(weights=str(weights), tokenizer=options.tokenizer)
        found[str(weights)] = score_all(load_reward("hps", options=changed), given)
    assert all(np.array_equal(scores, found[options.weights]) for scores in found.values())


def test_the_two_versions_are_two_files(tensors, options, tmp_path):
    save_hps(tmp_path / "hps", make_tensors(seed=1), "HPS_v2_compressed.pt")
    folder = RewardOptions(weights=str(tmp_path / "hps"), tokenizer=options.tokenizer)
    new, old = (load_reward(name, Side.GENERATION, folder) for name in ("hps", "hps_v20"))
    given = items()
    np.testing.assert_allclose(score_all(new, given), expected(tensors, given), atol=2e-6)
    np.testing.assert_allclose(score_all(old, given), expected(make_tensors(seed=1), given), atol=2e-6)
    assert (new.name, old.name) == ("hps", "hps_v20") and new != old


def test_other_sizes_are_read_from_the_tensors(options, tmp_path):
    small = make_tensors(side=48, patch=16)
    path = save_hps(tmp_path / "small", small)
    given = items()
    reward = load_reward("hps", options=RewardOptions(weights=str(path), tokenizer=options.tokenizer))
    np.testing.assert_allclose(score_all(reward, given), expected(small, given, side=48), atol=2e-6)


def change(name, value):
    return lambda tensors: tensors | {name: value}


def without(name):
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("mend", "message"),
    [
        (without("visual.ln_pre.bias"), "visual.ln_pre.bias: is missing"),
        (without("transformer.resblocks.1.attn.in_proj_weight"), "resblocks.1.attn.in_proj_weight: is missing"),
        (without("visual.conv1.weight"), "visual.conv1.weight: is missing"),
        (change("attn_mask", torch.zeros(77, 77)), "attn_mask: is no key"),
        (change("visual.transformer.resblocks.2.ln_1.weight", torch.zeros(64)), "visual.*resblocks.2.*is missing"),
        (change("visual.proj", torch.zeros(63, 24)), r"visual.proj: makes .*\[24, 63\].*\[24, 64\]"),
        (change("text_projection", torch.zeros(32, 25)), r"text_projection: makes .*\[25, 32\].*\[24, 32\]"),
        (change("ln_final.weight", torch.zeros(31)), r"ln_final.weight: makes .*\[31\].*\[32\]"),
        (change("transformer.resblocks.0.attn.in_proj_bias", torch.zeros(95)), "in_proj_bias: makes"),
        (change("visual.positional_embedding", torch.zeros(16, 64)), "no square"),
        (change("token_embedding.weight", torch.zeros(VOCABULARY, 30)), "16 heads do not divide"),
        (change("token_embedding.weight", torch.zeros(VOCABULARY)), "1 dimensions, not 2"),
        (change("token_embedding.weight", torch.zeros(VOCABULARY + 1, 32)), "the model reads at"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(tensors, options, mend, message):
    torch.save({"state_dict": mend(tensors)}, options.weights)
    with pytest.raises(InputError, match=message) as caught:
        score_all(load_reward("hps", options=options), items())
    assert caught.value.file is not None


class Trap:
    """Unpickling it would write a file."""

    def __reduce__(self):
        return Path.touch, (Path("trapped"),)


def test_files_that_are_no_tensors(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Trap()}, options.weights)
    with pytest.raises(InputError, match="tensors alone"):
        load_reward("hps", options=options).load()
    assert not Path("trapped").exists()
    torch.load(options.weights, weights_only=False)
    assert Path("trapped").exists(), "the file was one that runs code"
    for content, message in (([1, 2], "no tensors by name"), ({"state_dict": {"a": 1}}, "no tensors by name")):
        torch.save(content, options.weights)
        with pytest.raises(InputError, match=message):
            load_reward("hps", options=options).load()
    for suffix in (".pt", ".safetensors"):
        (tmp_path / f"broken{suffix}").write_bytes(b"not a checkpoint")
        broken = RewardOptions(weights=str(tmp_path / f"broken{suffix}"), tokenizer=options.tokenizer)
        with pytest.raises(InputError, match=r"tensors alone|cannot be read"):
            load_reward("hps", options=broken).load()


def test_what_is_wrong_before_anything_is_loaded(tmp_path):
    for given, field in (
        ({"weights": "no/such/file.pt"}, "weights"),
        ({"weights": "./gone.pt"}, "weights"),
        ({"weights": str(tmp_path)}, "weights"),
        ({"tokenizer": str(tmp_path / "gone")}, "tokenizer"),
        ({"tokenizer": __file__}, "tokenizer"),
        ({"device": "gpu9"}, "device"),
        ({"device": "cuda:99"}, "device"),
        ({"url": "http://localhost"}, "url"),
        ({"retries": 2}, "retries"),
    ):
        with pytest.raises(InputError) as caught:
            load_reward("hps", Side.GENERATION, RewardOptions(**given))
        assert caught.value.field == f"rewards.options.hps.{field}"
    with pytest.raises(InputError, match=r"rewards.options.batch: must be positive, not 0"):
        RewardOptions(batch=0)


def test_weights_that_are_not_to_be_had(options):
    absent = RewardOptions(weights="nobody/nothing", tokenizer=options.tokenizer)
    with pytest.raises(InputError, match=r"nobody/nothing: rewards.options.hps.weights: cannot be loaded"):
        load_reward("hps", options=absent).load()
    absent = RewardOptions(weights=options.weights, tokenizer="nobody/nothing")
    with pytest.raises(InputError, match=r"nobody/nothing: rewards.options.hps.tokenizer: holds no vocabulary"):
        load_reward("hps", options=absent).load()


# ---- captions -----------------------------------------------------------------------------------------------------


def test_ids_by_hand():
    tokenizer = make_tokenizer()
    vocabulary = tokenizer.get_vocab()
    ids = CaptionIds(tokenizer, 8, VOCABULARY - 1)([" A RED\n dog ", "", "redredredredredred", "dogs"])
    red, dog, start, end = (vocabulary[t] for t in ("red</w>", "dog</w>", START, END))
    assert ids[0].tolist() == [start, vocabulary["a</w>"], red, dog, end, 0, 0, 0]
    assert ids[1].tolist() == [start, end, 0, 0, 0, 0, 0, 0]
    pieces = [vocabulary[t] for t in ("re", "d", "re", "d", "re", "d")]
    assert ids[2].tolist() == [start, *pieces, end], "cut to the length, the end is kept"
    assert ids[3].tolist() == [start, *(vocabulary[t] for t in ("do", "g", "s</w>")), end, 0, 0, 0]
    assert len(MERGES) == 5 and end == VOCABULARY - 1


def test_cleaning():
    assert clean(" &amp;lt;b&amp;gt; ") == "<b>" and clean("a < &amp;amp;lt;") == "a < &lt;"
    assert clean("“a dog’s”") == '"a dog\'s"' and clean("cafÃ©") == "café" and clean("ΑΣ") == "ας"
    ids = CaptionIds(make_tokenizer(), 77, VOCABULARY - 1)
    assert torch.equal(ids(["&amp;quot;red&quot;"]), ids(['"red"']))
    plain = CaptionIds(make_tokenizer(), 77, VOCABULARY - 1, cleaned=False)
    assert not torch.equal(plain(["&quot;red&quot;"]), plain(['"red"']))


def test_a_caption_that_spells_out_the_end_token_is_read_to_its_end():
    ids = CaptionIds(make_tokenizer(), 77, VOCABULARY - 1)(["a <|endoftext|> red dog"])[0].tolist()
    assert (
        ids.count(VOCABULARY - 1) == 1 and ids[ids.index(VOCABULARY - 1) - 1] == make_tokenizer().get_vocab()["dog</w>"]
    )


TOKENIZER = os.environ.get("PAIRUNI_CLIP_TOKENIZER")


@needs_reference
@pytest.mark.skipif(not TOKENIZER, reason="PAIRUNI_CLIP_TOKENIZER names no folder with CLIP's vocabulary")
def test_ids_of_the_real_vocabulary():
    assert TOKENIZER is not None
    ids = CaptionIds(CLIPTokenizer.from_pretrained(TOKENIZER), 77, 49407)
    cases = reference("reference_cases/hps_tokens.json")["tokens"]
    assert len(cases) == 6
    for case in cases:
        assert ids([case["text"]])[0].tolist() == case["ids"] + [0] * (77 - len(case["ids"]))


@pytest.mark.slow
@pytest.mark.skipif("HPS_V21_PATH" not in os.environ, reason="HPS_V21_PATH names no HPS_v2.1_compressed.pt")
def test_the_published_weights():
    options = RewardOptions(weights=os.environ["HPS_V21_PATH"], tokenizer=TOKENIZER)
    red = np.full((384, 384, 3), (220, 30, 30), np.uint8)
    prompts = ["a plain red square, nothing else", "a photograph of a green forest by a lake"]
    given = [RewardInput(Side.GENERATION, Quadruple("x", None, "x.png", p, "q", "a"), image=red) for p in prompts]
    fitting, other = score_all(load_reward("hps", Side.GENERATION, options), given)
    assert other < fitting and 0 < fitting < 0.5
