"""The commands that are one stage each: parse, run, say what was written. What takes time is imported when it runs."""

import argparse
from dataclasses import replace
from pathlib import Path

from pairuni.cli.names import check_model, check_names
from pairuni.cli.options import parse_arguments, parse_config
from pairuni.cli.stages import run_complete, run_pair
from pairuni.config import (
    CompleteConfig,
    EvaluateConfig,
    PairConfig,
    PretrainConfig,
    SampleConfig,
    ShapesConfig,
    TinyConfig,
    TrainConfig,
)
from pairuni.errors import InputError
from pairuni.files import writing
from pairuni.outputs import Outputs
from pairuni.progress import say, set_console
from pairuni.runs import run_of


def shapes(arguments: list[str]) -> int:
    config = parse_config(ShapesConfig, arguments, "shapes")
    from pairuni.shapes.world import write_world

    write_world(config)
    print(f"{config.understanding} understanding and {config.generation} generation samples in {config.output}")
    return 0


def complete(arguments: list[str]) -> int:
    config = parse_config(CompleteConfig, arguments, "complete")
    if not config.dry_run:
        run_complete(config)
        return 0
    from pairuni.data.complete import estimate

    print("\n".join(f"{name.replace('_', ' ')}: {value:,}" for name, value in estimate(config).items()))
    return 0


def pair(arguments: list[str]) -> int:
    run_pair(parse_config(PairConfig, arguments, "pair"))
    return 0


def train(arguments: list[str]) -> int:
    if any(argument == "--plan" or argument.startswith("--plan.") for argument in arguments):
        from pairuni.cli.plan import run_plan

        run_plan([argument for argument in arguments if argument != "--plan"])
        return 0
    config = parse_config(TrainConfig, arguments, "train", check_names)
    run_training(config)
    return 0


def run_training(config: TrainConfig) -> None:
    """Makes the pairs where data.shapes asks for it, trains, evaluates (log.eval_every), writes report.html."""
    from pairuni import dist
    from pairuni.cli.closing import closing
    from pairuni.cli.shapes_data import make_data
    from pairuni.eval import runner
    from pairuni.policies.base import Policy
    from pairuni.report.html import write_report
    from pairuni.runs import RunDir
    from pairuni.train.loop import train as run
    from pairuni.train.resume import find_start
    from pairuni.train.trackers import check_trackers

    set_console(config.log.console)
    run_dir = RunDir(Path(config.output))

    def score(policy: Policy, step: int) -> dict[str, float]:
        # The first and the last evaluation keep every answer, for the paired difference in the report.
        folder = {0: run_dir.path / "eval_before", config.steps: run_dir.path / "eval_after"}.get(step)
        scored = runner.with_ledger(config.eval_at(step), run_dir.path)
        skipped = runner.skipped(scored, policy)
        if config.log.best in skipped:
            raise InputError(runner.skip_lines(skipped), field="log.best")
        results = runner.evaluate(policy, scored, folder)
        if step and config.log.best:
            results[config.log.best]["chosen"] = True
        model = config.model.path if step == 0 else str(run_dir.checkpoint(step) / "model")
        for each in [run_dir.path, *([folder] if folder else [])]:
            runner.write_eval(each, model, scored, results, skipped)
        say("\n".join(filter(None, [f"step {step}", runner.skip_lines(skipped), runner.table(results)])))
        return {name: entry["score"] for name, entry in results.items()}

    check_model(config)
    check_trackers(config.log)
    Outputs(run_dir.path, "report", ["report.html"], config.overwrite)
    with dist.process_group(config.model.device, config.patience):
        if dist.is_main():
            find_start(run_dir, config)
            make_data(config)
        dist.barrier()
        summary = run(config, evaluate=score)
        if dist.is_main():
            report = write_report([run_dir.path], run_dir.report, overwrite=config.overwrite)
            print(f"\n{closing(run_dir, summary)}\n{report}")


def evaluate(arguments: list[str]) -> int:
    config = parse_config(EvaluateConfig, arguments, "eval", check_names)
    from pairuni.eval import runner

    output = Path(config.output)
    with writing(output, "eval", runner.FILES, config.overwrite, many=("answers_*.jsonl",)):
        runner.check_images(output, config)
        return _evaluate(config, output)


def _evaluate(config: EvaluateConfig, output: Path) -> int:
    from pairuni.eval import runner
    from pairuni.policies import load_policy
    from pairuni.policies.source import model_name

    config = replace(runner.with_ledger(config, output), model=model_name(config.model))
    policy = load_policy(config.model, device=config.device, precision=config.precision, settings=config.settings)
    skipped = runner.skipped(config, policy)
    if skipped:
        print(runner.skip_lines(skipped), flush=True)
    identity = "\n".join([runner.model_identity(config.model), *([str(config.settings)] if config.settings else [])])
    results = runner.evaluate(policy, config, output, identity)
    runner.mark_chosen(results, config.model)
    path = runner.write_eval(output, config.model, config, results, skipped)
    print(f"{runner.table(results)}\n{path}")
    return 0


def sample(arguments: list[str]) -> int:
    config = parse_config(SampleConfig, arguments, "sample")
    from pairuni.cli.sample import run_sample

    run_sample(config)
    return 0


def report(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="pairuni report", exit_on_error=False)
    parser.add_argument(
        "inputs", nargs="+", type=Path, help="run directories, or checkpoints of theirs, or eval.json files"
    )
    parser.add_argument("--out", type=Path, default=None, help="the page (default: report.html in the first run)")
    parser.add_argument("--title", default=None)
    parser.add_argument("--overwrite", action="store_true", help="replace a page that this did not write")
    options = parse_arguments(parser, arguments)
    from pairuni.report.html import write_report

    inputs = [run_of(path) for path in options.inputs]
    first = inputs[0]
    out = options.out or (first if first.is_dir() else first.parent) / "report.html"
    print(write_report(inputs, out, title=options.title, overwrite=options.overwrite))
    return 0


def pretrain(arguments: list[str]) -> int:
    config = parse_config(PretrainConfig, arguments, "pretrain")
    from pairuni.pretrain.script import MODEL_FILES, run_pretrain

    with writing(config.output, "pretrain", (*MODEL_FILES, "pretrain.json", "README.md"), config.overwrite):
        summary = run_pretrain(config)
    print("\n".join(f"{name}: {value}" for name, value in summary.items()))
    return 0


def tiny(arguments: list[str]) -> int:
    config = parse_config(TinyConfig, arguments, "tiny")
    from pairuni.pretrain.script import MODEL_FILES, write_tiny

    with writing(config.output, "tiny", MODEL_FILES, config.overwrite):
        write_tiny(config)
    print(f"a random Janus of {config.image} px in {config.output}")
    return 0
