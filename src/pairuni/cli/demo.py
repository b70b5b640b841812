"""`pairuni demo`: the whole method on the Shapes world, offline, on a CPU, in minutes.

It runs `pairuni train` with a shipped config: writes images, completes and pairs them, evaluates the shipped model on
held-out items of both sides, trains it with Pair-GRPO, evaluates again, and writes a report.
"""

import argparse
from importlib import resources
from pathlib import Path

from pairuni.cli.options import parse_config
from pairuni.config import TrainConfig
from pairuni.errors import InputError
from pairuni.trainer import Trainer, check_names


def demo(arguments: list[str]) -> int:
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
        from pairuni.cli.closing import closing

        print(f"\n{closing(trainer.run, summary)}\n{summary['report']}")
    return 0


def demo_config(output: Path, config_file: str | None, overrides: list[str]) -> TrainConfig:
    """The demo's training config, with data inside its output folder."""
    source = config_file or str(resources.files("pairuni.configs") / "shapes" / "demo.yaml")
    paths = ["--output", str(output), "--data.pairs", str(output / "data" / "pairs.jsonl")]
    config = parse_config(TrainConfig, ["--config", source, *paths, *overrides], "demo", check_names)
    if not config.data.shapes:
        raise InputError("must be positive: a demo makes its own data", field="samples")
    return config
