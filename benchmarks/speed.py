"""Rollouts, update and a whole step beside what else there is, in turn in one run: `python benchmarks/speed.py`.

    python benchmarks/speed.py --size shapes                          # seconds, to see that it works
    python benchmarks/speed.py --size medium --cases image text update
    python benchmarks/speed.py --size medium --cases step --repeats 1   # minutes
    bash benchmarks/gpu.sh                                            # all cases of a GPU

Cases: image (576 codes per rollout, guidance 5) beside transformers' generate and the public trainers' loop; text
(answers over an image) beside generate; update (log-probs, forward and backward of the answers) beside one row per
answer; step (both sides sampled, scored, updated) beside the trainers' step. All use the same weights, prompts, batch
and threads. Reported are medians, the ratio of medians, and where a step's time goes; peak memory of a step. Prints a
table, writes speed_<size>.json and .png.
"""

import argparse
import copy
import gc
import json
import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import peers
import torch
import transformers
from pairing import rounded
from sizes import SIZES, build
from torch import Tensor
from transformers import JanusForConditionalGeneration

from pairuni.config import DataConfig, OptimConfig, RewardConfig, RolloutConfig, TrainConfig
from pairuni.policies.janus.policy import JanusPolicy
from pairuni.policies.sampling import seeds_for
from pairuni.rewards.base import FunctionReward
from pairuni.train.optim import Optimizer
from pairuni.train.rollout import Share, collect
from pairuni.train.step import update as take_step
from pairuni.types import Half, Prompt, Quadruple, Rollouts, SamplingSpec, Side

GUIDANCE = 5.0
CASES = ("image", "text", "update", "step")


@dataclass(frozen=True)
class Run:
    """What is timed, and what its seconds are multiplied by: more than 1 where only a share of the prompts is run."""

    run: Callable[[], Any]
    scale: float = 1.0

    def __call__(self) -> Any:
        return self.run()


Runs = dict[str, Callable[[], Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=sorted(SIZES), default="shapes")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--pairs", type=int, default=8, help="prompts of a call, pairs of a step")
    parser.add_argument("--step_pairs", type=int, help="of a step, where that is not the number of prompts")
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16, help="per answer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer_prompts", type=int, help="of the trainers' loop, which takes one at a time; scaled up")
    parser.add_argument("--micro_tokens", type=int, default=8192, help="of ours, per forward and backward")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="of forward passes (default: bf16 on CUDA)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--name", help="of the result files (default: the size)")
    parser.add_argument("--one", choices=("ours", "trainers"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()  # of generate, about its own defaults
    if options.one:
        print(json.dumps(one_step(options, options.one)))
        return
    options.output.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"size": options.size, "machine": machine(options), "settings": settings(options)}
    report["cases"] = {}
    name = f"speed_{options.name or options.size}_{'gpu' if options.device.startswith('cuda') else 'cpu'}"
    world = World(options) if set(options.cases) - {"step"} else None
    for case in sorted(options.cases, key=CASES.index):
        if case == "step":
            world = None  # its memory is for the steps
            result = step_case(argparse.Namespace(**vars(options) | {"pairs": options.step_pairs or options.pairs}))
        else:
            assert world is not None
            result = timed({"image": image, "text": text, "update": update}[case](world), options)
        if case == "image":
            assert world is not None
            result["roofline"] = roofline(world, median(result["ours"]["seconds"]))
        report["cases"][case] = result
        show(case, result)
        (options.output / f"{name}.json").write_text(json.dumps(rounded(report), indent=1) + "\n", encoding="utf-8")
    plot(report, options.output / f"{name}.png")
    print(options.output / f"{name}.json", options.output / f"{name}.png", sep="\n")


class World:
    """A model (by default that of `options.size`), prompts of one length and their images."""

    def __init__(self, options: argparse.Namespace, policy: JanusPolicy | None = None) -> None:
        self.options = options
        if policy is None:
            precision = options.precision or ("bf16" if options.device.startswith("cuda") else "fp32")
            # fp32 weights as in training; those of 7B leave no room for its rows beside them.
            dtype = torch.bfloat16 if options.size == "7b" else torch.float32
            policy = build(options.size, options.device, precision, dtype)
        self.policy, self.module = policy, policy.module
        rng, side = np.random.default_rng(0), policy.image_size
        names = [f"{n:02d}" for n in range(options.pairs)]
        self.images = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in names]
        self.captions = [Prompt(Side.GENERATION, f"a photo of two red circles and {n} blue squares") for n in names]
        question = "What colour is thing {}? A. red B. blue C. green D. black"
        self.questions = [
            Prompt(Side.UNDERSTANDING, question.format(n), (image,))
            for n, image in zip(names, self.images, strict=True)
        ]
        self.spec = SamplingSpec(guidance=GUIDANCE, max_new_tokens=options.tokens)

    def seeds(self, side: Side) -> np.ndarray:
        names = [str(n) for n in range(self.options.pairs)]
        return seeds_for(0, 1, names, side, self.options.rollouts)

    def generating(self) -> JanusForConditionalGeneration:
        """What `generate` runs on: its static cache fails under autocast, whose keys and values differ in dtype."""
        wanted = torch.bfloat16 if self.policy.precision == "bf16" else torch.float32
        return self.module if self.module.dtype == wanted else copy.deepcopy(self.module).to(wanted)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.policy.device.type, torch.bfloat16, enabled=self.policy.precision == "bf16")

    def ids(self, side: Side) -> tuple[Tensor, Tensor | None]:
        """[n, P] ids and pixels of the prompts, which are of one length."""
        encoded = self.policy.prompts.encode(side, self.captions if side is Side.GENERATION else self.questions)
        pixels = None if encoded.pixels_DCHW is None else encoded.pixels_DCHW.to(self.policy.device)
        return torch.stack(encoded.ids).to(self.policy.device), pixels


