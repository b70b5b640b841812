"""The commands of one stage each: parse, run, print what was written. Slow imports are inside the functions."""

import argparse
from dataclasses import replace
from glob import escape
from importlib import resources
from pathlib import Path
from typing import Any

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
from pairuni.errors import InputError
from pairuni.files import atomic_path, check_folder, read_json, writing
from pairuni.outputs import Outputs
from pairuni.runs import RunDir, run_of
from pairuni.stages import run_complete, run_pair
from pairuni.trainer import Trainer, check_names
from pairuni.types import Prompt, SamplingSpec, Side


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
        print(closing(trainer.run, summary))
    return 0


def demo(arguments: list[str]) -> int:
    """The whole method on the Shapes world, offline, on a CPU, in minutes.

    It runs `pairuni train` with a shipped config: writes images, completes and pairs them, evaluates the shipped model
    on held-out items of both sides, trains it with Pair-GRPO, evaluates again, and writes a report.
    """
    parser = argparse.ArgumentParser(prog="pairuni demo", exit_on_error=False)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="run directory (default: runs/demo)")
    parser.add_argument("--seed", type=int, default=None, help="seed of data and training (default: the config's)")
    parser.add_argument("--samples", type=int, default=None, help="images per source (default: the config's)")
    parser.add_argument("--config", default=None, help="training config (default: configs/shapes/demo.yaml)")
    try:
        options, overrides = parser.parse_known_args(arguments)
    except argparse.ArgumentError as err:
        raise InputError(str(err)) from None
    for name, value in (("seed", options.seed), ("data.shapes", options.samples)):
        overrides += [] if value is None else [f"--{name}", str(value)]
    trainer = Trainer(demo_config(options.output, options.config, overrides))
    summary = trainer.fit()
    if summary is not None:
        print(closing(trainer.run, summary))
    return 0


def demo_config(output: Path, config_file: str | None, overrides: list[str]) -> TrainConfig:
    """The demo's training config, with data inside its output folder."""
    source = config_file or str(resources.files("pairuni.configs") / "shapes" / "demo.yaml")
    paths = ["--output", str(output), "--data.pairs", str(output / "data" / "pairs.jsonl")]
    config = parse_config(TrainConfig, ["--config", source, *paths, *overrides], "demo", check_names)
    if not config.data.shapes:
        raise InputError("must be positive: a demo makes its own data", field="samples")
    return config


def closing(run: RunDir, summary: dict[str, Any]) -> str:
    """The last lines of a training run: rewards, missing rewards, the checkpoint, scores before -> after, the report.

    Scores appear if the run was evaluated with equal settings before its first step and after its last one.
    """
    from pairuni.eval.runner import table

    lines = ["", f"{summary['steps']} steps are done, {summary['seconds'] / 60:.1f} minutes in this call"]
    for side, missing in summary["missing"].items():
        means = (summary[name][side] for name in ("reward_first", "reward_last"))
        first, last = ("unknown" if value is None else f"{value:.3f}" for value in means)
        lines.append(f"{side} reward, first -> last tenth of the steps: {first} -> {last}; missing rewards: {missing}")
    if summary["skipped"]:
        lines.append(f"warning: {summary['skipped']} updates skipped, because a loss or gradient was not finite")
    lines += [f"warning: {warning}" for warning in summary["warnings"]]
    lines.append(f"checkpoint: {summary['checkpoint'] or 'none'}")
    files = [run.path / folder / "eval.json" for folder in ("eval_before", "eval_after")]
    if all(file.is_file() for file in files):
        before, after = (read_json(file) for file in files)
        # After a continuation without evaluation, eval_after belongs to an earlier step.
        at_the_end = Path(after["model"]).parent.name == run.checkpoint(summary["steps"]).name
        common = {name: entry for name, entry in before["benchmarks"].items() if name in after["benchmarks"]}
        if at_the_end and common and before["config_hash"] == after["config_hash"]:
            lines += ["held-out items with standard errors, before -> after", table(common, after["benchmarks"])]
    return "\n".join([*lines, summary["report"]])


def evaluate(arguments: list[str]) -> int:
    config = parse_config(EvaluateConfig, arguments, "eval", check_names)
    from pairuni.eval import runner
    from pairuni.policies import load_policy
    from pairuni.policies.source import model_name

    output = Path(config.output)
    with writing(output, "eval", runner.FILES, config.overwrite, many=("answers_*.jsonl",)):
        runner.check_images(output, config)
        config = replace(runner.with_ledger(config, output), model=model_name(config.model))
        how = {"device": config.device, "precision": config.precision, "sampler_options": config.sampler_options}
        policy = load_policy(config.model, **how)
        skipped = runner.skipped(config, policy)
        if skipped:
            print(runner.skip_lines(skipped), flush=True)
        options = [str(config.sampler_options)] if config.sampler_options else []
        identity = "\n".join([runner.model_identity(config.model), *options])
        results = runner.evaluate(policy, config, output, identity)
        runner.mark_chosen(results, config.model)
        path = runner.write_eval(output, config.model, config, results, skipped)
        print(f"{runner.table(results)}\n{path}")
    return 0


def sample(arguments: list[str]) -> int:
    config = parse_config(SampleConfig, arguments, "sample")
    import numpy as np
    from PIL import Image

    from pairuni.data.images import load_image
    from pairuni.policies import load_policy
    from pairuni.policies.requests import refuse_long
    from pairuni.policies.sampling import seeds_for

    side, output = Side.GENERATION if config.prompt is not None else Side.UNDERSTANDING, Path(config.output)
    # Before the slow loading of the model, so that a wrong path fails at once.
    check_folder(output.parent)
    images = () if config.image is None else (load_image(config.image),)
    spec = SamplingSpec(
        temperature=config.temperature,
        guidance=config.guidance,
        max_new_tokens=config.max_new_tokens,
        top_k=config.top_k,
        top_p=config.top_p,
    )
    written = Outputs(output.parent, "sample", [escape(output.name)], config.overwrite)
    how = {"device": config.device, "precision": config.precision, "sampler_options": config.sampler_options}
    policy = load_policy(config.model, **how)
    prompt = Prompt(side, config.prompt or config.question or "", images)
    refuse_long(policy, prompt, config.max_new_tokens, "question" if config.prompt is None else "prompt")
    rollouts = policy.sample(
        side, [prompt], config.number, spec, seeds_for(config.seed, 0, ["sample"], side, config.number)
    )
    if rollouts.images_BRHWC is not None:
        with written, atomic_path(output) as temporary:
            Image.fromarray(np.concatenate(list(rollouts.images_BRHWC[0]), axis=1)).save(temporary, format="PNG")
        print(f"{config.number} images of {config.prompt!r} in {output}")
    if rollouts.texts is not None:
        print("\n".join(rollouts.texts[0]))
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
