"""The state of a training run; writes metrics, samples, evaluations and checkpoints after each step."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from pairuni import dist
from pairuni.config import EvalConfig, LogConfig, RolloutConfig
from pairuni.data.dataset import PairSampler, Partners, co_batching
from pairuni.errors import DivergedError
from pairuni.files import locked, read_jsonl, write_jsonl, write_text
from pairuni.policies.base import Actor, Policy, Sampler, Scorer
from pairuni.progress import say, track
from pairuni.rewards.base import Reward
from pairuni.runs import RunDir
from pairuni.train.checkpoint import Progress, best_step, save_checkpoint
from pairuni.train.hacking import gamed
from pairuni.train.optim import Optimizer
from pairuni.train.resume import ResumePoint, Settings, ready, run_outputs
from pairuni.train.rollout import ImageLoader, Share, SideBatch, collect
from pairuni.train.samples import fixed_shares, write_samples
from pairuni.train.stop import Interrupted, StopSignal
from pairuni.train.trackers import Trackers
from pairuni.train.wrap import gathered
from pairuni.types import Half, Objective, Pair, Side

TOO_LONG = "too_long.jsonl"
"""Names the halves that do not fit the model, where there are any."""
Evaluate = Callable[[Sampler, int], Mapping[str, float]]
"""From a model and the number of finished steps to {benchmark: score}, evaluated as `EvalConfig.at` says. Called
on one process."""


@dataclass
class TrainingRun:
    """Everything that training holds between two steps."""

    directory: RunDir
    steps: int
    seed: int
    rollout: RolloutConfig
    objective: Objective
    log: LogConfig
    eval: EvalConfig
    config_hash: str
    base: str
    """Where the model that the run began with came from."""
    pairs: list[Pair]
    sampler: PairSampler
    partners: Partners
    """Of the file, before mixing; empty where one side alone is trained, or on other processes than the first."""
    rewards: dict[Side, Reward]
    load_image: ImageLoader
    policy: Policy
    actor: Actor
    """The policy, or what spreads its weights over processes."""
    reference: Scorer | None
    optimizer: Optimizer
    evaluate: Evaluate | None
    step: int
    """Finished steps."""
    trackers: Trackers | None = None
    """On the first process."""
    bar: Any = None
    """The progress bar, while the run is open."""
    _drawn: Mapping[Side, list[Half]] = field(default_factory=dict)

    @contextmanager
    def opened(self, point: ResumePoint, settings: Settings, too_long: list[dict[str, Any]]) -> Iterator[StopSignal]:
        """Locks the run directory, readies it to go on at `point`, and catches signals while inside.

        Comes after all that can fail on a user's mistake, so that such a run leaves no directory behind.
        """
        with ExitStack() as stack:
            if dist.is_main():
                stack.enter_context(locked(self.directory.path))
                stack.enter_context(run_outputs(self.directory, point, settings["overwrite"]))
                ready(self.directory, point)
                if too_long:
                    write_jsonl(self.directory.path / TOO_LONG, too_long)
                    say(f"prompts that are too long: {self.directory.path / TOO_LONG}")
                ids = {} if point.progress is None else point.progress.trackers
                self.trackers = Trackers(self.log, self.directory, settings, ids, self.step)
                stack.callback(self.trackers.close)
            shown = {"desc": "train", "unit": "step", "each": True, "disable": not dist.is_main()}
            self.bar = stack.enter_context(track(total=self.steps, initial=self.step, **shown))
            yield stack.enter_context(StopSignal())

    def begin(self, resumed: bool) -> None:
        """Observes the model before the first step of a new run; finishes what an earlier call left undone."""
        named = best_step(self.directory)
        if not resumed:
            self.observe()
        elif self.log.best and dist.is_main() and named is not None and self._best_scored() is None:
            what = f"no checkpoint has a score of {self.log.best} with these settings"
            kept = self.directory.checkpoint(named).name
            say(f"log.best: {what}; checkpoints/best stays {kept} until the next evaluation")
        self.keep_best()  # killed between a checkpoint and its becoming the best

    def remaining_steps(self, stop: StopSignal) -> Iterator[int]:
        """Yields the numbers of unfinished steps. After a signal it saves the run.

        Raises:
            Interrupted: a signal came.
        """
        while self.step < self.steps:
            if dist.any_rank(stop.requested):
                self.interrupt()
            yield self.step + 1

    def interrupt(self) -> None:
        """Saves the finished steps. Raises Interrupted."""
        self.save()
        raise Interrupted(self.step, self.directory.path)

    def shares(self, step: int) -> dict[Side, Share]:
        """The halves that this process samples in a step."""
        self._drawn = self.sampler.batch_at(step - 1)
        return {side: Share(*dist.own_part(halves, self.rollout.rollouts)) for side, halves in self._drawn.items()}

    def collect(self, shares: Mapping[Side, Share], step: int) -> dict[Side, SideBatch]:
        """`rollout.collect` with the run's rewards and images."""
        weighting = self.objective.weighting
        return collect(self.actor, shares, self.rewards, self.rollout, weighting, self.seed, step, self.load_image)

    def record(self, row: dict[str, float], started: float) -> None:
        """Writes down a finished step: metrics, and samples, evaluation and a checkpoint where they are due.

        Args:
            row: from `update`. Gets co_batching and seconds/total.
            started: when the step began, by time.perf_counter.
        """
        self.step += 1
        if self.partners:
            row["co_batching"] = co_batching(self._drawn, self.partners)
        row["seconds/total"] = time.perf_counter() - started
        scores = self.observe()
        if dist.is_main():
            self.directory.append_metrics({"step": self.step} | row | scores)
            if self.trackers is not None:
                self.trackers.metrics(row | scores, self.step)
            if row["skipped"]:
                what = f"{row['skipped']} of its updates left out, a loss or gradient is not finite"
                say(f"warning, step {self.step}: {what}")
            window = self.log.hacking_window
            if window and self.step % window == 0:
                for warning in gamed(self.directory.read_metrics(), window):
                    say(f"warning, step {self.step}: {warning}")
        every = self.log.checkpoint_every
        if self.step == self.steps or (every and self.step % every == 0):
            self.save()
        self.keep_best()
        means = [f"{side[0]} {row[f'reward_mean/{side}']:.3f}" for side in self.rewards]
        self.bar.set_postfix_str(f"reward {' '.join(means)}, {row['seconds/total']:.1f} s")
        self.bar.update()

    def observe(self) -> dict[str, float]:
        """Writes samples and evaluates where they are due. Returns eval/ metrics; only the main process has any."""
        log, step, last = self.log, self.step, self.step == self.steps
        samples = log.samples_every and log.sample_prompts and (step % log.samples_every == 0 or last)
        evaluate = self.evaluate if log.eval_every and (step % log.eval_every == 0 or last) else None
        if not samples and evaluate is None:
            return {}
        scores: dict[str, float] = {}
        with gathered(self.actor):
            if dist.is_main():
                with located(f"after step {step}"):
                    if samples:
                        folder = self.directory.samples(step)
                        batch = self.collect(fixed_shares(self.pairs, log.sample_prompts), 0)
                        write_samples(folder, step, batch, self.objective.std_eps)
                        if self.trackers is not None:
                            self.trackers.samples(folder, step)
                    if evaluate is not None:
                        asked, history = self.eval.at(step, self.steps), self.directory.eval_history
                        found = evaluate(self.actor, step)
                        # A validation score has another key than a test score; `settings` says what it compares with.
                        scores = {asked.key(name): float(score) for name, score in found.items()}
                        settings = {asked.key(name): asked.settings_hash(name) for name in found}
                        rows = [row for _, row in read_jsonl(history)] if history.is_file() else []
                        write_jsonl(history, [*rows, {"step": step, **scores, "settings": settings}])
            dist.barrier()
        return {f"eval/{name}": score for name, score in scores.items()}

    def save(self) -> None:
        """Writes a checkpoint, unless there is one of this step."""
        # Interrupted right after a checkpoint: replacing a folder is not atomic, and it holds the same already.
        if dist.broadcast(self.directory.checkpoint(self.step).is_dir()):
            return
        ids = {} if self.trackers is None else self.trackers.ids
        progress = Progress(self.step, self.sampler.state(self.step), self.config_hash, self.optimizer.skipped, ids)
        sharded = self.actor is not self.policy
        keep = self.log.keep_checkpoints
        save_checkpoint(self.directory, self.policy, self.optimizer, progress, keep, sharded, self.base)

    def keep_best(self) -> None:
        """Points `best` at the step that scores highest, and saves this one where it does."""
        if not self.log.best:
            return
        best = dist.broadcast(self._best_scored() if dist.is_main() else None)
        if best == self.step:
            self.save()
        if best is not None and dist.is_main() and best_step(self.directory) != best:
            write_text(self.directory.best, self.directory.checkpoint(best).name + "\n")

    def _best_scored(self) -> int | None:
        """The finished step that scores highest on log.best, the first of equals; None without a score.

        Only scores of that benchmark that were taken with the settings of now count, and only of steps whose checkpoint
        is there, or can still be saved: so a run that goes on by another benchmark takes what its history has for that
        one.
        """
        known: dict[int, float] = {}
        run, asked = self.directory, self.eval.at(self.step, self.steps)
        key, settings = asked.key(self.log.best), asked.settings_hash(self.log.best)
        for _, row in read_jsonl(run.eval_history) if run.eval_history.is_file() else ():
            there = row["step"] == self.step or run.checkpoint(row["step"]).is_dir()
            comparable = isinstance(row.get(key), int | float) and row.get("settings", {}).get(key) == settings
            if 0 < row["step"] <= self.step and there and comparable and not math.isnan(row[key]):
                known[row["step"]] = row[key]
        return max(known, key=lambda at: (known[at], -at), default=None)


@contextmanager
def located(words: str) -> Iterator[None]:
    """Says in which step a model's logits were not finite."""
    try:
        yield
    except DivergedError as err:
        raise DivergedError(f"{words}: {err}") from None
