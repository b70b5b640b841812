"""`pairuni analyse ablations`: schedules the runs, runs those that are missing, and keeps their results."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import fmean

from pairuni.config import AblationsConfig, Suite, TrainConfig
from pairuni.errors import InputError
from pairuni.files import check_folder, locked, write_text
from pairuni.lab.ablations.execute import Failure, check_launch, run_missing
from pairuni.lab.ablations.results import Key, Result, by_streams, gather, known_results, write_results
from pairuni.lab.ablations.schedule import ArmRun, Base, checked_configs, chosen, plan
from pairuni.lab.ablations.suites import SUITES
from pairuni.streams import VERSION


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
    """Runs the missing runs of the suites, unless `dry_run` or `collect` is set, and keeps each result at once.

    Args:
        verify: checks every training config before any run starts.

    Raises:
        InputError: a config is wrong, results.jsonl is broken or has results with other settings, or another process
            works in the output folder (`collect` alone is allowed then).
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
    with nullcontext() if config.collect else locked(base.output):  # collecting may run beside another call
        results = known_results(path, whole)
        missing = lacking(runs, config.suite, results)
        configs, texts = checked_configs(missing, folder)
        if not config.collect:
            for product, text in texts.items():
                write_text(configs[product], text)

        def keep(run: ArmRun) -> None:
            _add(results, gather(run, config.threads_each))
            write_results(path, results)

        if config.collect or config.dry_run:
            failures = _gathered(missing, results, config)
        else:
            failures = run_missing(missing, configs, config, keep) if missing else []
    return Outcome(results, lacking(runs, config.suite, results), failures)


def _gathered(missing: Sequence[ArmRun], results: dict[Key, Result], config: AblationsConfig) -> list[Failure]:
    """Adds the results of runs that are done but not kept yet. Runs that cannot be read become failures."""
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
