"""inputs.json says by content what a run began with."""

import dataclasses
import os
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import pairuni
from pairuni.config import LoraOptions, RewardConfig, TrainConfig
from pairuni.errors import InputError
from pairuni.eval.runner import model_identity
from pairuni.files import read_json, read_jsonl, write_json
from pairuni.runs import RunDir
from pairuni.train.inputs import check_inputs, model_record, reward_record
from pairuni.train.loop import train
from pairuni.trainer import Trainer


def test_a_run_records_pairs_and_weights_once(tiny_config: TrainConfig, pairs_file: Path) -> None:
    train(dataclasses.replace(tiny_config, steps=1))
    weights = Path(tiny_config.model.path) / "model.safetensors"
    expected = {
        "pairs": {"path": str(pairs_file), "sha256": sha256(pairs_file.read_bytes()).hexdigest()},
        "model": {
            "path": tiny_config.model.path,
            "sha256": {"model.safetensors": sha256(weights.read_bytes()).hexdigest()},
        },
    }
    path = RunDir(Path(tiny_config.output)).inputs
    found = read_json(path)
    rewards = found.pop("rewards")
    assert found == expected
    functions = sha256((Path(__file__).parents[1] / "train_world.py").read_bytes()).hexdigest()
    assert rewards and {name.partition(":")[0] for name in rewards} == {"train_world"}
    assert set(rewards.values()) == {functions}
    written = path.stat().st_mtime_ns
    train(tiny_config)
    assert path.stat().st_mtime_ns == written


def test_a_hub_model_has_its_revision(
    tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert model_record("some/janus") == {
        "path": "some/janus",
        "revision": None,
    }
    cached = tmp_path / "hub" / "models--some--janus"
    (cached / "snapshots" / "0abc").mkdir(parents=True)
    (cached / "snapshots" / "0abc" / "config.json").write_text("{}")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0abc")
    assert model_record("some/janus") == {
        "path": "some/janus",
        "revision": "0abc",
    }


def _replaced(path: Path, seed: int) -> None:
    tensors = load_file(path)
    generator = torch.Generator().manual_seed(seed)
    changed = {name: t + 0.02 * torch.randn(t.shape, generator=generator).to(t.dtype) for name, t in tensors.items()}
    save_file(changed, path, metadata={"format": "pt"})


@pytest.mark.parametrize("use", ["adapters", "reference", "neither"])
def test_another_base_is_refused_where_it_is_needed_again(tiny_config: TrainConfig, tmp_path: Path, use: str) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_config.model.path, base)
    lora = LoraOptions(rank=2 if use == "adapters" else 0)
    config = dataclasses.replace(
        tiny_config,
        model=dataclasses.replace(tiny_config.model, path=str(base), lora=lora),
        kl_beta=0.1 if use == "reference" else 0.0,
    )
    train(dataclasses.replace(config, steps=1))
    weights = base / "model.safetensors"
    before = weights.read_bytes()
    _replaced(weights, 0)
    if use == "neither":
        train(config)
        return
    metrics = RunDir(Path(config.output)).metrics.read_bytes()
    with pytest.raises(InputError, match="is not what the run began with") as caught:
        train(config)
    assert caught.value.field == "model.path" and RunDir(Path(config.output)).metrics.read_bytes() == metrics
    weights.write_bytes(before)
    assert train(config)["steps"] == 2


def test_another_revision_is_refused_by_name(
    tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path / "some")
    write_json(run.inputs, {"model": {"path": "some/janus", "revision": "0abc"}})
    check_inputs(run, "some/janus", "the KL term refers to", tiny_config.rewards)  # nothing is known of the one of now
    for revision, refused in (("0abc", False), ("1def", True)):
        monkeypatch.setattr("pairuni.train.inputs.hub_revision", lambda hub_id, known=revision: known)
        if refused:
            with pytest.raises(InputError, match="revision 1def, but the run began with 0abc"):
                check_inputs(run, "some/janus", "the KL term refers to", tiny_config.rewards)
        else:
            check_inputs(run, "some/janus", "the KL term refers to", tiny_config.rewards)


def test_images_replaced_under_equal_names_are_seen_when_they_are_opened(
    tiny_config: TrainConfig, pairs_file: Path
) -> None:
    tiny_config = dataclasses.replace(tiny_config, data=dataclasses.replace(tiny_config.data, batch=3), steps=4)
    train(dataclasses.replace(tiny_config, steps=1))
    run = RunDir(Path(tiny_config.output))
    opened = {row["image_path"]: row["sha256"] for _, row in read_jsonl(run.opened / "rank_00000.jsonl")}
    assert opened
    for name, digest in opened.items():
        assert digest == sha256((pairs_file.parent / name).read_bytes()).hexdigest()
    unseen = [path for path in pairs_file.parent.glob("*.png") if path.name not in opened]
    Image.new("RGB", (16, 16)).save(unseen[0])  # nothing was learnt from it yet
    first = sorted(opened)[0]
    content = (pairs_file.parent / first).read_bytes()
    Image.new("RGB", (16, 16), "red").save(pairs_file.parent / first)
    with pytest.raises(InputError, match="is another image than the one that this run was trained on") as caught:
        train(tiny_config)
    assert caught.value.file == pairs_file.parent / first
    (pairs_file.parent / first).write_bytes(content)
    assert train(tiny_config)["steps"] == 4
    rows = [row["image_path"] for _, row in read_jsonl(run.opened / "rank_00000.jsonl")]
    assert len(rows) == len(set(rows)) >= len(opened)


