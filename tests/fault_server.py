"""Runs pytest on a copy of the repository, in a fork of a process that has torch and transformers loaded.

    python tests/fault_server.py    # reads lines {"copy": folder, "tests": names, "output": file}; prints exit codes

These imports take five seconds of a core, more than most of the tests. Nothing of pairuni is loaded before the fork.
"""

import importlib
import json
import os
import signal
import sys
from pathlib import Path

import pytest

LOADED = (
    "diffusers.models.autoencoders.vq_model",
    "hypothesis",
    "scipy.stats",
    "torch.distributed.fsdp",
    "transformers.models.janus.image_processing_pil_janus",
    "transformers.models.janus.modeling_janus",
    "transformers.models.janus.processing_janus",
)
SECONDS = 600


def run_tests(copy: Path, tests: list[str], output: Path) -> int:
    """The exit code of pytest on the copy's package; the output begins with the place of that package."""
    with open(os.devnull, "rb") as nothing, output.open("wb") as said:
        os.dup2(nothing.fileno(), 0)
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    signal.alarm(SECONDS)
    sys.dont_write_bytecode = True
    # Without what a worker of pytest-xdist or CI sets: with CI, pytest writes out whole differences, which may take
    # longer than the test.
    for name in [name for name in os.environ if name == "CI" or name.startswith("PYTEST_")]:
        del os.environ[name]
    os.environ |= {"PYTHONPATH": str(copy / "src"), "COLUMNS": "400", "PYTHONDONTWRITEBYTECODE": "1"}
    sys.path[0] = str(copy / "src")  # in the place of this script's folder
    os.chdir(copy)
    import pairuni

    print("package:", pairuni.__file__, flush=True)
    return pytest.main(["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={output.with_suffix('')}", *tests])


if __name__ == "__main__":
    for name in LOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            sys.exit(run_tests(Path(request["copy"]), request["tests"], Path(request["output"])))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
