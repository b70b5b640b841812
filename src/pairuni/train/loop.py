"""The training loop: pairs.jsonl -> run directory, in steps that can be stopped and continued exactly (paper 3).

Start it with `pairuni train --config ...`, on several GPUs with torchrun. What a step does is rollout.py and step.py;
how a model is evaluated is handed in.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pairuni import dist
from pairuni.config import TrainConfig
from pairuni.data.dataset import ImageCache, PairSampler
from pairuni.data.mixing import image_features, mix
from pairuni.data.partners import Partners, co_batching, true_partners
from pairuni.errors import DivergedError, InputError
from pairuni.files import locked, read_jsonl, write_json, write_jsonl
from pairuni.policies import load_policy
from pairuni.policies.base import Policy, Scorer
from pairuni.policies.lora import WithoutLora
from pairuni.progress import say, set_console, track
from pairuni.records import pairs_root, read_pairs, resolve_image
from pairuni.rewards import side_reward
from pairuni.rewards.base import Reward
from pairuni.runs import RunDir, first_and_last_tenth
from pairuni.streams import Stream, seed_all
from pairuni.train import fitting
from pairuni.train.best import add_scores, best_scored, name_best, warn_of_other_best
from pairuni.train.checkpoint import Progress, load_state, load_trained, save_checkpoint
from pairuni.train.hacking import gamed
from pairuni.train.inputs import OpenedImages, check_inputs, input_record
from pairuni.train.optim import Optimizer
from pairuni.train.resume import Start, config_hash, find_start, flat_config, open_run, run_outputs
from pairuni.train.rollout import ImageLoader, collect, trained_sides
from pairuni.train.samples import fixed_halves, write_samples
from pairuni.train.step import train_step
from pairuni.train.stop import Interrupted, StopSignal
from pairuni.train.trackers import Trackers, check_trackers
from pairuni.train.trainable import load_trainable, share_frozen_modules, trained_summary
from pairuni.train.wrap import ShardedPolicy, gathered
from pairuni.types import Pair, Quadruple, Side

Evaluate = Callable[[Policy, int], Mapping[str, float]]
"""From the policy and the number of finished steps to {benchmark: score}, evaluated as `config.eval_at` says of that
step. Called on one process."""


@dataclass
class _Run:
    """Everything the loop holds."""

    config: TrainConfig
    directory: RunDir
    pairs: list[Pair]
    sampler: PairSampler
    rewards: dict[Side, Reward]
    load_image: ImageLoader
    policy: Policy
    reference: Scorer | None
    optimizer: Optimizer
    evaluate: Evaluate | None
    partners: Partners
    """Of the file, before mixing; empty where one side alone is trained, or on other processes than the first."""
    too_long: list[dict[str, Any]] = field(default_factory=list)
    """Of halves that were left out: line, field and tokens."""
    trackers: Trackers | None = None
    """On the first process."""


def train(config: TrainConfig, *, evaluate: Evaluate | None = None) -> dict[str, Any]:
    """Trains a policy with Pair-GRPO and writes the run directory `config.output`.

    An existing run with the same config is continued from its latest whole checkpoint, exactly: metrics but for timing,
    samples and weights are those of a run that was never stopped. A finished run is left as it is.

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
    directory = RunDir(Path(config.output))
    with dist.process_group(config.model.device, config.patience) as device:
        check_trackers(config.log)
        rewards = {side: side_reward(config.rewards, side) for side in trained_sides(config)}
        pairs = dist.broadcast(mixed_pairs(config) if dist.is_main() else [])
        start = dist.broadcast(find_start(directory, config) if dist.is_main() else Start(None, None))
        if start.step < config.steps:
            if start.checkpoint is not None and dist.is_main():
                check_inputs(directory, config)
            run = _set_up(config, directory, pairs, rewards, evaluate, (start, device))
            with _own(directory, config, start) if dist.is_main() else nullcontext():
                _train(run, start)
        dist.barrier()
        return _summary(directory, config, time.perf_counter() - began)