def image(world: World) -> Runs:
    """Codes only: pixels are decoded by the same code for all."""
    ids, _ = world.ids(Side.GENERATION)
    rollouts, pad = world.options.rollouts, world.policy.prompts.pad

    def ours() -> Tensor:
        with torch.no_grad(), world.autocast():
            encoded = world.policy.prompts.encode(Side.GENERATION, world.captions)
            return world.policy._decode(Side.GENERATION, encoded, world.spec, world.seeds(Side.GENERATION)).actions_nT

    module = world.generating()

    def generate() -> Tensor:
        return peers.generate_codes(module, ids, rollouts, GUIDANCE)

    few = ids[: world.options.peer_prompts]

    def trainers() -> list[Tensor]:
        with world.autocast():
            return [peers.loop_codes(world.module, row[None], rollouts, GUIDANCE, pad) for row in few]

    return {"ours": ours, "trainers": Run(trainers, len(ids) / len(few)), "generate": generate}


def roofline(world: World, seconds: float) -> dict[str, float]:
    """What a decode step must read at least, over the copy bandwidth measured here, as a share of what it took.

    Read are the language model's and the image head's weights, the prompts' keys and values, and those of what each
    row has drawn so far: half of its codes on average. All of it once.
    """
    module, options = world.module, world.options
    width = 2 if world.policy.precision == "bf16" else 4
    read = [module.model.language_model.layers, module.model.language_model.norm, module.model.generation_head]
    weights = width * sum(p.numel() for part in read for p in part.parameters())
    text, codes = module.config.text_config, world.policy.image_codes
    rows = 2 * options.pairs * options.rollouts  # conditional and unconditional
    prompt = world.ids(Side.GENERATION)[0].shape[1]
    per_token = 2 * width * text.num_hidden_layers * text.num_key_value_heads * text.head_dim
    step_bytes = weights + per_token * ((options.pairs + 1) * prompt + rows * codes / 2)
    bandwidth, rate = copy_bandwidth(options), matrix_rate(options)
    ideal = step_bytes / bandwidth
    return {
        "copy_gb_per_s": bandwidth / 1e9,
        "matrix_tflop_per_s": rate / 1e12,
        "step_gb": step_bytes / 1e9,
        "step_ms": 1e3 * seconds / codes,
        "share_of_bandwidth": ideal * codes / seconds,
    }


