"""Data flows one way: a module imports only lower ranks, and packages of one rank never import each other.

No module leads back to itself, names of files and classes mean one thing, and files and functions have a size that a
reader can hold.
"""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "pairuni"
RANKS = [
    ["errors", "streams", "types"],
    ["outputs"],
    ["files", "watch", "progress", "replies", "validation"],
    ["records", "config", "runs", "ledger"],
    ["llm", "dist", "preparation", "shapes"],
    ["data", "policies", "rewards", "algo"],
    ["train", "eval", "tiny"],
    ["pages"],
    ["export", "adapters"],
    ["stages"],
    ["shapes_data"],
    ["trainer", "memory_plan"],
    ["lab"],
    ["cli"],
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
# A file of one line that must reach upward: the console entry point.
ENTRY = {"__init__", "__main__"}
ALLOWED = {(upper, lower) for upper in RANK for lower in RANK if RANK[upper] > RANK[lower] and lower != "lab"}
ALLOWED |= {("cli", "lab")}

SHARED_NAMES = {"base"}
"""Files that several packages have for the same purpose: `base.py` holds what a package's members have in common."""


def package(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports, anywhere in it; of `from a import b`, a.b where that is a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                yield inner if inner in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def imports(path: Path) -> set[str]:
    """Packages of pairuni that a file imports, anywhere in it."""
    return {name.split(".")[1] for name in imported(path) if name.startswith("pairuni.")}


def module(path: Path) -> str:
    parts = ("pairuni", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in SOURCE.rglob("*.py")}
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


def test_no_module_leads_back_to_itself() -> None:
    """Imports inside functions count: a circle that is entered late is a circle."""
    graph = {name: {*imported(path)} & MODULES.keys() - {name} for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as err:
        pytest.fail(f"import circle: {' <- '.join(err.args[1])}")


def repeated(places: dict[str, list[str]]) -> dict[str, list[str]]:
    """Names of several modules, but for those that each stand once in sibling model families, which are twins."""
    found = {}
    for name, modules in places.items():
        parts = [module.split(".") for module in modules]
        families = {part[2] for part in parts if part[1] == "policies" and len(part) == 4}
        if len(modules) > 1 and len(families) < len(modules):
            found[name] = modules
    return found


def test_names_mean_one_thing() -> None:
    """No two files and no two classes share a name; an underscore before it is no other name."""
    files, classes = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for name, path in MODULES.items():
        if path.stem == "__init__":
            continue
        files[path.stem].append(name)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                classes[node.name.lstrip("_")].append(name)
    assert {*repeated(files)} == SHARED_NAMES
    assert not repeated(classes)


def test_a_name_that_two_packages_share_is_seen() -> None:
    twins, other = [f"pairuni.policies.{family}.policy" for family in ("janus", "dimoo")], "pairuni.train.policy"
    assert (
        repeated({"policy": twins}) == {} and repeated({"policy": [*twins, other]}) and repeated({"a": twins[:1] * 2})
    )


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("__init__.py")), ids=lambda p: p.parent.name)
def test_every_package_says_what_it_is_for(path: Path) -> None:
    first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
    assert len(first.split()) > 5 and first.endswith(".")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_sizes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 450
    assert path.name != "utils.py"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None and node.end_lineno - node.lineno < 100, node.name


@pytest.mark.parametrize(
    "name", ["records", "config", "runs", "ledger", "pages.report", "pages.gallery", "adapters", "cli.main"]
)
def test_imports_without_torch(name: str) -> None:
    code = f"import sys, pairuni.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
