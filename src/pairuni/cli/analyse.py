"""`pairuni analyse SUBCOMMAND`: pages and tables about data and runs."""

import sys
from dataclasses import replace
from importlib import resources
from pathlib import Path

from pairuni.cli.options import parse_config, run_part, with_first
from pairuni.cli.shipped import config_file
from pairuni.config import AblationsConfig, GalleryConfig, GradientsConfig, PairConfig, TrainConfig
from pairuni.errors import InputError
from pairuni.outputs import Outputs
from pairuni.runs import RunDir
from pairuni.trainer import check_model, check_names

PARTS = {
    "pairs": ("pairuni.cli.analyse:pairs", "PAIRS.jsonl -> an HTML gallery of pairs and of samples without a pair"),
    "gradients": (
        "pairuni.cli.analyse:gradients",
        "RUN -> agreement of the two sides' gradients, by data mix",
    ),
    "ablations": (
        "pairuni.cli.analyse:ablations",
        "--suite NAME -> training runs that differ in one setting, with tables and figures",
    ),
}


def analyse(arguments: list[str]) -> int:
    return run_part("analyse", PARTS, arguments)


def pairs(arguments: list[str]) -> int:
    config = parse_config(GalleryConfig, with_first(arguments, "pairs"), "analyse pairs")
    from pairuni.pages.gallery import write_gallery

    summary = write_gallery(config)
    said = []
    for name, counts in summary["sections"].items():
        total, shown = counts["total"], counts["shown"]
        said.append(f"{name}: {total:,}" if shown == total else f"{name}: {shown:,} of {total:,}")
    print("; ".join(said))
    for note in summary["notes"]:
        print(f"note: {note}")
    print(summary["page"])
    return 0


def gradients(arguments: list[str]) -> int:
    config = parse_config(GradientsConfig, with_first(arguments, "run"), "analyse gradients")
    run = Path(config.run)
    file = RunDir(run).config if run.is_dir() else config_file(config.run)
    given = ["--config", str(file), "--sides", "both"]
    train = parse_config(TrainConfig, given, "train", check_names, old_names=run.is_dir())
    check_model(replace(train, model=replace(train.model, path=config.model or train.model.path)))
    if not config.output and not run.is_dir():
        raise InputError("must be given when run is a config file", field="output")
    output = Path(config.output) if config.output else run / "gradients"
    from pairuni.lab.gradient_agreement import measure_gradients, table

    print(table(measure_gradients(config, train, output)))
    print(output / "gradients.png")
    return 0


def ablations(arguments: list[str]) -> int:
    config = parse_config(AblationsConfig, with_first(arguments, "suite"), "analyse ablations")
    file = config.base or str(resources.files("pairuni.configs") / "shapes" / "demo.yaml")
    train = parse_config(TrainConfig, ["--config", file], "train", check_names)
    check_model(train)
    pair = parse_config(PairConfig, ["--config", config.pair], "pair") if config.pair else None
    from pairuni.lab.ablations.results import by_streams
    from pairuni.lab.ablations.schedule import Base
    from pairuni.lab.ablations.study import run_ablations
    from pairuni.lab.ablations.write import write_suite

    output = Path(config.output)
    names = [f"{suite}{ending}" for suite in config.suite for ending in (".md", ".json", ".svg", "_c*.svg")]
    with Outputs(output, "analyse ablations", names, config.overwrite, many=("configs/*.yaml",)):
        outcome = run_ablations(config, Base(train, pair, output), check_names)
        for suite in () if config.dry_run else config.suite:
            print(f"{write_suite(suite, by_streams(outcome.every), output)}\n{output / suite}.md\n")
    for failure in outcome.failures:
        print(f"failed: {failure.stage} of {', '.join(failure.runs)}: {failure.said} ({failure.log})", file=sys.stderr)
    print("\n".join([f"configs: {output / 'configs'}"] * config.dry_run + [outcome.closing]))
    return 1 if outcome.failures else 0
