"""Peak memory of a step's stages on the real model with made-up prompts, in a process of its own.

    python -m pairuni.train.measure < request.json     # one JSON object a line: {"stage": bytes}, or {"error": text}

CUDA counts what tensors take (`max_memory_allocated`). On the CPU it is the process' resident memory beyond what it had
before the model was loaded, from Linux's VmHWM. Nothing is written to disk and no weight is changed.
"""

import gc
import json
import os
import subprocess
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pairuni.config import ModelConfig, OptimConfig
from pairuni.policies import load_planner, load_policy
from pairuni.policies.base import Policy
from pairuni.policies.memory import OPTIMISER, RESIDENT, ROLLOUT, UPDATE
from pairuni.progress import track
from pairuni.streams import Stream, generator
from pairuni.train.optim import Optimizer
from pairuni.types import Prompt, Rollouts, SamplingSpec, Side, Workload

# glibc otherwise keeps freed tensors of up to 32 MB for later, and resident memory says little.
_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def measure(model: ModelConfig, device: str, work: Workload) -> tuple[dict[str, int], str]:
    """Returns bytes by stage for the stages that ran, and the error that stopped the others ("" without one)."""
    request = {"path": model.path, "sampler_options": model.sampler_options, "device": device, "work": asdict(work)}
    child = subprocess.run(
        [sys.executable, "-m", "pairuni.train.measure"],
        input=json.dumps(request),
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | _ENVIRONMENT,
        check=False,
    )
    rows: list[dict[str, Any]] = [json.loads(line) for line in child.stdout.splitlines() if line.startswith("{")]
    found = {name: value for row in rows for name, value in row.items() if name != "error"}
    errors = [row["error"] for row in rows if "error" in row]
    if not errors and child.returncode:
        errors = [f"the measuring process ended with code {child.returncode}"]
    return found, errors[0] if errors else ""


