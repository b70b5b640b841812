"""GenEval's decision as a reward: does the image show the objects, counts, colours and places that its row asks for?

The half's row has what a line of the benchmark's evaluation_metadata.jsonl has: `tag` and `include`, perhaps `exclude`
(arXiv 2310.11513). Training on the benchmark's own prompts would spoil it as a benchmark: make others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError, model_validator

from pairuni.config import EvalConfig, RewardOptions
from pairuni.errors import InputError
from pairuni.rewards.base import RewardInput
from pairuni.rewards.clip import find_device
from pairuni.rewards.geneval_rule import judge
from pairuni.rewards.object_detector import CLASSES, COLOURS, Mask2FormerDetector, coloured_classes
from pairuni.types import Quadruple, Side
from pairuni.validation import input_error


class _Clause(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    name: Annotated[Literal[CLASSES], Field(alias="class")]  # pyright: ignore
    count: Annotated[StrictInt, Field(ge=1)]
    color: Literal[COLOURS] | None = None  # pyright: ignore
    position: tuple[Literal["left of", "right of", "above", "below"], Annotated[StrictInt, Field(ge=0)]] | None = None


class _Metadata(BaseModel):
    include: Annotated[list[_Clause], Field(min_length=1)]
    exclude: list[_Clause] = []

    @model_validator(mode="after")
    def _targets_come_first(self) -> Self:
        for place, clause in enumerate(self.include):
            if clause.position is not None and clause.position[1] >= place:
                raise ValueError(f"include.{place}.position: there is no clause {clause.position[1]} before it")
        return self


@dataclass(frozen=True)
class GenEvalReward:
    """1 where every clause is met (partial: the share of clauses that are), else 0. The detector loads on first use."""

    options: RewardOptions = field(default_factory=RewardOptions)
    partial: bool = False
    sides: frozenset[Side] = frozenset({Side.GENERATION})
    remote: bool = False

    def __post_init__(self) -> None:
        """Raises InputError: no such device."""
        find_device(self.options.device or "auto", f"rewards.options.{self.name}.device")

    @property
    def name(self) -> str:
        return "geneval_partial" if self.partial else "geneval"

    def __call__(self, items: Sequence[RewardInput]) -> Sequence[float]:
        """Raises InputError: a row without metadata, or with what the detector does not know."""
        scores: list[float] = []
        for item, metadata in [(item, self._metadata(item.quadruple)) for item in items]:
            unmet = len(judge(self._detector(item.pixels, coloured_classes(metadata)), metadata).reasons)
            clauses = len(metadata["include"]) + len(metadata["exclude"])
            scores.append(1 - unmet / clauses if self.partial else float(not unmet))
        return scores

    def _metadata(self, quadruple: Quadruple) -> Mapping[str, Any]:
        row = {"tag": quadruple.tag, "include": quadruple.extra.get("include")}
        row["exclude"] = quadruple.extra.get("exclude") or []
        try:
            _Metadata.model_validate(row)
        except ValidationError as err:
            message = f"the row of {quadruple.id!r} has no GenEval metadata: {input_error(err)}"
            raise InputError(message, field=f"reward {self.name}") from None
        return row

    @property
    def published(self) -> dict[str, str]:
        """Hub ids that stand for options that are not set: the benchmark's own defaults."""
        return {"weights": EvalConfig.detector, "colours": EvalConfig.colours}

    @cached_property
    def _detector(self) -> Mask2FormerDetector:
        device = find_device(self.options.device or "auto", f"rewards.options.{self.name}.device")
        used = self.published
        return Mask2FormerDetector(
            self.options.weights or used["weights"], self.options.colours or used["colours"], device
        )


geneval_partial = partial(GenEvalReward, partial=True)
"""With credit for a part, so that a model which rarely gets all of it learns which attempt is nearer."""
