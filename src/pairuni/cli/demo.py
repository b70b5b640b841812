"""`pairuni demo`: the whole method on the Shapes world, offline, on a CPU, in minutes.

Writes images, completes and pairs them, measures the shipped model on held-out items of both sides, trains it with
Pair-GRPO, measures again, and reports. Every stage is the one that a user's own data goes through.
"""

import argparse
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path

from pairuni.cli.commands import run_complete, run_pair, run_training
from pairuni.cli.names import check_names
from pairuni.cli.options import parse_config
from pairuni.config import CompleteConfig, PairConfig, TrainConfig
from pairuni.errors import InputError
from pairuni.files import read_json
from pairuni.shapes.world import write_world


def demo(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="pairuni demo", exit_on_error=False)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="run directory (default: runs/demo)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=600, help="images per source (default: 600)")
    parser.add_argument("--config", default=None, help="another config for train (default: configs/shapes/demo.yaml)")
    try:
        options, overrides = parser.parse_known_args(arguments)
    except argparse.ArgumentError as err:
        raise InputError(str(err)) from None
    if options.samples < 10:
        raise InputError(f"must be at least 10, not {options.samples}", field="samples")
    config = demo_config(options.output, options.seed, options.config, overrides)
    run_demo(config, options.samples)
    return 0


def run_demo(config: TrainConfig, samples: int) -> None:
    """Runs all stages into `config.output`; a demo that was stopped continues."""
    begun = time.monotonic()
    output = Path(config.output)
    data = output / "data"
    if not (data / "pairs.jsonl").is_file():
        print(f"1/5 writing {samples} understanding and {samples} generation images to {data}")
        write_world(data, samples, samples, config.seed)
        print("2/5 completing each sample's missing half, then pairing")
        complete, pair = _data_configs(data, samples, config.seed)
        run_complete(complete)
        run_pair(pair)
    print(f"3/5 measuring, 4/5 training {config.steps} steps, 5/5 measuring and reporting")
    run_training(config)
    _print_summary(output, time.monotonic() - begun)


def demo_config(output: Path, seed: int, config_file: str | None, overrides: list[str]) -> TrainConfig:
    source = config_file or str(resources.files("pairuni.configs") / "shapes" / "demo.yaml")
    paths = ["--output", str(output), "--data.pairs", str(output / "data" / "pairs.jsonl")]
    config = parse_config(TrainConfig, ["--config", source, *paths, *overrides], "demo", check_names)
    return replace(config, seed=seed)


def _data_configs(data: Path, samples: int, seed: int) -> tuple[CompleteConfig, PairConfig]:
    sources = str(data / "understanding.jsonl"), str(data / "generation.jsonl")
    complete = CompleteConfig(*sources, output=str(data), seed=seed)
    # The paper's share of aligned pairs (4,971 of 16,320) is near a third; so is a fifth of the images here.
    quadruples = str(data / "quadruples.jsonl")
    pair = PairConfig(quadruples, str(data), extractor="colour_hog", clusters=2 * samples // 5, seed=seed)
    return complete, pair


def _print_summary(output: Path, seconds: float) -> None:
    from pairuni.eval.runner import table

    before, after = (read_json(output / folder / "eval.json")["benchmarks"] for folder in ("eval_before", "eval_after"))
    print(f"\nheld-out items, per cent with standard errors, before -> after ({seconds / 60:.1f} minutes in all)")
    print(table(before, after))
    print(output / "report.html")
