"""docs/exporters.md: its columns are the columns, and its hooks multiply advantages by weights.

The trainers are stand-ins of a few lines, with the names and shapes that docs/exporters.md says theirs have.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from pairuni.export import verl_omni
from pairuni.export.folder import WeightedPair
from pairuni.types import Pair, Quadruple, Side

DOC = (Path(__file__).parents[2] / "docs" / "exporters.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```py\n# (\w+)\.py\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL))
ADVANTAGES, WEIGHTS = [[2.0, 2.0], [-1.0, -1.0], [0.5, 0.5]], [1.0, 0.5, 0.8]
EXPECTED = torch.tensor(ADVANTAGES) * torch.tensor(WEIGHTS)[:, None]
INFOS = [{"weight": weight} for weight in WEIGHTS]


def documented(heading: str) -> list[str]:
    section = re.split(r"^#+ ", DOC.split(f"\n## {heading}\n")[1], flags=re.MULTILINE)[0]
    first = " ".join(re.findall(r"^- (`[^:]*`): ", section, re.MULTILINE))
    return re.findall(r"`(\w+)`", first)


def test_the_documented_columns_are_the_columns() -> None:
    columns = {name for side in Side for name in verl_omni.schema(side, negative=True).names}
    assert set(documented("verl-omni")) == columns
    assert set(documented("UniRL")) == {"prompt_id", "prompt", "media_refs", "metadata"}
    one = Quadruple("q", Side.GENERATION, "a.png", "p", "q", "a")
    facts = set(WeightedPair(1, Pair("p", "aligned", 1.0, one, one), 1.0).facts(Side.GENERATION))
    assert set(documented("Fields of a half")) == facts
    info = verl_omni.schema(Side.GENERATION).field("extra_info").type
    assert {info.field(n).name for n in range(info.num_fields)} == facts | {"split", "index"}


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that puts a module with these names where an import finds it."""

    def place(name: str, **names: Any) -> None:
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            package = ".".join(parts[:depth])
            if package not in sys.modules:
                module = ModuleType(package)
                module.__path__ = []
                monkeypatch.setitem(sys.modules, package, module)
        vars(sys.modules[name]).update(names)

    return place


def run(name: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(BLOCKS[name], f"{name}.py", "exec"), names)
    return names


def register(found: dict[str, type]) -> Any:
    def named(name: str) -> Any:
        return lambda cls: found.setdefault(name, cls)

    return named


def test_there_are_three_hooks() -> None:
    assert set(BLOCKS) == {"pair_weights_images", "pair_weights_text", "pair_weights_unirl"}


def test_the_hook_for_images(stand_in: Any) -> None:
    class Trainer:
        def _compute_advantage(self, data: Any) -> Any:
            data.batch["advantages"] = torch.tensor(ADVANTAGES)
            return data

    found: dict[str, type] = {}
    stand_in("verl_omni.trainer.diffusion.v1.trainer_base", register_diffusion_trainer=register(found))
    stand_in("verl_omni.trainer.diffusion.v1.trainer_sync", PolicyGradientDiffusionTrainerV1Sync=Trainer)
    run("pair_weights_images")
    assert list(found) == ["sync"] and "trainer.v1.trainer_mode=sync" in DOC
    data = SimpleNamespace(batch={}, non_tensor_batch={"extra_info": INFOS})
    torch.testing.assert_close(found["sync"]()._compute_advantage(data).batch["advantages"], EXPECTED)


def test_the_hook_for_text(stand_in: Any) -> None:
    wrapped = SimpleNamespace(data=INFOS[0])  # as the transfer queue may return a mapping
    rows: dict[str, Any] = {"extra_info": [wrapped, *INFOS[1:]]}
    tokens = [torch.tensor(each) for each in ([2.0, 2.0], [-1.0], [0.5, 0.5, 0.5])]

    class Trainer:
        def _compute_advantage(self, batch: Any, metrics: dict) -> Any:
            rows["advantages"] = torch.nested.as_nested_tensor(tokens, layout=torch.jagged)
            return batch

    def put(keys: list[str], partition_id: str, fields: dict[str, Any]) -> str:
        rows.update(fields)
        return f"{partition_id} {len(keys)}"

    found: dict[str, type] = {}
    get = lambda keys, partition_id, select_fields: {name: rows[name] for name in select_fields}  # noqa: E731
    stand_in("transfer_queue", kv_batch_get=get, kv_batch_put=put)
    stand_in("tensordict", TensorDict=lambda values, batch_size: values)
    stand_in("verl.trainer.ppo.v1.trainer_base", register_trainer=register(found))
    stand_in("verl_omni.trainer.omni.ray_omni_trainer", OmniPPOTrainerSync=Trainer)
    run("pair_weights_text")
    batch = SimpleNamespace(keys=["a", "b", "c"], partition_id="train")
    assert found["pair_omni_sync"]()._compute_advantage(batch, {}) == "train 3"
    for each, token, weight in zip(rows["advantages"].unbind(), tokens, WEIGHTS, strict=True):
        torch.testing.assert_close(each, token * weight)


def test_the_hook_of_unirl(stand_in: Any) -> None:
    @dataclass
    class Part:
        advantages: torch.Tensor
        metadata: list[dict[str, float]]

    class Stack:
        def _run_update(self, part: Part, *, micros: int) -> tuple[torch.Tensor, int]:
            return part.advantages, micros

    stand_in("unirl.train.stack.base", TrainStack=Stack)
    part = Part(torch.tensor([row[0] for row in ADVANTAGES]), INFOS)
    stack = run("pair_weights_unirl")["PairTrainStack"]()
    for _ in range(2):  # several updates of one part do not weigh it several times
        advantages, micros = stack._run_update(part, micros=3)
        torch.testing.assert_close(advantages, EXPECTED[:, 0])
        assert micros == 3
