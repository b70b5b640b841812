"""A step to plan for, and memory as torch's own CPU allocator has it: nothing of the package counts there."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import accumulate

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from pairuni.policies.memory import Planner
from pairuni.types import SamplingSpec, Side, Workload

WORK = Workload(
    sides=tuple(Side),
    prompts=3,
    rollouts=4,
    spec=SamplingSpec(guidance=5.0, max_new_tokens=48),
    text_tokens=32,
    micro_batch=8,
    micro_tokens=0,
    bf16=False,
    cuda=False,
    checkpointing=False,
    reference=False,
)
# The template alone takes a small Lumina-DiMOO 160 tokens; it scores whole rows, and keeps more of each.
DIMOO_WORK = replace(WORK, text_tokens=180, micro_batch=4)


def allocated(run: Callable[[], object]) -> int:
    """Peak bytes of what `run` allocates, inside operations too."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        kept = run()
    del kept
    results = prof.profiler.kineto_results if prof.profiler else None
    assert results is not None
    events = sorted((e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]")
    return max(accumulate(size for _, size in events))


def row_peak(planner: Planner, module: nn.Module, side: Side, sizes: Iterable[int], bf16: bool) -> float:
    """Bytes that each row more adds to the peak of a forward and backward of a real model of two layers.

    Args:
        sizes: tokens of a row, those that are read, those with a mask.
    """

    def run(rows: int) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = planner.states(side, module, rows, *sizes)
            out = out.to(torch.bfloat16 if bf16 else torch.float32)
        out.backward(torch.ones_like(out))

    run(1)  # gradients of weights are there from now on
    few, many = (allocated(lambda rows=rows: run(rows)) for rows in (8, 24))
    return (many - few) / 16
