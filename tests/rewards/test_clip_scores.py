"""CLIPScore and PickScore against transformers' own model and image processor."""

import numpy as np
import pytest
import torch
from clip_world import VOCABULARY, make_tokenizer
from PIL import Image
from transformers import CLIPConfig, CLIPModel, ResNetConfig, ResNetModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from pairuni.config import RewardOptions
from pairuni.errors import InputError
from pairuni.preparation import OPENAI, Preparation
from pairuni.rewards import load_reward
from pairuni.rewards.base import RewardInput, score_all
from pairuni.types import Quadruple, Side

SHAPES = [(224, 224), (384, 384), (375, 500), (640, 427), (33, 47), (224, 301), (300, 224), (50, 400)]
PROMPTS = ["a red dog", "two dogs", "&quot;red&quot;"]


def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in SHAPES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random CLIP as transformers saves it, with weights large enough that scores differ."""
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = tower | {"vocab_size": VOCABULARY, "bos_token_id": VOCABULARY - 2, "eos_token_id": VOCABULARY - 1}
    vision = tower | {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 2 * parameter.shape[-1] ** -0.5)
    path = tmp_path_factory.mktemp("clip") / "clip"
    model.save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


def cosines(folder, prompts):
    """Of every image with its prompt, by transformers' processor and model: [n]."""
    model = CLIPModel.from_pretrained(folder).eval()
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pixels = processor([Image.fromarray(image) for image in images()], return_tensors="pt").pixel_values
    inputs = make_tokenizer()(prompts, padding=True, truncation=True, max_length=77, return_tensors="pt")
    with torch.no_grad():
        out = model(pixel_values=pixels, **inputs)
    return (out.image_embeds * out.text_embeds).sum(dim=1).numpy(), float(model.logit_scale.detach().exp())


def items():
    prompts = [PROMPTS[n % len(PROMPTS)] for n in range(len(SHAPES))]
    given = [
        RewardInput(Side.GENERATION, Quadruple("x", None, "x.png", prompt, "q", "a"), image=image)
        for prompt, image in zip(prompts, images(), strict=True)
    ]
    return given, prompts


@pytest.mark.parametrize("image", images(), ids=lambda image: f"{image.shape[0]}x{image.shape[1]}")
def test_images_are_prepared_as_by_the_published_processor(image):
    expected = CLIPImageProcessorPil()(Image.fromarray(image), return_tensors="np").pixel_values[0]
    np.testing.assert_allclose(Preparation(224, 224, *OPENAI).pixels(image), expected, atol=1e-5)


def test_clip_score(folder):
    given, prompts = items()
    cosine, _ = cosines(folder, ["A photo depicts " + prompt.replace("&quot;", '"') for prompt in prompts])
    options = RewardOptions(weights=str(folder), tokenizer=str(folder), batch=3)
    found = score_all(load_reward("clip_score", Side.GENERATION, options), given)
    np.testing.assert_allclose(found, 2.5 * np.clip(cosine, 0, None), atol=1e-5)
    assert cosine.min() < 0 < cosine.max() and np.ptp(found) > 0.1


def test_pick_score(folder):
    given, prompts = items()
    cosine, scale = cosines(folder, prompts)
    options = RewardOptions(weights=str(folder), tokenizer=str(folder), batch=3)
    found = score_all(load_reward("pick_score", Side.GENERATION, options), given)
    np.testing.assert_allclose(found, scale * cosine, atol=2e-4)
    assert scale > 10 and np.ptp(found) > 1


def test_other_models_and_incomplete_ones_are_refused(folder, tmp_path):
    ResNetModel(ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic")).save_pretrained(
        tmp_path / "resnet"
    )
    model = CLIPModel.from_pretrained(folder)
    state = {name: value for name, value in model.state_dict().items() if name != "visual_projection.weight"}
    model.save_pretrained(tmp_path / "part", state_dict=state)
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("resnet", "is a resnet model, not a clip"),
        ("part", "1 weights are missing .*visual_projection.weight"),
        ("empty", "cannot be loaded"),
    ):
        options = RewardOptions(weights=str(tmp_path / name), tokenizer=str(folder))
        with pytest.raises(InputError, match=message):
            load_reward("clip_score", options=options).load()
    wrong = RewardOptions(weights=str(folder), tokenizer=str(tmp_path / "empty"))
    with pytest.raises(InputError, match=r"rewards.options.pick_score.tokenizer: "):
        load_reward("pick_score", options=wrong).load()
