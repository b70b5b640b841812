"""The numbers of one step, over all processes: one row of metrics.jsonl.

Rewards, advantages and token counts describe what was sampled; ratios and gaps describe what was scored (step.py).
Every process gets the same row, except for its own seconds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pairuni.algo.advantages import group_stats
from pairuni.algo.pair_grpo import merge_stats
from pairuni.dist import all_gather, gather_rows
from pairuni.rewards.statistics import group_statistics, looks
from pairuni.train.rollout import SideBatch
from pairuni.types import Chunk, Side

LOOKS = ("saturation", "edges", "colours", "duplicates")
"""What `group_statistics` tells of a group's images."""


@dataclass(frozen=True)
class SideScores:
    """Statistics from scoring one side's rollouts on this process, over all updates of a step."""

    parts: list[dict[str, float]]
    """Per chunk: actions, ratio_mean and ratio_max against the recorded log-probs, clip_fraction of the loss, kl."""
    gaps: list[tuple[float, float, int]]
    """Per chunk of the first update: sum and maximum of |scored - recorded|, actions."""
    losses: list[float]
    """Per update, global."""

    def add(self, stats: Mapping[str, Tensor], first_kN: Tensor | None, chunk: Chunk) -> None:
        """Adds a chunk's statistics and, in the first update, how far its log-probs are from the recorded ones."""
        self.parts.append({name: float(value) for name, value in stats.items()})
        if first_kN is not None:
            gap_n = (first_kN - chunk.recorded_kN)[chunk.mask_kN].abs()
            if len(gap_n):
                self.gaps.append((float(gap_n.sum()), float(gap_n.max()), len(gap_n)))


@dataclass(frozen=True)
class _HalfRollouts:
    """One half's rollouts, as they travel between processes."""

    rewards_R: list[float]
    credit_R: list[float]
    weight: float
    actions: int
    behaviour_gap: float
    raw: dict[str, list[float]]
    """[R] of each reward."""
    normalised: dict[str, list[float]]
    """[R] of each that is normalised."""
    looks: dict[str, float]
    """Statistics of its images; empty on the understanding side."""


def rollout_metrics(batch: Mapping[Side, SideBatch], credits: Mapping[Side, Tensor]) -> dict[str, float]:
    """Rewards, advantages, token counts and pair weights of what was sampled.

    Means leave missing rewards out; a side without a rollout gives NaN. behaviour_gap is the mean over actions of
    |log p guided - log p conditional|, estimated from those that are scored. advantage_abs includes the pair weight.

    Args:
        credits: per side, pair weight times advantage [B, R].
    """
    row: dict[str, float] = {}
    weights: list[float] = []
    for side, sampled in batch.items():
        groups = gather_rows(_groups(sampled, credits[side]))
        rewards_BR = np.array([group.rewards_R for group in groups]).reshape(-1, sampled.rewards_BR.shape[1])
        stats = group_stats(rewards_BR)
        actions = sum(group.actions for group in groups)
        seconds = max(all_gather(sampled.rollout_seconds))
        known = [r[np.isfinite(r)] for r in rewards_BR]
        mean, drawn = _mean(np.concatenate([np.zeros(0), *known])), side is Side.GENERATION
        row |= {
            f"reward_mean/{side}": mean,
            f"reward_std/{side}": _mean([_std(r) for r in known if len(r)]),
            **_named_means(groups, sampled, side),
            **({f"image/{name}": _mean([group.looks[name] for group in groups]) for name in LOOKS} if drawn else {}),
            f"advantage_abs/{side}": _mean(np.abs([group.credit_R for group in groups])),
            f"zero_std_fraction/{side}": stats.zero_std / stats.groups if stats.groups else np.nan,
            f"missing/{side}": stats.missing,
            f"behaviour_gap/{side}": sum(group.behaviour_gap for group in groups) / max(actions, 1),
            f"tokens/{side}": actions,
            f"tokens_per_second/{side}": actions / seconds if seconds else 0.0,
        }
        weights += [group.weight for group in groups]
    return row | {"pair_weight_mean": _mean(weights)}