def copy_bandwidth(options: argparse.Namespace) -> float:
    """Bytes per second that a copy reads and writes; the best of ten."""
    source = torch.ones(1 << (29 if options.device.startswith("cuda") else 26), device=options.device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / best_seconds(lambda: target.copy_(source), options)


def matrix_rate(options: argparse.Namespace) -> float:
    """Operations per second of a square product in the precision of the forward passes; the best of ten."""
    cuda = options.device.startswith("cuda")
    side = 8192 if cuda else 1024
    # Random numbers: zeros and ones go through faster.
    factor = torch.randn(side, side, device=options.device, dtype=torch.bfloat16 if cuda else torch.float32)
    return 2 * side**3 / best_seconds(lambda: factor @ factor, options)


def best_seconds(run: Callable[[], Any], options: argparse.Namespace) -> float:
    seconds = []
    for _ in range(10):
        synchronise(options)
        start = perf_counter()
        run()
        synchronise(options)
        seconds.append(perf_counter() - start)
    return min(seconds)


def text(world: World) -> Runs:
    ids, pixels = world.ids(Side.UNDERSTANDING)
    assert pixels is not None

    def ours() -> Rollouts:
        seeds = world.seeds(Side.UNDERSTANDING)
        return world.policy.sample(Side.UNDERSTANDING, world.questions, world.options.rollouts, world.spec, seeds)

    module, image = world.generating(), world.policy.prompts.image

    def generate() -> Tensor:
        shown = pixels.to(module.dtype)
        return peers.generate_text(module, ids, shown, world.options.rollouts, world.options.tokens, image)

    return {"ours": ours, "generate": generate}


def update(world: World) -> Runs:
    """Both as a trainer would call them, one question's answers at a time for the rows, a token budget for ours."""
    policy, options = world.policy, world.options
    rollouts = text(world)["ours"]()
    ids, pixels = world.ids(Side.UNDERSTANDING)
    assert pixels is not None
    weights = torch.randn(rollouts.mask_BRT.shape, generator=torch.Generator().manual_seed(0)).to(policy.device)

    def ours() -> dict[str, Tensor]:
        policy.module.zero_grad()
        for chunk in policy.chunks(rollouts, 10**9, options.micro_tokens):
            logp = policy.logprobs(rollouts, chunk)
            (logp * weights.flatten(0, 1)[list(chunk.rows)]).sum().backward()
        return gradients(policy)

    def rows() -> dict[str, Tensor]:
        policy.module.zero_grad()
        for b in range(options.pairs):
            answers = rollouts.actions_BRT[b].to(policy.device)
            with world.autocast():
                repeated, shown = (x[b : b + 1].repeat_interleave(len(answers), 0) for x in (ids, pixels))
                logp = peers.row_logp(policy.module, repeated, shown, answers, policy._banned())
            (logp.where(rollouts.mask_BRT[b].to(policy.device), 0) * weights[b]).sum().backward()
        return gradients(policy)

    return {"ours": ours, "rows": rows}


def gradients(policy: JanusPolicy) -> dict[str, Tensor]:
    return {name: p.grad for name, p in policy.trainable() if p.grad is not None}


def timed(runs: Runs, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each run, in turn. On a GPU ours runs once before: it compiles its kernel, and warms up the device."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    last: dict[str, Any] = {}
    if options.device.startswith("cuda"):
        runs["ours"]()
        torch.cuda.empty_cache()
    failed: list[str] = []
    for _ in range(options.repeats):
        for name, run in runs.items():
            last.pop(name, None)  # what it made the last time
            if name in failed:
                continue
            synchronise(options)
            start = perf_counter()
            try:
                last[name] = run()
            except torch.OutOfMemoryError:
                failed.append(name)
                torch.cuda.empty_cache()
                continue
            except RuntimeError as err:  # of a comparison: what else was measured is not lost
                if name == "ours":
                    raise
                print(f"{name} fails: {' '.join(str(err).split())[:200]}", file=sys.stderr)
                failed.append(name)
                continue
            synchronise(options)
            scale = run.scale if isinstance(run, Run) else 1.0
            seconds[name].append(scale * (perf_counter() - start))
    result: dict[str, Any] = {name: {"seconds": each} for name, each in seconds.items() if each}
    result["ratio"] = {n: median(each) / median(seconds["ours"]) for n, each in seconds.items() if each and n != "ours"}
    if failed:
        result["failed"] = failed
    if "rows" in last:
        result["relative_gradient_difference"] = difference(last["ours"], last["rows"])
    return result


def difference(ours: dict[str, Tensor], rows: dict[str, Tensor]) -> float:
    """Of the whole gradient: |ours - rows| / |rows|."""
    apart = sum(float((ours[name] - rows[name]).double().square().sum()) for name in rows)
    return (apart / sum(float(g.double().square().sum()) for g in rows.values())) ** 0.5


def step_case(options: argparse.Namespace) -> dict[str, Any]:
    """Steps in turn. On a CPU each runs in a process of its own, so that its peak memory is its own."""
    seconds: dict[str, list[float]] = {"ours": [], "trainers": []}
    memory: dict[str, float] = {}
    result: dict[str, Any] = {}
    for _ in range(options.repeats):
        for whose in seconds:
            print(f"a step of {whose} ...", file=sys.stderr, flush=True)
            told = one_step(options, whose) if options.device.startswith("cuda") else in_a_process(options, whose)
            if told is None:
                return result | {"ratio": {}, "out_of_memory": whose}
            seconds[whose].append(told["seconds"])
            memory[whose] = max(memory.get(whose, 0), told["peak_gib"])
            result[whose] = {"seconds": seconds[whose], "peak_gib": memory[whose]}
            if whose == "ours":
                result["parts_s"] = told["parts_s"]
    result["ratio"] = {"trainers": median(seconds["trainers"]) / median(seconds["ours"])}
    return result | {"memory": memory["ours"] / memory["trainers"]}


def in_a_process(options: argparse.Namespace, whose: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", whose]
    for name in ("size", "pairs", "rollouts", "tokens", "micro_tokens", "device", "precision"):
        command += [f"--{name}", str(vars(options)[name])] if vars(options)[name] else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def one_step(options: argparse.Namespace, whose: str) -> dict[str, Any] | None:
    """Seconds and peak memory of a step; None where the GPU is too small for it."""
    cuda = options.device.startswith("cuda")
    if cuda:  # what the step before has left
        gc.collect()
        torch.cuda.empty_cache()
    world = World(options)
    run, parts = (our_step if whose == "ours" else trainers_step)(world)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    synchronise(options)
    start = perf_counter()
    try:
        run()
    except torch.OutOfMemoryError:
        return None
    synchronise(options)
    seconds = perf_counter() - start
    peak = torch.cuda.max_memory_allocated() if cuda else peak_memory()
    return {"seconds": seconds, "peak_gib": peak / 2**30, "parts_s": parts}


def peak_memory() -> int:
    """Bytes. Not ru_maxrss on Linux: it begins with that of the process that started this one."""
    status = Path("/proc/self/status")
    if status.is_file():
        (kib,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(kib) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def our_step(world: World) -> tuple[Callable[[], None], dict[str, float]]:
    options, policy = world.options, world.policy
    config = TrainConfig(
        output="",
        data=DataConfig(pairs="none", batch=options.pairs),
        rollout=RolloutConfig(rollouts=options.rollouts, guidance=GUIDANCE, max_new_tokens=options.tokens),
        rewards=RewardConfig(understanding="bench:x", generation="bench:x"),
        optim=OptimConfig(lr=1e-6),
        micro_batch=10**6,
        micro_tokens=options.micro_tokens,
    )
    optimizer, parts = Optimizer(policy.trainable(), config.optim), {}
    rewards = {
        Side.UNDERSTANDING: FunctionReward("length", lambda items: [float(len(item.text or "")) for item in items]),
        Side.GENERATION: FunctionReward("red", lambda items: [float(item.image[..., 0].mean()) for item in items]),  # pyright: ignore
    }
    shares = {side: Share([half(world, n, side) for n in range(options.pairs)]) for side in Side}
    objective = config.objective

    def run() -> None:
        batch = collect(
            policy, shares, rewards, config.rollout, "sqrt", config.seed, 1, lambda path: world.images[int(path)]
        )
        row = take_step(policy, batch, optimizer, objective, 1)
        parts.update({name: row[f"seconds/{name}"] for name in ("rollout", "reward", "update")})

    return run, parts


def half(world: World, n: int, side: Side) -> Half:
    quadruple = Quadruple(str(n), side, str(n), world.captions[n].text, world.questions[n].text, "A")
    return Half(str(n), quadruple, 1.0, True)


def trainers_step(world: World) -> tuple[Callable[[], None], dict[str, float]]:
    options, module = world.options, world.module
    ids, pixels = world.ids(Side.UNDERSTANDING)
    captions, _ = world.ids(Side.GENERATION)
    assert pixels is not None
    optimizer = torch.optim.AdamW([p for _, p in world.policy.trainable()], lr=1e-6)
    questions = [(ids[b : b + 1], pixels[b : b + 1]) for b in range(options.pairs)]

    def run() -> None:
        with world.autocast():
            peers.step(
                module,
                questions,
                [row[None] for row in captions],
                optimizer,
                options.rollouts,
                options.tokens,
                GUIDANCE,
                world.policy.prompts.pad,
                lambda actions: actions.float().mean(1),
            )

    return run, {}


def synchronise(options: argparse.Namespace) -> None:
    if options.device.startswith("cuda"):
        torch.cuda.synchronize()


def machine(options: argparse.Namespace) -> dict[str, Any]:
    if options.device.startswith("cuda"):
        return {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    return {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}


def settings(options: argparse.Namespace) -> dict[str, Any]:
    names = ("pairs", "rollouts", "tokens", "repeats", "peer_prompts", "step_pairs", "micro_tokens")
    return {name: vars(options)[name] for name in names} | {"guidance": GUIDANCE}


def show(case: str, result: dict[str, Any]) -> None:
    print(f"\n{case}")
    for name, each in result.items():
        if isinstance(each, dict) and "seconds" in each:
            low, middle, high = min(each["seconds"]), median(each["seconds"]), max(each["seconds"])
            ratio = f"  x {result['ratio'][name]:.2f}" if name in result["ratio"] else ""
            peak = f"  peak {each['peak_gib']:.2f} GiB" if "peak_gib" in each else ""
            print(f"  {name:<10} {middle:9.3f} s  ({low:.3f} to {high:.3f}){peak}{ratio}")
    for name in ("roofline", "parts_s", "memory", "failed", "out_of_memory", "relative_gradient_difference"):
        if name in result:
            print(f"  {name}: {json.dumps(rounded(result[name]))}")


def plot(report: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = [(f"{case}: {name}", ratio) for case, r in report["cases"].items() for name, ratio in r["ratio"].items()]
    figure, axes = pyplot.subplots(figsize=(6, 0.5 * len(bars) + 1.2), layout="constrained")
    axes.barh([name for name, _ in bars][::-1], [ratio for _, ratio in bars][::-1])
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set(xlabel="times as long as ours", title=f"{report['size']} size")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