@contextmanager
def _own(directory: RunDir, config: TrainConfig, start: Start) -> Iterator[None]:
    """Holds the directory, and replaces nothing in it that is not the run's."""
    with locked(directory.path), run_outputs(directory, config, start):
        yield


def _train(run: _Run, start: Start) -> None:
    """Readies the directory, which no other process is at work in, and trains."""
    config, directory = run.config, run.directory
    if dist.is_main():
        open_run(directory, config, start)
        if start.checkpoint is None:  # a continued run no longer needs the model that it began with
            write_json(directory.inputs, input_record(config))
        if run.too_long:
            write_jsonl(directory.path / fitting.FILE, run.too_long)
        ids = {} if start.progress is None else start.progress.trackers
        run.trackers = Trackers(config.log, directory, flat_config(config), ids, start.step)
    dist.barrier()
    try:
        _loop(run, start)
    finally:
        if run.trackers is not None:
            run.trackers.close()


def mixed_pairs(config: TrainConfig) -> list[Pair]:
    """The pairs of the mixing mode, every image of them that training will open being there.

    Raises:
        InputError: the pairs or the mode are wrong (`read_pairs`, `mix`), or an image is not there.
    """
    data, mixing = config.data, config.pairing
    root = image_root(config)
    pairs = read_pairs(data.pairs, data.image_root)

    def features(quadruples: Any) -> np.ndarray:
        return image_features(quadruples, root, mixing)

    pairs = mix(pairs, mixing.mode, config.seed, features)
    if Side.UNDERSTANDING in trained_sides(config):
        for pair in pairs:
            if not os.path.isfile(root / pair.understand.image_path):  # unlike Path.is_file, it takes any name
                _missing_image(config, pair.understand, root)
    return pairs


def _missing_image(config: TrainConfig, quadruple: Quadruple, root: Path) -> None:
    """Raises InputError naming the line of pairs.jsonl that has the image."""
    for n, row in read_jsonl(config.data.pairs):
        for key in ("understand_ann", "generate_ann"):
            if row[key]["image_path"] == quadruple.image_path:
                message = f"no such image: {root / quadruple.image_path}"
                raise InputError(message, file=config.data.pairs, line=n, field=f"{key}.image_path")
    raise AssertionError(f"{quadruple.image_path} is in no line of {config.data.pairs}")


def image_root(config: TrainConfig) -> Path:
    """What image paths of the pairs are relative to."""
    return pairs_root(config.data.pairs, config.data.image_root)


def _set_up(
    config: TrainConfig,
    directory: RunDir,
    pairs: list[Pair],
    rewards: dict[Side, Reward],
    evaluate: Evaluate | None,
    where: tuple[Start, str],
) -> _Run:
    start, device = where
    _check_sharding(config)
    root, cache = image_root(config), ImageCache()
    adapted = config.model.lora.rank > 0
    # What adapters are added to is the model that the run began with: a checkpoint has them merged.
    source = config.model.path if start.checkpoint is None or adapted else str(start.checkpoint / "model")
    seed_all(config.seed, Stream.ADAPTERS)
    policy = load_trainable(config.model, source, device)
    pairs, too_long = fitting.without_long(pairs, policy, config)
    sampler = PairSampler(pairs, config.data.batch, config.seed, config.pairing.mode)
    initial = _initial(config, policy, start) if config.kl_beta > 0 else None
    if adapted and start.checkpoint is not None:
        load_trained(start.checkpoint, policy)
    if dist.is_main() and start.checkpoint is None:
        say(trained_summary(policy))
    if config.distributed == "fsdp" and dist.world() > 1:
        policy = ShardedPolicy(policy)
        initial = None if initial is None else ShardedPolicy(initial)
    reference = initial
    if config.kl_beta > 0 and initial is None:
        reference = WithoutLora(policy)
    optimizer = Optimizer(policy.trainable(), config.optim)
    seed_all(config.seed, Stream.TRAINING)
    if start.checkpoint is not None and start.progress is not None:
        sampler.restore(start.progress.sampler)
        load_state(start.checkpoint, optimizer)
        optimizer.skipped = start.progress.skipped

    opened = OpenedImages(directory, dist.rank()) if start.checkpoint is not None else None

    def load_image(image_path: str) -> np.ndarray:
        nonlocal opened
        place = resolve_image(image_path, root)
        opened = OpenedImages(directory, dist.rank()) if opened is None else opened  # a new run's folder is there now
        opened.look(image_path, place)
        return cache.load(place)

    both = dist.is_main() and config.sides == "both"
    partners = true_partners(read_pairs(config.data.pairs, config.data.image_root)) if both else {}
    parts = (policy, reference, optimizer, evaluate, partners, too_long)
    return _Run(config, directory, pairs, sampler, rewards, load_image, *parts)


