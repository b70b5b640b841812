"""Options of `pairuni train` (paper 3): model, data, rollouts, loss, optimiser, rewards, logs."""

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field

from pairuni.config.evaluation import EvalConfig, has_validation
from pairuni.config.fields import (
    Amount,
    Count,
    Extractor,
    Flag,
    Guidance,
    ListOf,
    Positive,
    PositiveNumber,
    Precision,
    options,
    require,
)
from pairuni.config.reward_options import RewardConfig
from pairuni.types import Objective, Side

PairingMode = Literal[
    "pairs",
    "aligned_only",
    "retrieved_only",
    "from_understanding",
    "from_generation",
    "random_pairs",
    "unpaired",
    "vanilla",
]
UNWEIGHTED: frozenset[PairingMode] = frozenset({"random_pairs", "unpaired", "vanilla"})
"""Modes without a meaningful similarity: they train with weight 1."""
Tracker = Literal["tensorboard", "wandb", "trackio"]


@options("model.lora")
class LoraOptions:
    """Adapters, trained in the place of the model's own weights."""

    rank: Count = 0
    """Rank of each adapter (0: no adapters; the weights themselves are trained)."""
    alpha: Amount = 0.0
    """Adapters are scaled by alpha / rank (0: twice the rank)."""
    layers: ListOf[str] = field(default_factory=list)
    """Linear layers with an adapter, by the end of their names or a pattern with * (default: all of the language
    model)."""

    def __post_init__(self) -> None:
        require(self.rank > 0 or not (self.alpha or self.layers), "rank", "is 0: there are no adapters")


@options("model")
class ModelConfig:
    path: str = "shapes-janus"
    """Local folder or hub id of the model to train; `shapes-janus` and `shapes-dimoo` ship with the package."""
    device: str = "auto"
    """auto (CUDA if there is one), cpu, cuda, cuda:1, ..."""
    precision: Precision = "auto"
    """Precision of the forward passes: auto is bf16 on GPU and fp32 on CPU. Master weights and optimiser stay fp32."""
    gradient_checkpointing: Flag = False
    """Recompute activations in the backward pass: less memory, more time, the same result."""
    cuda_graphs: Flag = True
    """On CUDA, record a sampling step once and replay it: the same samples in less time. Needs Triton."""
    trainable: ListOf[str] = field(default_factory=list)
    """Parameters to train, by the beginning of their names or a pattern with *, e.g. lm_head (default: all but the
    frozen modules; with adapters, the adapters alone)."""
    lora: LoraOptions = field(default_factory=LoraOptions)
    sampler_options: dict[str, Any] = field(default_factory=dict)
    """Options of the model family's sampler, by name; they replace those of the checkpoint (docs/lumina-dimoo.md)."""


@options("data")
class DataConfig:
    pairs: str = ""
    """pairs.jsonl."""
    image_root: str | None = None
    """Folder that image paths are relative to (default: the one that `pair` used, else that of `pairs`)."""
    batch: Positive = 8
    """Pairs per step over all devices (paper: 16)."""
    shapes: Count = 0
    """Make this many Shapes images per source, complete and pair them into the folder of `pairs`, if that file is
    missing (0: make none; the pairs must be there)."""

    def __post_init__(self) -> None:
        require(self.shapes == 0 or self.shapes >= 10, "shapes", f"must be 0 or at least 10, not {self.shapes}")


@options("rollout")
class RolloutConfig:
    """How answers and images are sampled for training: from the whole distribution, without top_k and top_p."""

    rollouts: Annotated[int, Field(strict=True, ge=2)] = 8
    """Samples per half of a pair, a group (the paper's K: 8 for 1B, 4 for 7B)."""
    temperature: PositiveNumber = 1.0
    """Divides the logits, in sampling and scoring alike (paper: 1.0)."""
    guidance: Guidance = 5.0
    """Classifier-free guidance of image rollouts; 1 is off (paper: 5)."""
    logprob_mode: Literal["cond", "cfg"] = "cond"
    """Image log-probs that are trained. cond: those of the conditional logits, as the published Janus trainers do; cfg:
    those of the guided logits that were sampled."""
    max_new_tokens: Positive = 32
    """Longest text answer in tokens."""
    prompts_per_call: Count = 0
    """Prompts that are sampled together (0: the whole batch). Does not change the result."""


