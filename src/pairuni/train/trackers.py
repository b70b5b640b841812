"""Sends metrics and samples to tensorboard, wandb or trackio through accelerate. metrics.jsonl is always written.

A tracker that fails during a run is reported and dropped; training goes on. A continued run continues its tracker's
run. Only the first process calls this.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from PIL import Image

from pairuni.config import LogConfig
from pairuni.errors import InputError
from pairuni.files import read_jsonl
from pairuni.progress import say
from pairuni.runs import RunDir
from pairuni.types import Side

_ANSWERS = ("question", "text", "rewards")


def check_trackers(log: LogConfig) -> None:
    """Raises InputError if one of `log.trackers` is not installed."""
    for name in log.trackers:
        if find_spec(name) is None:
            message = f"{name} is not installed; pip install {name}, or leave it out"
            raise InputError(message, field="log.trackers")


class Trackers:
    """The trackers of one run, named by `log.trackers`."""

    def __init__(self, log: LogConfig, run: RunDir, settings: Mapping[str, Any], ids: Mapping[str, str], step: int):
        """Starts or continues their runs. Raises InputError: one is not installed, or cannot be started.

        Args:
            settings: the resolved config, flat.
            ids: of runs to continue, from `ids`.
            step: finished steps.
        """
        self._named: dict[str, Any] = {}
        check_trackers(log)
        for name in log.trackers:
            try:
                self._named[name] = _start(name, log.project, run.path, ids.get(name), step)
                _settings(name, self._named[name], settings)
            except Exception as err:  # a tracker's own, of a library that need not be here
                raise InputError(f"{name} cannot be started ({_brief(err)})", field="log.trackers") from err

    @property
    def ids(self) -> dict[str, str]:
        """Run ids that a checkpoint keeps, so that a continued run goes on in the same tracker run."""
        keys = {"wandb": "id", "trackio": "name"}  # what each finds a run by
        return {name: getattr(own.tracker, keys[name]) for name, own in self._named.items() if name in keys}

    def metrics(self, row: Mapping[str, float | None], step: int) -> None:
        """Logs a row of metrics.jsonl. Leaves out values that are not finite."""
        values = {name: float(v) for name, v in row.items() if v is not None and np.isfinite(v)}
        self._each(lambda name, tracker: tracker.log(values, step=step))

    def samples(self, folder: Path, step: int) -> None:
        """Logs images, answers and rewards from a folder of `write_samples`."""
        if not self._named:
            return
        rows = [row for _, row in read_jsonl(folder / "samples.jsonl")]
        answers = [[str(row[name]) for name in _ANSWERS] for row in rows if row["side"] == Side.UNDERSTANDING]
        drawn = [row for row in rows if row["side"] == Side.GENERATION]
        images = [np.asarray(Image.open(folder / row["image"]).convert("RGB")) for row in drawn]
        captions = [f"{row['prompt']} {json.dumps(row['rewards'])}" for row in drawn]
        columns, captioned = list(_ANSWERS), list(zip(images, captions, strict=True))

        def send(name: str, tracker: Any) -> None:
            if name == "tensorboard":
                if images:
                    tracker.log_images({"samples/images": np.stack(images)}, step=step, dataformats="NHWC")
                    tracker.log({"samples/captions": _table([[c] for c in captions], ["image"])}, step=step)
                if answers:
                    tracker.log({"samples/answers": _table(answers, columns)}, step=step)
            elif name == "wandb":
                import wandb  # pyright: ignore[reportMissingImports]

                if images:
                    shown = [wandb.Image(image, caption=caption) for image, caption in captioned]
                    tracker.log({"samples/images": shown}, step=step)
                if answers:
                    tracker.log_table("samples/answers", columns, answers, step=step)
            else:
                import trackio  # pyright: ignore[reportMissingImports]

                shown = [trackio.Image(image, caption=caption) for image, caption in captioned]
                tracker.log({f"samples/image_{n:02d}": image for n, image in enumerate(shown)}, step=step)
                if answers:
                    tracker.log({"samples/answers": trackio.Table(columns=columns, data=answers)}, step=step)

        self._each(send)

    def close(self) -> None:
        self._each(lambda name, tracker: tracker.finish())

    def _each(self, call: Callable[[str, Any], None]) -> None:
        for name, tracker in list(self._named.items()):
            try:
                call(name, tracker)
            except Exception as err:  # whatever their network does
                del self._named[name]
                say(f"warning: {name} failed and is left for the rest of this call ({_brief(err)})")


def _start(name: str, project: str, path: Path, run: str | None, step: int) -> Any:
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # accelerate's log messages need it
    options: dict[str, Any]
    if name == "tensorboard":
        options = {"run_name": path.name, "logging_dir": str(path / name), "purge_step": step + 1 if step else None}
    elif name == "wandb":
        options = {"run_name": project, "name": path.name, "id": run, "resume": "allow", "dir": str(path)}
    else:
        # trackio resumes by name, and folders of other runs are named like this one.
        options = {"run_name": project, "name": run or f"{path.name}-{uuid4().hex[:8]}"}
        options["resume"] = "allow" if run else "never"
    tracker = LOGGER_TYPE_TO_CLASS[name](**options)
    tracker.start()
    return tracker


def _settings(name: str, tracker: Any, settings: Mapping[str, Any]) -> None:
    plain = {key: v if isinstance(v, str | int | float) else json.dumps(v) for key, v in settings.items()}
    if name == "tensorboard":  # its own way makes a second run of it
        tracker.log({"config": "\n".join(f"    {key}: {value}" for key, value in plain.items())}, step=0)
    else:
        tracker.store_init_configuration(plain)


def _table(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> str:
    """A Markdown table. Texts of models and prompts stand as code, with bars and ticks replaced."""

    def cell(text: str) -> str:
        plain = " ".join(text.split()).replace("`", "'").replace("|", "/")
        return f"`{plain}`" if plain else ""

    lines = [columns, ["---"] * len(columns), *([cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _brief(err: BaseException) -> str:
    return " ".join(f"{type(err).__name__}: {err}".split())[:200]
