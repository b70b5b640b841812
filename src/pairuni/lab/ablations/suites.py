"""The suites and their arms. An arm is the base config with a few fields changed; without changes it is the method.

Suites share arms by name: the sqrt arm of `weighting` is the `method` arm of `pairing` and runs once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pairuni.config import PairingMode, Suite

METHOD = "method"
"""The arm without changes: pairs, square-root weights, floor 0.6, medoids."""

Fields = Mapping[str, Any]

_UNSOUND: Mapping[int, frozenset[PairingMode]] = {1: frozenset({"random_pairs", "unpaired", "vanilla"})}
"""By version of the random streams, the mixing modes whose runs were not what their names say. In version 1 a single
permutation both joined halves and ordered the pairs of an epoch: random pairs were trained beside their true partners
and the least similar pairs came sorted by similarity. The two sides of vanilla each had their own denominator."""


@dataclass(frozen=True)
class Arm:
    """The fields that differ from the base, by the command whose config has them."""

    name: str
    """Names its folders; arms with equal names are the same arm."""
    label: str
    """Names it in tables and figures."""
    train: Fields = field(default_factory=dict)
    """Dotted fields of TrainConfig."""
    pair: Fields = field(default_factory=dict)
    """Fields of PairConfig."""
    shapes: Fields = field(default_factory=dict)
    """Fields of ShapesConfig."""
    data: Literal["any", "shapes", "real"] = "any"
    """The data that it needs: the Shapes world, or a user's own."""

    def sound(self, streams: int) -> bool:
        """Whether runs with this version of the random streams are what the label says."""
        return self.train.get("pair_selection.mode", "pairs") not in _UNSOUND.get(streams, ())


@dataclass(frozen=True)
class SuiteSpec:
    """A suite: its question, its arms, and their references."""

    question: str
    arms: tuple[Arm, ...]
    reference: Mapping[str, str] = field(default_factory=dict)
    """Arm -> its reference (default: the first arm)."""

    def reference_of(self, arm: Arm) -> str | None:
        """The name of the arm that `arm` is compared with; None for the reference itself."""
        name = self.reference.get(arm.name, self.arms[0].name)
        return None if name == arm.name else name


def folder_of(values: Fields) -> str:
    """The folder of data made with these fields, or of pairs made with those and fields of pairing; arms share it."""
    said = [f"{k}={'+'.join(v) if isinstance(v, list) else v}" for k, v in values.items() if v != ""]
    return ",".join(said) or METHOD


def _mode(mode: PairingMode, label: str) -> Arm:
    return Arm(mode, label, train={"pair_selection.mode": mode})


def _method(label: str) -> Arm:
    return Arm(METHOD, label)


_MODES = (
    _method("pairs"),
    _mode("aligned_only", "aligned only"),
    _mode("retrieved_only", "retrieved only"),
    _mode("from_understanding", "from understanding"),
    _mode("from_generation", "from generation"),
    _mode("random_pairs", "random pairs"),
    _mode("unpaired", "unpaired (least similar)"),
    _mode("vanilla", "vanilla (mixed batches)"),
    Arm("understanding_alone", "understanding side alone", train={"sides": "understanding"}),
    Arm("generation_alone", "generation side alone", train={"sides": "generation"}),
)

_EASY_QUESTIONS, _EASY_TASKS = ["comparison", "count"], ["single", "colours"]
"""What the shipped Janus mostly gets right, so that rewards differ little within a group and little can be learnt."""


def _worlds(*worlds: tuple[str, str, Fields]) -> SuiteSpec:
    """Pairs against random pairs in each of several worlds (name, label, fields of ShapesConfig)."""
    arms, reference = [], {}
    for name, label, shapes in worlds:
        paired, shuffled = (METHOD, "random_pairs") if not shapes else (f"{name}_pairs", f"{name}_random")
        mode = {"pair_selection.mode": "random_pairs"}
        arms.append(Arm(paired, f"{label}: pairs", shapes=shapes, data="shapes"))
        arms.append(Arm(shuffled, f"{label}: random pairs", mode, shapes=shapes, data="shapes"))
        reference |= {paired: shuffled, shuffled: shuffled}
    return SuiteSpec("When does pairing help?", tuple(arms), reference)


SUITES: dict[Suite, SuiteSpec] = {
    "pairing": SuiteSpec("Does it matter which halves are trained together?", _MODES),
    "weighting": SuiteSpec(
        "Does the weight of retrieved pairs matter?",
        (
            _method("square root of the similarity"),
            Arm("weight_linear", "similarity", train={"weighting": "linear"}),
            Arm("weight_none", "1", train={"weighting": "none"}),
        ),
    ),
    "threshold": SuiteSpec(
        "Does the similarity floor matter?",
        (
            _method("0.6"),
            Arm("floor_0.5", "0.5", pair={"similarity_floor": 0.5}),
            Arm("floor_0.7", "0.7", pair={"similarity_floor": 0.7}),
            Arm("floor_0.8", "0.8", pair={"similarity_floor": 0.8}, data="shapes"),
        ),
    ),
    "selection": SuiteSpec(
        "Do medoids matter?",
        (_method("medoid"), Arm("select_random", "random member", pair={"select": "random"})),
    ),
    "extractor": SuiteSpec(
        "Does it matter what similarity is measured on?",
        (
            _method("the base's"),
            Arm("shapes_content", "what the detector reads", pair={"extractor": "shapes_content"}, data="shapes"),
            Arm("dinov3", "DINOv3", pair={"extractor": "dinov3", "weights": ""}, data="real"),
            Arm("pe", "Perception Encoder", pair={"extractor": "pe", "weights": ""}, data="real"),
        ),
    ),
    "rewards": SuiteSpec(
        "Does the image reward matter?",
        (
            _method("the base's"),
            Arm("reward_exact", "all or nothing", {"rewards.generation": "shapes_exact"}, data="shapes"),
            Arm("reward_colourful", "colourfulness", {"rewards.generation": "colourfulness"}, data="shapes"),
            Arm("reward_clip", "CLIPScore", {"rewards.generation": "clip_score"}, data="real"),
            Arm("reward_pick", "PickScore", {"rewards.generation": "pick_score"}, data="real"),
        ),
    ),
    "matching": _worlds(
        ("tints", "tints distract", {"backgrounds": "mixed"}),
        ("", "no common scenes", {}),
        ("common_0.5", "half of the scenes common", {"common": 0.5}),
        ("common_1", "all scenes common", {"common": 1.0}),
    ),
    "room": _worlds(
        ("", "all questions and tasks", {}),
        ("easy_questions", "easy questions", {"question_types": _EASY_QUESTIONS}),
        ("easy_tasks", "easy prompts", {"tasks": _EASY_TASKS}),
        ("easy_both", "both easy", {"question_types": _EASY_QUESTIONS, "tasks": _EASY_TASKS}),
    ),
}

ARMS: dict[str, Arm] = {arm.name: arm for comparison in SUITES.values() for arm in comparison.arms}
"""Every arm by its name."""
