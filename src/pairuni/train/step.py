"""One Pair-GRPO step (paper 3): credit, score, backward, update. U and G go through the same lines.

`old` in the ratio is the log-prob under the weights before the step's first update, taken from that update's own
scoring: this works for every family, costs nothing, and makes the first update's ratio exactly 1. The metrics ratio_*
and logp_gap_* compare with what was recorded while sampling instead, so that a decode that disagrees with scoring
shows up. Sampling is rollout.py, the metrics row metrics.py.
Shapes: B pairs, R rollouts, T actions of a rollout, k rows of a chunk, N actions of a chunk.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pairuni.algo.gradients import gradient_cosine
from pairuni.algo.pair_grpo import (
    KlTerm,
    LossDenominators,
    loss_scales,
    shared_denominators,
    side_denominators,
    side_loss,
    weighted_advantages,
)
from pairuni.config import TrainConfig
from pairuni.dist import all_gather, all_reduce_gradients, global_sum
from pairuni.errors import DivergedError
from pairuni.policies.base import Policy, Scorer
from pairuni.train.metrics import SideScores, rollout_metrics, score_metrics
from pairuni.train.optim import Optimizer, learning_rate
from pairuni.train.rollout import SideBatch
from pairuni.train.wrap import ShardedPolicy
from pairuni.types import Chunk, Rollouts, Side


@dataclass
class _Piece:
    """A chunk with what its loss needs. `old_kN` and `kl` are filled in by the first update."""

    rollouts: Rollouts
    chunk: Chunk
    credit_k: Tensor
    scale_k: Tensor
    trained: bool = True
    counted: bool = True
    old_kN: Tensor | None = None
    kl: KlTerm | None = None


def train_step(
    policy: Policy,
    batch: Mapping[Side, SideBatch],
    optimizer: Optimizer,
    config: TrainConfig,
    step: int,
    reference: Scorer | None = None,
) -> dict[str, float]:
    """Takes `config.updates_per_rollout` optimiser updates on one batch of rollouts.

    Every process calls it with its share of the batch; gradients and metrics are those of the whole batch. Rows whose
    advantage is 0 have no gradient and are not scored, unless there is a KL term; where that leaves nothing of a side,
    one row is scored all the same, so that logp_gap is never blind.

    Args:
        batch: from `collect`.
        step: from 1; sets the learning rate.
        reference: the initial model, exactly when config.kl_beta > 0.

    Returns:
        A row of metrics.jsonl but for `step`, and seconds/ but for the total. gradient_cosine is that of the first
        update, in the steps that log.gradient_cosine_every names.

    Raises:
        DivergedError: a loss or the gradient norm is not finite, once more than optim.max_skipped times in a row. Up to
            then the update is left out and counted.
    """
    started = time.perf_counter()
    assert (reference is not None) == (config.kl_beta > 0), "a reference model and kl_beta come together"
    credits = {
        side: weighted_advantages(s.rewards_BR, s.weights_B, config.advantage.std_eps) for side, s in batch.items()
    }
    totals = _totals(batch, config)
    pieces = {side: _pieces(policy, sampled, credits[side], totals[side], config) for side, sampled in batch.items()}
    scores = {side: SideScores([], [], []) for side in batch}
    every = config.log.gradient_cosine_every
    compared = optimizer.parameters if every and step % every == 0 else []
    apart: list[list[Tensor | None]] = []
    norms = []
    for update in range(config.updates_per_rollout):
        optimizer.zero_grad()
        for side in batch:
            loss = 0.0
            with _kept_apart(compared if update == 0 else []) as gradients:
                for piece in pieces[side]:
                    loss += _backward(policy, piece, scores[side], config, reference)
            scores[side].losses.append(global_sum(loss))
            apart.append(gradients)
        norms.append(_update(optimizer, (step, update + 1), {side: scores[side].losses[-1] for side in batch}))
    seconds = {
        "seconds/rollout": sum(sampled.rollout_seconds for sampled in batch.values()),
        "seconds/reward": sum(sampled.reward_seconds for sampled in batch.values()),
        "seconds/update": time.perf_counter() - started,
    }
    applied = [norm for norm in norms if norm is not None]
    common = {"grad_norm": sum(applied) / len(applied) if applied else math.nan, "skipped": len(norms) - len(applied)}
    common["lr"] = learning_rate(config.optim, step)
    if compared:
        common["gradient_cosine"] = gradient_cosine(*(_over_processes(compared, side) for side in apart[: len(batch)]))
    return rollout_metrics(batch, credits) | score_metrics(scores) | common | seconds


def add_side_gradient(policy: Policy, sampled: SideBatch, credit_BR: Tensor, config: TrainConfig) -> float:
    """Adds the gradient of one side's loss to the parameters', as a step's first update has it. Returns the loss.

    The side has a denominator of its own, in mode vanilla too.

    Args:
        credit_BR: pair weights times advantages; rows with 0 are not scored.

    Raises:
        ValueError: config.kl_beta is positive, which would need a reference model.
    """
    if config.kl_beta:
        raise ValueError(f"a gradient without a reference model has no KL term, kl_beta is {config.kl_beta}")
    scores = SideScores([], [], [])
    totals = _totals({sampled.side: sampled}, config)[sampled.side]
    pieces = _pieces(policy, sampled, credit_BR, totals, config)
    return sum(_backward(policy, piece, scores, config, None) for piece in pieces)


def _totals(batch: Mapping[Side, SideBatch], config: TrainConfig) -> dict[Side, LossDenominators]:
    """Per side what its denominator needs: global, so that chunks and processes only add up.

    Mode vanilla is plain GRPO on mixed batches, which knows no sides: those that are trained share one.
    """
    totals = {}
    for side, sampled in batch.items():
        own = sum((side_denominators(call.length_BR) for call in sampled.calls), LossDenominators(0, 0))
        totals[side] = LossDenominators(int(global_sum(own.rollouts)), int(global_sum(own.actions)))
    if config.pairing.mode == "vanilla":
        return dict.fromkeys(totals, shared_denominators(list(totals.values())))
    return totals


def _pieces(
    policy: Policy, sampled: SideBatch, credit_BR: Tensor, totals: LossDenominators, config: TrainConfig
) -> list[_Piece]:
    """The chunks of a side that are scored."""
    side_weight, length = (vars(of_sides)[sampled.side] for of_sides in (config.side_weights, config.norm_length))
    pieces: list[_Piece] = []
    gauge: list[_Piece] = []
    start, credit_Br = 0, sampled.own(credit_BR)
    for call in sampled.calls:
        credit_n = credit_Br[start : start + call.shape[0]].flatten()
        lengths_n = call.length_BR.flatten()
        start += call.shape[0]
        scale_n = loss_scales(lengths_n.cpu(), config.loss_norm, totals, length) * side_weight
        # With a KL term every row has a gradient; a side of weight 0 has none.
        active_n = (credit_n != 0) | (config.kl_beta > 0) if side_weight else torch.zeros_like(credit_n).bool()
        for chunk in policy.chunks(call, config.micro_batch, config.micro_tokens):
            rows = list(chunk.rows)
            part = _Piece(call, chunk, credit_n[rows].float(), scale_n[rows])
            gauge = gauge or [_narrow(part, [0], trained=False)]
            keep = active_n[rows].nonzero()[:, 0].tolist()
            if keep:
                pieces.append(_narrow(part, keep) if len(keep) < len(rows) else part)
    return _in_step(pieces or gauge) if isinstance(policy, ShardedPolicy) else pieces or gauge


def _in_step(pieces: list[_Piece]) -> list[_Piece]:
    """As many as on the process that has most: with sharded weights every forward and backward is a collective."""
    there = all_gather((len(pieces), any(piece.trained for piece in pieces)))
    number, trained = max(count for count, _ in there), any(each for _, each in there)
    first = _narrow(pieces[0], [0])
    nothing = torch.zeros_like(first.credit_k)
    ballast = [_Piece(first.rollouts, first.chunk, nothing, nothing, counted=False) for _ in range(len(pieces), number)]
    # A piece without an advantage has a gradient of zero.
    return [replace(piece, trained=trained) for piece in pieces + ballast]


def _narrow(piece: _Piece, keep: list[int], trained: bool = True) -> _Piece:
    """The piece with only these of its rows."""
    chunk = piece.chunk
    rows = tuple(chunk.rows[i] for i in keep)
    weight_kN = None if chunk.weight_kN is None else chunk.weight_kN[keep]
    narrowed = Chunk(rows, chunk.mask_kN[keep], chunk.recorded_kN[keep], chunk.step, weight_kN)
    return _Piece(piece.rollouts, narrowed, piece.credit_k[keep], piece.scale_k[keep], trained)


def _backward(
    policy: Policy, piece: _Piece, scores: SideScores, config: TrainConfig, reference: Scorer | None
) -> float:
    """Scores a chunk and adds its gradient at once, so that one chunk's graph is alive at a time. Returns its loss."""
    chunk = piece.chunk
    with torch.set_grad_enabled(piece.trained):
        logp_kN = policy.logprobs(piece.rollouts, chunk)
    first = piece.old_kN is None
    if piece.old_kN is None:
        piece.old_kN = logp_kN.detach()
        if reference is not None:
            with torch.no_grad():
                ref_kN = reference.logprobs(piece.rollouts, chunk)
            piece.kl = KlTerm(ref_kN, config.kl_beta, config.kl_estimator, _drawn(piece))
    scale_kN = piece.scale_k.to(logp_kN.device)[:, None]
    scale_kN = scale_kN if chunk.weight_kN is None else scale_kN * chunk.weight_kN
    loss, stats = side_loss(
        logp_kN,
        piece.old_kN,
        piece.credit_k.to(logp_kN.device),
        chunk.mask_kN,
        scale_kN,
        config.clip_eps,
        piece.kl,
        chunk.recorded_kN,
    )
    if piece.trained:
        loss.backward()
    if not piece.counted:
        return 0.0
    scores.parts.append({name: float(value) for name, value in stats.items()})
    gap_n = (logp_kN.detach() - chunk.recorded_kN)[chunk.mask_kN].abs()
    if first and len(gap_n):
        scores.gaps.append((float(gap_n.sum()), float(gap_n.max()), len(gap_n)))
    return float(loss.detach())