def _check_sharding(config: TrainConfig) -> None:
    """Raises InputError where a process could be without rollouts of a side: what is sharded is scored in step."""
    if config.distributed != "fsdp" or dist.world() == 1:
        return
    batch, rollouts = config.data.batch, config.rollout.rollouts
    if -(-dist.world() // batch) > rollouts:
        what = f"{dist.world()} processes have {batch} groups of {rollouts} rollouts, some would have none"
        raise InputError(f"{what}, which distributed: fsdp needs", field="data.batch")
    if config.pairing.mode == "vanilla":
        raise InputError("vanilla leaves processes without a side; it needs distributed: ddp", field="pairing.mode")


def _initial(config: TrainConfig, policy: Policy, start: Start) -> Policy | None:
    """A frozen copy of the model that the run began with; None where that is the policy without its adapters."""
    model = config.model
    if model.lora.rank and not model.trainable:
        return None
    if start.checkpoint is None:
        return policy.reference()
    options = {"precision": policy.precision, "settings": model.settings}
    reference = load_policy(model.path, device=str(policy.device), **options).reference()
    share_frozen_modules(reference, policy)
    return reference


def _loop(run: _Run, start: Start) -> None:
    config = run.config
    step = start.step
    main = dist.is_main()
    bar = track(desc="train", total=config.steps, each=True, initial=step, unit="step", disable=not main)
    with StopSignal() as stop, bar:
        if start.checkpoint is None:
            _look(run, 0)
        else:
            warn_of_other_best(run.directory, config, step)
        _keep_best(run, step)  # killed between a checkpoint and its becoming the best
        while step < config.steps:
            row = None if dist.any_rank(stop.requested) else _step(run, step + 1, stop)
            if row is None:
                _save(run, step)
                raise Interrupted(step, run.directory.path)
            step += 1
            scores = _look(run, step)
            if dist.is_main():
                run.directory.append_metrics({"step": step} | row | scores)
                if run.trackers is not None:
                    run.trackers.metrics(row | scores, step)
                if row["skipped"]:
                    what = f"{row['skipped']} of its updates left out, a loss or gradient is not finite"
                    say(f"warning, step {step}: {what}")
                _warn(run, step)
            if step == config.steps or (config.log.checkpoint_every and step % config.log.checkpoint_every == 0):
                _save(run, step)
            _keep_best(run, step)
            bar.set_postfix_str(_postfix(row))
            bar.update()


def _step(run: _Run, step: int, stop: StopSignal) -> dict[str, float] | None:
    """One step's metrics; None when a signal came during the rollout, with the weights untouched."""
    started = time.perf_counter()
    rollouts = run.config.rollout.rollouts
    drawn = run.sampler.batch_at(step - 1)
    parts = {side: dist.own_part(items, rollouts) for side, items in drawn.items()}
    halves = {side: own for side, (own, _) in parts.items()}
    columns = {side: own for side, (_, own) in parts.items()}
    with gathered(run.policy), _place(f"step {step}"):
        batch = collect(run.policy, halves, run.rewards, run.config, step, run.load_image, columns)
    if dist.any_rank(stop.requested):
        return None
    row = train_step(run.policy, batch, run.optimizer, run.config, step, run.reference)
    run.optimizer.zero_grad()  # as large as the weights, and of no use while the next step samples
    if run.partners:
        row["co_batching"] = co_batching(drawn, run.partners)
    return row | {"seconds/total": time.perf_counter() - started}


@contextmanager
def _place(words: str) -> Iterator[None]:
    """Says where a model's logits were not finite."""
    try:
        yield
    except DivergedError as err:
        raise DivergedError(f"{words}: {err}") from None


def _look(run: _Run, step: int) -> dict[str, float]:
    """Writes samples and evaluates where `step` is due. Returns eval/ metrics; only the main process has any."""
    log = run.config.log
    scores: Mapping[str, float] = {}
    last = step == run.config.steps
    samples = log.samples_every and log.sample_prompts and (step % log.samples_every == 0 or last)
    evaluates = run.evaluate is not None and log.eval_every and (step % log.eval_every == 0 or last)
    if not (samples or evaluates):
        return {}
    with gathered(run.policy):
        if dist.is_main():
            with _place(f"after step {step}"):
                scores = _look_now(run, step, bool(samples), bool(evaluates))
        dist.barrier()
    return {f"eval/{name}": score for name, score in scores.items()}


def _look_now(run: _Run, step: int, samples: bool, evaluates: bool) -> Mapping[str, float]:
    scores: Mapping[str, float] = {}
    if samples:
        halves = fixed_halves(run.pairs, run.config.log.sample_prompts)
        folder = run.directory.samples(step)
        write_samples(folder, step, run.policy, halves, run.rewards, run.config, run.load_image)
        if run.trackers is not None:
            run.trackers.samples(folder, step)
    if evaluates and run.evaluate is not None:
        scores = add_scores(run.directory, run.config, step, run.evaluate(run.policy, step))
    return scores


def _save(run: _Run, step: int) -> None:
    # Interrupted right after a checkpoint: replacing a folder is not atomic, and it holds the same already.
    if dist.broadcast(run.directory.checkpoint(step).is_dir()):
        return
    ids = {} if run.trackers is None else run.trackers.ids
    progress = Progress(step, run.sampler.state(step), config_hash(run.config), run.optimizer.skipped, ids)
    keep, base = run.config.log.keep_checkpoints, run.config.model.path
    save_checkpoint(run.directory, run.policy, run.optimizer, progress, keep, base)


def _warn(run: _Run, step: int) -> None:
    """Says where a reward seems to be gamed, every `log.hacking_window` steps."""
    window = run.config.log.hacking_window
    if window and step % window == 0:
        for warning in gamed(run.directory.read_metrics(), window):
            say(f"warning, step {step}: {warning}")


def _keep_best(run: _Run, step: int) -> None:
    """Points `best` at the step that scores highest, and saves this one where it does."""
    if not run.config.log.best:
        return
    best = dist.broadcast(best_scored(run.directory, run.config, step) if dist.is_main() else None)
    if best == step:
        _save(run, step)
    if best is not None and dist.is_main():
        name_best(run.directory, best)


def _postfix(row: Mapping[str, float]) -> str:
    rewards = [f"{side[0]} {row[f'reward_mean/{side}']:.3f}" for side in Side if f"reward_mean/{side}" in row]
    return f"reward {' '.join(rewards)}, {row['seconds/total']:.1f} s"


def _summary(directory: RunDir, config: TrainConfig, seconds: float) -> dict[str, Any]:
    rows = directory.read_metrics()
    missing = {str(side): sum(row[f"missing/{side}"] for row in rows) for side in trained_sides(config)}
    means: dict[str, dict[str, float | None]] = {"reward_first": {}, "reward_last": {}}
    for side in trained_sides(config):
        ends = first_and_last_tenth(row[f"reward_mean/{side}"] for row in rows) or (None, None)
        means["reward_first"][str(side)], means["reward_last"][str(side)] = ends
    checkpoint = directory.latest_checkpoint()
    window = config.log.hacking_window
    warnings = gamed(rows, window) if window else []
    where = {"path": str(directory.path), "checkpoint": None if checkpoint is None else str(checkpoint)}
    counts = {"steps": len(rows), "skipped": sum(row.get("skipped") or 0 for row in rows)}
    return where | counts | {"seconds": seconds, "missing": missing, "warnings": warnings, **means}
