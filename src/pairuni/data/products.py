"""Inner products of feature rows in blocks, on a GPU where there is one: what k-means and the candidate graph share.

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

Precision = torch.dtype

# Right rows that are on the device at once (a shard), and products that are held at once: what fits a CPU's caches, and
# what keeps a GPU busy.
SIZES = {"cpu": (1 << 13, 1 << 23), "cuda": (1 << 16, 1 << 26)}
PRECISIONS = (torch.float32, torch.bfloat16)
_SUM = 1e-5  # the error of adding up in float32: about 1e-6 at 2048 dimensions
_GATHER = 1 << 19  # feature values that are gathered at once

Limit = Callable[[torch.Tensor, int, torch.Tensor], torch.Tensor]
"""(products [R, S], first row, margin [R, 1]) -> least product [R, 1] of a place that is wanted, margin included."""
_Multiply = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], object]


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
    multiply = _multiply(device, precision)
    shard, block = SIZES[device.type]
    for first in range(0, len(right_MD) if len(left_ND) else 0, shard):
        right_SD, lost_S1 = _rounded(right_MD[first : first + shard], device, precision)
        rows = min(max(1, block // len(right_SD)), len(left_ND))
        # Made once: new memory for each block would cost a third of the product.
        products = torch.empty(rows, len(right_SD), dtype=precision, device=device)
        reached = torch.empty(rows, len(right_SD), dtype=torch.bool, device=device)
        for start in range(0, len(left_ND), rows):
            left_RD, lost_R1 = _rounded(left_ND[start : start + rows], device, precision)
            products_RS, reached_RS = products[: len(left_RD)], reached[: len(left_RD)]
            multiply(left_RD, right_SD, products_RS)
            margin_R1 = lost_R1 + (1 + lost_R1) * lost_S1.max() + _SUM
            # What reaches the limit still does when both are rounded, the limit down: rounding keeps the order.
            least_R1 = _rounded_down(limit(products_RS, start, margin_R1), precision)
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


def below(products: torch.Tensor) -> torch.Tensor:
    """float32: at most what these products were before they were rounded to their precision."""
    return torch.nextafter(products, torch.full_like(products, -torch.inf)).float()


def fastest() -> Precision:
    """bfloat16 on GPUs and on CPUs with instructions for it, which a short trial tells; float32 on others."""
    if _device().type == "cuda":
        return torch.bfloat16
    return min(PRECISIONS, key=lambda precision: _trial(precision)[0])


def _multiply(device: torch.device, precision: Precision) -> _Multiply:
    if device.type == "cuda":
        # Else cuBLAS may add up parts of a sum in bfloat16.
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        return _torch_product
    return _trial(precision)[1]


@cache
def _trial(precision: Precision) -> tuple[float, _Multiply]:
    """Seconds of the fastest product on this CPU, and that product."""
    left_RD, right_SD = (torch.ones(rows, 2048, dtype=precision) for rows in (1024, 2048))
    product_RS = torch.empty(len(left_RD), len(right_SD), dtype=precision)
    seconds: dict[_Multiply, float] = {}
    for multiply in (_torch_product, _numpy_product)[: 2 if precision == torch.float32 else 1]:
        tries = []
        for _ in range(4):
            start = perf_counter()
            multiply(left_RD, right_SD, product_RS)
            tries.append(perf_counter() - start)
        seconds[multiply] = min(tries)
    best = min(seconds, key=lambda multiply: seconds[multiply])
    return seconds[best], best


def _torch_product(left_RD: torch.Tensor, right_SD: torch.Tensor, products_RS: torch.Tensor) -> None:
    torch.mm(left_RD, right_SD.T, out=products_RS)


def _numpy_product(left_RD: torch.Tensor, right_SD: torch.Tensor, products_RS: torch.Tensor) -> None:
    # Another BLAS, twice as fast as torch's on some CPUs.
    np.matmul(left_RD.numpy(), right_SD.numpy().T, out=products_RS.numpy())


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _rounded(rows_ND: np.ndarray, device: torch.device, precision: Precision) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows on the device in the precision, and the lengths [N, 1] of what rounding took from them."""
    # A copy: memory-mapped rows are read-only, which torch does not know.
    rows = torch.tensor(np.asarray(rows_ND)).to(device)
    rounded = rows.to(precision)
    if precision == torch.float32:
        return rounded, torch.zeros(len(rows), 1, device=device)
    return rounded, torch.linalg.vector_norm(rows.sub_(rounded), dim=1, keepdim=True)


def _rounded_down(least_R1: torch.Tensor, precision: Precision) -> torch.Tensor:
    """In the precision that it is compared in, never above what it was."""
    least_R1 = least_R1.float()
    rounded_R1 = least_R1.to(precision)
    down_R1 = torch.nextafter(rounded_R1, torch.full_like(rounded_R1, -torch.inf))
    return torch.where(rounded_R1.float() > least_R1, down_R1, rounded_R1)
