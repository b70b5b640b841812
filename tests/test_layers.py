"""Data flows one way: a module imports only lower ranks, and packages of one rank never import each other.

Also the size gates: files of at most 450 lines, functions of at most 100, no utils.py.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "pairuni"
RANKS = [
    ["errors", "streams", "types"],
    ["outputs"],
    ["files", "watch", "progress", "chart_style", "replies", "validation"],
    ["records", "config", "runs", "ledger"],
    ["llm", "dist", "preparation", "shapes"],
    ["data", "policies", "rewards", "algo"],
    ["train", "eval"],
    ["pretrain", "analysis", "report", "export", "adapters"],
    ["stages"],
    ["shapes_data"],
    ["trainer"],
    ["cli"],
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
# A file of one line that must reach upward: the console entry point.
ENTRY = {"__init__", "__main__"}
ALLOWED = {(upper, lower) for upper in RANK for lower in RANK if RANK[upper] > RANK[lower]}


def package(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Packages of pairuni that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "pairuni" else [f"pairuni.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        found |= {n.split(".")[1] for n in names if n.startswith("pairuni.")}
    return found


FILES = sorted(p for p in SOURCE.rglob("*.py") if package(p) not in ENTRY)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    own = package(path)
    assert own in RANK, f"{own} has no rank"
    wrong = {other for other in imports(path) - {own, "configs"} if (own, other) not in ALLOWED}
    assert not wrong, f"{own} may not import {wrong}"


def test_the_check_sees_a_sideways_import(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from pairuni.train.loop import train\n", encoding="utf-8")
    assert imports(bad) == {"train"} and ("data", "train") not in ALLOWED and ("train", "eval") not in ALLOWED


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_sizes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 450
    assert path.name != "utils.py"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None and node.end_lineno - node.lineno < 100, node.name
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            if path.name == "kernel.py":  # a GPU kernel takes pointers and numbers, no records
                continue
            assert len([a for a in arguments if a.arg not in ("self", "cls")]) <= 8, node.name


@pytest.mark.parametrize(
    "module", ["records", "config", "runs", "ledger", "report.html", "analysis.gallery", "adapters", "cli.main"]
)
def test_imports_without_torch(module: str) -> None:
    code = f"import sys, pairuni.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