def test_another_reward_is_refused(tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = tmp_path / "own_reward_of_inputs.py"
    own.write_text("def length(items):\n    return [float(len(item.text or '')) for item in items]\n")
    rewards = dataclasses.replace(tiny_config.rewards, understanding="own_reward_of_inputs:length")
    config = dataclasses.replace(tiny_config, rewards=rewards)
    train(dataclasses.replace(config, steps=1))
    own.write_text(own.read_text().replace("float(", "-float("))
    with pytest.raises(InputError, match="own_reward_of_inputs:length is not what the run was rewarded with"):
        train(config)


def test_a_start_that_fails_leaves_no_directory_and_one_without_a_step_is_replaced(
    tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = dataclasses.replace(tiny_config.log, trackers=["trackio"])
    monkeypatch.setattr("pairuni.train.trackers.find_spec", lambda name: None)
    with pytest.raises(InputError, match="trackio is not installed"):
        train(dataclasses.replace(tiny_config, log=log))
    assert not Path(tiny_config.output).exists()
    monkeypatch.undo()

    def stopped(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pairuni.train.run.TrainingRun.begin", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config)
    assert RunDir(Path(tiny_config.output)).config.is_file()
    monkeypatch.undo()
    assert train(dataclasses.replace(tiny_config, seed=7))["steps"] == 2
    with pytest.raises(InputError, match="another config"):
        train(dataclasses.replace(tiny_config, seed=8))


@pytest.mark.parametrize("files", range(1, 7))
def test_a_start_that_is_killed_between_two_files_may_be_replaced(
    files: int, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`files` of those that a start writes are there: environment.json, config.yaml, inputs.json and the records."""
    written: list[str] = []

    def replace(source: str, target: str) -> None:
        if len(written) == files:
            raise KeyboardInterrupt
        written.append(Path(target).name)
        os.rename(source, target)

    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config)
    monkeypatch.undo()
    assert len(written) == files
    assert train(dataclasses.replace(tiny_config, seed=7))["steps"] == 2


def test_weights_in_a_sub_folder_are_weights(tmp_path: Path) -> None:
    """Lumina-DiMOO's image tokenizer has a folder of its own."""
    model = tmp_path / "model"
    shutil.copytree(Path(pairuni.__file__).parent / "checkpoints" / "shapes-dimoo", model)
    before, kept = model_record(str(model)), model_identity(str(model))
    file = model / "vqvae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({name: weight + 1 for name, weight in weights.items()}, file)
    after = model_record(str(model))
    changed = {name for name, digest in after["sha256"].items() if before["sha256"][name] != digest}
    assert changed == {"vqvae/diffusion_pytorch_model.safetensors"}
    assert model_identity(str(model)) != kept  # of answers that an evaluation has kept


def test_a_model_of_the_hub_is_known_by_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pairuni.policies.source.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("pairuni.policies.source.try_to_load_from_cache", lambda *names: None)
    assert model_record("some/model") == {"path": "some/model", "revision": None}
    assert model_identity("some/model") == "some/model"
    main = tmp_path / "models--some--model" / "refs" / "main"
    main.parent.mkdir(parents=True)
    main.write_text("0123abc\n")
    assert model_record("some/model")["revision"] == "0123abc"
    assert model_identity("some/model") == "some/model\n0123abc"
    clip = tmp_path / "models--yuvalkirstain--PickScore_v1" / "refs" / "main"
    clip.parent.mkdir(parents=True)
    clip.write_text("4567def\n")
    assert reward_record(RewardConfig(generation="pick_score")) == {"pick_score.weights": "4567def"}


@pytest.mark.parametrize("name", ["eval_before/eval.json", "eval_after/eval_state.json", "too_long.jsonl"])
def test_files_that_training_did_not_write_are_left(tiny_config: TrainConfig, name: str) -> None:
    file = Path(tiny_config.output) / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(InputError, match="this command did not write it"):
        train(tiny_config)
    assert file.read_text() == "mine" and not RunDir(Path(tiny_config.output)).config.exists()


def test_a_run_of_an_earlier_version_goes_on_though_it_kept_no_record_of_its_evaluation(
    tiny_config: TrainConfig,
) -> None:
    train(dataclasses.replace(tiny_config, steps=1))
    file = Path(tiny_config.output) / "eval_before" / "eval.json"
    file.parent.mkdir()
    file.write_text("{}")
    assert train(tiny_config)["steps"] == 2 and file.read_text() == "{}"


def test_missing_benchmark_data_is_said_before_anything_is_written(tiny_config: TrainConfig) -> None:
    log = dataclasses.replace(tiny_config.log, eval_every=1)
    evaluation = dataclasses.replace(tiny_config.eval, benchmarks="mme", data={"mme": "missing_folder"})
    with pytest.raises(InputError, match="missing_folder"):
        Trainer(dataclasses.replace(tiny_config, log=log, eval=evaluation)).fit()
    assert not Path(tiny_config.output).exists()


def test_what_is_hidden_in_the_folder_of_a_run_is_left(tiny_config: TrainConfig) -> None:
    hidden = Path(tiny_config.output) / ".git" / "HEAD"
    hidden.parent.mkdir(parents=True)
    hidden.write_text("ref: refs/heads/main")
    (Path(tiny_config.output) / ".env").write_text("mine")
    left = Path(tiny_config.output) / ".metrics.jsonl.abcd1234"
    left.mkdir()
    train(tiny_config)
    assert hidden.is_file() and (Path(tiny_config.output) / ".env").is_file() and not left.exists()
