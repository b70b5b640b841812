"""The clipped surrogate L_clip and the estimators of the KL, as masked sums (paper section 3).

Denominators are not here: a sum over a chunk cannot know the whole batch (pair_grpo.py). Log-probs of half precision
are brought to fp32 first: a ratio near the clip's edge has three digits in bf16.
Shapes: B rows (any number of rollouts), T actions.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

KlEstimator = Literal["k1", "k2", "k3"]


def clipped_surrogate(
    logp_BT: Tensor, old_logp_BT: Tensor, advantage_B: Tensor, mask_BT: Tensor, clip_eps: float
) -> tuple[Tensor, Tensor]:
    """Masked sum of -min(rho A, clip(rho, 1 - eps, 1 + eps) A), rho = exp(logp - old_logp).

    Positions outside the mask may hold anything (-inf and NaN included) and reach neither value nor gradient. A ratio
    that overflows is clipped like any other where A > 0; where A < 0 the term has no bound and is infinite.
    A positive scale of a row or an action may be folded into the advantage: min commutes with it.

    Args:
        logp_BT: [B, T] differentiable log-probs.
        old_logp_BT: [B, T] those of the policy that sampled; no gradient flows into them.
        advantage_B: [B], or what broadcasts to [B, T].
        mask_BT: [B, T] bool, True at actions.
        clip_eps: positive. The paper names none.

    Returns:
        The sum (scalar), and the share of masked actions whose gradient the clipping cuts (detached scalar). Without
        any action: 0, 0.
    """
    mask_BT = mask_BT.bool()
    advantage_BT = _columns(advantage_B.detach().to(_exact(logp_BT)))
    # A zero advantage would give inf * 0 where the ratio overflows; it has no term, so it is masked like padding.
    gap_BT = _gap(logp_BT, old_logp_BT.detach(), mask_BT & (advantage_BT != 0))
    # Beyond the clip a positive term is constant: far beyond, exp would overflow, and its gradient be inf * 0.
    gap_BT = gap_BT.where(advantage_BT < 0, gap_BT.clamp(max=math.log1p(clip_eps) + 1))
    ratio_BT = gap_BT.exp()
    clipped_BT = ratio_BT.clamp(1 - clip_eps, 1 + clip_eps)
    terms_BT = torch.minimum(ratio_BT * advantage_BT, clipped_BT * advantage_BT)
    loss = -terms_BT.where(mask_BT, 0.0).sum()
    with torch.no_grad():
        high_BT = (ratio_BT > 1 + clip_eps) & (advantage_BT > 0)
        low_BT = (ratio_BT < 1 - clip_eps) & (advantage_BT < 0)
        cut = ((high_BT | low_BT) & mask_BT).sum().to(ratio_BT)
    return loss, cut / mask_BT.sum().clamp(min=1)


@torch.no_grad()
def ratio_statistics(logp_BT: Tensor, other_logp_BT: Tensor, mask_BT: Tensor) -> dict[str, Tensor]:
    """ratio_mean and ratio_max of exp(logp - other_logp) over the masked actions; 1 without any."""
    mask_BT = mask_BT.bool()
    ratio_BT = _gap(logp_BT, other_logp_BT, mask_BT).exp().where(mask_BT, 0.0)
    count = mask_BT.sum()
    if mask_BT.numel() == 0:
        return {"ratio_mean": ratio_BT.new_ones(()), "ratio_max": ratio_BT.new_ones(())}
    mean, highest = ratio_BT.sum() / count.clamp(min=1), ratio_BT.amax()
    return {"ratio_mean": mean.where(count > 0, 1.0), "ratio_max": highest.where(count > 0, 1.0)}


def kl_estimate(
    logp_BT: Tensor,
    ref_logp_BT: Tensor,
    mask_BT: Tensor,
    estimator: KlEstimator = "k3",
    scale_B: Tensor | None = None,
) -> Tensor:
    """Masked sum of scale * k, k an estimate of KL(policy || reference) from the policy's own draws.

    With d = ref_logp - logp at the action drawn (Schulman 2020, "Approximating KL divergence"):

    - k1 = -d: unbiased, of either sign. Differentiated it would be 0 in expectation, so it has the gradient of k2.
    - k2 = d^2 / 2: biased, right for small d. Its gradient is unbiased for that of KL(policy || reference).
    - k3 = exp(d) - d - 1: unbiased, never negative, of low variance for small d. Its gradient is unbiased for that of
      the other direction, KL(reference || policy).

    All of them for the distributions at the prefixes that were drawn; that the policy decides which prefixes are drawn
    is not differentiated. Actions drawn from another distribution estimate nothing of this: they need a scale of
    policy / other, without gradient.

    Args:
        logp_BT, ref_logp_BT: [B, T]; no gradient flows into the reference. Values outside the mask are not read.
        mask_BT: [B, T] bool.
        scale_B: [B], or what broadcasts to [B, T]; 1 by default. An action with 0 is not read either.

    Raises:
        ValueError: an unknown estimator.
    """
    if estimator not in get_args(KlEstimator):
        raise ValueError(f"kl_estimator must be one of {', '.join(get_args(KlEstimator))}, not {estimator!r}")
    scale_BT = torch.ones(()) if scale_B is None else _columns(scale_B.detach())
    scale_BT = scale_BT.to(_exact(logp_BT))
    mask_BT = mask_BT.bool() & (scale_BT != 0)
    gap_BT = -_gap(logp_BT, ref_logp_BT.detach(), mask_BT)
    square_BT = gap_BT.square() / 2
    if estimator == "k3":
        terms_BT = gap_BT.expm1() - gap_BT  # exp(d) - 1 - d would lose a small d beside 1
    else:
        terms_BT = square_BT if estimator == "k2" else square_BT - square_BT.detach() - gap_BT.detach()
    return (terms_BT * scale_BT).where(mask_BT, 0.0).sum()


def _columns(values: Tensor) -> Tensor:
    return values[:, None] if values.ndim == 1 else values


def _exact(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _gap(logp_BT: Tensor, other_BT: Tensor, keep_BT: Tensor) -> Tensor:
    """logp - other in fp32 at least, 0 where not kept."""
    logp_BT = _exact(logp_BT)
    return (logp_BT - other_BT.to(logp_BT)).where(keep_BT, 0.0)  # not a product: NaN times 0 is NaN
