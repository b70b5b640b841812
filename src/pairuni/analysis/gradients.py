"""`pairuni analyse gradients`: do the two sides' gradients agree, and does pairing make them (paper section 5)?

Each half of a pair is sampled twice as often as in training, which makes two gradients of the trainer's own loss per
side, from rollouts of their own. Across the sides they are compared with one another; within a side they say how much
two gradients of one loss agree at all with so few rollouts. The geometric mean of the two sides' is the noise ceiling
of the comparison across. Compared is what both sides train, over all of it and by layer. At most one gradient is alive;
what is kept of it is a random sketch.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pairuni.algo.gradients import count_sketch
from pairuni.algo.pair_grpo import weighted_advantages
from pairuni.analysis.gradient_summary import KINDS, summarise, write_summary
from pairuni.config import GradientsConfig, PairingMode, SideWeights, TrainConfig
from pairuni.config.renamed import new_name
from pairuni.data.dataset import ImageCache
from pairuni.errors import InputError
from pairuni.files import check_folder, read_json, read_jsonl, write_json, write_jsonl, writing
from pairuni.policies.base import Policy
from pairuni.progress import track
from pairuni.records import pairs_root, resolve_image
from pairuni.rewards import side_reward
from pairuni.rewards.combined import total
from pairuni.streams import VERSION, Stream, generator, other_streams, seed_all
from pairuni.train.inputs import input_record
from pairuni.train.loop import mixed_pairs
from pairuni.train.resume import FREE, flat
from pairuni.train.rollout import SideBatch, collect
from pairuni.train.samples import fixed_shares
from pairuni.train.step import add_side_gradient
from pairuni.train.trainable import load_trainable
from pairuni.types import Pair, Side

FILES = ("settings.json", "gradients.json", "gradients.md", "gradients.png")
"""Beside gradients.jsonl, whose rows are kept."""
OTHER = "other"
"""The group of parameters outside the repeated layers: embeddings, heads, norms."""

_UNUSED = ("optim.", "data.batch", "updates_per_rollout", "clip_eps", "pair_selection.mode")
"""Fields of training, and prefixes of fields, that change no gradient here."""

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
    train = replace(
        train,
        seed=config.seed,
        sides="both",
        model=replace(train.model, path=config.model or train.model.path),
        rollout=replace(train.rollout, rollouts=2 * rollouts),
        kl_beta=0.0,
        # A factor of a loss turns no gradient, but 0 would leave none.
        weighting="none",
        side_weights=SideWeights(),
    )
    check_folder(output)
    drawn = {mode: drawn_pairs(train, mode, config) for mode in config.mixes}
    with writing(output, "analyse gradients", FILES, config.overwrite):
        path, settings = output / "gradients.jsonl", _settings(config, train)
        kept = _continued(output / "settings.json", path, settings)
        seed_all(config.seed, Stream.GRADIENT_ADAPTERS)  # adapters begin at random
        gauge = Gauge(load_trainable(train.model, train.model.path, train.model.device), train, config.sketch)
        if not kept:
            write_json(output / "settings.json", settings)
        for mode, pairs in drawn.items():
            done = {row["pair"] for row in kept if row["mix"] == mode}
            for n, pair in enumerate(track(pairs, desc=f"gradients {mode}", unit="pair")):
                if pair.id not in done:
                    about = {"mix": mode, "pair": pair.id, "similarity": pair.similarity}
                    kept.append(about | gauge.measure(pair, n))
                    write_jsonl(path, kept)  # a pair of a large model takes minutes: none is measured twice
        summary = summarise(kept, config.seed)
        summary |= {"rollouts": rollouts, "sketch": config.sketch, "model": train.model.path}
        write_summary(summary, output)
    return summary


def _settings(config: GradientsConfig, train: TrainConfig) -> dict[str, Any]:
    """What all rows of one file have in common: more pairs and other mixes may be added to it."""
    bound = {name: value for name, value in flat(asdict(train)).items() if not name.startswith((*FREE, *_UNUSED))}
    own = {"streams": VERSION, "sketch": config.sketch}
    inputs = input_record(train.data.pairs, train.model.path, train.rewards)
    return json.loads(json.dumps(own | bound | {"inputs": inputs}))


def _continued(settings: Path, path: Path, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows that are there. Raises InputError where one is broken, or where they have other settings."""
    rows: list[dict[str, Any]] = []
    for line, row in read_jsonl(path) if path.exists() else ():
        field = next((name for name in ("mix", "pair") if not isinstance(row.get(name), str)), None)
        if field is None and "left_out" not in row:
            field = next(
                (kind for kind in KINDS if not isinstance(row.get(kind), dict) or "all" not in row[kind]), None
            )
        if field is not None:
            raise InputError("is missing or is not what this command writes", file=path, line=line, field=field)
        rows.append(row)
    if rows:
        found = {new_name(name) or name: value for name, value in read_json(settings).items()}
        problem = other_streams(found)
        if problem:
            raise InputError(problem, file=settings, field="streams")
        differ = {name for name in {*wanted, *found} if found.get(name) != wanted.get(name)}
        other = sorted(differ, key=lambda name: (name == "inputs", name))  # which an option may have changed too
        if other:
            problem = "the measurements that are there have another one; take another folder"
            raise InputError(problem, file=settings, field=other[0])
    return rows


