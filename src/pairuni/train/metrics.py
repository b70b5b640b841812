"""The numbers of one step, over all processes: one row of metrics.jsonl (design: records and files).

Rewards, advantages and token counts come from what was sampled, ratios and gaps from what was scored (step.py).
Every process gets the same row, but for the seconds, which are its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pairuni.algo.advantages import group_stats
from pairuni.algo.pair_grpo import merge_stats
from pairuni.dist import all_gather, gather_rows
from pairuni.records import Side
from pairuni.rewards.statistics import image_statistics
from pairuni.train.rollout import SideBatch

LOOKS = ("saturation", "edges", "colours", "duplicates")
"""What `image_statistics` tells of a group's images."""


@dataclass(frozen=True)
class SideScores:
    """What scoring one side's rollouts told on this process, over all updates of a step."""

    parts: list[dict[str, float]]
    """Per chunk: decisions, ratio_mean and ratio_max against the recorded log-probs, clip_fraction of the loss, kl."""
    gaps: list[tuple[float, float, int]]
    """Per chunk of the first update: sum and maximum of |scored - recorded|, decisions."""
    losses: list[float]
    """Per update, global."""


@dataclass(frozen=True)
class _Group:
    """One half's rollouts, as they travel between processes."""

    rewards_R: list[float]
    credit_R: list[float]
    weight: float
    decisions: int
    behaviour_gap: float
    raw: dict[str, list[float]]
    """[R] of each reward."""
    normalised: dict[str, list[float]]
    """[R] of each that is normalised."""
    looks: dict[str, float]
    """Statistics of its images; empty on the understanding side."""


def rollout_metrics(batch: Mapping[Side, SideBatch], credits: Mapping[Side, Tensor]) -> dict[str, float]:
    """Rewards, advantages, token counts and pair weights of what was sampled.

    Means leave missing rewards out; a side without a rollout gives NaN. behaviour_gap is the mean over decisions of
    |log p guided - log p conditional|. advantage_abs includes the pair weight.

    Args:
        credits: per side, pair weight times advantage [B, R].
    """
    row: dict[str, float] = {}
    weights: list[float] = []
    for side, sampled in batch.items():
        groups = gather_rows(_groups(sampled, credits[side]))
        rewards_BR = np.array([group.rewards_R for group in groups]).reshape(-1, sampled.rewards_BR.shape[1])
        stats = group_stats(rewards_BR)
        decisions = sum(group.decisions for group in groups)
        seconds = max(all_gather(sampled.rollout_seconds))
        known = [r[np.isfinite(r)] for r in rewards_BR]
        mean = _mean(np.concatenate([np.zeros(0), *known]))
        row |= {
            f"reward_mean/{side}": mean,
            f"reward_std/{side}": _mean([r.std() for r in known if len(r)]),
            **_named_means(groups, sampled, side),
            **_mean_looks(groups, side),
            f"advantage_abs/{side}": _mean(np.abs([group.credit_R for group in groups])),
            f"zero_std_fraction/{side}": stats.zero_std / stats.groups if stats.groups else np.nan,
            f"missing/{side}": stats.missing,
            f"behaviour_gap/{side}": sum(group.behaviour_gap for group in groups) / max(decisions, 1),
            f"tokens/{side}": decisions,
            f"tokens_per_second/{side}": decisions / seconds if seconds else 0.0,
        }
        weights += [group.weight for group in groups]
    return row | {"pair_weight_mean": _mean(weights)}


def score_metrics(scores: Mapping[Side, SideScores]) -> dict[str, float]:
    """Losses, ratios and gaps of what was scored: rows with an advantage, and at least one row per process.

    loss is the mean over the updates of a step, with the side's weight; clip_fraction the share of decisions whose
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
        row |= {f"{name}/{side}": value for name, value in merged.items() if name != "decisions"}
    return row


def _groups(sampled: SideBatch, credit_BR: Tensor) -> list[_Group]:
    gaps: list[float] = []
    counts: list[int] = []
    for call in sampled.calls:
        gap_BRT = (call.sampled_logp_BRT - call.cond_logp_BRT).abs().where(call.mask_BRT, 0.0)
        gaps += gap_BRT.double().sum(dim=(1, 2)).tolist()
        counts += call.mask_BRT.sum(dim=(1, 2)).tolist()
    raw, normalised = (
        [{name: scores_BR[b].tolist() for name, scores_BR in table.items()} for b in range(len(sampled.halves))]
        for table in (sampled.raw_BR, sampled.normalised_BR)
    )
    columns = (
        sampled.rewards_BR.tolist(),
        credit_BR.tolist(),
        sampled.weights_B.tolist(),
        counts,
        gaps,
        raw,
        normalised,
        _looks(sampled),
    )
    return [_Group(*values) for values in zip(*columns, strict=True)]


def _looks(sampled: SideBatch) -> list[dict[str, float]]:
    calls = [call.images_BRHWC for call in sampled.calls if call.images_BRHWC is not None]
    if not calls:
        return [{} for _ in sampled.halves]
    columns = [image_statistics(images_BRHWC) for images_BRHWC in calls]
    return [{name: float(c[name][b]) for name in LOOKS} for c in columns for b in range(len(c[LOOKS[0]]))]


def _mean_looks(groups: list[_Group], side: Side) -> dict[str, float]:
    if side is Side.UNDERSTANDING:
        return {}
    return {f"image/{name}": _mean([group.looks[name] for group in groups]) for name in LOOKS}


def _named_means(groups: list[_Group], sampled: SideBatch, side: Side) -> dict[str, float]:
    """reward/ of those that are trained, held_out/ of the others: means of what is not missing.

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
    return float(array.mean()) if array.size else float("nan")
