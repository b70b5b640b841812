"""AdamW on fp32 master weights, with a warm-up that is a function of the step and a state without pickle.

Pure bf16 weights at RL learning rates barely move (at 1e-6 an update is below their last bit), so they are refused;
bf16 compute is the policy's autocast. Where gradients come from, and their sum over processes, is step.py.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from pairuni.config import OptimConfig
from pairuni.dist import full, is_main, like

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def learning_rate(config: OptimConfig, step: int) -> float:
    """The rate of step `step` (from 1): linear from lr / warmup to lr over `warmup` steps, constant afterwards."""
    return config.lr * min(1.0, step / config.warmup) if config.warmup else config.lr


class Optimizer:
    """AdamW over named parameters, with clipping by the global norm."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], config: OptimConfig) -> None:
        """Takes the trainable parameters of a policy. Raises ValueError: there are none, or one is not fp32."""
        self.named = dict(named)
        self.config = config
        self.skipped = 0
        """Updates in a row that were left out."""
        if not self.named:
            raise ValueError("the policy has no trainable parameters")
        for name, parameter in self.named.items():
            if parameter.dtype != torch.float32:
                raise ValueError(f"master weights must be float32, but {name} is {parameter.dtype}")
        on_gpu = all(parameter.is_cuda for parameter in self.parameters)
        self._adamw = torch.optim.AdamW(
            self.parameters,
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=on_gpu,  # else the roots of all second moments exist at once, another 4 bytes per parameter
        )

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.named.values())

    def zero_grad(self) -> None:
        self._adamw.zero_grad(set_to_none=True)

    def gradient_norm(self) -> float:
        """The L2 norm over all gradients; 0 where no parameter has one."""
        grads = [p.grad for p in self.parameters if p.grad is not None]
        return float(full(torch.nn.utils.get_total_norm(grads))) if grads else 0.0

    def update(self, step: int, norm: float) -> None:
        """Clips gradients of global norm `norm` to `max_grad_norm` and takes step `step` (from 1)."""
        limit = self.config.max_grad_norm
        if limit > 0 and norm > limit:
            for parameter in self.parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(limit / norm)
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate(self.config, step)
        self._adamw.step()
        self.skipped = 0

    def skip(self) -> None:
        """Leaves an update out: weights and moments stay, gradients go."""
        self.zero_grad()
        self.skipped += 1

    def state(self) -> dict[str, Tensor]:
        """`<moment>/<parameter>` -> tensor on the CPU, for the parameters that have had a gradient.

        Whole on the first process and empty on the others. All call it.
        """
        state: dict[str, Tensor] = {}
        for name, parameter in self.named.items():
            for moment in _MOMENTS if parameter in self._adamw.state else ():
                value = full(self._adamw.state[parameter][moment])
                if is_main():
                    state[f"{moment}/{name}"] = value.contiguous().cpu()
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` returned on the first process. All call it, with all of it.

        Raises:
            ValueError: a parameter is unknown, its moments are incomplete, or their shape is not the parameter's.
        """
        owners = {key.split("/", 1)[1] for key in state}
        unknown = owners - self.named.keys()
        if unknown:
            raise ValueError(f"optimiser state of unknown parameters: {', '.join(sorted(unknown)[:3])}")
        self._adamw.state.clear()
        for name in sorted(owners):  # the same order on all processes
            parameter = self.named[name]
            moments = {moment: state[f"{moment}/{name}"] for moment in _MOMENTS if f"{moment}/{name}" in state}
            if len(moments) < len(_MOMENTS) or any(moments[m].shape != parameter.shape for m in _MOMENTS[1:]):
                raise ValueError(f"optimiser state of {name} does not fit the parameter")
            # AdamW reads its step counter on the host, the fused one beside the moments and the weights.
            step = moments.pop("step").to(parameter.device if parameter.is_cuda else "cpu", copy=True)
            spread = {moment: like(value, parameter.detach()) for moment, value in moments.items()}
            self._adamw.state[parameter] = {"step": step, **spread}
