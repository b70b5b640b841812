"""`pairuni smoke`: what a user with real weights runs first. One Pair-GRPO step on a few prompts, looked at closely.

Nothing of the model on disk is changed. The page with its images is pages/smoke_page.py.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pairuni.config import DataConfig, SmokeConfig, TrainConfig
from pairuni.data.images import load_image
from pairuni.policies import load_planner
from pairuni.policies.base import Policy
from pairuni.policies.memory import peak
from pairuni.policies.source import pick_device
from pairuni.records import pairs_root, read_pairs, resolve_image
from pairuni.rewards.base import FunctionReward, Reward, RewardInput
from pairuni.shapes.captions import caption
from pairuni.shapes.questions import ask_any
from pairuni.shapes.renderer import render
from pairuni.shapes.scenes import random_scene
from pairuni.streams import Stream, generator, number, seed_torch
from pairuni.train.measure import Gauge
from pairuni.train.optim import Optimizer
from pairuni.train.rollout import ImageLoader, Share, SideBatch, collect, sampling_spec
from pairuni.train.samples import fixed_shares
from pairuni.train.step import update
from pairuni.train.trainable import count_trained, load_trainable, trained_summary
from pairuni.types import Half, Quadruple, Side, Workload

MOST_GAP = {"fp32": 1e-3, "bf16": 0.1}
"""Mean |scored - recorded| log-prob that is rounding, by the precision of the forward passes."""


@dataclass(frozen=True)
class Check:
    """One thing that must hold."""

    name: str
    passed: bool
    found: str


@dataclass(frozen=True)
class Smoke:
    """What was found."""

    facts: Mapping[str, str]
    checks: Sequence[Check]
    metrics: Mapping[str, float]
    batch: Mapping[Side, SideBatch]
    trained: str
    planned: int
    """Bytes, by the planner."""
    measured: int
    """Bytes; 0 where this system does not tell."""
    seconds: float

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


def run_smoke(config: SmokeConfig, say: Callable[[str], None]) -> Smoke:
    """Loads the model, samples both sides, scores and takes one step.

    Args:
        say: is told what comes next.

    Raises:
        InputError: the model or the pairs cannot be read.
    """
    began = time.perf_counter()
    shares, load = _shares(config)
    planner = load_planner(config.model.path, config.model.sampler_options)
    trained, adapters = count_trained(planner, config.model)
    gauge = Gauge(pick_device(config.model.device))
    say("loading the model")
    seed_torch(number(config.seed, Stream.SMOKE_MODEL))
    policy = load_trainable(config.model, config.model.path, config.model.device)
    # Nothing is written to this output, and nothing is read from these pairs.
    defaults = TrainConfig(output="", data=DataConfig(pairs="-"), micro_batch=config.micro_batch)
    optimizer = Optimizer(policy.trainable(), defaults.optim)
    say("sampling answers and images")
    rewards: dict[Side, Reward] = {side: _variety(side) for side in Side}
    batch = collect(policy, shares, rewards, config.rollout, defaults.weighting, config.seed, 1, load)
    say("scoring them and taking a step")
    before = [parameter.detach().double().sum().item() for parameter in optimizer.parameters]
    metrics = update(policy, batch, optimizer, defaults.objective, 1)
    changed = sum(
        parameter.detach().double().sum().item() != old
        for parameter, old in zip(optimizer.parameters, before, strict=True)
    )
    return Smoke(
        facts=policy.describe(),
        checks=[*static_checks(policy), *_sampled(batch), *_scored(metrics, policy.precision, changed)],
        metrics=metrics,
        batch=batch,
        trained=trained_summary(policy),
        planned=max(
            peak(parts)
            for parts in planner.estimate(replace(_work(config, policy), trained=trained, adapters=adapters)).values()
        ),
        measured=gauge.peak(),
        seconds=time.perf_counter() - began,
    )


def static_checks(policy: Policy) -> list[Check]:
    """What the weights and the processor must be, before anything is run."""
    named = list(policy.module.named_parameters())
    trained = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    broken = [name for name, parameter in named if not parameter.is_meta and not bool(parameter.isfinite().all())]
    loose = [name for name, parameter in trained if parameter.dtype != torch.float32]
    towers = sum(1 for tower in policy.frozen_modules() for p in tower.parameters() if p.requires_grad)
    count = sum(parameter.numel() for _, parameter in named)
    return [
        Check("weights are finite", not broken, f"{count:,} parameters" if not broken else f"not: {broken[0]}"),
        Check("what trains is fp32", not loose and bool(trained), loose[0] if loose else f"{len(trained)} tensors"),
        Check("towers are frozen", not towers, f"{towers} of their tensors train"),
    ]


def _sampled(batch: Mapping[Side, SideBatch]) -> list[Check]:
    checks = []
    images = batch[Side.GENERATION].images()
    flat = sum(int(np.ptp(image) == 0) for image in images)
    checks.append(Check("images are drawn", bool(images) and not flat, f"{len(images)}, of one colour {flat}"))
    texts = batch[Side.UNDERSTANDING].texts()
    empty = sum(not text.strip() for text in texts)
    checks.append(Check("answers are given", empty < len(texts), f"{len(texts)}, empty {empty}"))
    return checks


def _scored(metrics: Mapping[str, float], precision: str, changed: int) -> list[Check]:
    checks = []
    for side in Side:
        gap, largest = metrics[f"logp_gap_mean/{side}"], metrics[f"logp_gap_max/{side}"]
        found = f"{gap:.2g} on average, {largest:.2g} at most; {MOST_GAP[precision]:g} is allowed on average"
        checks.append(Check(f"scored {side} log-probs are the recorded ones", gap <= MOST_GAP[precision], found))
        loss = metrics[f"loss/{side}"]
        checks.append(Check(f"the {side} loss is finite", math.isfinite(loss), f"{loss:.4g}"))
    norm = metrics["grad_norm"]
    told = sum(metrics[f"zero_std_fraction/{side}"] < 1 for side in Side)
    checks.append(Check("the gradient is finite", math.isfinite(norm) and not metrics["skipped"], f"norm {norm:.4g}"))
    if told:
        checks.append(Check("the step changed weights", changed > 0, f"{changed} tensors"))
    return checks


def _variety(side: Side) -> FunctionReward:
    """Tells nearly any two rollouts apart, so that there is a gradient: nothing is learnt from one step."""

    def score(item: RewardInput) -> float:
        if item.image is not None:
            return float(item.image[..., 0].mean() / 255)
        return sum(ord(letter) for letter in item.text or "") % 101 / 101

    return FunctionReward("variety", lambda items: [score(item) for item in items], frozenset({side}))


def _shares(config: SmokeConfig) -> tuple[dict[Side, Share], ImageLoader]:
    """Both halves of the first pairs of the file, or drawings of the Shapes world."""
    if config.pairs:
        root = pairs_root(config.pairs, config.image_root)
        pairs = read_pairs(config.pairs, config.image_root)[: config.number]
        return fixed_shares(pairs, config.number), lambda path: load_image(resolve_image(path, root))
    drawn: dict[str, np.ndarray] = {}
    quadruples = []
    for n in range(config.number):
        rng = generator(config.seed, Stream.SMOKE_DRAWING, n)
        scene = random_scene(rng, "train")
        question, name = ask_any(scene, rng), f"drawing_{n}.png"
        drawn[name] = render(scene, rng)
        text = caption(scene, rng)
        quadruples.append(Quadruple(f"drawing_{n}", Side.GENERATION, name, text, question.text, question.answer))
    return {side: Share([Half(q.id, q, 1.0, True) for q in quadruples]) for side in Side}, drawn.__getitem__


def _work(config: SmokeConfig, policy: Policy) -> Workload:
    return Workload(
        sides=tuple(Side),
        prompts=config.number,
        rollouts=config.rollout.rollouts,
        spec=sampling_spec(config.rollout),
        text_tokens=128,
        micro_batch=config.micro_batch,
        micro_tokens=0,
        bf16=policy.precision == "bf16",
        cuda=policy.device.type == "cuda",
        checkpointing=config.model.gradient_checkpointing,
        reference=False,
    )


def summary(smoke: Smoke) -> dict[str, Any]:
    """What the page shows, without images."""
    gib = 1 << 30
    return {
        "facts": dict(smoke.facts),
        "checks": [vars(check) for check in smoke.checks],
        "metrics": dict(smoke.metrics),
        "trained": smoke.trained,
        "planned_gib": smoke.planned / gib,
        "measured_gib": smoke.measured / gib if smoke.measured else None,
        "seconds": smoke.seconds,
    }
