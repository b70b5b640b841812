"""The commands of one stage each: parse, run, print what was written. Slow imports are inside the functions."""

import argparse
from dataclasses import replace
from pathlib import Path

from pairuni.cli.options import parse_arguments, parse_config
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
from pairuni.files import writing
from pairuni.runs import run_of
from pairuni.stages import run_complete, run_pair
from pairuni.trainer import Trainer, check_names


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
    trainer = Trainer(parse_config(TrainConfig, arguments, "train", check_names))
    summary = trainer.fit()
    if summary is not None:
        from pairuni.cli.closing import closing

        print(f"\n{closing(trainer.run, summary)}\n{summary['report']}")
    return 0


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
    policy = load_policy(
        config.model, device=config.device, precision=config.precision, sampler_options=config.sampler_options
    )
    skipped = runner.skipped(config, policy)
    if skipped:
        print(runner.skip_lines(skipped), flush=True)
    identity = "\n".join(
        [runner.model_identity(config.model), *([str(config.sampler_options)] if config.sampler_options else [])]
    )
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
    parser.add_argument("inputs", nargs="+", type=Path, help="run directories, their checkpoints, or eval.json files")
    parser.add_argument("--out", type=Path, default=None, help="the page (default: report.html in the first run)")
    parser.add_argument("--title", default=None)
    parser.add_argument("--overwrite", action="store_true", help="replace a file that this command did not write")
    options = parse_arguments(parser, arguments)
    from pairuni.pages.report import write_report

    inputs = [run_of(path) for path in options.inputs]
    first = inputs[0]
    out = options.out or (first if first.is_dir() else first.parent) / "report.html"
    print(write_report(inputs, out, title=options.title, overwrite=options.overwrite))
    return 0


def pretrain(arguments: list[str]) -> int:
    config = parse_config(PretrainConfig, arguments, "pretrain")
    from pairuni.lab.pretrain.script import run_pretrain
    from pairuni.tiny.write_tiny import MODEL_FILES

    with writing(config.output, "pretrain", (*MODEL_FILES, "pretrain.json", "README.md"), config.overwrite):
        summary = run_pretrain(config)
    print("\n".join(f"{name}: {value}" for name, value in summary.items()))
    return 0


def tiny(arguments: list[str]) -> int:
    config = parse_config(TinyConfig, arguments, "tiny")
    from pairuni.tiny.write_tiny import MODEL_FILES, write_tiny

    with writing(config.output, "tiny", MODEL_FILES, config.overwrite):
        write_tiny(config)
    print(f"a random Janus of {config.image} px in {config.output}")
    return 0
