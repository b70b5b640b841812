"""What trains: by name, or adapters; what is saved of it, and the reference beside it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import JanusForConditionalGeneration

from pairuni.config import LogConfig, LoraOptions, ModelConfig, TrainConfig
from pairuni.errors import InputError
from pairuni.policies import load_planner, load_policy
from pairuni.policies.janus.policy import JanusPolicy
from pairuni.policies.lora import WithoutLora, add_lora, merged, narrow_frozen
from pairuni.runs import RunDir
from pairuni.train.loop import train
from pairuni.train.optim import Optimizer
from pairuni.train.trainable import choose_trained, count_trained, trained_summary
from pairuni.types import Side
from train_world import make_config, read_halves, roll_out, take_step


def names(policy: JanusPolicy) -> set[str]:
    return {name for name, _ in policy.trainable()}


def test_parameters_by_name(tiny_janus: JanusPolicy) -> None:
    everything = names(tiny_janus)
    choose_trained(tiny_janus, ModelConfig(trainable=["lm_head", "model.language_model.layers.1", "*aligner*bias"]))
    chosen = names(tiny_janus)
    by_hand = {n for n in everything if n.startswith(("lm_head.", "model.language_model.layers.1.")) or
               ("aligner" in n and n.endswith("bias"))}  # fmt: skip
    assert chosen == by_hand and len(chosen) > 10
    assert trained_summary(tiny_janus).startswith("trained: ") and "lm_head" in trained_summary(tiny_janus)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ModelConfig(trainable=["lm_haed"]), r"model.trainable: 'lm_haed' fits none"),
        (ModelConfig(trainable=["model.vision_model"]), r"model.trainable: 'model.vision_model' fits none"),
        (ModelConfig(lora=LoraOptions(rank=2, layers=["lm_head"])), r"model.lora.layers: '\*.lm_head' fits none"),
    ],
)
def test_names_that_fit_nothing(model: ModelConfig, message: str, tiny_janus: JanusPolicy) -> None:
    with pytest.raises(InputError, match=message):
        choose_trained(tiny_janus, model)


@pytest.mark.parametrize(
    "model",
    [
        ModelConfig(),
        ModelConfig(trainable=["lm_head"]),
        ModelConfig(lora=LoraOptions(rank=3)),
        ModelConfig(lora=LoraOptions(rank=2, layers=["q_proj", "layers.0.mlp.*"]), trainable=["model.aligner"]),
    ],
)
def test_the_planner_counts_what_trains(model: ModelConfig, tiny_janus: JanusPolicy, tiny_janus_folder: Path) -> None:
    trained, adapters = count_trained(load_planner(str(tiny_janus_folder)), model)
    choose_trained(tiny_janus, model)
    assert trained == sum(parameter.numel() for _, parameter in tiny_janus.trainable())
    assert adapters == sum(parameter.numel() for name, parameter in tiny_janus.trainable() if ".lora_" in name)


def test_adapters_begin_as_nothing_and_merge_to_what_they_do(tiny_janus: JanusPolicy) -> None:
    linear = tiny_janus.module.model.language_model.layers[0].self_attn.q_proj
    base, x = linear.weight.detach().clone(), torch.randn(5, linear.in_features)
    before = linear(x)
    torch.manual_seed(3)
    add_lora(tiny_janus.module, tiny_janus.lora_targets(), 2, 8.0)
    adapted = tiny_janus.module.model.language_model.layers[0].self_attn.q_proj
    assert torch.equal(adapted(x), before)
    first, second = adapted.lora_A["default"].weight, adapted.lora_B["default"].weight
    with torch.no_grad():
        second.normal_()
    expected = base.double().numpy() + 8.0 / 2 * (second.detach().double().numpy() @ first.detach().double().numpy())
    whole = merged(tiny_janus.module, tiny_janus.module.state_dict())
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    np.testing.assert_allclose(whole[name].numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(adapted(x).detach().numpy(), x.numpy() @ expected.T, atol=1e-4)
    plain = JanusForConditionalGeneration(tiny_janus.module.config).state_dict()
    assert whole.keys() == plain.keys()


def test_the_reference_is_the_model_without_adapters(
    tiny_janus: JanusPolicy, tiny_config: TrainConfig, pairs_file: Path
) -> None:
    whole = tiny_janus.reference()
    choose_trained(tiny_janus, ModelConfig(lora=LoraOptions(rank=2)))
    with torch.no_grad():
        for name, parameter in tiny_janus.trainable():
            if "lora_B" in name:
                parameter.normal_()
    batch = roll_out(tiny_janus, {s: h[:1] for s, h in read_halves(pairs_file).items()}, tiny_config)
    for side in Side:
        (call,) = batch[side].calls
        for chunk in tiny_janus.chunks(call, 100):
            own, reference = (
                tiny_janus.logprobs(call, chunk),
                WithoutLora(tiny_janus, tiny_janus.module).logprobs(call, chunk),
            )
            torch.testing.assert_close(reference, whole.logprobs(call, chunk), rtol=0, atol=1e-5)
            assert not torch.allclose(own, reference, atol=1e-2) and own.requires_grad
            torch.testing.assert_close(tiny_janus.logprobs(call, chunk), own, rtol=0, atol=0)


def test_a_step_changes_adapters_alone(tiny_janus: JanusPolicy, tiny_config: TrainConfig, pairs_file: Path) -> None:
    choose_trained(tiny_janus, ModelConfig(lora=LoraOptions(rank=2)))
    optimizer = Optimizer(tiny_janus.trainable(), tiny_config.optim)
    before = {name: value.clone() for name, value in tiny_janus.module.state_dict().items()}
    batch = roll_out(tiny_janus, {s: h[:2] for s, h in read_halves(pairs_file).items()}, tiny_config)
    row = take_step(tiny_janus, batch, optimizer, tiny_config, 1)
    assert row["grad_norm"] > 0 and all(row[f"logp_gap_max/{side}"] < 1e-4 for side in Side)
    changed = {n for n, value in tiny_janus.module.state_dict().items() if not torch.equal(before[n], value)}
    assert changed == {name for name in before if ".lora_B." in name}  # the first factor's gradient is 0 at first


def test_frozen_weights_may_be_bf16_under_bf16(
    tiny_janus_folder: Path, pairs_file: Path, tiny_config: TrainConfig
) -> None:
    """Autocast rounds them anyway: the log-probs are the same to the bit."""
    scored = []
    for narrow in (False, True):
        policy = load_policy(str(tiny_janus_folder), device="cpu", precision="bf16")
        torch.manual_seed(0)
        choose_trained(policy, ModelConfig(lora=LoraOptions(rank=2)))
        if narrow:
            narrow_frozen(policy.module)
            kinds = {p.dtype for p in policy.module.model.language_model.layers[0].mlp.parameters()}
            assert kinds == {torch.bfloat16, torch.float32}
        batch = roll_out(policy, {s: h[:1] for s, h in read_halves(pairs_file).items()}, tiny_config)
        (call,) = batch[Side.UNDERSTANDING].calls
        (chunk,) = policy.chunks(call, 100)
        scored.append(policy.logprobs(call, chunk).detach())
    assert torch.equal(*scored)


def test_a_run_with_adapters(tmp_path: Path, tiny_janus_folder: Path, pairs_file: Path) -> None:
    """model/ is whole, adapters/ are peft's, and a continued run is the one that was not stopped, to the bit."""

    def config(name: str, steps: int) -> TrainConfig:
        model = ModelConfig(path=str(tiny_janus_folder), device="cpu", lora=LoraOptions(rank=2))
        log = LogConfig(samples_every=0, checkpoint_every=1, keep_checkpoints=0)
        return make_config(tmp_path / name, tiny_janus_folder, pairs_file, steps=steps, model=model, log=log)

    for name, steps in (("straight", 3), ("stopped", 1), ("stopped", 3)):
        train(config(name, steps))
    folders = [RunDir(tmp_path / name).checkpoint(3) for name in ("straight", "stopped")]
    for file in ("model/model.safetensors", "adapters/adapter_model.safetensors", "state/optimizer.safetensors"):
        first, second = (load_file(folder / file) for folder in folders)
        assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    base = JanusForConditionalGeneration.from_pretrained(tiny_janus_folder)
    theirs = PeftModel.from_pretrained(base, str(folders[0] / "adapters")).merge_and_unload()  # pyright: ignore
    assert isinstance(theirs, nn.Module)
    ours = load_policy(str(folders[0] / "model"), device="cpu").module.state_dict()
    changed = 0
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-6)
        changed += not torch.equal(value, load_file(tiny_janus_folder / "model.safetensors")[name])
    assert changed == len(load_policy(str(tiny_janus_folder), device="cpu").lora_targets())
    with pytest.raises(InputError, match=r"another config .*model.lora.rank: 2 there, 0 now"):
        train(make_config(tmp_path / "straight", tiny_janus_folder, pairs_file, steps=4))
