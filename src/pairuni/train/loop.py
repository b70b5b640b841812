"""Training: pairs.jsonl -> run directory, in steps that can be stopped and continued exactly (paper 3).

Start it with `pairuni train --config ...`, on several GPUs with torchrun. A step is rollout.py and step.py;
run.py writes down its result. The caller hands in how a model is evaluated.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pairuni import dist
from pairuni.config import DataConfig, ModelConfig, PairingMode, PairSelectionConfig, TrainConfig
from pairuni.data.dataset import ImageCache, PairSampler, true_partners
from pairuni.data.mixing import image_features, mix
from pairuni.errors import InputError
from pairuni.files import read_jsonl, write_json
from pairuni.policies import load_policy
from pairuni.policies.base import Actor, Policy, Sampler, Scorer
from pairuni.policies.lora import WithoutLora
from pairuni.policies.requests import too_long
from pairuni.progress import say, set_console
from pairuni.records import pairs_root, read_pairs, resolve_image
from pairuni.rewards import side_reward
from pairuni.runs import RunDir, first_and_last_tenth
from pairuni.streams import Stream, seed_all
from pairuni.train.checkpoint import load_state, load_trained
from pairuni.train.hacking import gamed
from pairuni.train.inputs import OpenedImages, check_inputs, input_record
from pairuni.train.optim import Optimizer
from pairuni.train.resume import ResumePoint, config_hash, find_start, flat
from pairuni.train.rollout import ImageLoader
from pairuni.train.run import Evaluate, TrainingRun, located
from pairuni.train.step import update
from pairuni.train.trackers import check_trackers
from pairuni.train.trainable import load_trainable, share_frozen_modules, trained_summary
from pairuni.train.wrap import ShardedPolicy, gathered
from pairuni.types import Pair, Prompt, Side

_ASKED = {Side.GENERATION: "prompt", Side.UNDERSTANDING: "question"}


def train(config: TrainConfig, *, evaluate: Evaluate | None = None) -> dict[str, Any]:
    """Trains a policy with Pair-GRPO and writes the run directory `config.output`.

    An existing run with the same config is continued from its latest whole checkpoint, exactly: metrics but for timing,
    samples and weights are those of a run that was never stopped. A finished run is left as it is. `Trainer` also
    joins processes, makes Shapes data, evaluates and writes the report.

    Args:
        config: what to train, on what, and how.
        evaluate: called before the first step, every `log.eval_every` steps and after the last one, if that is
            positive; results go to `eval/<benchmark>` in metrics.jsonl and to eval_history.jsonl.

    Returns:
        A summary: path, steps, seconds (of this call), the latest checkpoint (None without one), and per side
        reward_first and reward_last (means over the first and last tenth of the steps) and missing (rewards); skipped
        counts updates that were left out; warnings are those of rewards that seem to be gamed.

    Raises:
        InputError: something in the config, the pairs, the images or the run directory is wrong.
        DivergedError: a loss or gradient is not finite, more than optim.max_skipped times in a row, or logits are not.
        Interrupted: Ctrl-C or SIGTERM; the finished steps are in a checkpoint.
        LostRankError: another process is gone.
    """
    began = time.perf_counter()
    set_console(config.log.console)
    if dist.world() == 1 < dist.launched_size():
        raise InputError("torchrun started several processes: train with Trainer(config).fit(), which joins them")
    directory, settings, sides = RunDir(Path(config.output)), flat(asdict(config)), config.trained_sides
    main, objective, model = dist.is_main(), config.objective, config.model
    check_trackers(config.log)
    rewards = {side: side_reward(config.rewards, side) for side in sides}
    pairs = dist.broadcast(mixed_pairs(config.data, config.pair_selection, config.seed, sides) if main else [])
    point = dist.broadcast(find_start(directory, settings) if main else ResumePoint(None, None))
    if point.step == config.steps:
        dist.barrier()
        return _summary(directory, sides, config.log.hacking_window, time.perf_counter() - began)
    if main and point.checkpoint is not None:
        use = "adapters are put on" if model.lora.rank else "the KL term refers to" if config.kl_beta else ""
        check_inputs(directory, model.path, use, config.rewards)
    if config.distributed == "fsdp" and dist.world() > 1:
        _check_sharding(config.data.batch, config.rollout.rollouts, config.pair_selection.mode)
    device = dist.own_device(model.device)
    policy, initial = load_models(model, point, config.seed, device, config.kl_beta > 0)
    pairs, beyond = without_long(pairs, policy, sides, config.rollout.max_new_tokens, config.data.pairs)
    if main and point.checkpoint is None:
        say(trained_summary(policy))
    actor: Actor = policy
    reference: Scorer | None = initial
    if config.distributed == "fsdp" and dist.world() > 1:
        actor = ShardedPolicy(policy)
        reference = None if initial is None else ShardedPolicy(initial)
    if config.kl_beta > 0 and reference is None:
        reference = WithoutLora(actor, policy.module)
    both = main and config.sides == "both"
    run = TrainingRun(
        directory=directory,
        steps=config.steps,
        seed=config.seed,
        rollout=config.rollout,
        objective=objective,
        log=config.log,
        eval=config.eval,
        config_hash=config_hash(settings),
        base=model.path,
        pairs=pairs,
        sampler=PairSampler(pairs, config.data.batch, config.seed, config.pair_selection.mode),
        partners=true_partners(read_pairs(config.data.pairs, config.data.image_root)) if both else {},
        rewards=rewards,
        load_image=image_loader(config.data, directory),
        policy=policy,
        actor=actor,
        reference=reference,
        optimizer=Optimizer(policy.trainable(), config.optim),
        evaluate=evaluate,
        step=point.step,
    )
    seed_all(config.seed, Stream.TRAINING)
    if point.checkpoint is not None and point.progress is not None:
        run.sampler.restore(point.progress.sampler)
        load_state(point.checkpoint, run.optimizer)
        run.optimizer.skipped = point.progress.skipped
    with run.opened(point, settings, beyond) as stop:
        if main:
            directory.write_config(asdict(config) | {"overwrite": False})
            if point.checkpoint is None:  # a continued run no longer needs the model that it began with
                write_json(directory.inputs, input_record(config.data.pairs, model.path, config.rewards))
        dist.barrier()
        run.begin(resumed=point.checkpoint is not None)
        every = config.log.gradient_cosine_every
        for step in run.remaining_steps(stop):
            started = time.perf_counter()
            with gathered(actor), located(f"step {step}"):
                batch = run.collect(run.shares(step), step)
            if dist.any_rank(stop.requested):
                run.interrupt()
            row = update(actor, batch, run.optimizer, objective, step, reference, bool(every and step % every == 0))
            run.optimizer.zero_grad()  # as large as the weights, and of no use while the next step samples
            run.record(row, started)
    dist.barrier()
    return _summary(directory, sides, config.log.hacking_window, time.perf_counter() - began)


def mixed_pairs(data: DataConfig, selection: PairSelectionConfig, seed: int, sides: tuple[Side, ...]) -> list[Pair]:
    """Reads the pairs and mixes them. Checks that every image which training will open exists.

    Raises:
        InputError: the pairs or the mode are wrong (`read_pairs`, `mix`), or an image is not there.
    """
    root = pairs_root(data.pairs, data.image_root)

    def features(quadruples: Any) -> np.ndarray:
        return image_features(quadruples, root, selection)

    pairs = mix(read_pairs(data.pairs, data.image_root), selection.mode, seed, features)
    if Side.UNDERSTANDING in sides:
        for pair in pairs:
            if not os.path.isfile(root / pair.understand.image_path):  # unlike Path.is_file, it takes any name
                path = pair.understand.image_path
                places = (
                    (n, key)
                    for n, row in read_jsonl(data.pairs)
                    for key in ("understand_ann", "generate_ann")
                    if row[key]["image_path"] == path
                )
                line, key = next(places, (None, "understand_ann"))
                raise InputError(f"no such image: {root / path}", file=data.pairs, line=line, field=f"{key}.image_path")
    return pairs


def without_long(
    pairs: list[Pair], policy: Sampler, sides: Sequence[Side], max_new_tokens: int, file: str
) -> tuple[list[Pair], list[dict[str, Any]]]:
    """Returns the pairs whose trained halves fit the model, and for each half that does not its line, field and tokens.

    Raises:
        InputError: none is left.
    """
    beyond: dict[Side, dict[int, int]] = {}
    for side in sides:
        prompts = (Prompt(side, vars(pair.half(side))[_ASKED[side]]) for pair in pairs)
        beyond[side] = too_long(policy, prompts, max_new_tokens)
    left_out = {n for found in beyond.values() for n in found}
    if not left_out:
        return pairs, []
    # Where each half stands in the file; mixing has joined halves anew, so it is looked for by its text.
    places: dict[tuple[str, str], tuple[int, str]] = {}
    for line, row in read_jsonl(file):
        for side, name in _ASKED.items():
            own = "generate_ann" if side is Side.GENERATION else "understand_ann"
            for half in (own, "understand_ann", "generate_ann"):
                places.setdefault((name, row[half][name]), (line, f"{half}.{name}"))
    rows: list[dict[str, Any]] = []
    for side, found in beyond.items():
        for n, tokens in found.items():
            line, field = places[_ASKED[side], vars(pairs[n].half(side))[_ASKED[side]]]
            rows.append({"line": line, "field": field, "tokens": tokens})
    rows.sort(key=lambda row: (row["line"], row["field"]))
    shown = [f"line {row['line']}, {row['field']}: {row['tokens']} tokens" for row in rows[:3]]
    shown += [f"and {len(rows) - 3} more"] if len(rows) > 3 else []
    what = f"beyond the model's {policy.positions} positions with an answer: {'; '.join(shown)}"
    if len(left_out) == len(pairs):
        raise InputError(f"none of the {len(pairs)} pairs can be trained on: {what}", file=file)
    if dist.is_main():
        say(f"note: {len(left_out)} of {len(pairs)} pairs are left out, {what}")
    return [pair for n, pair in enumerate(pairs) if n not in left_out], rows


def load_models(
    model: ModelConfig, point: ResumePoint, seed: int, device: str, with_initial: bool
) -> tuple[Policy, Policy | None]:
    """Loads the policy to train, and a frozen copy of the model that the run began with.

    The copy is None if nobody asks for it, or if it is the policy without its adapters.
    """
    # What adapters are added to is the model that the run began with: a checkpoint has them merged.
    source = model.path if point.checkpoint is None or model.lora.rank else str(point.checkpoint / "model")
    seed_all(seed, Stream.ADAPTERS)
    policy = load_trainable(model, source, device)
    initial = None
    if with_initial and not (model.lora.rank and not model.trainable):
        if point.checkpoint is None:
            initial = policy.reference()
        else:
            options = {"precision": policy.precision, "sampler_options": model.sampler_options}
            initial = load_policy(model.path, device=str(policy.device), **options).reference()
            share_frozen_modules(initial, policy)
    if model.lora.rank and point.checkpoint is not None:
        load_trained(point.checkpoint, policy)
    return policy, initial


def image_loader(data: DataConfig, directory: RunDir) -> ImageLoader:
    """Loads images of the pairs. Raises InputError if an image has changed since the run first opened it."""
    root, cache = pairs_root(data.pairs, data.image_root), ImageCache()
    opened: list[OpenedImages] = []

    def load(image_path: str) -> np.ndarray:
        if not opened:  # a new run's folder is there by the first image
            opened.append(OpenedImages(directory, dist.rank()))
        place = resolve_image(image_path, root)
        opened[0].look(image_path, place)
        return cache.load(place)

    return load


def _check_sharding(batch: int, rollouts: int, mode: PairingMode) -> None:
    """Raises InputError if a process could get no rollouts of a side: sharded weights are scored by all at once."""
    if -(-dist.world() // batch) > rollouts:
        what = f"{dist.world()} processes have {batch} groups of {rollouts} rollouts, some would have none"
        raise InputError(f"{what}, which distributed: fsdp needs", field="data.batch")
    if mode == "vanilla":
        message = "vanilla leaves processes without a side; it needs distributed: ddp"
        raise InputError(message, field="pair_selection.mode")


def _summary(directory: RunDir, sides: tuple[Side, ...], window: int, seconds: float) -> dict[str, Any]:
    rows = directory.read_metrics()
    missing = {str(side): sum(row[f"missing/{side}"] for row in rows) for side in sides}
    means: dict[str, dict[str, float | None]] = {"reward_first": {}, "reward_last": {}}
    for side in sides:
        ends = first_and_last_tenth(row[f"reward_mean/{side}"] for row in rows) or (None, None)
        means["reward_first"][str(side)], means["reward_last"][str(side)] = ends
    checkpoint = directory.latest_checkpoint()
    where = {"path": str(directory.path), "checkpoint": None if checkpoint is None else str(checkpoint)}
    counts = {"steps": len(rows), "skipped": sum(row.get("skipped") or 0 for row in rows)}
    warnings = gamed(rows, window) if window else []
    return where | counts | {"seconds": seconds, "missing": missing, "warnings": warnings, **means}
