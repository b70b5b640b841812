"""`pairuni analyse gradients`: what is compared, against plain autograd and NumPy; what is left out, kept, refused."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from pairuni.algo.advantages import group_advantages
from pairuni.cli.main import main
from pairuni.config import GradientsConfig, PairSelectionConfig, RewardConfig, TrainConfig
from pairuni.data.mixing import mix
from pairuni.errors import InputError
from pairuni.lab import gradient_agreement as gradients
from pairuni.lab.gradient_agreement import (
    PairGradients,
    corrected,
    cosines,
    drawn_pairs,
    measure_gradients,
    summarise,
    table,
)
from pairuni.policies import load_policy
from pairuni.records import read_pairs
from pairuni.types import Pair, Quadruple, Side
from train_world import make_config, read_halves, roll_out, write_pairs

MIXES: Any = ["pairs", "random_pairs"]


@pytest.fixture
def train(tmp_path: Path, tiny_janus_folder: Path) -> TrainConfig:
    made = make_config(tmp_path / "run", tiny_janus_folder, write_pairs(tmp_path / "data"))
    return dataclasses.replace(made, rollout=dataclasses.replace(made.rollout, rollouts=8), seed=5)


def gauge(train: TrainConfig, sketch: int) -> PairGradients:
    return PairGradients(load_policy(train.model.path, device="cpu"), train, sketch)


def test_it_is_the_trainers_loss_of_half_the_rollouts_each(train: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against log-probs of all rows in one graph, and cosines in NumPy, over what both sides reach."""
    one, batches = gauge(train, 0), []
    real = gradients.collect

    def spy(*arguments: Any) -> Any:
        batches.append(real(*arguments))
        return batches[-1]

    monkeypatch.setattr(gradients, "collect", spy)
    got = one.measure(read_pairs(train.data.pairs)[1], 0)
    (batch,) = batches
    found: dict[Side, list[list[np.ndarray]]] = {}
    for side, sampled in batch.items():
        (call,) = sampled.calls
        (chunk,) = one.policy.chunks(call, 100)
        found[side] = []
        for rows in (slice(0, 4), slice(4, 8)):
            logp = one.policy.logprobs(call, chunk)
            advantages = group_advantages(sampled.rewards_BR[:, rows])[0]
            lengths = chunk.mask_kN[rows].sum(1)
            loss = -(advantages.float() * (logp[rows] * chunk.mask_kN[rows]).sum(1) / lengths).sum()
            grads = torch.autograd.grad(loss, one.parameters, allow_unused=True)
            found[side].append([np.zeros(1) if g is None else g.double().numpy().ravel() for g in grads])
    reached = [i for i in range(len(one.parameters)) if all(np.any(found[side][0][i]) for side in Side)]
    assert one.shared == reached and 0 < len(reached) < len(one.parameters)

    def cosine(a: list[np.ndarray], b: list[np.ndarray], of: list[int]) -> float:
        x, y = (np.concatenate([part[i] for i in of]) for part in (a, b))
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    (u, v), (g, h) = found[Side.UNDERSTANDING], found[Side.GENERATION]
    names = {one.groups[i] for i in reached}
    assert {"layer 00", "other"} <= names == got["cosine"].keys() - {"all"}
    for name in (*names, "all"):
        of = [i for i in reached if name in ("all", one.groups[i])]
        across = np.mean([cosine(a, b, of) for a in (u, v) for b in (g, h)])
        assert got["cosine"][name] == pytest.approx(across, abs=1e-5)
        assert got["understanding"][name] == pytest.approx(cosine(u, v, of), abs=1e-5)
        assert got["generation"][name] == pytest.approx(cosine(g, h, of), abs=1e-5)


def test_a_sketch_is_within_a_hundredth(train: TrainConfig) -> None:
    pair = read_pairs(train.data.pairs)[1]
    exact, rough = (gauge(train, sketch).measure(pair, 0) for sketch in (0, 1 << 18))
    for kind in ("cosine", "understanding", "generation"):
        assert exact[kind].keys() == rough[kind].keys()
        assert all(abs(exact[kind][name] - rough[kind][name]) < 0.01 for name in exact[kind]), kind
    coarse = gauge(train, 16).measure(pair, 0)
    assert any(abs(exact["cosine"][name] - coarse["cosine"][name]) > 0.01 for name in exact["cosine"])


