"""`pairuni smoke`: prints the checks, writes the page, and exits with 1 if a check failed."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pairuni.cli.options import parse_config
from pairuni.config import SmokeConfig
from pairuni.files import put, write_json, writing
from pairuni.pages.smoke_page import PromptOutputs, write_smoke
from pairuni.train.smoke_step import run_smoke, summary
from pairuni.types import Side


def smoke(arguments: list[str]) -> int:
    """Returns 1 if a check failed."""
    # `--model PATH`, as in other commands, stands for `--model.path PATH`.
    given = [a.replace("--model", "--model.path", 1) if a.split("=")[0] == "--model" else a for a in arguments]
    config = parse_config(SmokeConfig, given, "smoke")
    folder = Path(config.output)

    def keep(name: str, pixels: np.ndarray) -> str:
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "PNG")
        put(folder / "images" / name, content.getvalue())
        return f"images/{name}"

    with writing(config.output, "smoke", ("smoke.json", "smoke.html"), config.overwrite, many=("images/*.png",)):
        done = run_smoke(config, lambda text: print(f"{text} ...", flush=True))
        drawn, said = [], []
        for call in (call for sampled in done.batch.values() for call in sampled.calls):
            for b, prompt in enumerate(call.prompts):
                if call.images_BRHWC is not None:
                    names = [keep(f"drawn_{b}_{r}.png", pixels) for r, pixels in enumerate(call.images_BRHWC[b])]
                    drawn.append(PromptOutputs(prompt.text, names))
                if call.texts is not None:
                    seen = keep(f"seen_{b}.png", prompt.images[0])
                    said.append(PromptOutputs(prompt.text, [seen], call.texts[b]))
        found = summary(done)
        write_json(folder / "smoke.json", _without_nan({"model": config.model.path, **found}))
        page = write_smoke(folder, config.model.path, found, [*drawn, *said])
    width = max(len(check.name) for check in done.checks)
    print("\n".join(f"{name}: {value}" for name, value in done.facts.items()))
    print(done.trained)
    for check in done.checks:
        print(f"{'ok' if check.passed else 'FAILED':<6}  {check.name:<{width}}  {check.found}")
    for side in Side:
        print(f"behaviour_gap, {side}: {done.metrics[f'behaviour_gap/{side}']:.3g}")
    measured = f"{found['measured_gib']:.2f} GiB" if found["measured_gib"] else "not available on this system"
    print(f"peak memory: planned {found['planned_gib']:.2f} GiB, measured {measured}; {done.seconds:.0f} s")
    print(page)
    return 0 if done.passed else 1


def _without_nan(value: Any) -> Any:
    """Replaces NaN and infinities, which JSON lacks, by None."""
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
