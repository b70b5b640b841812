"""How a Shapes world becomes pairs, wherever one is made: for the demo, for ablations."""

from pathlib import Path

from pairuni.config import CompleteConfig, PairConfig, ShapesConfig
from pairuni.shapes.world import SOURCES

QUADRUPLES = "quadruples.jsonl"


def recipe(world: ShapesConfig) -> tuple[CompleteConfig, PairConfig]:
    """Configs of `complete` and `pair`, all in the world's own folder and with its seed.

    A fifth of the images become aligned pairs, and near a third of the pairs: the paper's share (4,971 of 16,320).
    """
    folder = Path(world.output)
    complete = CompleteConfig(*(str(folder / name) for name in SOURCES), output=world.output, seed=world.seed)
    clusters = max(1, (world.understanding + world.generation) // 5)
    quadruples = str(folder / QUADRUPLES)
    return complete, PairConfig(quadruples, world.output, extractor="colour_hog", clusters=clusters, seed=world.seed)
