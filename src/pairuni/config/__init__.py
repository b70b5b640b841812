"""Every option of every stage, once, with its text under the field. Frozen, validated, torch-free.

A stage's config is one dataclass; YAML files and `--group.field value` overrides fill it (cli/options.py). Where the
paper names no value, the default is our choice and the text says so. One file per stage; `renamed` has the options that
had another name before.
"""

from pairuni.config.data_stages import CompleteConfig, PairConfig, ShapesConfig, SourceConfig
from pairuni.config.endpoint import LlmConfig
from pairuni.config.evaluation import EvalConfig, EvalSplit, EvaluateConfig, has_validation
from pairuni.config.fields import Extractor, Precision, as_list
from pairuni.config.laboratory import AblationsConfig, GradientsConfig, PretrainConfig, Suite
from pairuni.config.reward_options import RewardConfig, RewardOptions
from pairuni.config.tools import (
    GalleryConfig,
    HfDatasetConfig,
    SampleConfig,
    SmokeConfig,
    TinyConfig,
    UnirlConfig,
    VerlOmniConfig,
)
from pairuni.config.training import (
    UNWEIGHTED,
    AdvantageConfig,
    DataConfig,
    LogConfig,
    LoraOptions,
    ModelConfig,
    NormLength,
    OptimConfig,
    PairingMode,
    PairSelectionConfig,
    PlanConfig,
    PlanOptions,
    RolloutConfig,
    SideWeights,
    TrainConfig,
)
