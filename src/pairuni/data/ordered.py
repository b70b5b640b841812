"""Work on many items side by side, results in the items' order, memory bounded.

By hand, because `Executor.map` takes all items at once.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_AHEAD = 4
"""Items per worker that may be done before an earlier one is."""
Work = TypeVar("Work")
Result = TypeVar("Result")


def in_order(work: Callable[[Work], Result], items: Iterator[Work], workers: int) -> Iterator[tuple[Work, Result]]:
    """(item, work(item)) in the order of `items`, with `workers` threads and a bounded number of items in memory.

    The first exception of `work` ends it; items not begun are dropped.
    """
    if workers == 1:
        yield from ((item, work(item)) for item in items)
        return
    pool = ThreadPoolExecutor(workers)
    waiting: deque[tuple[Work, Future[Result]]] = deque()
    try:
        for item in itertools.islice(items, workers * _AHEAD):
            waiting.append((item, pool.submit(work, item)))
        while waiting:
            item, future = waiting.popleft()
            yield item, future.result()
            for following in itertools.islice(items, 1):
                waiting.append((following, pool.submit(work, following)))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
