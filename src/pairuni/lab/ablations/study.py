"""`pairuni analyse ablations`: schedules the runs, runs those that are missing, and keeps their results.

The stages of runs are separate processes, several at once, on this machine or on Ray. A stage that fails ends its own
run and no other; its output is in logs/. After any stop the same command continues: it skips stages whose product
exists, and training goes on from its last checkpoint.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from pairuni.config import AblationsConfig, Suite, TrainConfig
from pairuni.data.ray_engine import ray_session
from pairuni.errors import InputError
from pairuni.files import check_folder, locked, write_text
from pairuni.lab.ablations.results import Key, Result, by_streams, gather, known_results, write_results
from pairuni.lab.ablations.schedule import ArmRun, Base, Stage, checked_configs, chosen, plan
from pairuni.lab.ablations.suites import SUITES
from pairuni.progress import track
from pairuni.streams import VERSION


@dataclass(frozen=True)
class Job:
    """A process: its command, its log file, the CPU threads that it may use, and its working directory."""

    command: tuple[str, ...]
    log: str
    threads: int
    folder: str


@dataclass(frozen=True)
class Failure:
    """A failed stage, the runs that needed it, and the last line of its output."""

    runs: tuple[str, ...]
    stage: str
    log: str | Path | None
    said: str


@dataclass(frozen=True)
class Outcome:
    """The state after a call."""

    every: dict[Key, Result]
    """All rows of results.jsonl, with runs of older random streams."""
    missing: list[ArmRun]
    """Runs of the suites that have no result that counts."""
    failures: list[Failure]

    @property
    def results(self) -> dict[tuple[str, int], Result]:
        """Results with the present random streams, by arm and seed, and the model before training."""
        return by_streams(self.every)[VERSION]

    @property
    def closing(self) -> str:
        """Lines on results that do not count, on missing runs and, from finished runs, on the time that they take."""
        unsound = [result for result in self.every.values() if not result.sound]
        left_out = f"not counted: {len(unsound)} results of {', '.join(sorted({result.arm for result in unsound}))}"
        lines = [f"{left_out}, with random streams that made them something else"] if unsound else []
        if not self.missing:
            return "\n".join([*lines, "nothing is missing"])
        commands = Counter(stage.command for run in self.missing for stage in run.stages if not stage.done)
        said = f"missing: {len(self.missing)} runs ({commands['train']} trainings, {commands['eval']} evaluations)"
        took = [run.seconds["training"] for run in self.every.values() if "training" in run.seconds]
        hours = f", about {commands['train'] * fmean(took) / 3600:.1f} hours of training one by one" if took else ""
        seeds: dict[str, list[str]] = {}
        for run in self.missing:
            seeds.setdefault(run.arm.name, []).append(str(run.seed))
        names = "; ".join(f"{arm}: {' '.join(own)}" for arm, own in seeds.items())
        return "\n".join([*lines, f"{said}{hours}", f"by arm, with seeds: {names}"])


def run_ablations(config: AblationsConfig, base: Base, verify: Callable[[TrainConfig], None]) -> Outcome:
    """Runs the missing runs of the suites, unless `dry_run` or `collect` is set, and keeps each result at once.

    Args:
        verify: checks every training config before any run starts.

    Raises:
        InputError: a config is wrong, results.jsonl is broken or has results with other settings, or another process
            works in the output folder (`collect` alone is allowed then).
    """
    try:
        words = shlex.split(config.launch)
    except ValueError as err:
        raise InputError(f"cannot be split into words ({err})", field="launch") from None
    if words and not config.dry_run and shutil.which(words[0]) is None:
        raise InputError(f"there is no program {words[0]!r}", field="launch")
    whole = plan(config.suite, base, config.seeds)
    runs = chosen(whole, config.suite, config.arms)
    for stage in (stage for run in runs for stage in run.stages):
        if isinstance(stage.config, TrainConfig):
            verify(stage.config)
    check_folder(base.output)
    path, looking = base.output / "results.jsonl", config.collect or config.dry_run
    failures: list[Failure] = []
    with nullcontext() if config.collect else locked(base.output):  # collecting may run beside another call
        results = known_results(path, whole)
        missing = lacking(runs, config.suite, results)
        configs, texts = checked_configs(missing, base.output / "configs")
        if not config.collect:
            for product, text in texts.items():
                write_text(configs[product], text)

        def keep(run: ArmRun) -> None:
            try:
                result = gather(run, config.threads_each)
            except InputError as err:
                failures.append(Failure((run.name,), "result", err.file, err.message))
                return
            results[result.key] = result
            if not looking:
                write_results(path, results)

        if looking:
            for run in (run for run in missing if run.done):
                keep(run)
        elif missing:
            failures += run_missing(missing, configs, config, keep)
    return Outcome(results, lacking(runs, config.suite, results), failures)


def lacking(runs: Sequence[ArmRun], suites: Sequence[Suite], results: Mapping[Key, Result]) -> list[ArmRun]:
    """The runs that have no result that counts.

    A result with older random streams counts if its reference has a sound result with the same streams. If not, both
    are needed with the present streams.
    """
    there = by_streams(results)
    names, wanted = {run.arm.name for run in runs}, set[tuple[str, int]]()
    for run in runs:
        beside = [SUITES[suite].reference_of(arm) for suite in suites for arm in SUITES[suite].arms if arm == run.arm]
        for reference in beside or [None]:
            together = {(name, run.seed) for name in (run.arm.name, reference) if name in names}
            if not any(together <= rows.keys() for rows in there.values()):
                wanted |= together
    return [run for run in runs if (run.arm.name, run.seed) in wanted - there[VERSION].keys()]


def run_missing(
    runs: Sequence[ArmRun], configs: Mapping[Path, Path], config: AblationsConfig, keep: Callable[[ArmRun], None]
) -> list[Failure]:
    """Runs every stage that is not done, one per slot in the order of the runs, and calls `keep` after a run's last.

    A stage that several runs need runs once.

    Args:
        configs: the config file of each stage, by the stage's product.

    Raises:
        InputError: with engine ray, Ray is not installed or no cluster answers.
    """
    left = {run.name: [stage for stage in run.stages if not stage.done] for run in runs}
    by_name, failures = {run.name: run for run in runs}, []
    going: dict[Future[int], tuple[Stage, Path]] = {}
    with _engine(config) as (submit, slots), track(total=len(runs), desc="runs", unit="run") as bar:
        while left:
            for name in [name for name, stages in left.items() if not stages]:
                del left[name]
                keep(by_name[name])
                bar.update()
            for stage in (stages[0] for stages in left.values()):
                if len(going) < slots and all(stage.product != other.product for other, _ in going.values()):
                    file = configs[stage.product]
                    log = Path(config.output) / "logs" / f"{file.stem}.txt"
                    launch = shlex.split(config.launch) if stage.command == "train" else []
                    command = (*(launch or (sys.executable, "-m", "pairuni")), stage.command, "--config", str(file))
                    going[submit(Job(command, str(log), config.threads_each, os.getcwd()))] = stage, log
            for future in wait(going, return_when=FIRST_COMPLETED).done:
                stage, log = going.pop(future)
                needed = [name for name, stages in left.items() if any(s.product == stage.product for s in stages)]
                problem = _problem(future, stage, log)
                if problem is not None:
                    failures.append(Failure(tuple(needed), stage.command, log, problem))
                    bar.update(len(needed))
                    left = {name: stages for name, stages in left.items() if name not in needed}
                left |= {n: [s for s in left[n] if s.product != stage.product] for n in needed if n in left}
    return failures


def _problem(future: "Future[int]", stage: Stage, log: Path) -> str | None:
    """The reason of a failure; None if the stage succeeded."""
    try:
        if future.result() == 0 and stage.done:
            return None
    except Exception as err:  # from the system, or from Ray, such as a lost worker
        return f"{type(err).__name__}: {err}".splitlines()[0]
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _run_job(job: Job) -> int:
    """Runs the process to its end and returns its exit code. A new try overwrites the log of the last one."""
    threads = {name: str(job.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    log = Path(job.folder, job.log)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        streams = {"stdout": file, "stderr": subprocess.STDOUT}
        with subprocess.Popen(job.command, cwd=job.folder, env={**os.environ, **threads}, **streams) as process:
            _running.add(process)
            try:
                return process.wait()
            finally:
                _running.discard(process)


_running: set[subprocess.Popen] = set()
"""Child processes, which a SIGTERM is passed on to."""


@contextmanager
def _engine(config: AblationsConfig) -> Iterator[tuple[Callable[[Job], "Future[int]"], int]]:
    """A function that starts a job, and the number of jobs that may run at once.

    On this machine, SIGTERM ends the child processes and then this one, as Ctrl-C does.
    """
    if config.engine == "ray":
        with ray_session(config.ray_address, spare=0) as ray:
            resources = ray.cluster_resources()
            gpus = 1 if resources.get("GPU", 0) else 0
            slots = int(resources["GPU"] if gpus else resources.get("CPU", 0) // config.threads_each)
            if slots < 1:
                raise InputError(f"is more than the {resources.get('CPU', 0):.0f} CPUs of Ray", field="threads")
            task = ray.remote(num_cpus=0 if gpus else config.threads_each, num_gpus=gpus, max_retries=0)(_run_job)
            yield (lambda job: task.remote(job).future()), slots
        return

    def terminated(number: int, frame: object) -> None:
        for process in list(_running):
            process.terminate()
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, terminated) if main else None
    try:
        # On any exit the pool waits for its processes. None is queued: there are never more jobs than threads.
        with ThreadPoolExecutor(config.workers) as pool:
            yield (lambda job: pool.submit(_run_job, job)), config.workers
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
