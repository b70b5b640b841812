"""Small real models for all tests: built once per session, copied per test, never downloaded."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is imported: kernels run without a GPU, slowly

# The process that hands out tests to the others reads this file too: transformers and diffusers wait for a fixture.
if TYPE_CHECKING:
    from transformers import JanusForConditionalGeneration

    from pairuni.policies.dimoo.policy import DimooPolicy
    from pairuni.policies.janus.policy import JanusPolicy

CORPUS = ["a red circle", "two blue squares", "What colour is the shape?", "A. red B. blue C. green"]


@pytest.fixture(scope="session")
def _tiny_janus() -> "JanusPolicy":
    from pairuni.policies.janus.policy import JanusPolicy
    from pairuni.tiny.build_janus import JanusSize, build_janus

    size = JanusSize(
        image=16, patch=4, codebook=48, hidden=32, layers=2, heads=2, intermediate=48, vision_hidden=32,
        vision_layers=1, vision_heads=2, vq_multipliers=(1, 1, 1), vocabulary=300,
    )  # fmt: skip
    module, processor = build_janus(size, CORPUS, seed=0)
    _sharpen(module)
    return JanusPolicy(module, processor)


@pytest.fixture
def tiny_janus(_tiny_janus: "JanusPolicy") -> "JanusPolicy":
    """A random Janus of 16 image tokens, 48 codes and 300 text tokens; the test may change its weights."""
    module = type(_tiny_janus.module)(_tiny_janus.module.config)
    module.load_state_dict(_tiny_janus.module.state_dict())
    module.generation_config = _tiny_janus.module.generation_config
    return type(_tiny_janus)(module.eval(), _tiny_janus.processor)


@pytest.fixture(scope="session")
def tiny_janus_folder(_tiny_janus: "JanusPolicy", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a checkpoint folder; tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("models") / "tiny-janus"
    _tiny_janus.save(folder)
    return folder


@pytest.fixture
def tiny_dimoo() -> "DimooPolicy":
    """A random Lumina-DiMOO of 16 codes of an image, 48 codes and 300 text tokens; the test may change its weights."""
    from dimoo_world import sharp_dimoo
    from pairuni.tiny.build_dimoo import DimooSize

    size = DimooSize(
        image=16, codebook=48, hidden=32, layers=2, heads=2, intermediate=48, vq_channels=(8, 8, 16), vq_latent=8,
        vocabulary=300, image_steps=5,
    )  # fmt: skip
    return sharp_dimoo(size, CORPUS, 1.5, 1)


def _sharpen(module: "JanusForConditionalGeneration") -> None:
    """Larger random weights: at the class' initial 0.02 every distribution is nearly flat and hides mistakes."""
    generator = torch.Generator().manual_seed(1)
    parts = (module.model.language_model, module.model.generation_head, module.model.generation_aligner)
    with torch.no_grad():
        for part in (*parts, module.model.generation_embeddings, module.model.aligner, module.lm_head):
            for weight in part.parameters():
                if weight.ndim == 2:
                    weight.normal_(0, 1.5 * weight.shape[1] ** -0.5, generator=generator)
        module.model.language_model.embed_tokens.weight.normal_(0, 1, generator=generator)
