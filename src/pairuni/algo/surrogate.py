"""The clipped surrogate L_clip and the KL estimator, as masked sums (paper section 3).

Denominators are not here: a sum over a chunk cannot know the whole batch (pair_grpo.py).
Shapes: B rows (any number of rollouts), T decisions.
"""

import torch
from torch import Tensor


def clipped_surrogate(
    logp_BT: Tensor, old_logp_BT: Tensor, advantage_BT: Tensor, mask_BT: Tensor, clip_eps: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Masked sum of -min(rho A, clip(rho, 1 - eps, 1 + eps) A), rho = exp(logp - old_logp).

    Positions outside the mask may hold anything (-inf and NaN included) and reach neither value nor gradient.
    A positive scale of a row or a decision may be folded into the advantage: min commutes with it.

    Args:
        logp_BT: [B, T] differentiable log-probs.
        old_logp_BT: [B, T] those of the policy that sampled; no gradient flows into them.
        advantage_BT: [B], or what broadcasts to [B, T].
        mask_BT: [B, T] bool, True at decisions.
        clip_eps: positive. The paper names none.

    Returns:
        The sum (scalar), and detached scalars over the masked decisions: ratio_mean, ratio_max, and clip_fraction, the
        share whose gradient the clipping cuts. Without any decision: 0, {1, 1, 0}.
    """
    mask_BT = mask_BT.bool()
    old_logp_BT = old_logp_BT.detach()
    advantage_BT = _columns(advantage_BT.detach().to(logp_BT))
    # A zero advantage would give inf * 0 where the ratio overflows; it has no term, so it is masked like padding.
    gap_BT = _gap(logp_BT, old_logp_BT, mask_BT & (advantage_BT != 0))
    ratio_BT = gap_BT.exp()
    clipped_BT = ratio_BT.clamp(1 - clip_eps, 1 + clip_eps)
    terms_BT = torch.minimum(ratio_BT * advantage_BT, clipped_BT * advantage_BT)
    loss = -terms_BT.where(mask_BT, 0.0).sum()
    with torch.no_grad():
        ratio_BT = _gap(logp_BT, old_logp_BT, mask_BT).exp()
        high_BT = (ratio_BT > 1 + clip_eps) & (advantage_BT > 0)
        low_BT = (ratio_BT < 1 - clip_eps) & (advantage_BT < 0)
        stats = _masked_stats(ratio_BT, (high_BT | low_BT) & mask_BT, mask_BT)
    return loss, stats


def k3_kl(logp_BT: Tensor, ref_logp_BT: Tensor, mask_BT: Tensor, scale_BT: Tensor | None = None) -> Tensor:
    """Masked sum of scale * (exp(d) - d - 1), d = ref_logp - logp: a low-variance estimate of KL(policy || reference).

    Never negative, 0 where both agree. The gradient is that of the estimate at the sampled decisions.

    Args:
        logp_BT, ref_logp_BT: [B, T]; no gradient flows into the reference. Values outside the mask are not read.
        mask_BT: [B, T] bool.
        scale_BT: [B], or what broadcasts to [B, T]; 1 by default.
    """
    mask_BT = mask_BT.bool()
    gap_BT = -_gap(logp_BT, ref_logp_BT.detach(), mask_BT)
    terms_BT = gap_BT.exp() - gap_BT - 1
    if scale_BT is not None:
        terms_BT = terms_BT * _columns(scale_BT.detach().to(logp_BT))
    return terms_BT.where(mask_BT, 0.0).sum()


def _columns(values: Tensor) -> Tensor:
    return values[:, None] if values.ndim == 1 else values


def _gap(logp_BT: Tensor, other_BT: Tensor, keep_BT: Tensor) -> Tensor:
    return (logp_BT - other_BT.to(logp_BT)).where(keep_BT, 0.0)  # not a product: NaN times 0 is NaN


def _masked_stats(ratio_BT: Tensor, cut_BT: Tensor, mask_BT: Tensor) -> dict[str, Tensor]:
    count = mask_BT.sum()
    if mask_BT.numel() == 0:
        return {"ratio_mean": ratio_BT.new_ones(()), "ratio_max": ratio_BT.new_ones(()), "clip_fraction": count * 0.0}
    some = count > 0
    mean = ratio_BT.where(mask_BT, 0.0).sum() / count.clamp(min=1)
    return {
        "ratio_mean": mean.where(some, 1.0),
        "ratio_max": ratio_BT.where(mask_BT, 0.0).amax().where(some, 1.0),
        "clip_fraction": cut_BT.sum().to(ratio_BT) / count.clamp(min=1),
    }
