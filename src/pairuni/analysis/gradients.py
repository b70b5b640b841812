"""`pairuni analyse gradients`: do the two sides' gradients agree, and does pairing make them (paper section 5)?

Each half of a pair is sampled twice as often as in training, which makes two gradients of the trainer's own loss per
side, from rollouts of their own. Across the sides they are compared with one another; within a side they say how much
two gradients of one loss agree at all with so few rollouts: the noise ceiling. Compared is what both sides train, over
all of it and by layer. At most one gradient is alive; what is compared is a random sketch of it.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pairuni.algo.gradients import count_sketch
from pairuni.algo.pair_grpo import pair_credit
from pairuni.analysis.gradient_summary import summarise, write_summary
from pairuni.config import GradientsConfig, PairingMode, TrainConfig
from pairuni.data.dataset import Half, ImageCache
from pairuni.data.mixing import image_features, mix
from pairuni.errors import InputError
from pairuni.files import locked, read_json, read_text, write_json, write_jsonl
from pairuni.policies.base import Policy
from pairuni.records import Pair, Side, read_pairs, resolve_image
from pairuni.rewards import side_reward
from pairuni.train.rollout import SideBatch, collect
from pairuni.train.step import add_side_gradient
from pairuni.train.trained import load_trainable

OTHER = "other"
"""The group of parameters outside the repeated layers: embeddings, heads, norms."""

Groups = Mapping[str, Tensor]
"""A gradient by layer: float64 vectors whose dot products are compared."""


def measure_gradients(config: GradientsConfig, train: TrainConfig, output: Path) -> dict[str, Any]:
    """Measures what is missing of every mix in `output`/gradients.jsonl. Returns the summary that it writes.

    Args:
        train: whose model, pairs, rollouts and rewards are looked at; without its KL term.

    Raises:
        InputError: something in the configs, the pairs or the images is wrong, or `output` has other measurements.
    """
    rollouts = config.rollouts or train.rollout.rollouts
    sampling = replace(train.rollout, rollouts=2 * rollouts)
    train = replace(train, seed=config.seed, rollout=sampling, kl_beta=0.0, sides="both")
    with locked(output):
        path = output / "gradients.jsonl"
        kept = _continued(output / "settings.json", path, _settings(config, train))
        root = Path(train.data.pairs).parent if train.data.image_root is None else Path(train.data.image_root)
        source, device = config.model or train.model.path, train.model.device
        gauge = Gauge(load_trainable(train.model, source, device), train, root, config.sketch)
        for mode in config.mixes:
            for row in _measured(gauge, mode, config, kept):
                kept.append(row)
                write_jsonl(path, kept)  # a pair of a large model takes minutes: none is measured twice
        summary = summarise(kept, config.seed) | {"rollouts": rollouts, "sketch": config.sketch, "model": source}
        write_summary(summary, output)
    return summary


def _settings(config: GradientsConfig, train: TrainConfig) -> dict[str, Any]:
    """What rows of one file have in common. More pairs and other mixes may be added to it."""
    own = {"model": config.model or train.model.path, "sketch": config.sketch, "seed": config.seed}
    parts = {"pairs": train.data.pairs, "rollout": vars(train.rollout), "loss_norm": train.loss_norm}
    return json.loads(json.dumps(own | parts))


def _continued(settings: Path, path: Path, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that are there. Raises InputError where they were measured with other settings."""
    if not settings.exists():
        write_json(settings, wanted)
        return []
    found = read_json(settings)
    other = sorted(name for name in wanted if found.get(name) != wanted[name])
    if other:
        raise InputError(f"was measured with another {other[0]}; take another folder", file=settings, field=other[0])
    if not path.exists():
        return []
    return [json.loads(line) for line in read_text(path).splitlines()]


