"""Log-probs of actions from the features before a head's last linear layer, and their gradient, slice by slice.

Logits over 102,400 tokens outweigh a model: those of a slice exist at a time, and are computed again backwards except
for the last slice's. The weight's gradient is added up in one buffer, where autograd would make one per slice.
Shapes: N actions, n of a slice, F features, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pairuni.policies.sampling import guide, temper_
from pairuni.types import SamplingSpec

# Logits that exist at a time: 128 MB in fp32.
LOGITS = 1 << 25


def compute_dtype(x: Tensor) -> torch.dtype:
    """What linear layers and attention round `x` to."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def autocast(device: str, bf16: bool) -> torch.autocast:
    """Forward passes in bf16 inside, or in fp32."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=bf16)


def action_logp(
    weight_VF: Tensor,
    bias_V: Tensor | None,
    cond_NF: Tensor,
    uncond_NF: Tensor | None,
    actions_N: Tensor,
    spec: SamplingSpec,
    banned: Tensor | None,
) -> Tensor:
    """fp32 [N], differentiable log-probs of actions taken, as `sampling.draw` records them.

    Args:
        weight_VF, bias_V: of the linear layer that makes the logits.
        uncond_NF: guided by the spec's guidance iff given.
        banned: int64 ids without probability.
    """
    kind = compute_dtype(cond_NF)
    uncond_NF = None if uncond_NF is None else uncond_NF.to(kind)
    taken: Any = _Taken.apply(cond_NF.to(kind), uncond_NF, weight_VF, bias_V, actions_N, spec, banned)
    return taken


class _Taken(torch.autograd.Function):
    """log softmax(z)[action]; its gradient in z, (one-hot - softmax(z)) / temperature, goes to features and weight."""

    @staticmethod
    def forward(
        ctx: Any,
        cond_NF: Tensor,
        uncond_NF: Tensor | None,
        weight_VF: Tensor,
        bias_V: Tensor | None,
        actions_N: Tensor,
        spec: SamplingSpec,
        banned: Tensor | None,
    ) -> Tensor:
        ctx.weight_dtype = weight_VF.dtype
        weight_VF = weight_VF.to(cond_NF.dtype)
        logits = _logits(cond_NF, uncond_NF, weight_VF, bias_V, spec, banned)
        powers, logp, tops, totals = None, [], [], []
        for part in _slices(cond_NF, weight_VF):
            logits_nV = logits(part, powers)
            taken_n1 = logits_nV.gather(-1, actions_N[part, None])
            top_n1 = logits_nV.amax(-1, keepdim=True)
            powers = logits_nV.sub_(top_n1).exp_()
            total_n1 = powers.sum(-1, keepdim=True)
            logp.append(taken_n1 - top_n1 - total_n1.log())
            tops.append(top_n1)
            totals.append(total_n1)
        ctx.save_for_backward(
            cond_NF, uncond_NF, weight_VF, bias_V, actions_N, banned, torch.cat(tops), torch.cat(totals)
        )
        ctx.spec, ctx.powers = spec, powers
        return torch.cat(logp)[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        cond_NF, uncond_NF, weight_VF, bias_V, actions_N, banned, top_N1, total_N1 = ctx.saved_tensors
        spec, wanted = ctx.spec, ctx.needs_input_grad
        logits = _logits(cond_NF, uncond_NF, weight_VF, bias_V, spec, banned)
        slope_N1 = grad_N[:, None] / (spec.temperature or 1.0)
        grad_NF = torch.empty_like(cond_NF)
        grad_VF = torch.empty_like(weight_VF, dtype=ctx.weight_dtype) if wanted[2] else None
        grad_V = torch.zeros_like(bias_V) if bias_V is not None and wanted[3] else None
        slices = _slices(cond_NF, weight_VF)
        room = None
        for part in reversed(slices):
            powers, ctx.powers = ctx.powers, None  # written over here: a second backward makes them again
            if powers is None:
                powers = logits(part, room).sub_(top_N1[part]).exp_()
            room = powers
            powers.mul_(-slope_N1[part] / total_N1[part])
            grad_nV = powers.scatter_add_(-1, actions_N[part, None], slope_N1[part]).to(cond_NF.dtype)
            grad_NF[part] = grad_nV @ weight_VF
            if grad_VF is not None:
                read_nF = guide(cond_NF[part], None if uncond_NF is None else uncond_NF[part], spec.guidance)
                _add_product(grad_VF, grad_nV.T, read_nF.to(cond_NF.dtype), first=part is slices[-1])
            if grad_V is not None:
                grad_V += grad_nV.sum(0, dtype=grad_V.dtype)
        guided = None if uncond_NF is None else (1 - spec.guidance) * grad_NF
        return grad_NF if guided is None else spec.guidance * grad_NF, guided, grad_VF, grad_V, None, None, None


def _logits(
    cond_NF: Tensor,
    uncond_NF: Tensor | None,
    weight_VF: Tensor,
    bias_V: Tensor | None,
    spec: SamplingSpec,
    banned: Tensor | None,
) -> Callable[[slice, Tensor | None], Tensor]:
    """Makes the fp32 [n, V] logits of a slice, in the memory of an earlier slice's where that is given and fits."""

    def product(features_nF: Tensor, room_nV: Tensor | None) -> Tensor:
        if room_nV is not None:
            fits = room_nV.dtype == features_nF.dtype and len(room_nV) >= len(features_nF)
            room_nV = room_nV[: len(features_nF)] if fits else None
        out_nV = torch.mm(features_nF, weight_VF.T, out=room_nV)
        return out_nV if bias_V is None else out_nV.add_(bias_V)

    def logits(part: slice, room_nV: Tensor | None) -> Tensor:
        uncond_nV = None if uncond_NF is None else product(uncond_NF[part], None)
        return temper_(guide(product(cond_NF[part], room_nV), uncond_nV, spec.guidance), spec, banned)

    return logits


def _slices(features_NF: Tensor, weight_VF: Tensor) -> list[slice]:
    """Of at most LOGITS logits and, so that the one that is kept is worth it, of about equal size."""
    number = max(1, len(features_NF))
    size = -(-number // -(-number // max(1, LOGITS // len(weight_VF))))
    return [slice(start, start + size) for start in range(0, number, size)]


def _add_product(total: Tensor, a: Tensor, b: Tensor, first: bool) -> None:
    """total = a @ b (first) or += a @ b, in the dtype of the total."""
    if a.dtype == total.dtype:
        total.addmm_(a, b, beta=0.0 if first else 1.0)
    elif first:
        total.copy_(a @ b)
    else:
        total.add_(a @ b)
