"""The fixture of the report's tests: a small finished run on disk."""

from pathlib import Path

import pytest
from report_files import write_run


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run directory under tmp_path/run, its pairs under tmp_path/data; the test may change both."""
    return write_run(tmp_path)