@options("pair_selection")
class PairSelectionConfig:
    """Which pairs of the file are trained: as they are, or as one of the paper's baselines (paper 5)."""

    mode: PairingMode = "pairs"
    """pairs; aligned_only, retrieved_only; from_understanding, from_generation: quadruples of one source as aligned
    pairs; random_pairs: halves shuffled; unpaired: least similar halves; vanilla: plain GRPO on mixed batches without
    pairs, with one denominator for both sides. Modes without a meaningful similarity (random_pairs, unpaired, vanilla)
    train with weight 1."""
    extractor: Extractor = "colour_hog"
    """Image features for mode = unpaired."""
    weights: str = ""
    """Hub id or local folder of the extractor's weights (mode = unpaired)."""


@options("advantage")
class AdvantageConfig:
    std_eps: PositiveNumber = 1e-6
    """Added to a group's population standard deviation. Not stated in the paper."""


@options("side_weights")
class SideWeights:
    understanding: Amount = 1.0
    """Weight of the understanding loss."""
    generation: Amount = 1.0
    """Weight of the generation loss."""


@options("norm_length")
class NormLength:
    """Lengths for loss_norm = constant, e.g. the longest rollouts. Not stated in the paper."""

    understanding: Positive = 32
    """Tokens of an answer."""
    generation: Positive = 576
    """Codes of an image."""


@options("optim")
class OptimConfig:
    """AdamW on fp32 master weights."""

    lr: PositiveNumber = 1e-6
    """Learning rate (paper: 1e-6)."""
    beta1: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.999
    eps: Amount = 1e-8
    weight_decay: Amount = 0.0
    """Not stated in the paper."""
    warmup: Count = 0
    """Steps of linear warm-up; the rate is constant afterwards. Not stated in the paper."""
    max_grad_norm: Amount = 1.0
    """Clips the global gradient norm (0: off)."""
    max_skipped: Count = 5
    """Skip at most this many updates in a row whose loss or gradient is not finite; one more ends the run."""


@options("log")
class LogConfig:
    samples_every: Count = 10
    """Steps between sample grids at fixed prompts; the last step always has one (0: never)."""
    sample_prompts: Count = 4
    """Pairs in a sample grid."""
    checkpoint_every: Count = 50
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: Count = 2
    """Keep this many checkpoints, the latest (0: all)."""
    eval_every: Count = 0
    """Steps between evaluations inside training; the last step is always evaluated (0: none)."""
    best: str = ""
    """Benchmark of `eval.benchmarks` that chooses the best checkpoint. It is kept beside the latest ones and named in
    checkpoints/best; each evaluated step that is the best so far is saved. A Shapes benchmark needs `eval.split:
    validation`; scores of another one are marked as chosen on their own items."""
    hacking_window: Count = 20
    """Steps over which rewards are compared. A warning appears if, since the first window, a trained reward has risen
    and a held-out one has fallen, both by more than chance explains (0: never)."""
    gradient_cosine_every: Count = 0
    """Steps between measurements of the cosine between the gradients of the understanding and the generation loss (0:
    never). Needs memory for two more gradients."""
    console: Literal["bar", "lines", "quiet"] = "bar"
    """bar: a bar where stderr is a terminal, else lines; lines: one plain line per step; quiet: neither. Warnings and
    scores are printed in any case."""
    trackers: ListOf[Tracker] = field(default_factory=list)
    """Send metrics and samples here besides the run directory: tensorboard, wandb, trackio (each to be installed)."""
    project: str = "pairuni"
    """Project name in a tracker; the run has the name of its directory."""

    def __post_init__(self) -> None:
        require(self.hacking_window != 1, "hacking_window", "must be 0 or at least 2, not 1")


