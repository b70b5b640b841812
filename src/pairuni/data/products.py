"""Inner products of feature rows in blocks, on a GPU where there is one: what k-means and the candidate graph share.

Fast products only propose: `above` returns every place whose product may reach its row's limit, with a margin that
covers the rounding of its precision, and `exact` computes those again in float64. So neither the device nor the
precision nor the number of threads changes what is selected or matched. Left rows and right rows are unit vectors;
N, M rows, D features, E places.
"""

from collections.abc import Callable, Iterator
from functools import cache
from time import perf_counter

import numpy as np
import torch

Precision = torch.dtype

# Right rows that are on the device at once (a shard), and products that are held at once: what fits a CPU's caches, and
# what keeps a GPU busy.
SIZES = {"cpu": (1 << 13, 1 << 23), "cuda": (1 << 16, 1 << 26)}
_MARGIN = {
    torch.float32: 1e-5,  # the rounding error at 2048 dimensions is about 1e-6
    # Both factors are rounded by at most 2**-8, the product of a value below 1 by 2**-9; the sum is in float32.
    torch.bfloat16: (1 + 2**-8) ** 2 - 1 + 2**-9 + 1e-5,
}
_GATHER = 1 << 19  # feature values that are gathered at once

Limit = Callable[[torch.Tensor, int, float], torch.Tensor]
"""(products [R, S], first row, margin) -> least product [R, 1] of a place that is wanted, margin included."""


def above(
    left_ND: np.ndarray, right_MD: np.ndarray, limit: Limit, precision: Precision | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(row, column) int64 arrays [E] of the places that reach `limit`, block by block, each place once.

    Args:
        left_ND: float32 [N, D] unit rows; may be memory-mapped, is read in blocks.
        right_MD: float32 [M, D], likewise; taken in shards, each against all of the left.
        precision: torch.float32 or torch.bfloat16 (default: what is faster here).
    """
    device = _device()
    precision = fastest() if precision is None else precision
    shard, block = SIZES[device.type]
    for first in range(0, len(right_MD) if len(left_ND) else 0, shard):
        right_SD = _tensor(right_MD[first : first + shard], device, precision)
        rows = min(max(1, block // len(right_SD)), len(left_ND))
        # Made once: new memory for each block would cost a third of the product.
        products = torch.empty(rows, len(right_SD), dtype=precision, device=device)
        reached = torch.empty(rows, len(right_SD), dtype=torch.bool, device=device)
        for start in range(0, len(left_ND), rows):
            left_RD = _tensor(left_ND[start : start + rows], device, precision)
            products_RS, reached_RS = products[: len(left_RD)], reached[: len(left_RD)]
            torch.mm(left_RD, right_SD.T, out=products_RS)
            least_R1 = _rounded_down(limit(products_RS, start, _MARGIN[precision]), precision)
            torch.ge(products_RS, least_R1, out=reached_RS)
            row, column = np.divmod(_places(reached_RS), len(right_SD))
            yield row + start, column + first


def _places(reached_RS: torch.Tensor) -> np.ndarray:
    """Flat indices, int64. On a CPU NumPy finds them forty times faster than torch."""
    if reached_RS.device.type == "cpu":
        return np.flatnonzero(reached_RS.numpy())
    return torch.nonzero(reached_RS.view(-1)).view(-1).cpu().numpy()


def exact(left_ND: np.ndarray, right_MD: np.ndarray, row_E: np.ndarray, column_E: np.ndarray) -> np.ndarray:
    """float64 [E]: the inner products at these places. One does not depend on the others, nor on where it stands."""
    product_E = np.empty(len(row_E))
    step = max(1, _GATHER // left_ND.shape[1])
    for start in range(0, len(row_E), step):
        places = slice(start, start + step)
        left, right = np.take(left_ND, row_E[places], axis=0), np.take(right_MD, column_E[places], axis=0)
        product_E[places] = np.einsum("ed,ed->e", left, right, dtype=np.float64)
    return product_E


@cache
def fastest() -> Precision:
    """bfloat16 on GPUs and on CPUs with instructions for it, which a short trial tells; float32 on others."""
    device = _device()
    if device.type == "cuda":
        return torch.bfloat16
    seconds = {}
    for precision in _MARGIN:
        factor = torch.ones(1024, 1024, dtype=precision)
        tries = []
        for _ in range(4):
            start = perf_counter()
            _ = factor @ factor.T
            tries.append(perf_counter() - start)
        seconds[precision] = min(tries)
    return min(_MARGIN, key=lambda precision: seconds[precision])


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _tensor(rows_ND: np.ndarray, device: torch.device, precision: Precision) -> torch.Tensor:
    # A copy: memory-mapped rows are read-only, which torch does not know.
    return torch.tensor(np.asarray(rows_ND)).to(device=device, dtype=precision)


def _rounded_down(least_R1: torch.Tensor, precision: Precision) -> torch.Tensor:
    """In the precision that it is compared in, never above what it was."""
    least_R1 = least_R1.float()
    rounded_R1 = least_R1.to(precision)
    down_R1 = torch.nextafter(rounded_R1, torch.full_like(rounded_R1, -torch.inf))
    return torch.where(rounded_R1.float() > least_R1, down_R1, rounded_R1)
