"""A run of a masked diffusion model: the loop knows nothing of it, settings of the family reach it and are kept."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pairuni.config import LogConfig, LoraOptions, ModelConfig, TrainConfig
from pairuni.policies.dimoo.policy import DimooPolicy
from pairuni.runs import RunDir, comparable
from pairuni.train.loop import train
from train_world import make_config


@pytest.mark.parametrize("estimator", ["trace", "coupled"])
@pytest.mark.parametrize("lora", [0, 2])
def test_a_run_stops_and_goes_on_exactly(
    estimator: str, lora: int, tiny_dimoo: DimooPolicy, tmp_path: Path, pairs_file: Path
) -> None:
    tiny_dimoo.save(tmp_path / "model")
    sampler_options = {"estimator": estimator, "scored_image_steps": 2}

    def config(name: str, steps: int) -> TrainConfig:
        model = ModelConfig(
            str(tmp_path / "model"), "cpu", lora=LoraOptions(rank=lora), sampler_options=sampler_options
        )
        log = LogConfig(samples_every=2, sample_prompts=1, checkpoint_every=1, keep_checkpoints=0)
        return make_config(
            tmp_path / name, tmp_path / "model", pairs_file, steps=steps, model=model, log=log, kl_beta=0.01
        )

    train(config("straight", 3))
    train(config("stopped", 1))
    train(config("stopped", 3))
    straight, stopped = (RunDir(tmp_path / name) for name in ("straight", "stopped"))
    rows = [[comparable(row) for row in run.read_metrics()] for run in (straight, stopped)]
    assert rows[0] == rows[1] and len(rows[0]) == 3
    weights = [load_file(run.checkpoint(3) / "model" / "model.safetensors") for run in (straight, stopped)]
    assert all(bool((weights[0][name] == weights[1][name]).all()) for name in weights[0])
    before = load_file(tmp_path / "model" / "model.safetensors")
    assert any(bool((weights[0][name] != before[name]).any()) for name in before)
    said = json.loads((straight.checkpoint(3) / "model" / "config.json").read_text())
    assert {name: said[name] for name in sampler_options} == sampler_options
    for row in rows[0]:
        assert row["grad_norm"] > 0 and row["tokens/understanding"] > 0
        # Of a trace the recorded log-probs are the scored ones; those of other estimators are not.
        assert (row["logp_gap_max/generation"] < 1e-4) == (estimator == "trace"), row["logp_gap_max/generation"]
