"""Options of rewards: which score which side in training, and how each is computed."""

from dataclasses import field
from typing import Literal

from pairuni.config.fields import Count, ListOf, Positive, PositiveNumber, options, require


@options("rewards.options")
class RewardOptions:
    """Options of one reward. docs/rewards.md lists those of each reward; any other is an error."""

    weights: str | None = None
    """Rewards with a model: hub id, local folder or file (default: the published weights)."""
    tokenizer: str | None = None
    """Rewards with a CLIP: hub id or local folder of its tokenizer (default: the published one)."""
    colours: str | None = None
    """geneval: hub id or local folder of the CLIP model that names colours (default: openai/clip-vit-large-patch14)."""
    device: str | None = None
    """Rewards with a model: auto (the default: this process' GPU if there is one), cpu, cuda, cuda:1, ..."""
    batch: Positive | None = None
    """Items per forward pass, or per request (default: 32)."""
    url: str | None = None
    """http: address of the server."""
    timeout: PositiveNumber | None = None
    """http: seconds per try (default: 60)."""
    retries: Count | None = None
    """http: tries after the first, on server errors, time-outs and lost connections (default: 3)."""


@options("rewards")
class RewardConfig:
    """Rewards of each side: names of pairuni.rewards.REWARDS, or `module:function` of your own.

    Several rewards of one side are added with their weights.
    """

    understanding: ListOf[str] = field(default_factory=lambda: ["choice"])
    """choice: 1 for the right option letter or word, else 0; open, vqa: short answers; format; ..."""
    generation: ListOf[str] = field(default_factory=lambda: ["shapes"])
    """shapes: how much of the caption the Shapes detector finds in the image; hps: HPSv2.1; colourfulness; ..."""
    options: dict[str, RewardOptions] = field(default_factory=dict)
    """Options of the rewards, by their names: {"hps": {"weights": "models/HPS_v2.1_compressed.pt"}}."""
    weights: dict[str, PositiveNumber] = field(default_factory=dict)
    """Weights of a side's rewards, by their names: {"format": 0.2} (default: 1 each)."""
    normalise: Literal["none", "group"] = "none"
    """group: bring each reward to mean 0 and deviation 1 within its group before adding, so that scales do not count;
    none: add the rewards as they are."""
    held_out: ListOf[str] = field(default_factory=list)
    """Rewards to compute and log, never to train: if they fall while the trained ones rise, the model exploits the
    reward."""

    def __post_init__(self) -> None:
        trained = {*self.understanding, *self.generation}
        for name, given in (("options", self.options), ("weights", self.weights)):
            unused = sorted(given.keys() - trained - {*self.held_out})
            require(not unused, name, f"has {name} of {', '.join(unused)}, which no side uses")
        for side, names in (("understanding", self.understanding), ("generation", self.generation)):
            require(names, side, "names no reward")
            require(len({*names}) == len(names), side, "names a reward twice")
        both = sorted(trained & {*self.held_out})
        require(not both, "held_out", f"{', '.join(both)} is trained, so it is not held out")

    def names(self, side: str) -> list[str]:
        """The rewards of `understanding`, `generation` or `held_out`, one by one."""
        return list(vars(self)[side])