def test_equal_rewards_leave_a_pair_out(train: TrainConfig) -> None:
    flat = dataclasses.replace(train.rewards, understanding="train_world:equal")
    one = gauge(dataclasses.replace(train, rewards=flat), 0)
    assert one.measure(read_pairs(train.data.pairs)[0], 0) == {"left_out": ["understanding"]}


def test_a_second_call_measures_only_what_is_missing(train: TrainConfig, tmp_path: Path) -> None:
    small = GradientsConfig(run="", mixes=MIXES, pairs=2, rollouts=4, sketch=256)
    whole = measure_gradients(dataclasses.replace(small, pairs=3), train, tmp_path / "whole")
    measure_gradients(dataclasses.replace(small, mixes=MIXES[:1]), train, tmp_path / "parts")
    rows = tmp_path / "parts" / "gradients.jsonl"
    rows.write_text(rows.read_text().replace('"similarity"', '"kept": 1, "similarity"'))
    again = measure_gradients(dataclasses.replace(small, pairs=3), train, tmp_path / "parts")
    assert again == whole and {entry["measured"] + entry["left_out"] for entry in again["mixes"].values()} == {3}
    assert sum("kept" in json.loads(line) for line in rows.read_text().splitlines()) == 2


def refused(train: TrainConfig, output: Path, config: GradientsConfig, *words: str) -> InputError:
    with pytest.raises(InputError) as caught:
        measure_gradients(config, train, output)
    assert all(word in str(caught.value) for word in words), caught.value
    return caught.value


def test_other_settings_and_broken_rows_are_refused(train: TrainConfig, tmp_path: Path) -> None:
    small, out = GradientsConfig(run="", mixes=MIXES[:1], pairs=1, rollouts=4, sketch=256), tmp_path / "out"
    # A call that measured nothing leaves nothing that the next one could be refused for.
    lost = dataclasses.replace(small, model=str(tmp_path / "no-such-model"))
    refused(train, out, lost, "no-such-model")
    measure_gradients(small, train, out)
    rows = (out / "gradients.jsonl").read_text()
    assert refused(train, out, dataclasses.replace(small, sketch=512)).field == "sketch"
    rewarded = dataclasses.replace(train.rewards, understanding="train_world:equal")
    assert refused(dataclasses.replace(train, rewards=rewarded), out, small).field == "rewards.understanding"
    assert refused(train, out, dataclasses.replace(small, rollouts=6)).field == "rollout.rollouts"
    pairs = Path(train.data.pairs)
    whole = pairs.read_text()
    pairs.write_text("".join(line + "\n" for line in whole.splitlines()[::-1]))
    assert refused(train, out, small).field == "inputs"
    pairs.write_text(whole)
    assert (out / "gradients.jsonl").read_text() == rows
    for broken, field in (
        (rows + "\n{", None),
        (rows + '{"mix": "pairs", "pair": "p9"}\n', "cosine"),
        ('{"mix": 1}', "mix"),
    ):
        (out / "gradients.jsonl").write_text(broken)
        error = refused(train, out, small)
        assert error.file == out / "gradients.jsonl" and error.line and error.field == field
    (out / "gradients.jsonl").write_text(rows)
    (out / "settings.json").unlink()
    assert refused(train, out, small, "no such file").file == out / "settings.json"
    refused(train, out / "gradients.jsonl" / "deeper", small)


def test_mixes_that_cannot_be_are_named_before_anything_is_measured(train: TrainConfig, tmp_path: Path) -> None:
    small = GradientsConfig(run="", mixes=["pairs", "from_generation"], pairs=1, rollouts=4)  # pairs do not say sides
    assert refused(train, tmp_path / "out", small, "leave from_generation out").field == "mixes"
    (Path(train.data.pairs).parent / "3_u.png").unlink()
    refused(train, tmp_path / "out", dataclasses.replace(small, mixes=MIXES), "3_u.png")
    assert not (tmp_path / "out").exists()


