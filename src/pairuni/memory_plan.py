"""`pairuni train --plan`: what a step of a config takes of memory, stage by stage, and the largest sizes that fit.

Estimates come from the model's config.json alone (policies/memory.py); stages are measured too where the weights and
the device are here and the estimate fits (measure.py). Nothing is trained and nothing is written.
"""

import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache

from pairuni.config import PlanConfig
from pairuni.errors import InputError
from pairuni.policies import load_planner
from pairuni.policies.memory import OPTIMISER, RESIDENT, ROLLOUT, UPDATE, Planner, Stages, peak
from pairuni.policies.source import pick_device, resolve_model
from pairuni.train.measure import measure
from pairuni.train.rollout import sampling_spec
from pairuni.train.trainable import count_trained
from pairuni.types import Workload

GIB = 1 << 30
OVERHEAD = 1 << 30
"""Allowance for what is no tensor: the CUDA context and its libraries' workspaces, or Python and its libraries."""
FRAGMENTATION = 0.05
"""Allowance for what the allocator cannot use, and for small tensors, as a share of the estimate."""


@dataclass(frozen=True)
class Largest:
    """The most of each that fits: 0 where not even 1 does."""

    prompts: int
    micro_batch: int
    micro_tokens: int | None
    """With any micro_batch; None where all rows of a call fit."""


@dataclass(frozen=True)
class Plan:
    """What the command prints."""

    parameters: int
    trained: int
    work: Workload
    share: int
    """Prompts of one process in a step."""
    memory: int
    stages: Stages
    measured: dict[str, int]
    unmeasured: str
    """Why stages have no measurement, "" where all have one."""
    largest: Largest
    least: int
    """Memory that the smallest setting of the config's options takes, allowances included."""

    @property
    def needed(self) -> int:
        """Memory that the config takes, allowances included."""
        return needed(max(peak(parts) for parts in self.stages.values()))


