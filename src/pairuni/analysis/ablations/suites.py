"""What each suite compares. An arm is the base config with a few fields changed; an arm without any is the method.

Arms are shared between suites by their name: what `weighting` calls sqrt is the `method` run of `pairing`, run once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pairuni.config import PairingMode, Suite

METHOD = "method"
"""The arm with nothing changed: pairs, square-root weights, floor 0.6, medoids."""

Fields = Mapping[str, Any]

_UNSOUND: Mapping[int, frozenset[PairingMode]] = {1: frozenset({"random_pairs", "unpaired", "vanilla"})}
"""By version of the random streams, the mixing modes whose runs were not what they are called. In version 1 one
permutation both joined halves and ordered the pairs of an epoch: random pairs trained beside their true partners, least
similar ones came sorted by similarity; and vanilla's two sides had a denominator each."""


@dataclass(frozen=True)
class Arm:
    """Fields that differ from the base, by the command whose config they stand in."""

    name: str
    """Of its folders; equal names are equal arms."""
    label: str
    """In tables and figures."""
    train: Fields = field(default_factory=dict)
    """Dotted fields of TrainConfig."""
    pair: Fields = field(default_factory=dict)
    """Fields of PairConfig."""
    shapes: Fields = field(default_factory=dict)
    """Fields of ShapesConfig."""
    data: Literal["any", "shapes", "real"] = "any"
    """For which data it is: the Shapes world, or a user's own."""

    def sound(self, streams: int) -> bool:
        """Whether its runs with this version of the random streams are what its label says."""
        return self.train.get("pair_selection.mode", "pairs") not in _UNSOUND.get(streams, ())

    @property
    def data_name(self) -> str:
        """Of the folder of its data, which arms with the same data share."""
        return _named(self.shapes)

    @property
    def pairs_name(self) -> str:
        """Of the folder of its pairs, which arms with the same pairs share."""
        return _named({**self.shapes, **self.pair})


@dataclass(frozen=True)
class Comparison:
    """A suite: what is asked, its arms, and which of them the others are compared with."""

    question: str
    arms: tuple[Arm, ...]
    reference: Mapping[str, str] = field(default_factory=dict)
    """Arm -> the arm that it is compared with (default: the first)."""

    def reference_of(self, arm: Arm) -> str | None:
        """The name of the arm that `arm` is compared with, None for one that others are compared with."""
        name = self.reference.get(arm.name, self.arms[0].name)
        return None if name == arm.name else name


def _named(values: Fields) -> str:
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


def _worlds(*worlds: tuple[str, str, Fields]) -> Comparison:
    """Pairs against random pairs in each of several worlds (name, label, fields of ShapesConfig)."""
    arms, reference = [], {}
    for name, label, shapes in worlds:
        names = [METHOD, "random_pairs"] if not shapes else [f"{name}_pairs", f"{name}_random"]
        arms += [
            Arm(names[0], f"{label}: pairs", shapes=shapes, data="shapes"),
            Arm(
                names[1],
                f"{label}: random pairs",
                {"pair_selection.mode": "random_pairs"},
                shapes=shapes,
                data="shapes",
            ),
        ]
        reference |= {names[0]: names[1], names[1]: names[1]}
    return Comparison("When does pairing help?", tuple(arms), reference)


SUITES: dict[Suite, Comparison] = {
    "pairing": Comparison("Does it matter which halves are trained together?", _MODES),
    "weighting": Comparison(
        "Does the weight of retrieved pairs matter?",
        (
            _method("square root of the similarity"),
            Arm("weight_linear", "similarity", train={"weighting": "linear"}),
            Arm("weight_none", "1", train={"weighting": "none"}),
        ),
    ),
    "threshold": Comparison(
        "Does the similarity floor matter?",
        (
            _method("0.6"),
            Arm("floor_0.5", "0.5", pair={"similarity_floor": 0.5}),
            Arm("floor_0.7", "0.7", pair={"similarity_floor": 0.7}),
            Arm("floor_0.8", "0.8", pair={"similarity_floor": 0.8}, data="shapes"),
        ),
    ),
    "selection": Comparison(
        "Do medoids matter?",
        (_method("medoid"), Arm("select_random", "random member", pair={"select": "random"})),
    ),
    "extractor": Comparison(
        "Does it matter what similarity is measured on?",
        (
            _method("the base's"),
            Arm("shapes_content", "what the detector reads", pair={"extractor": "shapes_content"}, data="shapes"),
            Arm("dinov3", "DINOv3", pair={"extractor": "dinov3", "weights": ""}, data="real"),
            Arm("pe", "Perception Encoder", pair={"extractor": "pe", "weights": ""}, data="real"),
        ),
    ),
    "rewards": Comparison(
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
