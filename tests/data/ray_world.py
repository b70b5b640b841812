"""What test_ray.py kills: `run_pair` on Ray with a colour_hog that is slow and writes down every image it computes.

    python ray_world.py QUADRUPLES OUTPUT

The environment, which workers inherit, has the file (RAY_WORLD_LOG) and the name of the run (RAY_WORLD_RUN).
"""

import hashlib
import os
import sys
import time
from collections.abc import Sequence

import numpy as np

from pairuni.config import PairConfig
from pairuni.data.colour_hog import ColourHog
from pairuni.data.features import EXTRACTORS
from pairuni.data.pairing import run_pair

BATCHES = {"ray": 1, "local": 64}  # on Ray a shard is sixteen batches
SECONDS = 0.06  # per image


class Slow(ColourHog):
    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        time.sleep(SECONDS * len(images))
        with open(os.environ["RAY_WORLD_LOG"], "a", encoding="utf-8") as log:  # short lines are appended whole
            log.write("".join(f"{os.environ['RAY_WORLD_RUN']} {name(image)}\n" for image in images))
        return super().features(images)


def name(image: np.ndarray) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def config(quadruples: str, output: str, engine: str) -> PairConfig:
    return PairConfig(
        quadruples, output, extractor="colour_hog", clusters=20, feature_batch=BATCHES[engine], engine=engine
    )


if __name__ == "__main__":
    EXTRACTORS["colour_hog"] = ("ray_world:Slow", "")
    run_pair(config(sys.argv[1], sys.argv[2], "ray"))
