"""`pairuni analyse ablations`: plan, run what is missing, keep results, write tables and figures."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import fmean

from pairuni.analysis.ablations.execute import Failure, check_launch, run_missing
from pairuni.analysis.ablations.plan import Base, Run, checked_configs, chosen, plan, write_configs
from pairuni.analysis.ablations.results import Key, Result, by_streams, gather, known_results, write_results
from pairuni.analysis.ablations.suites import SUITES
from pairuni.config import AblationsConfig, Suite, TrainConfig
from pairuni.errors import InputError
from pairuni.files import check_folder, locked
from pairuni.streams import VERSION


@dataclass(frozen=True)
class Outcome:
    """What a call left."""

    every: dict[Key, Result]
    """What results.jsonl has, runs with older random streams among them."""
    missing: list[Run]
    """Runs of the suites without a result that counts."""
    failures: list[Failure]

    @property
    def results(self) -> dict[tuple[str, int], Result]:
        """Those with the random streams of now, by arm and seed, and the model before."""
        return by_streams(self.every)[VERSION]

    @property
    def closing(self) -> str:
        """What does not count, what is missing, and what it would cost one run at a time where finished ones tell."""
        unsound = [result for result in self.every.values() if not result.sound]
        left_out = f"not counted: {len(unsound)} results of {', '.join(sorted({result.arm for result in unsound}))}"
        why = "with random streams that made them something else\n"
        return (f"{left_out}, {why}" if unsound else "") + self._missing

    @property
    def _missing(self) -> str:
        if not self.missing:
            return "nothing is missing"
        commands = Counter(stage.command for run in self.missing for stage in run.stages if not stage.done)
        said = f"missing: {len(self.missing)} runs ({commands['train']} trainings, {commands['eval']} evaluations)"
        took = [run.seconds["training"] for run in self.every.values() if "training" in run.seconds]
        hours = f", about {commands['train'] * fmean(took) / 3600:.1f} hours of training one by one" if took else ""
        seeds: dict[str, list[str]] = {}
        for run in self.missing:
            seeds.setdefault(run.arm.name, []).append(str(run.seed))
        names = "; ".join(f"{arm}: {' '.join(own)}" for arm, own in seeds.items())
        return f"{said}{hours}\nby arm, with seeds: {names}"


def run_ablations(config: AblationsConfig, base: Base, verify: Callable[[TrainConfig], None]) -> Outcome:
    """Runs what the suites lack, unless `dry_run` or `collect` is set, and keeps every result as it comes.

    Args:
        verify: looks at every training config before anything is run.

    Raises:
        InputError: something in the configs is wrong, results.jsonl is broken or has runs of other settings, or another
            process is at work in the output folder (which `collect` alone may look at then).
    """
    check_launch(config)
    whole = plan(config.suite, base, config.seeds)
    runs = chosen(whole, config.suite, config.arms)
    for stage in (stage for run in runs for stage in run.stages):
        if isinstance(stage.config, TrainConfig):
            verify(stage.config)
    check_folder(base.output)
    path = base.output / "results.jsonl"
    folder = base.output / "configs"
    with nullcontext() if config.collect else locked(base.output):  # another call may be at work while one collects
        results = known_results(path, whole)
        missing = lacking(runs, config.suite, results)
        configs, texts = checked_configs(missing, folder)
        if not config.collect:
            write_configs(configs, texts)

        def keep(run: Run) -> None:
            _add(results, gather(run, config.threads_each))
            write_results(path, results)

        if config.collect or config.dry_run:
            failures = _gathered(missing, results, config)
        else:
            failures = run_missing(missing, configs, config, keep) if missing else []
    return Outcome(results, lacking(runs, config.suite, results), failures)


def _gathered(missing: Sequence[Run], results: dict[Key, Result], config: AblationsConfig) -> list[Failure]:
    """Adds the results of runs that are done, but not kept yet. Those that cannot be read are failures."""
    failures = []
    for run in missing:
        try:
            if run.done:
                _add(results, gather(run, config.threads_each))
        except InputError as err:
            failures.append(Failure((run.name,), "result", err.file, err.message))
    return failures


def _add(results: dict[Key, Result], result: Result) -> None:
    results[result.key] = result


def lacking(runs: Sequence[Run], suites: Sequence[Suite], results: Mapping[Key, Result]) -> list[Run]:
    """The runs without a result that counts.

    Runs with older random streams count where they and those that they are compared with are there with the same
    streams, and sound; else both are wanted with the streams of now.
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
