"""Inner products of feature rows in blocks, on a GPU where there is one: used by k-means and by the candidate graph.

Fast products only propose: `above` returns every place whose product may reach its row's limit, with a margin that
covers the rounding of its precision, and `exact` computes those again in float64. So neither the device nor the
precision nor the number of threads changes what is selected or matched. The margin of x.c, computed from rounded x' and
c', is |x - x'| + |x'| |c - c'| (Cauchy and Schwarz: x.c - x'.c' = (x - x').c + x'.(c - c'), |c| = 1), from the rounding
that is there: a third of what bf16 could lose at worst. Left and right rows are unit vectors; N, M rows, D features,
R left rows of a block, S right rows of a shard, E places.
"""

from collections.abc import Callable, Iterator
from functools import cache
from time import perf_counter

import numpy as np
import torch

SIZES = {"cpu": (1 << 13, 1 << 23), "cuda": (1 << 16, 1 << 26)}
"""Right rows that are on the device at once (a shard), and products that are held at once."""
PRECISIONS = (torch.float32, torch.bfloat16)
_SUM = 1e-5  # the error of adding up in float32: about 1e-6 at 2048 dimensions
_GATHER = 1 << 19  # feature values that are gathered at once

Limit = Callable[[torch.Tensor, int, torch.Tensor], torch.Tensor]
"""(products [R, S], first row, margin [R, 1]) -> least product [R, 1] of a place that is wanted, margin included."""


def above(
    left_ND: np.ndarray, right_MD: np.ndarray, limit: Limit, precision: torch.dtype | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(row, column) int64 arrays [E] of the places that reach `limit`, block by block, each place once.

    Args:
        left_ND: float32 [N, D] unit rows; may be memory-mapped, is read in blocks.
        right_MD: float32 [M, D], likewise; taken in shards, each against all of the left.
        precision: torch.float32 or torch.bfloat16 (default: the faster one here).
    """
    precision = precision or fastest()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # Else cuBLAS may add up parts of a sum in bfloat16.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    shard, block = SIZES[device.type]

    def rounded(rows_ND: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows on the device in the precision, and the length [N, 1] of the rounding error of each."""
        rows = torch.tensor(np.asarray(rows_ND)).to(device)  # a copy: memory-mapped rows are read-only
        kept = rows.to(precision)
        return kept, torch.linalg.vector_norm(rows - kept, dim=1, keepdim=True)

    for first in range(0, len(right_MD) if len(left_ND) else 0, shard):
        right_SD, lost_S1 = rounded(right_MD[first : first + shard])
        rows = min(max(1, block // len(right_SD)), len(left_ND))
        # Made once: new memory for each block would cost a third of the product.
        products = torch.empty(rows, len(right_SD), dtype=precision, device=device)
        for start in range(0, len(left_ND), rows):
            left_RD, lost_R1 = rounded(left_ND[start : start + rows])
            products_RS = products[: len(left_RD)]
            torch.mm(left_RD, right_SD.T, out=products_RS)
            margin_R1 = lost_R1 + (1 + lost_R1) * lost_S1.max() + _SUM
            # A product that reaches the limit still does when both are rounded, the limit down: rounding keeps order.
            least_R1 = limit(products_RS, start, margin_R1).float()
            nearest_R1 = least_R1.to(precision)
            lower_R1 = torch.nextafter(nearest_R1, torch.full_like(nearest_R1, -torch.inf))
            reached = (products_RS >= torch.where(nearest_R1.float() > least_R1, lower_R1, nearest_R1)).view(-1)
            # On a CPU NumPy finds places forty times faster than torch.
            found = (
                torch.nonzero(reached).view(-1).cpu().numpy() if reached.is_cuda else np.flatnonzero(reached.numpy())
            )
            row, column = np.divmod(found, len(right_SD))
            yield row + start, column + first


def exact(left_ND: np.ndarray, right_MD: np.ndarray, row_E: np.ndarray, column_E: np.ndarray) -> np.ndarray:
    """float64 [E]: the inner products at these places. Each is independent of the others and of its position."""
    product_E = np.empty(len(row_E))
    step = max(1, _GATHER // left_ND.shape[1])
    for start in range(0, len(row_E), step):
        places = slice(start, start + step)
        left, right = np.take(left_ND, row_E[places], axis=0), np.take(right_MD, column_E[places], axis=0)
        product_E[places] = np.einsum("ed,ed->e", left, right, dtype=np.float64)
    return product_E


def below(products: torch.Tensor) -> torch.Tensor:
    """float32: a lower bound of what these products were before they were rounded to their precision."""
    return torch.nextafter(products, torch.full_like(products, -torch.inf)).float()


@cache
def fastest() -> torch.dtype:
    """bfloat16 on GPUs and on CPUs with instructions for it, which a short trial tells; float32 on others."""
    if torch.cuda.is_available():
        return torch.bfloat16

    def seconds(precision: torch.dtype) -> float:
        rows, tries = torch.ones(1024, 2048, dtype=precision), []
        for _ in range(4):
            start = perf_counter()
            torch.mm(rows, rows.T)
            tries.append(perf_counter() - start)
        return min(tries)

    return min(PRECISIONS, key=seconds)
