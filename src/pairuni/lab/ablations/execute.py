"""Runs the stages of runs as separate processes, several at once, on this machine or on Ray.

A stage that fails ends its own run and no other; its output is in logs/. After any stop the same command continues: it
skips stages whose product exists, and training goes on from its last checkpoint.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pairuni.config import AblationsConfig
from pairuni.data.ray_engine import ray_session
from pairuni.errors import InputError
from pairuni.lab.ablations.schedule import ArmRun, Stage
from pairuni.progress import track


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


Submit = Callable[[Job], "Future[int]"]


def run_missing(
    runs: Sequence[ArmRun], configs: Mapping[Path, Path], config: AblationsConfig, finished: Callable[[ArmRun], None]
) -> list[Failure]:
    """Runs every stage that is not done, and calls `finished` for each run when its last stage ends.

    Args:
        configs: the config file of each stage, by the stage's product.

    Raises:
        InputError: with engine ray, Ray is not installed or no cluster answers.
    """
    left = {run.name: [stage for stage in run.stages if not stage.done] for run in runs}
    by_name, failures = {run.name: run for run in runs}, []
    going: dict[Future[int], Stage] = {}
    with _engine(config) as (submit, slots), track(total=len(runs), desc="runs", unit="run") as bar:
        while left:
            for name in [name for name, stages in left.items() if not stages]:
                del left[name]
                try:
                    finished(by_name[name])
                except InputError as err:
                    failures.append(Failure((name,), "result", err.file, err.message))
                bar.update()
            for stage in _ready(left.values(), going.values(), slots):
                going[submit(_job(stage, configs[stage.product], config))] = stage
            for future in wait(going, return_when=FIRST_COMPLETED).done:
                stage = going.pop(future)
                needed = [name for name, stages in left.items() if any(s.product == stage.product for s in stages)]
                problem = _problem(future, stage, _log(configs[stage.product], config))
                if problem is not None:
                    failures.append(Failure(tuple(needed), stage.command, *problem))
                    bar.update(len(needed))
                    left = {name: stages for name, stages in left.items() if name not in needed}
                for name in needed:
                    if name in left:
                        left[name] = [s for s in left[name] if s.product != stage.product]
    return failures


def _ready(left: Iterable[Sequence[Stage]], going: Iterable[Stage], slots: int) -> list[Stage]:
    """The next stages in the order of the runs, one per free slot; a stage that several runs need comes once."""
    busy = [stage.product for stage in going]
    free = slots - len(busy)
    found: dict[Path, Stage] = {}
    for stages in left:
        if stages and stages[0].product not in busy and len(found) < free:
            found.setdefault(stages[0].product, stages[0])
    return list(found.values())


def _job(stage: Stage, file: Path, config: AblationsConfig) -> Job:
    begin = (sys.executable, "-m", "pairuni")
    if stage.command == "train" and config.launch:
        begin = tuple(shlex.split(config.launch))
    return Job(
        (*begin, stage.command, "--config", str(file)), str(_log(file, config)), config.threads_each, os.getcwd()
    )


def _log(file: Path, config: AblationsConfig) -> Path:
    return Path(config.output) / "logs" / f"{file.stem}.txt"


def _problem(future: "Future[int]", stage: Stage, log: Path) -> tuple[Path, str] | None:
    """The log and the reason of a failure; None if the stage succeeded."""
    try:
        if future.result() == 0 and stage.done:
            return None
    except Exception as err:  # from the system, or from Ray, such as a lost worker
        return log, f"{type(err).__name__}: {err}".splitlines()[0]
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return log, next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def check_launch(config: AblationsConfig) -> None:
    """Raises InputError: `launch` is not a command line, or its program is missing (a dry run needs none)."""
    try:
        words = shlex.split(config.launch)
    except ValueError as err:
        raise InputError(f"cannot be split into words ({err})", field="launch") from None
    if words and not config.dry_run and shutil.which(words[0]) is None:
        raise InputError(f"there is no program {words[0]!r}", field="launch")


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
def _passing_on() -> Iterator[None]:
    """Inside the block, SIGTERM ends the child processes and then this one, as Ctrl-C does."""

    def terminated(number: int, frame: object) -> None:
        for process in list(_running):
            process.terminate()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _engine(config: AblationsConfig) -> Iterator[tuple[Submit, int]]:
    """A function that starts a job, and the number of jobs that may run at once."""
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
    with _passing_on(), ThreadPoolExecutor(config.workers) as pool:
        # On any exit the pool waits for its processes. None is queued: there are never more jobs than threads.
        yield (lambda job: pool.submit(_run_job, job)), config.workers
