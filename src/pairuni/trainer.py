"""`Trainer(config).fit()`: everything that `pairuni train` and `pairuni demo` do, from Python (paper 3).

It joins the processes, makes Shapes data where the config asks for it, trains, evaluates before and after, and writes
report.html. Training alone is train/loop.py. Imports without torch.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairuni.config import EvaluateConfig, TrainConfig
from pairuni.errors import InputError
from pairuni.eval import check_benchmarks
from pairuni.progress import say, set_console
from pairuni.rewards import side_reward
from pairuni.runs import RunDir

if TYPE_CHECKING:
    from pairuni.policies.base import Sampler


class Trainer:
    """Trains one model on one set of pairs."""

    def __init__(self, config: TrainConfig) -> None:
        """Raises InputError: a reward or benchmark that the config names does not exist."""
        check_names(config)
        self.config, self.run = config, RunDir(Path(config.output))

    def fit(self) -> dict[str, Any] | None:
        """Starts the run, or continues it, and finishes it.

        Returns:
            What `train` returns, and `report`, the page. None on processes other than the first.

        Raises:
            InputError: something in the config, the data, the model or the run directory is wrong. Nothing is written
                where that can be seen before training.
            DivergedError, Interrupted, LostRankError: see `train`.
        """
        from pairuni import dist
        from pairuni.eval.runner import check_items
        from pairuni.outputs import Outputs
        from pairuni.pages.report import write_report
        from pairuni.shapes_data import make_data
        from pairuni.train.loop import train
        from pairuni.train.resume import find_start, flat
        from pairuni.train.trackers import check_trackers

        config = self.config
        set_console(config.log.console)
        check_model(config)
        check_trackers(config.log)
        Outputs(self.run.path, "report", ["report.html"], config.overwrite)
        with dist.process_group(config.model.device, config.collective_timeout):
            if dist.is_main():
                find_start(self.run, flat(asdict(config)))
                if config.log.eval_every:
                    check_items(config.eval)
                make_data(config.data, config.seed)
            dist.barrier()
            summary = train(config, evaluate=self._evaluate)
            if not dist.is_main():
                return None
            report = write_report([self.run.path], self.run.report, overwrite=config.overwrite)
            return summary | {"report": str(report)}

    def _evaluate(self, policy: "Sampler", step: int) -> dict[str, float]:
        """{benchmark: score} after `step` steps, written to eval.json of the run.

        The first and the last evaluation keep every answer, for the paired difference in the report.
        """
        from pairuni.eval import runner

        config, run = self.config, self.run
        folder = {0: run.path / "eval_before", config.steps: run.path / "eval_after"}.get(step)
        scored = runner.with_ledger(config.eval.at(step, config.steps), run.path)
        skipped = runner.skipped(scored, policy)
        if config.log.best in skipped:
            raise InputError(runner.skip_lines(skipped), field="log.best")
        results = runner.evaluate(policy, scored, folder)
        if step and config.log.best:
            results[config.log.best]["chosen"] = True
        model = config.model.path if step == 0 else str(run.checkpoint(step) / "model")
        for each in [run.path, *([folder] if folder else [])]:
            runner.write_eval(each, model, scored, results, skipped)
        say("\n".join(filter(None, [f"step {step}", runner.skip_lines(skipped), runner.table(results)])))
        return {name: entry["score"] for name, entry in results.items()}


def check_names(config: TrainConfig | EvaluateConfig) -> None:
    """Raises InputError for an unknown benchmark, or an unknown reward of a side that is trained."""
    check_benchmarks(config.eval if isinstance(config, TrainConfig) else config)
    if isinstance(config, TrainConfig):
        for side in config.trained_sides:
            side_reward(config.rewards, side)


def check_model(config: TrainConfig | EvaluateConfig) -> None:
    """Raises InputError for a local model that does not exist or is of no known family; hub ids are not looked up."""
    from pairuni.policies import FAMILIES
    from pairuni.policies.source import model_type, resolve_model

    name, field = (config.model.path, "model.path") if isinstance(config, TrainConfig) else (config.model, "model")
    try:
        if isinstance(resolve_model(name), Path):
            kind = model_type(name)
            if kind not in FAMILIES:
                raise InputError(f"model type {kind!r} is not one of {', '.join(FAMILIES)}", file=name)
    except InputError as err:
        raise InputError(str(err), field=field) from None
