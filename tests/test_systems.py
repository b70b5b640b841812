"""Without the modules that only Unix has, the package is imported and files are checked."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pairuni.files import write_jsonl

HIDDEN = "import sys; sys.modules['fcntl'] = sys.modules['resource'] = sys.modules['pty'] = None; "


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", HIDDEN + code], capture_output=True, text=True, check=False)


def test_import() -> None:
    modules = ("cli.main", "files", "data.pairing", "data.feature_store", "pages.report", "records", "shapes.world")
    done = run("; ".join(f"import pairuni.{name}" for name in modules))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["g.jsonl", "c.yaml"])
def test_check(name: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    write_jsonl(tmp_path / "g.jsonl", [{"image": "a.png", "caption": "a red circle"}])
    (tmp_path / "c.yaml").write_text("output: r\ndata: {pairs: p}\n", encoding="utf-8")
    done = run(f"from pairuni.cli.main import main; sys.exit(main(['check', {str(tmp_path / name)!r}]))")
    assert done.returncode == 0, done.stderr
    assert name in done.stdout


def test_folders_are_written_without_a_lock(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from pairuni.files import locked, write_text; p = Path({str(tmp_path)!r})\n"
    done = run(f"{code}with locked(p):\n    write_text(p / 'a', 'x')")
    assert done.returncode == 0 and (tmp_path / "a").read_text() == "x", done.stderr