def _measured(
    gauge: "Gauge", mode: PairingMode, config: GradientsConfig, kept: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The rows of a mix that are not there yet, one after the other."""
    done = {row["pair"] for row in kept if row["mix"] == mode}
    gauge.train = replace(gauge.train, pairing=replace(gauge.train.pairing, mode=mode))  # decides on pair weights
    pairs = drawn_pairs(gauge.train, gauge.root, mode, config)
    for n, pair in enumerate(tqdm(pairs, desc=f"gradients {mode}", unit="pair")):
        if pair.id not in done:
            yield {"mix": mode, "pair": pair.id, "similarity": pair.similarity} | gauge.measure(pair, n)


def drawn_pairs(train: TrainConfig, root: Path, mode: PairingMode, config: GradientsConfig) -> list[Pair]:
    """At most config.pairs pairs of a mix, in an order that the seed decides: fewer are the first of more."""

    def features(quadruples: Any) -> np.ndarray:
        return image_features(quadruples, root, train.pairing)

    mixed = mix(read_pairs(train.data.pairs, train.data.image_root), mode, config.seed, features)
    order = np.random.default_rng(config.seed).permutation(len(mixed))
    return [mixed[i] for i in order[: config.pairs].tolist()]


class Gauge:
    """Measures pairs with one model."""

    def __init__(self, policy: Policy, train: TrainConfig, root: Path, sketch: int) -> None:
        self.policy, self.train, self.root, self.sketch = policy, train, root, sketch
        self.parameters = [p for _, p in policy.trainable() if p.requires_grad]
        places = {id(p): f"layer {n:02d}" for n, layer in enumerate(policy.layers()) for p in layer.parameters()}
        self.groups = [places.get(id(p), OTHER) for p in self.parameters]
        self.rewards = {side: side_reward(train.rewards, side) for side in Side}
        self.shared: list[int] = []
        self._images = ImageCache()

    def measure(self, pair: Pair, n: int) -> dict[str, Any]:
        """`cosine` across the sides, `understanding` and `generation` within one, each {"all" and groups: value}.

        Where one of the four gradients is zero, since all its rewards are equal or missing, `left_out` names its side.
        """
        halves = {side: [Half(pair.id, pair.half(side), pair.similarity, pair.kind == "aligned")] for side in Side}
        batch = collect(self.policy, halves, self.rewards, self.train, n + 1, self._load)
        if not self.shared:
            self.shared = self._find_shared(batch)
        credits = {side: self._credits(sampled) for side, sampled in batch.items()}
        without = [str(side) for side in Side if not all(bool((c != 0).any()) for c in credits[side])]
        if without:
            return {"left_out": without}
        taken = {side: [self._gradient(batch[side], c) for c in credits[side]] for side in Side}
        crossed = [cosines(u, g) for u, g in product(taken[Side.UNDERSTANDING], taken[Side.GENERATION])]
        across = {name: math.fsum(one[name] for one in crossed) / len(crossed) for name in crossed[0]}
        return {"cosine": across} | {str(side): cosines(*taken[side]) for side in Side}

    def _credits(self, sampled: SideBatch) -> list[Tensor]:
        """Of the first half of the rollouts alone, and of the second: each a group of its own."""
        rewards_BR = torch.as_tensor(sampled.rewards_BR)
        half = rewards_BR.shape[1] // 2
        parts = []
        for columns in (slice(0, half), slice(half, None)):
            own = pair_credit(rewards_BR[:, columns], sampled.weights_B, self.train.advantage.std_eps)
            credit_BR = torch.zeros(rewards_BR.shape, dtype=own.dtype)
            credit_BR[:, columns] = own
            parts.append(credit_BR)
        return parts

    def _gradient(self, sampled: SideBatch, credit_BR: Tensor) -> Groups:
        add_side_gradient(self.policy, sampled, credit_BR, self.train)
        vectors: dict[str, list[Tensor]] = {}
        for i in self.shared:
            gradient = self.parameters[i].grad
            entries = torch.zeros_like(self.parameters[i]) if gradient is None else gradient
            kept = count_sketch(entries, self.sketch, i) if self.sketch else entries.detach().flatten().double().cpu()
            vectors.setdefault(self.groups[i], []).append(kept)
        self._clear()
        join: Callable[[list[Tensor]], Tensor] = (lambda parts: torch.stack(parts).sum(0)) if self.sketch else torch.cat
        return {group: join(parts) for group, parts in sorted(vectors.items())}

    def _find_shared(self, batch: Mapping[Side, SideBatch]) -> list[int]:
        """Which parameters the log-probs of both sides depend on."""
        reached = []
        for sampled in batch.values():
            add_side_gradient(self.policy, sampled, torch.ones(sampled.rewards_BR.shape), self.train)
            reached.append({i for i, p in enumerate(self.parameters) if p.grad is not None and bool(p.grad.any())})
            self._clear()
        shared = sorted(set.intersection(*reached))
        if not shared:
            raise InputError("the two sides train no parameter in common", field="model.trainable")
        return shared

    def _clear(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def _load(self, image_path: str) -> np.ndarray:
        return self._images.load(resolve_image(image_path, self.root))


def cosines(a: Groups, b: Groups) -> dict[str, float]:
    """Of each group, and of "all" of them together; 0 where a gradient is zero."""
    dots = {name: [float(x @ y) for x, y in ((a[name], b[name]), (a[name], a[name]), (b[name], b[name]))] for name in a}
    dots["all"] = [math.fsum(parts) for parts in zip(*dots.values(), strict=True)]
    return {name: _cosine(*three) for name, three in dots.items()}


def _cosine(dot: float, a: float, b: float) -> float:
    size = math.sqrt(a) * math.sqrt(b)
    return max(-1.0, min(1.0, dot / size)) if size > 0 else 0.0
