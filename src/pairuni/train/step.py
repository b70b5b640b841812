"""One Pair-GRPO step (paper 3): weigh advantages, score, backward, update. U and G go through the same lines.

`old` in the ratio is the log-prob under the weights before the step's first update, taken from that update's own
scoring: this works for every family, costs nothing, and makes the first update's ratio exactly 1. The metrics ratio_*
and logp_gap_* compare with the log-probs recorded while sampling instead, so that a decode that disagrees with scoring
shows up. Sampling is rollout.py, the metrics row metrics.py.
Shapes: B pairs, R rollouts, T actions of a rollout, k rows of a chunk, N actions of a chunk.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from pairuni.algo.gradients import gradient_cosine
from pairuni.algo.pair_grpo import (
    LossDenominators,
    loss_scales,
    shared_denominators,
    side_denominators,
    weighted_advantages,
)
from pairuni.algo.surrogate import clipped_surrogate, kl_estimate, ratio_statistics
from pairuni.dist import all_gather, all_reduce_gradients, global_sum
from pairuni.errors import DivergedError
from pairuni.policies.base import Scorer
from pairuni.train.metrics import SideScores, rollout_metrics, score_metrics
from pairuni.train.optim import Optimizer, learning_rate
from pairuni.train.rollout import SideBatch
from pairuni.train.wrap import ShardedPolicy
from pairuni.types import MicroBatch, Objective, Side


def update(
    policy: Scorer,
    batch: Mapping[Side, SideBatch],
    optimizer: Optimizer,
    objective: Objective,
    step: int,
    reference: Scorer | None = None,
    compare_sides: bool = False,
) -> dict[str, float]:
    """Takes `objective.updates_per_rollout` optimiser updates on one batch of rollouts.

    Every process calls it with its share of the batch; gradients and metrics are those of the whole batch. Rows whose
    advantage is 0 have no gradient and are not scored, unless there is a KL term. Where that leaves no row of a side,
    one row is scored all the same (the probe), so that logp_gap is never blind. One chunk's graph is alive at a time.

    Args:
        batch: from `collect`.
        step: from 1; sets the learning rate.
        reference: the initial model, exactly when objective.kl_beta > 0.
        compare_sides: measure gradient_cosine between the two sides in the first update.

    Returns:
        A row of metrics.jsonl but for `step`, and seconds/ but for the total.

    Raises:
        DivergedError: a loss or the gradient norm is not finite, once more than optim.max_skipped times in a row. Up to
            then the update is left out and counted.
    """
    started = time.perf_counter()
    assert (reference is not None) == (objective.kl_beta > 0), "a reference model and kl_beta come together"
    advantages = {
        side: weighted_advantages(of.rewards_BR, of.weights_B, objective.std_eps) for side, of in batch.items()
    }
    denominators = _denominators(batch, objective.shared_denominator)
    micro_batches = {
        side: split(policy, of, advantages[side], denominators[side], objective) for side, of in batch.items()
    }
    scores = {side: SideScores([], [], []) for side in batch}
    compared = optimizer.parameters if compare_sides else []
    contributions: list[list[Tensor | None]] = []
    norms = []
    for number in range(1, objective.updates_per_rollout + 1):
        optimizer.zero_grad()
        for side in batch:
            side_loss = 0.0
            with _recorded_gradient(compared if number == 1 else []) as contribution:
                for micro in micro_batches[side]:
                    chunk, mask_kN = micro.chunk, micro.chunk.mask_kN
                    with torch.set_grad_enabled(micro.trained):
                        logp_kN = policy.logprobs(micro.rollouts, chunk)
                    if number == 1:
                        micro.old_kN = logp_kN.detach()
                        if reference is not None:
                            with torch.no_grad():
                                micro.ref_kN = reference.logprobs(micro.rollouts, chunk)
                    assert micro.old_kN is not None
                    # J: min commutes with a positive factor, so that every denominator goes into the advantage.
                    scale_kN = _action_scales(micro, logp_kN)
                    advantage_kN = micro.advantage_k.to(logp_kN.device)[:, None] * scale_kN
                    loss, cut = clipped_surrogate(logp_kN, micro.old_kN, advantage_kN, mask_kN, objective.clip_eps)
                    stats = ratio_statistics(logp_kN, chunk.recorded_kN, mask_kN)
                    stats |= {"clip_fraction": cut, "actions": mask_kN.sum()}
                    if micro.ref_kN is not None:
                        drawn_kN = _drawn(micro)
                        kl = objective.kl_estimator
                        loss = loss + objective.kl_beta * kl_estimate(
                            logp_kN, micro.ref_kN, mask_kN, kl, scale_kN * drawn_kN
                        )
                        mean = kl_estimate(logp_kN.detach(), micro.ref_kN, mask_kN, kl, drawn_kN)
                        stats["kl"] = mean / mask_kN.sum().clamp(min=1)
                    if micro.trained:
                        loss.backward()
                    if micro.counted:
                        side_loss += float(loss.detach())
                        scores[side].add(stats, logp_kN.detach() if number == 1 else None, chunk)
            scores[side].losses.append(global_sum(side_loss))
            contributions.append(contribution)
        norms.append(_apply(optimizer, step, number, {side: scores[side].losses[-1] for side in batch}))
    row = rollout_metrics(batch, advantages) | score_metrics(scores)
    applied = [norm for norm in norms if norm is not None]
    row |= {"grad_norm": sum(applied) / len(applied) if applied else math.nan, "skipped": len(norms) - len(applied)}
    row["lr"] = learning_rate(optimizer.config, step)
    if compared:
        row["gradient_cosine"] = gradient_cosine(*(_over_processes(compared, of) for of in contributions[: len(batch)]))
    return row | {
        "seconds/rollout": sum(sampled.rollout_seconds for sampled in batch.values()),
        "seconds/reward": sum(sampled.reward_seconds for sampled in batch.values()),
        "seconds/update": time.perf_counter() - started,
    }


def add_side_gradient(policy: Scorer, sampled: SideBatch, advantage_BR: Tensor, objective: Objective) -> None:
    """Adds the gradient of one side's loss to the parameters', as a step's first update has it.

    The side has a denominator of its own, in mode vanilla too.

    Args:
        advantage_BR: pair weights times advantages; rows with 0 are not scored.

    Raises:
        ValueError: objective.kl_beta is positive, which would need a reference model.
    """
    if objective.kl_beta:
        raise ValueError(f"a gradient without a reference model has no KL term, kl_beta is {objective.kl_beta}")
    denominators = _denominators({sampled.side: sampled}, shared=False)[sampled.side]
    for micro in split(policy, sampled, advantage_BR, denominators, objective):
        if micro.trained:
            logp_kN = policy.logprobs(micro.rollouts, micro.chunk)
            advantage_kN = micro.advantage_k.to(logp_kN.device)[:, None] * _action_scales(micro, logp_kN)
            old_kN = logp_kN.detach()
            clipped_surrogate(logp_kN, old_kN, advantage_kN, micro.chunk.mask_kN, objective.clip_eps)[0].backward()


def split(
    policy: Scorer, sampled: SideBatch, advantage_BR: Tensor, denominators: LossDenominators, objective: Objective
) -> list[MicroBatch]:
    """The micro-batches of a side that are scored: rows with a gradient, or the probe where there is none."""
    side_weight, length = objective.side_weights[sampled.side], objective.norm_length[sampled.side]
    micro_batches: list[MicroBatch] = []
    probe: list[MicroBatch] = []
    start, advantage_Br = 0, sampled.own(advantage_BR)
    for call in sampled.calls:
        advantage_n = advantage_Br[start : start + call.shape[0]].flatten()
        start += call.shape[0]
        scale_n = loss_scales(call.length_BR.flatten().cpu(), objective.loss_norm, denominators, length) * side_weight
        # With a KL term every row has a gradient; a side of weight 0 has none.
        active_n = (advantage_n != 0) | (objective.kl_beta > 0)
        active_n = active_n if side_weight else torch.zeros_like(active_n)
        for chunk in policy.chunks(call, objective.micro_batch, objective.micro_tokens):
            rows = list(chunk.rows)
            whole = MicroBatch(call, chunk, advantage_n[rows].float(), scale_n[rows])
            probe = probe or [replace(whole.narrow([0]), trained=False)]
            keep = active_n[rows].nonzero()[:, 0].tolist()
            if keep:
                micro_batches.append(whole.narrow(keep) if len(keep) < len(rows) else whole)
    micro_batches = micro_batches or probe
    if not isinstance(policy, ShardedPolicy):
        return micro_batches
    # Pads to the largest per-rank count, because FSDP needs equal numbers of collectives.
    there = all_gather((len(micro_batches), any(micro.trained for micro in micro_batches)))
    number, trained = max(count for count, _ in there), any(each for _, each in there)
    first = micro_batches[0].narrow([0])
    nothing_k = torch.zeros_like(first.advantage_k)
    padding = replace(first, advantage_k=nothing_k, scale_k=nothing_k, counted=False)
    # A micro-batch without an advantage has a gradient of zero.
    missing = range(len(micro_batches), number)
    return [replace(micro, trained=trained) for micro in [*micro_batches, *(padding for _ in missing)]]


def _denominators(batch: Mapping[Side, SideBatch], shared: bool) -> dict[Side, LossDenominators]:
    """The denominators of each side, summed over processes, so that chunks and processes only add up.

    Mode vanilla is plain GRPO on mixed batches, which knows no sides: those that are trained share one.
    """
    found = {}
    for side, sampled in batch.items():
        own = sum((side_denominators(call.length_BR) for call in sampled.calls), LossDenominators(0, 0))
        found[side] = LossDenominators(int(global_sum(own.rollouts)), int(global_sum(own.actions)))
    return dict.fromkeys(found, shared_denominators(list(found.values()))) if shared else found


def _action_scales(micro: MicroBatch, logp_kN: Tensor) -> Tensor:
    """The factor of each action in the loss: [k, 1], or [k, N] where the family weighs single actions."""
    scale_kN, weight_kN = micro.scale_k.to(logp_kN.device)[:, None], micro.chunk.weight_kN
    return scale_kN if weight_kN is None else scale_kN * weight_kN


def _drawn(micro: MicroBatch) -> Tensor:
    """[k, N] scored over drawn-from probability of each action, as recorded.

    1 but under guidance with conditional scoring: codes are then drawn from another distribution than the scored one.
    """
    chunk = micro.chunk
    sampled_kN = micro.rollouts.sampled_logp_BRT.flatten(0, 1)[list(chunk.rows)].to(chunk.recorded_kN)
    return (chunk.recorded_kN - sampled_kN).where(chunk.mask_kN, 0.0).exp()


@contextmanager
def _recorded_gradient(parameters: Sequence[nn.Parameter]) -> Iterator[list[Tensor | None]]:
    """Records this block's gradient contribution; `.grad` is unchanged."""
    sums: list[Tensor | None] = [None] * len(parameters)

    def adder(i: int) -> Callable[[Tensor], None]:
        def add(gradient: Tensor) -> None:
            before = sums[i]
            sums[i] = gradient.clone() if before is None else before.add_(gradient)

        return add

    handles = [parameter.register_hook(adder(i)) for i, parameter in enumerate(parameters)]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


