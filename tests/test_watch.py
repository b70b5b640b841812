"""A process that died or hangs ends the run, with a message that names it."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch.distributed as td

from pairuni import watch
from pairuni.watch import LostRankError, Watch

SCRIPT = Path(__file__).with_name("lost_rank.py")


def start(how: str, minutes: float) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(2):
        environment = os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        environment |= {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(SCRIPT), how, str(minutes)]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    return processes


@pytest.mark.parametrize(("how", "minutes"), [("dies", 10.0), ("hangs", 0.05)])
def test_the_rank_is_named(how: str, minutes: float) -> None:
    first, second = start(how, minutes)
    try:
        _, errors = first.communicate(timeout=120)
    finally:
        second.kill()
        second.communicate()
    said = [line for line in errors.splitlines() if "rank 1" in line]
    if how == "dies":
        assert first.returncode == 3 and said[0].startswith("lost: rank 1 died"), errors
    else:
        assert first.returncode == 1, errors
        assert said[0].startswith("pairuni: rank 0 has waited 0 minutes for rank 1, which hangs"), errors


@pytest.mark.slow
def test_processes_end_with_their_launcher() -> None:
    """Else the run that is started again would find them at work."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT)]
    process = subprocess.Popen([*launcher, "works", "10"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline().strip().isdigit()
        workers = psutil.Process(process.pid).children()
        assert len(workers) == 2
    finally:
        process.kill()
    gone, alive = psutil.wait_procs(workers, timeout=90)
    for each in alive:
        each.kill()
    assert len(gone) == 2 and not alive


def test_who_lives_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "BEAT", 0.05)
    store = td.HashStore()
    watches = [Watch(store, rank, 3, 60.0) for rank in range(3)]
    assert watches[0].silent() == []
    watches[2].close()
    assert watches[0].silent() == [2] and str(LostRankError([1, 2])).startswith("ranks 1, 2 died")
    for each in watches[:2]:
        each.close()


def test_who_came_is_not_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everyone that is at the meeting waits for the third, however long it took them to come."""
    monkeypatch.setattr(watch, "BEAT", 0.02)
    store = td.HashStore()
    watches = [Watch(store, rank, 3, 3600.0) for rank in range(3)]
    for each in watches[:2]:
        with each.meeting():
            time.sleep(0.1)  # a beat tells the others
            assert each._missing() == ""  # timeout
            each._timeout = 0.01
            assert "for rank 2, which hangs" in each._missing() or "for ranks 1, 2" in each._missing()
            each._timeout = 3600.0
    for each in watches:
        each.close()
