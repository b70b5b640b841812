"""The SVG coordinates of a histogram: similarities of retrieved pairs, above quantiles of random pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor

from pairuni.data.overview import histogram

WIDTH, HEIGHT = 560, 190
LEFT, RIGHT, TOP, BASE = 14.0, 546.0, 16.0, 138.0
_BINS = 50
_FEW, _FEW_BINS = 60, 20


@dataclass(frozen=True)
class Bar:
    """A bin: its place in the SVG, its range, and its number of pairs."""

    x: float
    y: float
    width: float
    height: float
    low: float
    high: float
    number: int


@dataclass(frozen=True)
class Tick:
    x: float
    text: str


@dataclass(frozen=True)
class Band:
    """Quantiles of random pairs: from the 5th to the 95th percentile, the middle half, the median."""

    outer: tuple[float, float]
    inner: tuple[float, float]
    median: float
    text: str


@dataclass(frozen=True)
class SimilarityChart:
    """The histogram of `number` pairs. `random` is None if pairing.json has no random pairs."""

    bars: list[Bar]
    ticks: list[Tick]
    random: Band | None
    number: int
    most: int
    """Pairs in the highest bar."""
    size: tuple[int, int] = (WIDTH, HEIGHT)
    area: tuple[float, float, float, float] = (LEFT, RIGHT, TOP, BASE)
    """Left, right, top and bottom of the bars."""


def similarity_chart(values: Sequence[float], quantiles: Mapping[str, float] | None) -> SimilarityChart | None:
    """Similarities in [0, 1] as bars over cosines of random pairs by quantile ("0.05", ...); None without values."""
    bins = histogram(values, _BINS if len(values) > _FEW else _FEW_BINS)
    if not bins:
        return None
    names = ("0.05", "0.25", "0.5", "0.75", "0.95")
    known = [quantiles[n] for n in names] if quantiles is not None and all(n in quantiles for n in names) else None
    low = floor(10 * min(bins[0][0], known[0] if known else 1.0)) / 10

    def place(value: float) -> float:
        return round(LEFT + (value - low) / (1 - low) * (RIGHT - LEFT), 1)

    most = max(number for _, _, number in bins)
    bars = []
    for start, end, number in bins:
        height = round(number / most * (BASE - TOP), 1)
        x, width = place(start), round(place(end) - place(start) - 1, 1)
        bars.append(Bar(x, round(BASE - height, 1), width, height, start, end, number))
    ticks = [Tick(place(n / 10), f"{n / 10:g}") for n in range(round(10 * low), 11)]
    band = None
    if known is not None:
        text = f"random pairs: median {known[2]:.2f}, 90 % within {known[0]:.2f} to {known[4]:.2f}"
        a, b, c, d, e = (place(value) for value in known)
        band = Band((a, e), (b, d), c, text)
    return SimilarityChart(bars, ticks, band, len(values), most)
