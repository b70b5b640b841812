"""Names the process that the others wait for, from heartbeats and collective counts in their shared store.

Without it, a process that died or hangs shows hours later as a timeout that names an address at best. A thread in every
process sends a heartbeat every few seconds, and looks at the other processes while its main thread waits.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

BEAT = 1.0
"""Seconds between heartbeats."""
SILENT = 6
"""Missed heartbeats after which a rank counts as gone, once a collective has failed."""
UNHEARD = 120
"""The same while no collective has failed: a machine may be busy."""


class LostRankError(RuntimeError):
    """A process that the others wait for is gone."""

    def __init__(self, ranks: Sequence[int]) -> None:
        self.ranks = tuple(ranks)
        super().__init__(
            f"{_named(ranks)} died or cannot be reached any more; this process ends too. Start the run again to "
            "continue from its latest checkpoint"
        )


class Watch:
    """Watches all ranks from one process."""

    def __init__(self, store: Store, rank: int, world: int, timeout: float) -> None:
        """Starts the thread. `timeout` is in seconds."""
        self._store, self._rank, self._world, self._timeout = store, rank, world, timeout
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else 0
        self._beats = self._meetings = 0
        self._waiting_since: float | None = None
        self._heard: dict[int, tuple[int, float]] = {}
        self._lock = threading.Lock()  # a store answers one thread at a time
        self._ended = threading.Event()
        self._say()
        self._thread = threading.Thread(target=self._run, name="pairuni-watch", daemon=True)
        self._thread.start()

    @contextmanager
    def meeting(self) -> Iterator[None]:
        """Wraps a collective: counts this process as arrived and waiting."""
        self._meetings += 1
        self._waiting_since = time.monotonic()
        try:
            yield
        finally:
            self._waiting_since = None

    def silent(self) -> list[int]:
        """Ranks whose heartbeat has stopped. Takes a few beats."""
        try:
            before = now = self._others()
            deadline = time.monotonic() + SILENT * BEAT
            while time.monotonic() < deadline:
                time.sleep(BEAT)
                now = self._others()
                if all(now[rank] != before[rank] for rank in now):
                    return []
        except RuntimeError:  # rank 0 holds the store, unless torchrun does
            return [0] if self._rank else []
        return [rank for rank in sorted(before) if now[rank] == before[rank]]

    def close(self) -> None:
        self._ended.set()
        self._thread.join(timeout=10 * BEAT)

    def _run(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                self._say()
                missing = self._missing()
            except RuntimeError:
                missing = ""  # the store's process is gone: the main thread's collective fails and reports it
            if self._launcher and os.getppid() != self._launcher:
                # Nothing else ends this process, and its lock would stop a restarted run.
                missing = "torchrun has ended; this process ends too"
            if missing:
                print(f"pairuni: {missing}", file=sys.stderr, flush=True)
                # The main thread is inside a collective that may never return.
                os._exit(1)

    def _say(self) -> None:
        self._beats += 1
        with self._lock:
            self._store.set(f"pairuni/{self._rank}", f"{self._beats} {self._meetings}")

    def _missing(self) -> str:
        """Why the main thread waits in vain; "" if it may not."""
        since = self._waiting_since
        if since is None or time.monotonic() - since < min(self._timeout, UNHEARD * BEAT):
            return ""
        now = time.monotonic()
        others = self._others()
        for rank, (beats, _) in others.items():
            if self._heard.get(rank, (-1, 0.0))[0] != beats:
                self._heard[rank] = (beats, now)
        gone = [rank for rank, (_, heard) in sorted(self._heard.items()) if now - heard > UNHEARD * BEAT]
        if gone:
            return str(LostRankError(gone))
        late = [rank for rank, (_, meetings) in sorted(others.items()) if meetings < self._meetings]
        if late and now - since > self._timeout:
            return (
                f"rank {self._rank} has waited {self._timeout / 60:.0f} minutes for {_named(late)}, which hangs or "
                "takes too long; this process ends. Start the run again to continue from its latest checkpoint"
            )
        return ""

    def _others(self) -> dict[int, tuple[int, int]]:
        """Heartbeats and collectives of each other rank."""
        others = {}
        for rank in range(self._world):
            key = f"pairuni/{rank}"
            with self._lock:
                said = self._store.get(key).decode() if rank != self._rank and self._store.check([key]) else ""
            if rank != self._rank:
                beats, meetings = said.split() if said else ("0", "0")
                others[rank] = int(beats), int(meetings)
        return others


def _named(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