def _over_processes(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """One side's gradients, summed over processes. The parameters keep theirs, those of both sides."""
    holders = [nn.Parameter(parameter.detach()) for parameter in parameters]
    for holder, gradient in zip(holders, gradients, strict=True):
        holder.grad = gradient
    all_reduce_gradients(holders)
    return [holder.grad for holder in holders]


def _apply(optimizer: Optimizer, step: int, number: int, losses: Mapping[Side, float]) -> float | None:
    """Sums gradients over processes and takes update `number` of the step, if all is finite. Returns the norm.

    All processes see the same sums, so that they leave out the same updates.
    """
    all_reduce_gradients(optimizer.parameters)
    norm = optimizer.gradient_norm()
    wrong = [f"the {side} loss is {loss}" for side, loss in losses.items() if not math.isfinite(loss)]
    wrong += [] if math.isfinite(norm) else [f"the gradient norm is {norm}"]
    if not wrong:
        optimizer.update(step, norm)
        return norm
    optimizer.skip()
    if optimizer.skipped > optimizer.config.max_skipped:
        before = f" like {optimizer.skipped - 1} in a row before it" if optimizer.skipped > 1 else ""
        what = " and ".join(wrong)
        raise DivergedError(f"step {step}, update {number}: {what}; the update was not applied{before}")
    return None