def test_rewards_are_normalised_within_each_half(train: TrainConfig) -> None:
    """Two rewards of unlike sizes, by hand: a half's sum knows nothing of the other half."""
    weights = {"train_world:letter_share": 1.0, "train_world:length": 0.5}
    rewards = RewardConfig(",".join(weights), "brightness", weights={"train_world:length": 0.5}, normalise="group")
    one = gauge(dataclasses.replace(train, rewards=rewards), 0)
    batch = roll_out(one.policy, read_halves(Path(train.data.pairs)), one.train)[Side.UNDERSTANDING]
    checked = 0
    for credit_BR, columns in zip(one._half_advantages(batch), (slice(0, 4), slice(4, 8)), strict=True):
        whole_BR = np.zeros((6, 4))
        for name, weight in weights.items():
            raw_BR = batch.raw_BR[name][:, columns]
            spread_B1 = raw_BR.std(1, keepdims=True)
            whole_BR += weight * (raw_BR - raw_BR.mean(1, keepdims=True)) / np.where(spread_B1 > 0, spread_B1, 1)
        for mine, expected in zip(credit_BR[:, columns].numpy(), whole_BR, strict=True):
            if np.ptp(expected) > 1e-9:
                checked += 1
                assert np.corrcoef(mine, expected)[0, 1] == pytest.approx(1, abs=1e-9)
        outside = np.ones(8, bool)
        outside[columns] = False
        assert not credit_BR[:, outside].any()
    assert checked > 6


def test_a_gradient_that_is_not_finite_is_left_out(train: TrainConfig) -> None:
    one = gauge(train, 256)
    pair = read_pairs(train.data.pairs)[1]
    assert "cosine" in one.measure(pair, 0)
    one.parameters[one.shared[0]].register_hook(lambda gradient: gradient * math.inf)
    assert one.measure(pair, 0) == {"left_out": ["understanding", "generation"]}


def test_fewer_pairs_are_the_first_of_more(train: TrainConfig) -> None:
    few, many = (drawn_pairs(train, "pairs", GradientsConfig(run="", pairs=n, seed=3)) for n in (2, 9))
    assert len(many) == 6 and few == many[:2]
    assert many != drawn_pairs(train, "pairs", GradientsConfig(run="", pairs=9, seed=4))