@options()
class TrainConfig:
    """`pairuni train`: pairs.jsonl -> run directory (paper 3)."""

    output: str
    """The run directory. An existing run with the same config is continued."""
    steps: Positive = 1200
    """Rollout steps (paper: at most 1,200)."""
    seed: Count = 0
    """Seed of everything random: data order, rollouts."""
    sides: Literal["both", "understanding", "generation"] = "both"
    """Losses that are trained."""
    weighting: Literal["none", "linear", "sqrt"] = "sqrt"
    """Weight of a retrieved pair: 1, its similarity, or its square root (paper: sqrt). Aligned pairs have 1."""
    clip_eps: PositiveNumber = 0.2
    """Clips the probability ratio to [1 - eps, 1 + eps]. Not stated in the paper."""
    kl_beta: Amount = 0.0
    """Weight of the KL to the initial model (paper: 0); the reference model is loaded only when positive."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of the KL from the sampled actions, and its gradient. k3: never negative, low variance; gradient of
    KL(initial || policy). k2: biased; gradient of KL(policy || initial). k1: unbiased but of either sign; trained with
    k2's gradient, since its own is zero on average. Not stated in the paper."""
    loss_norm: Literal["sequence_mean", "token_sum", "token_mean", "constant"] = "sequence_mean"
    """Denominator of a side's sum. sequence_mean: mean over each sequence's tokens, then over sequences; token_sum:
    mean over sequences of the token sum (the paper's formula as printed); token_mean: all the side's tokens; constant:
    sequences times the side's `norm_length`. In mode vanilla both sides share one denominator, half the batch's
    sequences or half its tokens; with token_mean, images of many codes then drown short answers."""
    norm_length: NormLength = field(default_factory=NormLength)
    updates_per_rollout: Positive = 1
    """Optimiser steps on one set of rollouts. Not stated in the paper."""
    micro_batch: Positive = 64
    """Most rollout rows per forward and backward. Does not change the result, and may change within a run."""
    micro_tokens: Count = 0
    """Most tokens per forward and backward, prompts included (0: any number). Does not change the result."""
    distributed: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: ddp gives each one all weights, gradients and moments; fsdp shards them. Same result."""
    collective_timeout: PositiveNumber = 120.0
    """Collective timeout in minutes; the rank that is missing is named. It must cover an evaluation on rank 0."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    pair_selection: PairSelectionConfig = field(default_factory=PairSelectionConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    side_weights: SideWeights = field(default_factory=SideWeights)
    optim: OptimConfig = field(default_factory=OptimConfig)
    rewards: RewardConfig = field(default_factory=RewardConfig)
    log: LogConfig = field(default_factory=LogConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    overwrite: Flag = False
    """Replace files in the output that this command did not write, or that were edited since."""

    def __post_init__(self) -> None:
        require(self.data.pairs, "data.pairs", "is needed: the path of a pairs.jsonl")
        if self.log.gradient_cosine_every:
            name = "log.gradient_cosine_every"
            require(self.distributed == "ddp", name, "compares whole gradients, which distributed: fsdp never has")
            require(self.sides == "both", name, f"compares both sides, but sides is {self.sides}")
        best = self.log.best
        if best:
            require(best in self.eval.names, "log.best", f"{best!r} is not one of eval.benchmarks")
            require(self.log.eval_every > 0, "log.best", "needs log.eval_every: nothing is evaluated")
            reported = has_validation(best) and self.eval.split == "test"
            problem = f"{best} on the test split would choose a checkpoint by the items that are reported"
            require(not reported, "log.best", f"{problem}; set eval.split to validation")

    @property
    def trained_sides(self) -> tuple[Side, ...]:
        """The sides that `sides` names."""
        return tuple(side for side in Side if self.sides in ("both", side))

    @property
    def objective(self) -> Objective:
        """The loss of a step, resolved for the pairing mode."""
        mode = self.pair_selection.mode
        return Objective(
            weighting="none" if mode in UNWEIGHTED else self.weighting,
            std_eps=self.advantage.std_eps,
            clip_eps=self.clip_eps,
            kl_beta=self.kl_beta,
            kl_estimator=self.kl_estimator,
            loss_norm=self.loss_norm,
            norm_length={side: vars(self.norm_length)[side] for side in Side},
            side_weights={side: vars(self.side_weights)[side] for side in Side},
            shared_denominator=mode == "vanilla",
            updates_per_rollout=self.updates_per_rollout,
            micro_batch=self.micro_batch,
            micro_tokens=self.micro_tokens,
        )


@options("plan")
class PlanOptions:
    """Only with --plan, which estimates the memory of training, trains nothing and writes nothing."""

    memory: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = 0.0
    """GiB to plan for (0: the device's memory, or the free memory of a CPU). If given with model.device = auto, the
    plan is for a GPU, present or not."""
    processes: Positive = 1
    """Processes that share the batch (torchrun --nproc-per-node N)."""
    text_tokens: Positive = 128
    """Tokens of the longest caption or question, with its chat template and without its image."""
    measure: Flag = True
    """Also run each stage on the model, if its weights and the device are here and the estimate fits."""


@options()
class PlanConfig(TrainConfig):
    """`pairuni train`: pairs.jsonl -> run directory (paper 3). With --plan: prints the memory it takes, and ends."""

    plan: PlanOptions = field(default_factory=PlanOptions)
