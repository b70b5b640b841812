"""Twenty steps against a committed curve: a refactoring must not change what training does.

`make golden` writes golden.json anew, after a change that is meant to change it. The weights are drawn here and not by
the model class, so that the curve does not depend on how a version of transformers initialises. They are small: with
sharper distributions rounding errors of another processor soon change what is sampled.
"""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pairuni.config import LogConfig, OptimConfig, TrainConfig
from pairuni.files import read_json, write_json
from pairuni.policies.janus.policy import JanusPolicy
from pairuni.runs import RunDir
from pairuni.train.loop import train

FILE = Path(__file__).with_name("golden.json")
PER_SIDE = ("reward_mean", "reward_std", "advantage_abs", "loss", "ratio_mean", "clip_fraction")
KEYS = ("grad_norm", "gradient_cosine", "pair_weight_mean", "behaviour_gap/generation", "tokens/understanding")
KEYS += tuple(f"{name}/{side}" for name in PER_SIDE for side in ("understanding", "generation"))


def draw_weights(policy: JanusPolicy) -> None:
    """Normal weights of scale 0.7 / sqrt(inputs), from one seed per name; vectors (norms, biases) stay as they are."""
    with torch.no_grad():
        for name, weight in policy.module.named_parameters():
            if weight.ndim > 1:
                rng = np.random.default_rng(list(name.encode()))
                scale = 0.7 * (weight.numel() / weight.shape[0]) ** -0.5
                weight.copy_(torch.from_numpy(rng.normal(0, scale, weight.shape)).float())


def test_the_curve_is_the_golden_one(tiny_janus: JanusPolicy, tiny_config: TrainConfig, tmp_path: Path) -> None:
    draw_weights(tiny_janus)
    tiny_janus.save(tmp_path / "model")
    config = dataclasses.replace(
        tiny_config,
        steps=20,
        updates_per_rollout=2,
        model=dataclasses.replace(tiny_config.model, path=str(tmp_path / "model")),
        # A large epsilon: plain Adam would turn rounding errors of tiny gradients into whole steps.
        optim=OptimConfig(lr=1e-3, eps=1e-3),
        log=LogConfig(samples_every=0, checkpoint_every=0, gradient_cosine_every=1),
    )
    train(config)
    rows = RunDir(Path(config.output)).read_metrics()
    curve = {key: [row[key] for row in rows] for key in KEYS}
    if os.environ.get("PAIRUNI_WRITE_GOLDEN"):
        write_json(FILE, {key: [float(f"{value:.6g}") for value in values] for key, values in curve.items()})
    golden = read_json(FILE)
    assert golden.keys() == curve.keys()
    for key, values in golden.items():
        assert curve[key] == pytest.approx(values, rel=1e-3, abs=1e-4), key