def score_metrics(scores: Mapping[Side, SideScores]) -> dict[str, float]:
    """Losses, ratios and gaps of what was scored: rows with an advantage, and at least one row per process.

    loss is the mean over the updates of a step, with the side's weight; clip_fraction the share of actions whose
    gradient the loss cut; kl is there only with a reference model.
    """
    row: dict[str, float] = {}
    for side, score in scores.items():
        merged = merge_stats([merge_stats(parts) for parts in all_gather(score.parts)])
        gaps = [gap for gathered in all_gather(score.gaps) for gap in gathered]
        count = sum(gap[2] for gap in gaps)
        row |= {
            f"loss/{side}": _mean(score.losses),
            f"logp_gap_mean/{side}": sum(gap[0] for gap in gaps) / count if count else np.nan,
            f"logp_gap_max/{side}": max((gap[1] for gap in gaps), default=np.nan),
        }
        row |= {f"{name}/{side}": value for name, value in merged.items() if name != "actions"}
    return row


@dataclass(frozen=True)
class _GroupPart:
    """A process' part of a group's statistics: of all rollouts, or of some."""

    actions: int
    behaviour_gap: float
    looks_RK: np.ndarray | None
    """Of its images."""


def _seen(sampled: SideBatch) -> list[_GroupPart]:
    """Statistics per half. A group that spans processes is summed on the process that has its first rollout."""
    seen: list[_GroupPart] = []
    for call in sampled.calls:
        gap_BRT = (call.sampled_logp_BRT - call.cond_logp_BRT).abs().where(call.mask_BRT, 0.0)
        gap_BRT = gap_BRT if call.weight_BRT is None else gap_BRT * call.weight_BRT
        gaps = gap_BRT.double().sum(dim=(1, 2)).tolist()
        counts = call.length_BR.sum(dim=1).tolist()
        images = call.images_BRHWC
        shown = [None] * len(gaps) if images is None else [looks(images_RHWC) for images_RHWC in images]
        seen += [_GroupPart(*values) for values in zip(counts, gaps, shown, strict=True)]
    if sampled.columns is None:
        return seen
    own = [(half.pair_id, half.repeat) for half in sampled.halves]
    there = [each for of_one in all_gather(list(zip(own, seen, strict=True))) for each in of_one]
    if sampled.columns.start > 0:
        return []
    whole = []
    for key in own:
        parts = [part for group, part in there if group == key]
        shown = [part.looks_RK for part in parts if part.looks_RK is not None]
        actions, gap = sum(part.actions for part in parts), sum(part.behaviour_gap for part in parts)
        whole.append(_GroupPart(actions, gap, np.concatenate(shown) if shown else None))
    return whole


def _groups(sampled: SideBatch, credit_BR: Tensor) -> list[_HalfRollouts]:
    return [
        _HalfRollouts(
            rewards_R=sampled.rewards_BR[b].tolist(),
            credit_R=credit_BR[b].tolist(),
            weight=float(sampled.weights_B[b]),
            actions=each.actions,
            behaviour_gap=each.behaviour_gap,
            raw={name: scores_BR[b].tolist() for name, scores_BR in sampled.raw_BR.items()},
            normalised={name: scores_BR[b].tolist() for name, scores_BR in sampled.normalised_BR.items()},
            looks={} if each.looks_RK is None else group_statistics(each.looks_RK),
        )
        for b, each in enumerate(_seen(sampled))
    ]


def _named_means(groups: list[_HalfRollouts], sampled: SideBatch, side: Side) -> dict[str, float]:
    """Means without missing values: reward/ for trained rewards, held_out/ for the others.

    normalised/ is the mean distance from 0, since the mean is 0: 0 where a reward tells no rollout of a group apart.
    """
    means = {}
    for name in sampled.raw_BR:
        scores = np.array([score for group in groups for score in group.raw[name]])
        kind = "held_out" if name in sampled.held_out else "reward"
        means[f"{kind}/{name}/{side}"] = _mean(scores[np.isfinite(scores)])
    for name in sampled.normalised_BR:
        scores = np.array([score for group in groups for score in group.normalised[name]])
        means[f"normalised/{name}/{side}"] = _mean(np.abs(scores[np.isfinite(scores)]))
    return means


def _mean(values: Iterable[float] | np.ndarray) -> float:
    array = np.asarray(list(values) if not isinstance(values, np.ndarray) else values, dtype=np.float64)
    if not array.size:
        return float("nan")
    with np.errstate(over="ignore"):
        mean = array.mean()
    # Finite scores have a finite mean, whatever their size.
    return float(mean if np.isfinite(mean) else (array / array.size).sum())


def _std(scores_R: np.ndarray) -> float:
    """The population deviation, finite for finite scores of any size."""
    with np.errstate(over="ignore"):
        std = scores_R.std()
    largest = np.abs(scores_R).max()
    return float(std if np.isfinite(std) else largest * (scores_R / largest).std())
