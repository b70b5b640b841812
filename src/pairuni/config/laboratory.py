"""Options of the laboratory: pre-training of the small models, gradient agreement and ablations (paper 5)."""

import os
from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from pairuni.config.fields import Count, Flag, ListOf, Positive, PositiveNumber, Share, options, require
from pairuni.config.training import PairingMode

Suite = Literal["pairing", "weighting", "threshold", "selection", "extractor", "rewards", "matching", "room"]


@options()
class PretrainConfig:
    """`pairuni pretrain`: trains the small models of the Shapes world from scratch."""

    output: str
    """Folder for the model; .state in it lets a stopped run continue."""
    family: Literal["janus", "dimoo"] = "janus"
    """The defaults below are Janus'; those of Lumina-DiMOO are in configs/pretrain/shapes_dimoo.yaml."""
    seed: Count = 0
    auto_steps: Count = 500
    """Steps of the plain autoencoder; 0 for dimoo, whose codes are given."""
    vq_steps: Count = 1400
    """Steps of the quantised autoencoder."""
    decoder_steps: Positive = 600
    """Steps of the decoder alone, on fixed codes."""
    vq_batch: Positive = 16
    """Images per step of these three."""
    vq_lr: PositiveNumber = 2e-3
    """Peak learning rate of these three."""
    sight_steps: Count = 200
    """Steps of the vision tower with a temporary head that names the content of each cell."""
    sight_batch: Positive = 64
    """Images per step of the vision tower."""
    answer_steps: Count = 500
    """Steps of the language model on answers alone: it learns to look before it learns to draw."""
    language_steps: Count = 1300
    """Steps of the language model on both sides; fewer leave more for RL to improve."""
    refine_steps: Count = 500
    """Steps of a second cycle on both sides."""
    careless_steps: Positive = 120
    """Steps of a third cycle, at a third of the learning rate, in which some questions are answered without looking."""
    lr: PositiveNumber = 1.5e-3
    """Peak learning rate of the language model."""
    answer_rows: Positive = 24
    """Images with questions per step."""
    shared_rows: Count = 0
    """Images with questions per step on both sides (0: as many)."""
    turns: Annotated[int, Field(strict=True, ge=2)] = 5
    """Turns per image: one caption, then questions."""
    careless: Share = 0.45
    """Share of the third cycle's questions that are answered with the first option, whatever the image shows."""
    image_rows: Positive = 48
    """Captions with images per step."""
    drop: Share = 0.1
    """Share of image rows whose caption is replaced by padding, for guidance."""
    pool: Positive = 16000
    """Scenes that are drawn once and used for both sides."""
    questions: Count = 2000
    """Held-out questions for the model card."""
    prompts: Count = 1000
    """Held-out prompts for the model card."""
    bf16: Flag = True
    """Use bf16 autocast in the language model's forward passes; weights stay fp32."""
    overwrite: Flag = False
    """Replace files in the output that this command did not write, or that were edited since."""

    def __post_init__(self) -> None:
        require(self.family == "janus" or not self.auto_steps, "auto_steps", "must be 0: dimoo's codes are given")


def _mixes() -> list[PairingMode]:
    return [
        "pairs", "aligned_only", "retrieved_only", "random_pairs", "unpaired", "from_understanding", "from_generation",
    ]  # fmt: skip


@options()
class GradientsConfig:
    """`pairuni analyse gradients`: whether the two sides' gradients agree, over mixes of the same pairs (paper 5)."""

    run: str
    """A run directory or a training config (YAML), for its model, pairs, rollouts and rewards."""
    output: str = ""
    """Folder for the results (default: gradients in the run directory). Measurements that it holds are kept."""
    model: str = ""
    """Another model to measure, folder or hub id (default: the one that the run begins with)."""
    mixes: ListOf[PairingMode] = field(default_factory=_mixes)
    """Mixing modes to compare; vanilla has no pairs."""
    pairs: Positive = 64
    """Pairs of each mix, drawn by the seed."""
    rollouts: Count = 0
    """Rollouts of each gradient (0: as in training). Each side is sampled twice as often: for a pair of gradients."""
    sketch: Count = 262144
    """Random projections per layer's gradient (0: keep it whole). A cosine is off by about 1 / sqrt(sketch)."""
    seed: Count = 0
    """Seed of the draw of pairs, and of the rollouts."""
    overwrite: Flag = False
    """Replace files in the output that this command did not write, or that were edited since."""

    def __post_init__(self) -> None:
        require(self.mixes, "mixes", "needs at least one mix")
        require("vanilla" not in self.mixes, "mixes", "vanilla has no pairs to compare the gradients of")
        require(len({*self.mixes}) == len(self.mixes), "mixes", "names a mix twice")
        require(self.rollouts != 1, "rollouts", f"must be 0 or at least 2, not {self.rollouts}")


@options()
class AblationsConfig:
    """`pairuni analyse ablations`: training runs that differ in one thing -> tables and figures (paper 5)."""

    suite: ListOf[Suite]
    """One or several comparisons: pairing (which halves train together), weighting, threshold (similarity floor),
    selection (of aligned pairs), extractor, rewards; in the Shapes world matching (how well sources can be matched) and
    room (how much is left to learn on each side)."""
    output: str = "runs/ablations"
    """Folder of configs/, logs/, data/, pairs/, runs/, results.jsonl, tables and figures. A finished run is never
    repeated, whichever suites it belongs to."""
    base: str = ""
    """Training config (YAML) that all arms share (default: that of the demo)."""
    pair: str = ""
    """Pairing config (YAML) of `base`, if it has data of its own: threshold, selection and extractor pair anew."""
    seeds: Positive = 3
    """Runs of each arm, with seeds from 0: of data, pairing and training in the Shapes world; of training alone with
    your own data. Arms of one seed share their data, except in matching and room, which compare data."""
    arms: ListOf[str] = field(default_factory=list)
    """Run only these of the suites' arms, and those that they are compared with (default: all), e.g. for more seeds of
    two arms. Tables have every arm with results."""
    engine: Literal["local", "ray"] = "local"
    """Run the processes on this machine, or with Ray, here or on a cluster (needs `pairuni[cluster]`)."""
    ray_address: str = ""
    """host:port of a running Ray cluster, or auto. All its machines must see `output` under the same path."""
    workers: Positive = 1
    """Runs at once (engine: local)."""
    threads: Count = 0
    """CPU threads of each run (0: this machine's, divided among the workers; 1 with Ray)."""
    launch: str = ""
    """Start of each training command, such as `torchrun --nproc-per-node 8 -m pairuni` (default: this Python)."""
    dry_run: Flag = False
    """Write the configs, print the missing runs and their cost, and stop."""
    collect: Flag = False
    """Run nothing; make tables and figures from results.jsonl and finished runs."""
    overwrite: Flag = False
    """Replace files in the output that this command did not write, or that were edited since."""

    def __post_init__(self) -> None:
        require(self.suite, "suite", "names none")
        for name, given in (("suite", self.suite), ("arms", self.arms)):
            require(len({*given}) == len(given), name, "names one twice")
        require(self.engine == "ray" or not self.ray_address, "ray_address", "needs engine: ray")
        launched = self.engine == "ray" and self.launch
        require(not launched, "launch", "needs engine: local; with Ray a run is one process")
        require(not (self.dry_run and self.collect), "dry_run", "and collect: choose one")

    @property
    def threads_each(self) -> int:
        """CPU threads of each run."""
        own = 1 if self.engine == "ray" else max(1, (os.cpu_count() or 1) // self.workers)
        return self.threads or own