def drawn_pairs(train: TrainConfig, mode: PairingMode, config: GradientsConfig) -> list[Pair]:
    """At most config.pairs pairs of a mix, in an order that the seed decides: fewer are the first of more.

    Raises:
        InputError: there are none, or the mode needs what the file does not say, or an image is not there.
    """
    try:
        mixed = mixed_pairs(train.data, replace(train.pair_selection, mode=mode), train.seed, train.trained_sides)
    except InputError as err:
        if err.field != "pair_selection.mode":
            raise
        raise InputError(f"{err}; leave {mode} out", field="mixes") from None
    order = generator(config.seed, Stream.GRADIENT_PAIRS).permutation(len(mixed))
    return [mixed[i] for i in order[: config.pairs].tolist()]


class Gauge:
    """Measures pairs with one model."""

    def __init__(self, policy: Policy, train: TrainConfig, sketch: int) -> None:
        self.policy, self.train, self.sketch = policy, train, sketch
        self.objective = train.objective
        self.root = pairs_root(train.data.pairs, train.data.image_root)
        self.parameters = [p for _, p in policy.trainable() if p.requires_grad]
        places = {id(p): f"layer {n:02d}" for n, layer in enumerate(policy.fsdp_units()) for p in layer.parameters()}
        self.groups = [places.get(id(p), OTHER) for p in self.parameters]
        self.rewards = {side: side_reward(train.rewards, side) for side in Side}
        self.shared: list[int] = []
        self._images = ImageCache()

    def measure(self, pair: Pair, n: int) -> dict[str, Any]:
        """`cosine` across the sides, `understanding` and `generation` within one, each {"all" and groups: value}.

        Where one of the four gradients is zero, since all its rewards are equal or missing, or is not finite,
        `left_out` names its side.
        """
        rollout, weighting, seed = self.train.rollout, self.objective.weighting, self.train.seed
        batch = collect(self.policy, fixed_shares([pair], 1), self.rewards, rollout, weighting, seed, n + 1, self._load)
        if not self.shared:
            self.shared = self._find_shared(batch)
        credits = {side: self._credits(sampled) for side, sampled in batch.items()}
        without = [str(side) for side in Side if not all(bool((c != 0).any()) for c in credits[side])]
        if without:
            return {"left_out": without}
        taken = {side: [self._gradient(batch[side], c) for c in credits[side]] for side in Side}
        broken = [str(side) for side in Side if not all(_finite(gradient) for gradient in taken[side])]
        if broken:
            return {"left_out": broken}
        crossed = [cosines(u, g) for u, g in product(taken[Side.UNDERSTANDING], taken[Side.GENERATION])]
        across = {name: math.fsum(one[name] for one in crossed) / len(crossed) for name in crossed[0]}
        return {"cosine": across} | {str(side): cosines(*taken[side]) for side in Side}

    def _credits(self, sampled: SideBatch) -> list[Tensor]:
        """Of the first half of the rollouts alone, and of the second: each a group of its own."""
        shape = sampled.rewards_BR.shape
        parts = []
        for columns in (slice(0, shape[1] // 2), slice(shape[1] // 2, None)):
            # Anew from what each reward said: parts of a sum may be normalised within the group.
            raw_BR = {name: values_BR[:, columns] for name, values_BR in sampled.raw_BR.items()}
            rewards_BR = total(self.rewards[sampled.side], raw_BR)
            own = weighted_advantages(rewards_BR, sampled.weights_B, self.objective.std_eps)
            credit_BR = torch.zeros(shape, dtype=own.dtype)
            credit_BR[:, columns] = own
            parts.append(credit_BR)
        return parts

    def _gradient(self, sampled: SideBatch, credit_BR: Tensor) -> Groups:
        add_side_gradient(self.policy, sampled, credit_BR, self.objective)
        vectors: dict[str, list[Tensor]] = {}
        for i in self.shared:
            gradient, parts = self.parameters[i].grad, vectors.setdefault(self.groups[i], [])
            entries = torch.zeros_like(self.parameters[i]) if gradient is None else gradient
            if not self.sketch:
                parts.append(entries.detach().flatten().double().cpu())
                continue
            # A layer's sketches add up to that of the layer.
            parts[:] = [sum(parts, count_sketch(entries, self.sketch, i))]
        self._clear()
        return {group: torch.cat(parts) for group, parts in sorted(vectors.items())}

    def _find_shared(self, batch: Mapping[Side, SideBatch]) -> list[int]:
        """Which parameters the log-probs of both sides depend on."""
        reached = []
        for sampled in batch.values():
            add_side_gradient(self.policy, sampled, torch.ones(sampled.rewards_BR.shape), self.objective)
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


def _finite(gradient: Groups) -> bool:
    return all(bool(vector.isfinite().all()) for vector in gradient.values())


def cosines(a: Groups, b: Groups) -> dict[str, float]:
    """Of each group, and of "all" of them together; 0 where a gradient is zero."""
    dots = {name: [float(x @ y) for x, y in ((a[name], b[name]), (a[name], a[name]), (b[name], b[name]))] for name in a}
    dots["all"] = [math.fsum(parts) for parts in zip(*dots.values(), strict=True)]
    return {name: _cosine(*three) for name, three in dots.items()}


def _cosine(dot: float, a: float, b: float) -> float:
    size = math.sqrt(a) * math.sqrt(b)
    return max(-1.0, min(1.0, dot / size)) if size > 0 else 0.0
