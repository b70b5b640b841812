"""Janus checkpoints: what is refused and how, what stays its own, and that transformers reads what is saved."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import JanusForConditionalGeneration, JanusProcessor

from pairuni.errors import InputError
from pairuni.policies import load_policy
from pairuni.policies.janus.policy import JanusPolicy
from pairuni.policies.source import model_type
from pairuni.types import Prompt, SamplingSpec, Side


def _copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def test_a_checkpoint_names_its_family(tiny_janus_folder: Path) -> None:
    assert model_type(tiny_janus_folder) == model_type(str(tiny_janus_folder)) == "janus"


def _cut(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(
        (folder / name).read_bytes()[: (folder / name).stat().st_size // 2]
    )


def _remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def _edit(name: str, group: str | None, key: str, value: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        whole = json.loads((folder / name).read_text())
        (whole if group is None else whole[group])[key] = value
        (folder / name).write_text(json.dumps(whole))

    return change


def _drop_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


BREAKAGES = {
    "no config": (_remove("config.json"), "config.json"),
    "cut config": (_cut("config.json"), "config.json:"),
    "no model type": (_edit("config.json", None, "model_type", None), "model_type"),
    "another family": (_edit("config.json", None, "model_type", "llama"), "'llama' is not one of janus"),
    "a wrong type": (_edit("config.json", "text_config", "hidden_size", "many"), "hidden_size"),
    "another width": (_edit("config.json", "text_config", "hidden_size", 48), "cannot be loaded"),
    "no weights": (_remove("model.safetensors"), "model.safetensors"),
    "cut weights": (_cut("model.safetensors"), "cannot be loaded"),
    "a missing weight": (_drop_weight, "lm_head.weight"),
    "no tokenizer": (_remove("tokenizer.json"), "tokenizer"),
    "cut tokenizer": (_cut("tokenizer.json"), "tokenizer.json:"),
    "no special tokens": (_remove("tokenizer_config.json"), "image_token"),
    "no processor": (_remove("processor_config.json"), "cannot be loaded"),
    "cut processor": (_cut("processor_config.json"), "processor_config.json:"),
    "other image tokens": (_edit("processor_config.json", None, "num_image_tokens", 9), "num_image_tokens: is 9"),
    "no template": (_remove("chat_template.jinja"), "chat_template"),
    "cut template": (_cut("chat_template.jinja"), "chat_template"),
    "cut generation config": (_cut("generation_config.json"), "generation_config.json:"),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_broken_checkpoint_gives_one_clear_error(tiny_janus_folder: Path, tmp_path: Path, name: str) -> None:
    spoil, message = BREAKAGES[name]
    folder = _copy(tiny_janus_folder, tmp_path / "model")
    spoil(folder)
    with pytest.raises(InputError) as caught:
        load_policy(str(folder))
    assert str(folder) in str(caught.value) and message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../nowhere", "/no/where", "nowhere", "a/b/c"])
def test_a_missing_folder_is_named(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: no such folder"):
        load_policy(name)


def test_other_mistakes_in_loading(tiny_janus_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no-one/no-model.*Hub"):
        load_policy("no-one/no-model")
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(InputError, match="is a file"):
        load_policy(str(file))
    with pytest.raises(InputError, match="device: 'cuda:99'"):
        load_policy(str(tiny_janus_folder), device="cuda:99")
    with pytest.raises(InputError, match="device: 'tpuu'"):
        load_policy(str(tiny_janus_folder), device="tpuu")
    with pytest.raises(InputError, match=r"precision: .*'fp16'"):
        load_policy(str(tiny_janus_folder), precision="fp16")


@pytest.mark.parametrize("flag", [True, None])
def test_the_head_stays_its_own(tiny_janus_folder: Path, tmp_path: Path, flag: bool | None) -> None:
    """transformers takes a config without the flag (as on the hub) for a tied one; tie_weights() would kill it."""
    folder = _copy(tiny_janus_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["tie_word_embeddings"]
    (folder / "config.json").write_text(json.dumps(config | ({} if flag is None else {"tie_word_embeddings": flag})))
    policy = load_policy(str(folder))
    assert isinstance(policy, JanusPolicy)
    policy.module.tie_weights()
    stored = load_file(folder / "model.safetensors")
    assert torch.equal(policy.module.lm_head.weight, stored["lm_head.weight"])
    assert not torch.equal(stored["lm_head.weight"], stored["model.language_model.embed_tokens.weight"])


def test_half_precision_files_become_fp32_masters(tiny_janus_folder: Path, tmp_path: Path) -> None:
    folder = _copy(tiny_janus_folder, tmp_path / "model")
    halves = {name: w.bfloat16() for name, w in load_file(folder / "model.safetensors").items()}
    save_file(halves, folder / "model.safetensors", {"format": "pt"})
    _edit("config.json", None, "dtype", "bfloat16")(folder)
    policy = load_policy(str(folder))
    assert {p.dtype for p in policy.module.parameters()} == {torch.float32}


@pytest.mark.parametrize("stored", [True, False])
def test_saved_checkpoints_generate_with_transformers(tiny_janus_folder: Path, tmp_path: Path, stored: bool) -> None:
    folder = _copy(tiny_janus_folder, tmp_path / "model")
    if not stored:
        (folder / "generation_config.json").unlink()
    policy = load_policy(str(folder))
    assert isinstance(policy, JanusPolicy)
    policy.save(tmp_path / "saved")
    module = JanusForConditionalGeneration.from_pretrained(tmp_path / "saved")
    processor = JanusProcessor.from_pretrained(tmp_path / "saved")
    message = {"role": "user", "content": [{"type": "text", "text": "red"}]}
    text = processor.apply_chat_template([message], add_generation_prompt=True)
    ids = processor(text=[text], generation_mode="image", return_tensors="pt")
    codes = module.generate(**ids, generation_mode="image", do_sample=False)
    spec = SamplingSpec(temperature=0, guidance=5.0)
    ours = policy.sample(Side.GENERATION, [Prompt(Side.GENERATION, "red")], 1, spec, np.zeros((1, 1), dtype=np.uint64))
    assert codes[0].tolist() == ours.actions_BRT[0, 0].tolist()