def make_plan(config: PlanConfig) -> Plan:
    """Estimates, searches and, where it can, measures.

    Raises:
        InputError: no such model or device, a broken config.json, or memory that cannot be told.
    """
    planner = load_planner(config.model.path, config.model.sampler_options)
    cuda, device = _device(config)
    share = -(-config.data.batch // config.plan.processes)
    together = max(config.plan.processes // config.data.batch, 1)
    rollouts = -(-config.rollout.rollouts // together)  # of a group that spans processes
    trained, adapters = count_trained(planner, config.model)
    shards = config.plan.processes if config.distributed == "fsdp" else 1
    work = replace(workload(config, cuda, share), rollouts=rollouts, trained=trained, adapters=adapters, shards=shards)
    stages = planner.estimate(work)
    has = device_memory(device) if device else 0
    memory = int(config.plan.memory * GIB) or has
    least = planner.estimate(replace(work, prompts=1, micro_batch=1, checkpointing=True))
    plan = Plan(
        parameters=planner.parameters,
        trained=trained,
        work=work,
        share=share,
        memory=memory,
        stages=stages,
        measured={},
        unmeasured=_obstacle(config, device),
        largest=largest(planner, work, share, memory),
        least=needed(max(peak(parts) for parts in least.values())),
    )
    if not plan.unmeasured and plan.needed > min(memory, has):
        plan = replace(plan, unmeasured="by the estimate it does not fit")
    if plan.unmeasured:
        return plan
    measured, unmeasured = measure(config.model, device, work)
    return replace(plan, measured=measured, unmeasured=unmeasured)


def workload(config: PlanConfig, cuda: bool, share: int) -> Workload:
    """The config's numbers, for a process with `share` prompts of the batch."""
    precision = config.model.precision
    return Workload(
        sides=config.trained_sides,
        prompts=min(config.rollout.prompts_per_call or share, share),
        rollouts=config.rollout.rollouts,
        spec=sampling_spec(config.rollout),
        text_tokens=config.plan.text_tokens,
        micro_batch=config.micro_batch,
        micro_tokens=config.micro_tokens,
        bf16=precision == "bf16" or (precision == "auto" and cuda),
        cuda=cuda,
        checkpointing=config.model.gradient_checkpointing,
        reference=config.kl_beta > 0,
        gradients=3 if config.log.gradient_cosine_every else 1,
    )


def largest(planner: Planner, work: Workload, share: int, memory: int) -> Largest:
    """Each searched on its own: prompts by the rollouts, the micro sizes by the updates of calls of so many prompts."""

    def fits(changed: Workload, names: Sequence[str]) -> bool:
        stages = planner.estimate(changed)
        return needed(max(peak(stages[name]) for name in names)) <= memory

    always = [RESIDENT, OPTIMISER]
    sampled, updated = ([*always, *(names[side] for side in work.sides)] for names in (ROLLOUT, UPDATE))
    prompts = _most(lambda n: fits(replace(work, prompts=n), sampled), share)
    work = replace(work, prompts=max(1, prompts))
    rows = work.prompts * work.rollouts
    # Not by halving: a chunk that begins within a prompt's answers can take more than a larger one that does not.
    alone = (n for n in range(rows, 0, -1) if fits(replace(work, micro_batch=n, micro_tokens=0), updated))
    micro_batch = next(alone, 0)
    if micro_batch == rows:
        return Largest(prompts, rows, None)
    all_rows = replace(work, micro_batch=rows)
    limit = 1
    while limit < 1 << 30 and fits(replace(all_rows, micro_tokens=limit), updated):
        limit *= 2
    tokens = _most(lambda n: fits(replace(all_rows, micro_tokens=n), updated), limit)
    return Largest(prompts, micro_batch, tokens)


def _most(fits: Callable[[int], bool], limit: int) -> int:
    """The largest n in 1..limit that fits, 0 where 1 does not; what fits at n must fit below it."""
    return bisect_left(range(1, limit + 1), True, key=lambda n: not fits(n))


def needed(peak_bytes: int) -> int:
    """The memory that a device must have for a peak, allowances included."""
    return int(peak_bytes * (1 + FRAGMENTATION)) + OVERHEAD


def device_memory(device: str) -> int:
    """Bytes of a GPU, or those that are free on this machine and allowed to this process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    limits = []
    meminfo, control = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if meminfo.is_file():
        line = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable"))
        limits.append(1024 * int(line.split()[1]))
    else:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    allowed = (control / "memory.max").read_text().strip() if (control / "memory.max").is_file() else "max"
    if allowed.isdigit():
        limits.append(int(allowed) - int((control / "memory.current").read_text()))
    return min(limits)


def _device(config: PlanConfig) -> tuple[bool, str]:
    """Whether a GPU is planned for, and the device to measure on, "" where it is not here."""
    name, given = config.model.device, config.plan.memory > 0
    name = "cuda" if given and name == "auto" else name
    if given and name.startswith("cuda") and not torch.cuda.is_available():
        return True, ""
    device = pick_device(name)
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"plans are for cpu and cuda, not {name!r}", field="model.device")
    return device.type == "cuda", str(device)


def _obstacle(config: PlanConfig, device: str) -> str:
    """Why nothing is measured, "" where it may be."""
    if not config.plan.measure:
        return "plan.measure is false"
    if config.model.lora.rank or config.model.trainable or config.distributed == "fsdp":
        return "only the training of all weights in one process is measured"
    if not device:
        return "the device is not here"
    if device == "cpu" and not Path("/proc/self/clear_refs").exists():
        return "on a CPU only Linux tells a process' peak"
    source = resolve_model(config.model.path)
    if isinstance(source, Path):
        return "" if any(source.glob("*.safetensors")) else "the folder holds no weights"
    names = ("model.safetensors", "model.safetensors.index.json")
    fetched = any(isinstance(try_to_load_from_cache(source, name), str) for name in names)
    return "" if fetched else "the weights have not been fetched from the Hub"
