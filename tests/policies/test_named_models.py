"""Whatever names a model is one: a run, its best or latest step, a step's folder; and what is none says what is."""

import json
import shutil
from pathlib import Path

import pytest

from pairuni.cli.main import main
from pairuni.errors import InputError
from pairuni.policies import load_planner, load_policy
from pairuni.policies.source import model_name, resolve_model
from pairuni.train.inputs import model_record

SAMPLE = ["--prompt", "a red circle", "--number", "1"]


@pytest.fixture
def run(tiny_janus_folder: Path, tmp_path: Path) -> Path:
    """What training leaves behind: steps 2, the best one, and 4, the latest."""
    run = tmp_path / "run"
    for step in (2, 4):
        shutil.copytree(tiny_janus_folder, run / "checkpoints" / f"step_{step:06d}" / "model")
    (run / "config.yaml").write_text("steps: 4\n", encoding="utf-8")
    for name, step in (("best", 2), ("latest", 4)):
        (run / "checkpoints" / name).write_text(f"step_{step:06d}\n", encoding="utf-8")
    return run


NAMED = {
    "": 4,
    "best": 2,
    "latest": 4,
    "checkpoints": 4,
    "checkpoints/best": 2,
    "checkpoints/latest": 4,
    "checkpoints/step_000002": 2,
    "checkpoints/step_000002/model": 2,
}


@pytest.mark.parametrize(("name", "step"), NAMED.items(), ids=lambda x: str(x) or "run")
def test_every_name_of_a_run_s_models(run: Path, name: str, step: int) -> None:
    folder = run / "checkpoints" / f"step_{step:06d}" / "model"
    assert resolve_model(run / name) == folder
    assert model_name(str(run / name)) == str(folder)
    assert load_policy(str(run / name), device="cpu").family == "janus"
    assert load_planner(str(run / name)).parameters > 0
    assert model_record(str(run / name))["sha256"] == model_record(str(folder))["sha256"] != {}


def test_names_that_are_no_path_stay_as_they_are() -> None:
    assert model_name("shapes-janus") == "shapes-janus" and model_name("a/b") == "a/b"


def test_commands_take_them(run: Path, tmp_path: Path) -> None:
    out = ["--output", str(tmp_path / "s.png")]
    assert main(["sample", "--model", str(run / "best"), *SAMPLE, *out]) == 0
    few = ["--benchmarks", "shapes_understanding", "--questions", "2"]
    assert main(["eval", "--model", str(run), *few, "--output", str(tmp_path / "eval")]) == 0
    # What was measured is said, not what pointed to it: `latest` will be another step tomorrow.
    named = json.loads((tmp_path / "eval" / "eval.json").read_text(encoding="utf-8"))["model"]
    assert named == str(run / "checkpoints" / "step_000004" / "model")


def said(name: Path) -> str:
    with pytest.raises(InputError) as error:
        load_policy(str(name), device="cpu")
    with pytest.raises(InputError) as planned:
        load_planner(str(name))
    assert str(planned.value) == str(error.value)
    return str(error.value)


def test_adapters_name_their_merged_model(run: Path) -> None:
    step = run / "checkpoints" / "step_000004"
    (step / "adapters").mkdir()
    (step / "adapters" / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert said(step / "adapters") == f"{step / 'adapters'}: these are adapters: their merged model is {step / 'model'}"
    shutil.copytree(step / "adapters", run / "elsewhere")
    assert "these are adapters: their merged model is ../model" in said(run / "elsewhere")


def test_what_is_no_model(run: Path, tmp_path: Path) -> None:
    (tmp_path / "original").mkdir()
    (tmp_path / "original" / "config.json").write_text('{"model_type": "multi_modality"}', encoding="utf-8")
    (tmp_path / "original" / "pytorch_model.bin").write_bytes(b"")
    assert "this is the original format: take deepseek-community/Janus-Pro-1B" in said(tmp_path / "original")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    assert "model type 'bert' is not one of janus, llada" in said(tmp_path / "other")
    (tmp_path / "empty").mkdir()
    assert "holds no config.json" in said(tmp_path / "empty")
    (run / "checkpoints" / "latest").unlink()
    assert "is a run without a checkpoint" in said(run)
    (run / "checkpoints" / "best").unlink()
    assert "no checkpoint is named best" in said(run / "best")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_git_lfs_pointer_is_seen(tiny_janus_folder: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(tiny_janus_folder, tmp_path / "m")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n"
    (tmp_path / "m" / name).write_text(pointer, encoding="utf-8")
    what = "the weights were not downloaded" if name.endswith("tensors") else "the file was not downloaded"
    assert f"{tmp_path / 'm' / name}: is a Git LFS pointer, {what}" in said(tmp_path / "m")
