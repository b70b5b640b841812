"""How many tokens and warps per program of the decode kernel are fastest on this GPU: `python benchmarks/kernel.py`.

One layer of Janus-Pro-1B in bf16 (16 heads of 128) over keys and values that outgrow the caches, in four shapes: a
batch of image rows half way and near the end, few rows, and answers over an image that eight of them share. Prints
microseconds and the rate at which keys and values are read; writes kernel_gpu.json.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

HEADS, WIDTH = 16, 128
CHOICES = ((8, 1), (16, 1), (32, 1), (64, 1), (16, 2), (32, 2), (64, 2), (32, 4), (64, 4), (128, 4))


@dataclass(frozen=True)
class Shape:
    """A decode step: rows over prompts of `prompt` tokens, `filled` of `room` tokens of their own."""

    rows: int
    prompts: int
    prompt: int
    filled: int
    room: int

    @property
    def read(self) -> int:
        """Bytes of keys and values, each once."""
        return 2 * 2 * HEADS * WIDTH * (self.prompts * self.prompt + self.rows * (self.filled + 1))


SHAPES = {
    "image": Shape(256, 17, 33, 288, 575),
    "image, late": Shape(256, 17, 33, 560, 575),
    "few rows": Shape(32, 3, 33, 288, 575),
    "text": Shape(128, 16, 620, 8, 15),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(1, "kernel.py: a GPU is needed\n")
    from pairuni.policies.janus import kernel

    options.output.mkdir(parents=True, exist_ok=True)
    made = {name: Inputs(shape) for name, shape in SHAPES.items()}
    rows: list[dict[str, Any]] = []
    for kernel.BLOCK, kernel.WARPS in CHOICES:
        timed = {name: inputs.microseconds() for name, inputs in made.items()}
        rows.append({"block": kernel.BLOCK, "warps": kernel.WARPS, "microseconds": timed})
        shown = (f"{name} {t:6.1f} us {SHAPES[name].read / t / 1e3:5.0f} GB/s" for name, t in timed.items())
        print(f"{kernel.BLOCK:4} {kernel.WARPS}", *shown, sep=" | ", flush=True)
    report = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "choices": rows}
    (options.output / "kernel_gpu.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


class Inputs:
    """Random keys and values of three layers, taken in turn so that none is still in the cache."""

    def __init__(self, shape: Shape) -> None:
        def noise(*sizes: int) -> Tensor:
            return torch.randn(*sizes, device="cuda", dtype=torch.bfloat16)

        kept, own = (shape.prompts, HEADS, shape.prompt, WIDTH), (shape.rows, HEADS, shape.room, WIDTH)
        self.layers = [((noise(*kept), noise(*kept)), (noise(*own), noise(*own))) for _ in range(3)]
        query, key, value = (noise(shape.rows, HEADS, WIDTH) for _ in range(3))
        self.token = query, key, value
        self.slots = torch.arange(shape.rows, device="cuda") * shape.prompts // shape.rows
        self.filled = torch.tensor([shape.filled], device="cuda")
        angles = 6 * torch.rand(WIDTH // 2, device="cuda")
        self.turn = torch.cat([angles.cos()] * 2), torch.cat([angles.sin()] * 2)

    def microseconds(self) -> float:
        """Median of fifteen launches, after one that compiles."""
        from pairuni.policies.janus import kernel

        taken = []
        for n in range(16):
            prefix, own = self.layers[n % 3]
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            kernel.attend(self.token, self.turn, prefix, own, self.slots, self.filled, WIDTH**-0.5)
            end.record()
            torch.cuda.synchronize()
            taken.append(1e3 * start.elapsed_time(end))
        return median(taken[1:])


if __name__ == "__main__":
    main()
