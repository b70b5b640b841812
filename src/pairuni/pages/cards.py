"""The cards of all pages: a pair with its pictures, and what a model made of one prompt.

An image that is missing, broken or outside its folder becomes a note (data/pictures.py), because a page is often made
on a machine without the data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pairuni.data.pictures import MAX_SIDE, Picture, embed
from pairuni.types import Pair


@dataclass(frozen=True)
class PairCard:
    """A pair; `understand` is None for a pair of one image."""

    pair: Pair
    generate: Picture
    understand: Picture | None

    @property
    def lost(self) -> int:
        """Number of its pictures that cannot be shown."""
        return sum(picture is not None and picture.uri is None for picture in (self.generate, self.understand))


@dataclass(frozen=True)
class Output:
    """A picture or a text with a line below it."""

    picture: Picture | None = None
    text: str = ""
    note: str = ""


@dataclass(frozen=True)
class SampleCard:
    """Outputs at one prompt, in one or several columns of (title, outputs)."""

    label: str
    asked: str
    columns: Sequence[tuple[str, Sequence[Output]]]


def pair_card(pair: Pair, root: Path, side: int = MAX_SIDE, jpeg: bool = False) -> PairCard:
    """The card of a pair. Image paths are relative to `root`; `side` and `jpeg` are those of `embed`."""
    halves = [pair.generate.image_path, pair.understand.image_path]
    first, *other = (embed(path, root, path, side, jpeg) for path in dict.fromkeys(halves))
    return PairCard(pair, first, other[0] if other else None)
