"""Shipped configs are named from anywhere, listed and copied, never over a file; the paper's are planned offline."""

import re
from pathlib import Path

import pytest

from pairuni.cli.main import main
from pairuni.cli.shipped import config_file, shipped

ROOT = Path(__file__).parents[2]
FILES = {str(p.relative_to(ROOT / "configs").with_suffix("")) for p in (ROOT / "configs").rglob("*.yaml")}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert set(shipped()) == FILES == {line.split()[0] for line in lines[:-2]}
    assert all(len(line.split(maxsplit=1)[1]) > 20 for line in lines[:-2])


@pytest.mark.parametrize("name", ["shapes/demo", "shapes/demo.yaml", "configs/shapes/demo.yaml"])
def test_a_name_will_do_from_anywhere(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", name]) == 0
    assert "a valid config for `pairuni train`" in capsys.readouterr().out
    assert main(["train", "--config", name, "--steps", "0"]) == 2
    assert "steps: must be positive" in capsys.readouterr().err
    assert main(["train", f"--config={name}", "--steps", "0"]) == 2


def test_a_file_that_is_there_wins_and_a_name_that_is_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "demo.yaml").write_text("output: mine\n", encoding="utf-8")
    assert config_file("shapes/demo.yaml") == Path("shapes/demo.yaml")
    assert config_file("shapes/demo").is_absolute()
    assert main(["train", "--config", "shape/demo"]) == 2
    assert "did you mean shapes/demo?" in capsys.readouterr().err
    assert main(["train", "--config", "nothing.yaml"]) == 2
    assert "nothing.yaml: no such file" in capsys.readouterr().err


def test_copies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "shapes/demo,photos", "--output", "mine"]) == 0
    names = {"demo.yaml", "complete.yaml", "pair.yaml", "train.yaml"}
    assert {path.name for path in (tmp_path / "mine").iterdir()} == names
    assert (tmp_path / "mine" / "demo.yaml").read_bytes() == (ROOT / "configs" / "shapes" / "demo.yaml").read_bytes()
    (tmp_path / "mine" / "demo.yaml").write_text("changed", encoding="utf-8")
    assert main(["configs", "shapes", "--output", "mine"]) == 2
    assert "mine/demo.yaml: already exists; nothing was copied" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "mine").iterdir()} == names
    assert (tmp_path / "mine" / "demo.yaml").read_text() == "changed"
    assert main(["configs", "shapes/demo", "photos", "--output", "words"]) == 0
    assert {path.name for path in (tmp_path / "words").iterdir()} == names
    assert main(["configs", "shapes/demi"]) == 2
    assert "did you mean shapes/demo?" in capsys.readouterr().err


def planned(name: str, processes: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    def no_network(*values: object, **options: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", no_network)
    plan = ["--plan", "--plan.memory", "79", "--plan.processes", processes]
    assert main(["train", "--config", f"paper/{name}", *plan]) == 0
    return capsys.readouterr().out


TABLE = (ROOT / "docs" / "janus-pro.md").read_text(encoding="utf-8").split("## Which config")[1].split("\n## ")[0]
ROWS = re.findall(r"\| `(\w+)\.yaml` \| (\d) of (\d+) GB .*?\| ([\d.]+) GiB", TABLE)


def test_the_table_of_docs_has_all() -> None:
    assert {f"paper/{name}" for name, *_ in ROWS} == {name for name in FILES if name.startswith("paper/janus")}


@pytest.mark.parametrize(("name", "gpus", "memory", "said"), ROWS, ids=lambda x: str(x))
def test_plans_of_the_paper_s_configs_need_no_network(
    name: str, gpus: str, memory: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"{said} GiB of 79.0 GiB, it fits" in planned(name, gpus, monkeypatch, capsys)
    assert float(said) < float(memory)


def test_lumina_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "56.5 GiB of 79.0 GiB" in planned("lumina_dimoo", "8", monkeypatch, capsys)