def test_which_pairs_are_drawn_says_nothing_about_their_partners(
    train: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn random pairs form no chain, and drawn unlike pairs are as unlike as all."""
    number, drawn, seeds = 300, 30, range(20)
    halves = [[Quadruple(f"{s}{n}", None, "i.png", "c", "q", "A") for n in range(number)] for s in "gu"]
    made = [Pair(str(n), "retrieved", 0.7, *both) for n, both in enumerate(zip(*halves, strict=True))]
    rows = {q.id: np.random.default_rng(n).random(6) for n, q in enumerate(halves[0] + halves[1])}

    def mixed(data: object, selection: PairSelectionConfig, seed: int, sides: object) -> list[Pair]:
        return mix(made, selection.mode, seed, lambda some: np.stack([rows[q.id] for q in some]))

    monkeypatch.setattr(gradients, "mixed_pairs", mixed)
    chained, unlike, every = 0, [], []
    for seed in seeds:
        seeded, config = dataclasses.replace(train, seed=seed), GradientsConfig(run="", pairs=drawn, seed=seed)
        pairs = drawn_pairs(seeded, "random_pairs", config)
        chained += len({p.generate.id[1:] for p in pairs} & {p.understand.id[1:] for p in pairs})
        unlike.append(np.mean([p.similarity for p in drawn_pairs(seeded, "unpaired", config)]))
        unpaired = dataclasses.replace(seeded.pair_selection, mode="unpaired")
        every.append([p.similarity for p in mixed(None, unpaired, seed, None)])
    trials, chance = drawn * len(seeds), (drawn - 1) / (number - 1)
    low, high = stats.binom.interval(1 - 1e-4, trials, chance)
    assert low <= chained <= high, f"{chained / trials:.1%} of their partners are drawn, by chance {chance:.1%}"
    error = np.std(every) / np.sqrt(trials)
    assert abs(np.mean(unlike) - np.mean(every)) < 4 * error, f"{np.mean(unlike):.3f}, of all {np.mean(every):.3f}"


def row(mix: str, across: float, one: float, other: float) -> dict[str, Any]:
    values = {"cosine": across, "understanding": one, "generation": other}
    return {"mix": mix, "pair": "p"} | {kind: {"all": value, "layer 00": -value} for kind, value in values.items()}


def test_summary_against_numpy() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0.3, 0.1, (40, 3))
    rows = [row("pairs", *map(float, three)) for three in values] + [{"mix": "pairs", "pair": "q", "left_out": ["x"]}]
    entry = summarise(rows, 0)["mixes"]["pairs"]
    assert (entry["measured"], entry["left_out"]) == (40, 1)
    across, one, other = values.T
    assert entry["cosine"]["all"]["value"] == pytest.approx(np.median(across), abs=1e-5)
    assert entry["generation"]["layer 00"]["value"] == pytest.approx(-np.median(other), abs=1e-5)
    expected = across.mean() / math.sqrt(one.mean() * other.mean())
    assert entry["corrected"]["value"] == pytest.approx(expected, abs=1e-5)
    # The bootstrap by hand, resampling whole pairs.
    medians, ratios = [], []
    for picks in rng.integers(40, size=(4000, 40)):
        medians.append(np.median(across[picks]))
        ratios.append(across[picks].mean() / math.sqrt(one[picks].mean() * other[picks].mean()))
    for got, drawn in ((entry["cosine"]["all"], medians), (entry["corrected"], ratios)):
        low, high = np.percentile(drawn, [2.5, 97.5])
        assert got["low"] == pytest.approx(low, abs=0.01) and got["high"] == pytest.approx(high, abs=0.02)


def test_too_little_to_say() -> None:
    assert math.isnan(corrected(np.ones(3), np.array([-1.0, 0.5, 0.1]), np.ones(3), seed=0)[0])
    lone = summarise([row("pairs", 0.5, 0.25, 1.0), {"mix": "unpaired", "pair": "p", "left_out": ["x"]}], 0)
    assert lone["mixes"]["pairs"]["cosine"]["all"] == {"value": 0.5, "low": None, "high": None}
    assert lone["mixes"]["pairs"]["corrected"]["value"] == 1.0
    assert lone["mixes"]["unpaired"] == {"measured": 0, "left_out": 1}
    assert "| unpaired | 0 | 1 |  |" in table(lone)


def test_cosines_of_zero_are_zero() -> None:
    a, b = {"x": torch.tensor([3.0, 4.0]).double()}, {"x": torch.zeros(2).double()}
    assert cosines(a, b) == {"x": 0.0, "all": 0.0} and cosines(a, a) == {"x": 1.0, "all": 1.0}


def test_the_command(train: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(
        f"output: {train.output}\nmodel: {{path: {train.model.path}, device: cpu}}\n"
        f"data: {{pairs: {train.data.pairs}, batch: 2}}\nrollout: {{max_new_tokens: 6, guidance: 2.0}}\n"
        "rewards: {understanding: 'train_world:letter_share', generation: brightness}\n"
    )
    out = tmp_path / "out"
    asked = ["analyse", "gradients", str(config), "--mixes", "pairs", "aligned_only", "--pairs", "2", "--rollouts", "4"]
    assert main([*asked, "--output", str(out)]) == 0
    said = capsys.readouterr().out
    assert "| aligned_only | 2 |" in said and (out / "gradients.png").stat().st_size > 10_000
    assert (out / "gradients.md").read_text().strip() in said
    assert main(asked) == 2 and "output" in capsys.readouterr().err
    assert main([*asked, "--output", str(out), "--model", "nowhere/at/all"]) == 2
    assert main([*asked, "--mixes", "vanilla", "--output", str(out)]) == 2