def _drawn(piece: _Piece) -> Tensor:
    """[k, N] scored over drawn-from probability of each action, as recorded.

    1 but under guidance with conditional scoring: codes are then drawn from another distribution than the scored one.
    """
    rollouts, chunk = piece.rollouts, piece.chunk
    sampled_kN = rollouts.sampled_logp_BRT.flatten(0, 1)[list(chunk.rows)].to(chunk.recorded_kN)
    return (chunk.recorded_kN - sampled_kN).where(chunk.mask_kN, 0.0).exp()


@contextmanager
def _kept_apart(parameters: Sequence[nn.Parameter]) -> Iterator[list[Tensor | None]]:
    """Yields the sum of what the backward passes inside add to each gradient, which itself comes out as without it."""
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


def _update(optimizer: Optimizer, place: tuple[int, int], losses: Mapping[Side, float]) -> float | None:
    """Sums gradients over processes and takes one update, if all is finite. Returns the gradient norm.

    All processes see the same sums, so that they leave out the same updates.

    Args:
        place: step and update, from 1.
    """
    all_reduce_gradients(optimizer.parameters)
    norm = optimizer.gradient_norm()
    wrong = [f"the {side} loss is {loss}" for side, loss in losses.items() if not math.isfinite(loss)]
    wrong += [] if math.isfinite(norm) else [f"the gradient norm is {norm}"]
    if not wrong:
        optimizer.update(place[0], norm)
        return norm
    optimizer.skip()
    if optimizer.skipped > optimizer.config.max_skipped:
        before = f" like {optimizer.skipped - 1} in a row before it" if optimizer.skipped > 1 else ""
        what = " and ".join(wrong)
        raise DivergedError(f"step {place[0]}, update {place[1]}: {what}; the update was not applied{before}")
    return None
