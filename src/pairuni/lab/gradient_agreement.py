"""`pairuni analyse gradients`: measures whether the gradients of the two sides agree, and whether pairing makes them
agree (paper section 5).

It samples each half of a pair twice as often as training does and computes two gradients of the trainer's loss per
side, each from its own rollouts. Cosines across the sides answer the question. Cosines within a side tell how well two
gradients of one loss agree with so few rollouts; the geometric mean of the two sides' cosines is the noise ceiling.
All cosines are over the parameters that both sides train, in total and by layer. Only one gradient is in memory at a
time, and only a random sketch of it is kept.
"""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from pairuni.algo.gradients import count_sketch
from pairuni.algo.pair_grpo import weighted_advantages
from pairuni.config import GradientsConfig, PairingMode, SideWeights, TrainConfig
from pairuni.config.renamed import new_name
from pairuni.data.dataset import ImageCache
from pairuni.errors import InputError
from pairuni.files import check_folder, read_json, read_jsonl, write_json, write_jsonl, write_text, writing
from pairuni.pages.chart_style import LINES, PALE, error_ends, figure_file
from pairuni.policies.base import Policy
from pairuni.progress import track
from pairuni.records import pairs_root, resolve_image
from pairuni.rewards import side_reward
from pairuni.rewards.combined import total
from pairuni.streams import VERSION, Stream, generator, other_streams, seed_all
from pairuni.train.inputs import input_record
from pairuni.train.loop import mixed_pairs, without_long
from pairuni.train.resume import FREE, flat
from pairuni.train.rollout import SideBatch, collect
from pairuni.train.samples import fixed_shares
from pairuni.train.step import add_side_gradient
from pairuni.train.trainable import load_trainable
from pairuni.types import Pair, Side

FILES = ("settings.json", "gradients.json", "gradients.md", "gradients.png")
"""Written beside gradients.jsonl, whose rows are kept."""
OTHER = "other"
"""The group of parameters outside the repeated layers: embeddings, heads, norms."""

_UNUSED = ("optim.", "data.batch", "updates_per_rollout", "clip_eps", "pair_selection.mode")
"""Fields of training, and prefixes of fields, that do not change these gradients."""

RESAMPLES = 2000
"""Bootstrap resamples of the pairs per interval."""
KINDS = ("cosine", *(str(side) for side in Side))
_COLOURS = dict(zip(KINDS, (LINES[0], "#b0b6be", "#d9a27d"), strict=True))
_NAMES = {
    "cosine": "understanding and generation",
    "understanding": "understanding twice",
    "generation": "images twice",
}

Interval = tuple[float, float, float]
"""A value and the ends of its 95 % interval; the ends are NaN if there are too few pairs."""

Groups = Mapping[str, Tensor]
"""A gradient as one float64 vector per layer."""


def measure_gradients(config: GradientsConfig, train: TrainConfig, output: Path) -> dict[str, Any]:
    """Measures every pair that `output`/gradients.jsonl lacks, writes the summary and returns it.

    Args:
        train: gives the model, pairs, rollouts and rewards. Its KL term is left out.

    Raises:
        InputError: a config, a pair or an image is wrong, or `output` holds measurements with other settings.
    """
    rollouts = config.rollouts or train.rollout.rollouts
    train = replace(
        train,
        seed=config.seed,
        sides="both",
        model=replace(train.model, path=config.model or train.model.path),
        rollout=replace(train.rollout, rollouts=2 * rollouts),
        kl_beta=0.0,
        # A factor changes no direction of a gradient, but a factor of 0 would leave no gradient.
        weighting="none",
        side_weights=SideWeights(),
    )
    check_folder(output)
    drawn = {mode: drawn_pairs(train, mode, config) for mode in config.mixes}
    with writing(output, "analyse gradients", FILES, config.overwrite):
        path = output / "gradients.jsonl"
        # The settings that all rows of a file share. More pairs and other mixes may be added later.
        bound = {name: value for name, value in flat(asdict(train)).items() if not name.startswith((*FREE, *_UNUSED))}
        inputs = input_record(train.data.pairs, train.model.path, train.rewards)
        own = {"streams": VERSION, "sketch": config.sketch, **bound, "inputs": inputs}
        settings = json.loads(json.dumps(own))
        kept = _continued(output / "settings.json", path, settings)
        seed_all(config.seed, Stream.GRADIENT_ADAPTERS)  # new adapters have random weights
        policy = load_trainable(train.model, train.model.path, train.model.device)
        length, file = train.rollout.max_new_tokens, train.data.pairs
        drawn = {mode: without_long(pairs, policy, list(Side), length, file)[0] for mode, pairs in drawn.items()}
        measured = PairGradients(policy, train, config.sketch)
        if not kept:
            write_json(output / "settings.json", settings)
        for mode, pairs in drawn.items():
            done = {row["pair"] for row in kept if row["mix"] == mode}
            for n, pair in enumerate(track(pairs, desc=f"gradients {mode}", unit="pair")):
                if pair.id not in done:
                    about = {"mix": mode, "pair": pair.id, "similarity": pair.similarity}
                    kept.append(about | measured.measure(pair, n))
                    write_jsonl(path, kept)  # a pair takes minutes with a large model: never measure one twice
        summary = summarise(kept, config.seed)
        summary |= {"rollouts": rollouts, "sketch": config.sketch, "model": train.model.path}
        write_json(output / "gradients.json", summary)
        write_text(output / "gradients.md", table(summary) + "\n")
        draw(summary, output / "gradients.png")
    return summary


