"""Counts over a pairs file, and the pairing.json that `pairuni pair` wrote beside it.

The gallery and the data card of an export show them. No images are opened here.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pairuni.files import file_hash, read_json
from pairuni.types import Pair, Side
from pairuni.validation import input_error

NOT_STATED = "not stated"
_HALVES = (Side.GENERATION, Side.UNDERSTANDING)
_PLAIN = ConfigDict(allow_inf_nan=False)  # keys that are not named here are passed over


@dataclass(frozen=True)
class HalfCount:
    """How many pairs have a value (a tag, a side) in the half that is drawn, and in the half that is asked about."""

    value: str
    generate: int
    understand: int


@dataclass(frozen=True)
class Overview:
    """Counts over pairs."""

    kinds: dict[str, int]
    sides: list[HalfCount]
    """Which half of the quadruple was original; NOT_STATED where the file does not say."""
    tags: list[HalfCount]
    """The most frequent first; a half without a tag counts as ""."""
    similarities: list[float]
    """Those of retrieved pairs, in file order."""


@dataclass(frozen=True)
class PairingRecord:
    """The parts of pairing.json that are shown elsewhere."""

    __pydantic_config__ = _PLAIN
    options: dict[str, Any] = field(default_factory=dict)
    extractor: str = ""
    input_hashes: dict[str, str] = field(default_factory=dict)
    pairs_hash: str = ""
    counts: dict[str, Any] = field(default_factory=dict)
    similarity: dict[str, float] | None = None
    """Quantiles over retrieved pairs; None where there are none."""
    random_pair_cosine: dict[str, float] | None = None
    notices: list[str] = field(default_factory=list)


_RECORD = TypeAdapter(PairingRecord)


def overview(pairs: Sequence[Pair]) -> Overview:
    """Counts pairs by kind, and their halves by original side and by tag."""
    halves = {side: [pair.half(side) for pair in pairs] for side in _HALVES}
    sides = {side: Counter(str(half.side or NOT_STATED) for half in found) for side, found in halves.items()}
    tags = {side: Counter(half.tag for half in found) for side, found in halves.items()}
    kinds = Counter(str(pair.kind) for pair in pairs)
    similarities = [pair.similarity for pair in pairs if pair.kind == "retrieved"]
    return Overview(dict(sorted(kinds.items())), _by_frequency(sides), _by_frequency(tags), similarities)


def _by_frequency(counts: Mapping[Side, Counter[str]]) -> list[HalfCount]:
    rows = [HalfCount(v, *(counts[side][v] for side in _HALVES)) for v in {v for c in counts.values() for v in c}]
    return sorted(rows, key=lambda row: (-row.generate - row.understand, row.value))


def histogram(values: Sequence[float], bins: int) -> list[tuple[float, float, int]]:
    """(from, to, number) of the bins of width 1 / `bins` from the one of the smallest value up to 1.

    Values are in [0, 1]; each bin holds its lower edge, the last one its upper edge too.
    """
    if not values:
        return []
    # Rounded before it is cut off: 0.58 * 50 is less than 29.
    numbers = Counter(min(int(round(value * bins, 9)), bins - 1) for value in values)
    return [(n / bins, (n + 1) / bins, numbers[n]) for n in range(min(numbers), bins)]


def read_pairing(pairs: Path) -> tuple[PairingRecord, bool] | None:
    """pairing.json beside `pairs`, and whether it was written with this very file; None where there is none.

    Raises:
        InputError: it is not JSON, or a part of it is of the wrong kind.
    """
    path = pairs.parent / "pairing.json"
    if not path.is_file():
        return None
    try:
        record = _RECORD.validate_python(read_json(path))
    except ValidationError as err:
        raise input_error(err, file=path) from None
    return record, record.pairs_hash == file_hash(pairs)