class Gauge:
    """Peak bytes since `reset`, beyond what was there at first. On a CPU only Linux tells."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = 0 if device.type == "cuda" else _status("VmRSS")

    def reset(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return _status("VmHWM") - self.before


def _status(name: str) -> int:
    """Bytes from /proc/self/status, 0 where there is none."""
    status = Path("/proc/self/status")
    text = status.read_text() if status.is_file() else f"{name}: 0"
    return 1024 * int(text.split(f"{name}:")[1].split()[0])


def _stages(path: str, sampler_options: dict[str, Any], device: str, work: Workload) -> Iterator[tuple[str, int]]:
    planner = load_planner(path, sampler_options)
    _warm_up()
    gauge = Gauge(torch.device(device))
    precision = "bf16" if work.bf16 else "fp32"
    policy: Policy = load_policy(path, device=device, precision=precision, sampler_options=sampler_options)
    reference = policy.reference() if work.reference else None
    if work.checkpointing:
        policy.checkpoint_activations()
    optimizer = Optimizer(policy.trainable(), OptimConfig(lr=1e-12))
    _no_gradients(optimizer)
    optimizer.update(1, 0.0)
    optimizer.zero_grad()
    gauge.reset()
    yield RESIDENT, gauge.peak()
    gauge.reset()
    _no_gradients(optimizer)
    optimizer.update(2, optimizer.gradient_norm())
    optimizer.zero_grad()
    yield OPTIMISER, gauge.peak()
    sides = [side for side in reversed(Side) if side in work.sides]
    rollouts: dict[Side, Rollouts] = {}
    for side in sides:
        prompts = made_up(policy, side, work, planner.image_tokens)
        gauge.reset()
        seeds_BR = np.arange(len(prompts) * work.rollouts, dtype=np.uint64).reshape(len(prompts), work.rollouts)
        rollouts[side] = policy.sample(side, prompts, work.rollouts, work.spec, seeds_BR)
        yield ROLLOUT[side], gauge.peak()
    for side in sides:
        _no_gradients(optimizer)
        gauge.reset()
        # Forward and backward of the largest chunk, on top of gradients that are there.
        longest = _longest(rollouts[side], side, work)
        chunk = max(policy.chunks(longest, work.micro_batch, work.micro_tokens), key=lambda chunk: len(chunk.rows))
        loss = policy.logprobs(longest, chunk).sum()
        if reference is not None:
            with torch.no_grad():
                reference.logprobs(longest, chunk)
        loss.backward()
        yield UPDATE[side], gauge.peak()


def made_up(policy: Any, side: Side, work: Workload, image_tokens: int) -> list[Prompt]:
    """`work.prompts` different prompts of `work.text_tokens`: a number and words. Images are noise."""
    shape = (work.prompts, policy.image_size, policy.image_size, 3)
    noise = generator(0, Stream.MEMORY_NOISE).integers(0, 256, shape, dtype=np.uint8)
    images = [(image,) if side is Side.UNDERSTANDING else () for image in noise]
    limit = work.text_tokens + (image_tokens if side is Side.UNDERSTANDING else 0)

    def prompt(n: int, words: int) -> Prompt:
        return Prompt(side, " ".join([str(n), *["a"] * words]), images[n])

    def longest(n: int) -> Prompt:
        words = range(1, work.text_tokens + 1)
        return prompt(n, bisect_left(words, True, key=lambda w: policy.prompts.length(prompt(n, w)) > limit))

    return [longest(n) for n in range(work.prompts)]


def _no_gradients(optimizer: Optimizer) -> None:
    """Sets gradients of 0: they take their memory, as after the first of several chunks, and a step changes nothing."""
    for parameter in optimizer.parameters:
        parameter.grad = torch.zeros_like(parameter)


def _warm_up() -> None:
    """What libraries load and build for their first use is no memory of the model's: of an optimiser, of products,
    convolutions and attention in both precisions, forwards and backwards."""
    layers = torch.nn.Linear(64, 64), torch.nn.Conv2d(3, 16, 3, padding=1)
    parameters = [(f"warm-up {n}", p) for n, layer in enumerate(layers) for p in layer.parameters()]
    for bf16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            heads = layers[0](torch.randn(4, 2, 128, 64))
            seen = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
            drawn = torch.nn.functional.group_norm(layers[1](torch.randn(2, 3, 64, 64)), 4)
            loss = seen.float().log_softmax(-1).mean() + drawn.float().mean()
        loss.backward()
    Optimizer(parameters, OptimConfig()).update(1, 0.0)


def _longest(rollouts: Rollouts, side: Side, work: Workload) -> Rollouts:
    """The same rollouts with every answer at its longest."""
    more = work.spec.max_new_tokens - rollouts.actions_BRT.shape[-1] if side is Side.UNDERSTANDING else 0

    def extended(values: torch.Tensor) -> torch.Tensor:
        return torch.cat([values, values[..., :1].expand(*values.shape[:-1], more)], -1)

    return replace(
        rollouts,
        actions_BRT=extended(rollouts.actions_BRT),
        mask_BRT=torch.ones_like(extended(rollouts.mask_BRT)),
        sampled_logp_BRT=extended(rollouts.sampled_logp_BRT),
        cond_logp_BRT=extended(rollouts.cond_logp_BRT),
        weight_BRT=None,
        counted_BR=None,
    )


def _main(request: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> None:
    options = request["work"]
    spec, sides = SamplingSpec(**options["spec"]), tuple(Side(side) for side in options["sides"])
    work = Workload(**options | {"spec": spec, "sides": sides})
    total = 2 + 2 * len(sides)
    try:
        stages = _stages(request["path"], request["sampler_options"], request["device"], work)
        for stage, size in track(stages, "measuring", total, leave=False):
            say({stage: size})
    except (torch.OutOfMemoryError, MemoryError):
        say({"error": "the device ran out of memory"})
    except (ValueError, OSError, RuntimeError) as err:
        say({"error": " ".join(str(err).split())[:200]})


if __name__ == "__main__":
    try:
        _main(json.load(sys.stdin), lambda row: print(json.dumps(row), flush=True))
    except KeyboardInterrupt:
        sys.exit(130)