def _continued(settings: Path, path: Path, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of an earlier call. Raises InputError: a row is broken, or the rows have other settings."""
    rows: list[dict[str, Any]] = []
    for line, row in read_jsonl(path) if path.exists() else ():
        wrong = [name for name in ("mix", "pair") if not isinstance(row.get(name), str)]
        if "left_out" not in row:
            wrong += [kind for kind in KINDS if not isinstance(row.get(kind), dict) or "all" not in row[kind]]
        if wrong:
            raise InputError("is missing or was not written by this command", file=path, line=line, field=wrong[0])
        rows.append(row)
    if rows:
        found = {new_name(name) or name: value for name, value in read_json(settings).items()}
        problem = other_streams(found)
        if problem:
            raise InputError(problem, file=settings, field="streams")
        differ = {name for name in {*wanted, *found} if found.get(name) != wanted.get(name)}
        other = sorted(differ, key=lambda name: (name == "inputs", name))  # inputs last: an option may be the cause
        if other:
            problem = "the measurements in this folder have another value; choose another folder"
            raise InputError(problem, file=settings, field=other[0])
    return rows


def drawn_pairs(train: TrainConfig, mode: PairingMode, config: GradientsConfig) -> list[Pair]:
    """At most config.pairs pairs of a mix, in random order by the seed; a smaller number takes the first of them.

    Raises:
        InputError: the mix has no pairs, the mode needs a field that the file lacks, or an image is missing.
    """
    try:
        mixed = mixed_pairs(train.data, replace(train.pair_selection, mode=mode), train.seed, train.trained_sides)
    except InputError as err:
        if err.field != "pair_selection.mode":
            raise
        raise InputError(f"{err}; leave {mode} out", field="mixes") from None
    order = generator(config.seed, Stream.GRADIENT_PAIRS).permutation(len(mixed))
    return [mixed[i] for i in order[: config.pairs].tolist()]


class PairGradients:
    """Measures the agreement of gradients, pair by pair, with one model."""

    def __init__(self, policy: Policy, train: TrainConfig, sketch: int) -> None:
        self.policy, self.train, self.sketch = policy, train, sketch
        self.objective = train.objective
        self.root = pairs_root(train.data.pairs, train.data.image_root)
        self.parameters = [p for _, p in policy.trainable() if p.requires_grad]
        places = {id(p): f"layer {n:02d}" for n, layer in enumerate(policy.fsdp_units()) for p in layer.parameters()}
        self.groups = [places.get(id(p), OTHER) for p in self.parameters]
        self.rewards = {side: side_reward(train.rewards, side) for side in Side}
        self.shared: list[int] = []
        self.images = ImageCache()

    def measure(self, pair: Pair, n: int) -> dict[str, Any]:
        """Returns `cosine` across the sides and `understanding` and `generation` within a side, by layer and "all".

        If one of the four gradients is not finite, or is zero because all its rewards are equal or missing, the result
        is `left_out` instead, with the names of the sides concerned.
        """
        rollout, weighting, seed = self.train.rollout, self.objective.weighting, self.train.seed

        def load(path: str) -> np.ndarray:
            return self.images.load(resolve_image(path, self.root))

        batch = collect(self.policy, fixed_shares([pair], 1), self.rewards, rollout, weighting, seed, n + 1, load)
        if not self.shared:  # indices of the parameters that receive a gradient from both sides
            reached = []
            for sampled in batch.values():
                add_side_gradient(self.policy, sampled, torch.ones(sampled.rewards_BR.shape), self.objective)
                reached.append({i for i, p in enumerate(self.parameters) if p.grad is not None and bool(p.grad.any())})
                self._clear()
            self.shared = sorted(set.intersection(*reached))
            if not self.shared:
                raise InputError("the two sides share no parameter that trains", field="model.trainable")
        advantages = {side: self._half_advantages(sampled) for side, sampled in batch.items()}
        zero = [str(side) for side in Side if not all(bool(each_BR.any()) for each_BR in advantages[side])]
        if zero:
            return {"left_out": zero}
        taken = {side: [self._gradient(batch[side], each_BR) for each_BR in advantages[side]] for side in Side}
        vectors = {side: [vector for groups in taken[side] for vector in groups.values()] for side in Side}
        broken = [str(side) for side in Side if not all(bool(vector.isfinite().all()) for vector in vectors[side])]
        if broken:
            return {"left_out": broken}
        crossed = [cosines(u, g) for u, g in product(taken[Side.UNDERSTANDING], taken[Side.GENERATION])]
        across = {name: fmean(one[name] for one in crossed) for name in crossed[0]}
        return {"cosine": across} | {str(side): cosines(*taken[side]) for side in Side}

    def _half_advantages(self, sampled: SideBatch) -> list[Tensor]:
        """Weighted advantages [B, R] twice: one half of the rollouts is the group, the other half has zeros."""
        shape = sampled.rewards_BR.shape
        parts = []
        for columns in (slice(0, shape[1] // 2), slice(shape[1] // 2, None)):
            # Computed from the raw rewards, because parts of a sum may be normalised within the group.
            raw_BR = {name: values_BR[:, columns] for name, values_BR in sampled.raw_BR.items()}
            rewards_BR = total(self.rewards[sampled.side], raw_BR)
            own = weighted_advantages(rewards_BR, sampled.weights_B, self.objective.std_eps)
            parts.append(torch.zeros(shape, dtype=own.dtype))
            parts[-1][:, columns] = own
        return parts

    def _gradient(self, sampled: SideBatch, advantages_BR: Tensor) -> Groups:
        add_side_gradient(self.policy, sampled, advantages_BR, self.objective)
        vectors: dict[str, list[Tensor]] = {}
        for i in self.shared:
            gradient, parts = self.parameters[i].grad, vectors.setdefault(self.groups[i], [])
            entries = torch.zeros_like(self.parameters[i]) if gradient is None else gradient
            if not self.sketch:
                parts.append(entries.detach().flatten().double().cpu())
                continue
            # The sketches of a layer's parameters add up to the sketch of the layer.
            parts[:] = [sum(parts, count_sketch(entries, self.sketch, i))]
        self._clear()
        return {group: torch.cat(parts) for group, parts in sorted(vectors.items())}

    def _clear(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


def cosines(a: Groups, b: Groups) -> dict[str, float]:
    """Cosines of each group and, as "all", of the whole gradients; 0 where a gradient is zero."""
    dots = {name: [float(x @ y) for x, y in ((a[name], b[name]), (a[name], a[name]), (b[name], b[name]))] for name in a}
    dots["all"] = [math.fsum(parts) for parts in zip(*dots.values(), strict=True)]
    sizes = {name: math.sqrt(aa) * math.sqrt(bb) for name, (_, aa, bb) in dots.items()}
    return {n: max(-1.0, min(1.0, dots[n][0] / size)) if size > 0 else 0.0 for n, size in sizes.items()}


def summarise(rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Per mix: the numbers of pairs measured and left out, and the median over pairs of each kind of cosine.

    `corrected` is the mean cosine across the sides divided by the geometric mean of the two cosines within a side: an
    estimate of the cosine without the noise of few rollouts. Intervals (95 %) are percentile bootstraps over pairs.
    """
    mixes: dict[str, Any] = {}
    for mix in dict.fromkeys(row["mix"] for row in rows):
        own = [row for row in rows if row["mix"] == mix]
        measured = [row for row in own if "cosine" in row]
        entry: dict[str, Any] = {"measured": len(measured), "left_out": len(own) - len(measured)}
        if measured:
            groups = list(measured[0]["cosine"])
            values = {kind: {g: np.array([row[kind][g] for row in measured]) for g in groups} for kind in KINDS}
            for kind, group in product(KINDS, groups):
                own_n = values[kind][group]
                middle = float(np.median(own_n)), *_interval((own_n,), np.median, seed)
                entry.setdefault(kind, {})[group] = _plain(middle)
            entry["corrected"] = _plain(corrected(*(values[kind]["all"] for kind in KINDS), seed=seed))
        mixes[mix] = entry
    return {"mixes": mixes}


def corrected(across_n: np.ndarray, one_n: np.ndarray, other_n: np.ndarray, seed: int) -> Interval:
    """Mean of `across_n` / sqrt(mean of `one_n` * mean of `other_n`); NaN where one of the two is not positive."""

    def ratio(a: np.ndarray, b: np.ndarray, c: np.ndarray, axis: int = -1) -> np.ndarray:
        ceilings = np.mean(b, axis) * np.mean(c, axis)
        sound = (np.mean(b, axis) > 0) & (np.mean(c, axis) > 0)
        return np.where(sound, np.mean(a, axis) / np.sqrt(np.where(sound, ceilings, 1.0)), np.nan)

    values = (across_n, one_n, other_n)
    return float(ratio(*values)), *_interval(values, ratio, seed)


def _interval(values: tuple[np.ndarray, ...], statistic: Any, seed: int) -> tuple[float, float]:
    if all(np.ptp(each) == 0 for each in values):  # a single pair, or equal values
        return math.nan, math.nan
    rng = generator(seed, Stream.GRADIENT_INTERVAL)
    options: dict[str, Any] = {"paired": len(values) > 1, "method": "percentile", "n_resamples": RESAMPLES, "rng": rng}
    with warnings.catch_warnings():
        # If some resamples have no value there is no interval; the table shows that.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(values, statistic, **options).confidence_interval
    return float(found.low), float(found.high)


def _plain(interval: Interval) -> dict[str, float | None]:
    """As JSON, which has no NaN."""
    rounded = (None if math.isnan(value) else round(value, 5) for value in interval)
    return dict(zip(("value", "low", "high"), rounded, strict=True))


def table(summary: Mapping[str, Any]) -> str:
    """A Markdown table with a row per mix."""
    lines = ["| mix | pairs | left out | across the sides | understanding twice | images twice | corrected |"]
    lines.append("|---|---|---|---|---|---|---|")
    for mix, entry in summary["mixes"].items():
        cells = [_cell(entry[kind]["all"]) if kind in entry else "" for kind in KINDS]
        cells.append(_cell(entry["corrected"]) if "corrected" in entry else "")
        lines.append(f"| {mix} | {entry['measured']} | {entry['left_out']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(interval: Mapping[str, float | None]) -> str:
    value, low, high = interval["value"], interval["low"], interval["high"]
    if value is None:
        return "-"
    return f"{value:+.3f}" if low is None or high is None else f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def draw(summary: Mapping[str, Any], path: Path) -> None:
    """Draws medians with intervals: on the left a row per mix, on the right the cosine across the sides by layer."""
    mixes = {name: entry for name, entry in summary["mixes"].items() if entry["measured"]}
    with figure_file(path, 10, 1.6 + 0.45 * max(4, len(mixes))) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        for n, kind in enumerate(KINDS):
            for row, entry in enumerate(mixes.values()):
                at = entry[kind]["all"]
                ends, label = error_ends(at["value"], at["low"], at["high"]), _NAMES[kind] if row == 0 else None
                y = row + 0.2 * (n - 1)
                left.errorbar([at["value"]], [y], xerr=ends, fmt="o", ms=4, color=_COLOURS[kind], label=label)
        left.set_yticks(range(len(mixes)), list(mixes))
        left.invert_yaxis()
        left.axvline(0, color=PALE, linewidth=0.8, zorder=0)
        left.set_xlabel("cosine of two gradients of a pair: median, 95 % interval")
        if mixes:
            figure.legend(loc="outside upper center", ncols=len(KINDS), frameon=False)
        for name, entry in mixes.items():
            groups = [group for group in entry["cosine"] if group != "all"]
            right.plot([entry["cosine"][g]["value"] for g in groups], range(len(groups)), marker="o", ms=3, label=name)
            right.set_yticks(range(len(groups)), groups)
        right.axvline(0, color=PALE, linewidth=0.8, zorder=0)
        right.set_xlabel("across the sides, by layer")
        if mixes:
            right.legend(frameon=False, fontsize=7)
