"""Every shipped config loads strictly and describes something that can be built; the paper's values are the paper's."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from diffusers.models.autoencoders.vq_model import VQModel
from transformers import JanusConfig, JanusForConditionalGeneration

from pairuni.cli.check import STAGES
from pairuni.cli.main import main
from pairuni.cli.options import parse_config
from pairuni.config import UNWEIGHTED, PairConfig, PlanConfig, TrainConfig
from pairuni.memory_plan import make_plan
from pairuni.policies import load_policy
from pairuni.policies.dimoo.model import DimooConfig
from pairuni.rewards import side_reward
from pairuni.train.optim import Optimizer
from pairuni.types import Side

ROOT = Path(__file__).parents[1] / "configs"
FILES = sorted(ROOT.rglob("*.yaml"))
PAPER = sorted((ROOT / "paper").glob("janus_*.yaml"))
# Language models of the hub ids in configs/paper, from files that quote their configs: hidden and intermediate width,
# layers, heads, and all parameters of the whole model.
JANUS_PRO = {
    "deepseek-community/Janus-Pro-1B": (2048, 5632, 24, 16, 2.077e9),
    "deepseek-community/Janus-Pro-7B": (4096, 11008, 30, 32, 7.408e9),
}


def test_there_are_configs() -> None:
    names = {str(f.relative_to(ROOT)) for f in FILES}
    modes = {"aligned_only", "retrieved_only", "from_understanding", "from_generation", "random_pairs", "unpaired"}
    assert {f"shapes/{m}.yaml" for m in modes | {"vanilla", "demo", "full", "dimoo_demo"}} <= names
    assert {f.stem for f in PAPER} == {
        f"janus_pro_{size}{gpu}" for size in ("1b", "7b") for gpu in ("", "_80gb", "_24gb")
    }
    assert {"paper/janus_pro_1b.yaml", "paper/janus_pro_7b.yaml", "paper/pair.yaml", "photos/train.yaml"} <= names


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_loads_and_checks(
    file: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    tiny_janus_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_janus_folder, "runs/photos/tiny-janus")  # `pairuni tiny` makes it before it is trained
    assert main(["check", str(file)]) == 0
    assert "valid config" in capsys.readouterr().out
    keys = yaml.safe_load(file.read_text(encoding="utf-8"))
    stages = ((cls, stage) for stage, (cls, key) in STAGES.items() if key in keys)
    config = next(parse_config(cls, ["--config", str(file)], stage) for cls, stage in stages)
    if isinstance(config, TrainConfig):
        for side in Side:
            assert [side_reward(config.rewards, side).name] == vars(config.rewards)[side]
        if file.parent.name == "shapes" and file.stem not in ("demo", "full", "dimoo_demo"):
            assert config.pair_selection.mode == file.stem
            assert {"random_pairs", "unpaired", "vanilla"} == UNWEIGHTED


@pytest.mark.parametrize("file", sorted((ROOT / "shapes").glob("*.yaml")), ids=lambda f: f.stem)
def test_shapes_configs_name_a_model_that_loads(file: Path) -> None:
    config = parse_config(TrainConfig, ["--config", str(file)], "train")
    policy = load_policy(config.model.path, device="cpu")
    assert policy.image_size == 48 and len(list(policy.trainable())) > 0


def test_the_paper_s_masked_diffusion_model(tmp_path: Path) -> None:
    """Appendix E's values; the model of the published numbers fits where the config says."""
    arguments = ["--config", str(ROOT / "paper" / "lumina_dimoo.yaml"), "--model.path", str(tmp_path)]
    config = parse_config(TrainConfig, arguments, "train")
    assert config.rollout.rollouts == 2 and config.kl_beta == 0 and config.data.batch == 16
    assert {config.model.sampler_options[name] for name in ("image_steps", "text_steps")} == {35, 2}
    DimooConfig().save_pretrained(tmp_path)
    levels = 5
    with torch.device("meta"):
        VQModel(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=(128, 256, 256, 512, 768),
            layers_per_block=2,
            latent_channels=64,
            num_vq_embeddings=8192,
            mid_block_add_attention=False,
            lookup_from_codebook=True,
        ).save_config(tmp_path / "vqvae")
    planned = parse_config(PlanConfig, [*arguments, "--plan.memory", "79", "--plan.processes", "8"], "train")
    plan = make_plan(planned)
    assert plan.trained == pytest.approx(8.08e9, rel=1e-3) and plan.parameters - plan.trained == 146_244_675
    assert plan.work.rollouts == 2 and f"{plan.needed / 2**30:.1f} of 79 GiB" in Path(arguments[1]).read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("file", PAPER, ids=lambda f: f.stem)
def test_paper_configs(file: Path) -> None:
    config = parse_config(TrainConfig, ["--config", str(file)], "train")
    assert config.optim.lr == (2e-5 if config.model.lora.rank else 1e-6)  # the paper has no adapters
    assert config.kl_beta == 0 and config.data.batch == 16 and config.steps == 1200
    assert config.rollout.rollouts == (8 if "1b" in file.stem else 4)
    assert (config.rewards.understanding, config.rewards.generation) == (["choice"], ["hps"])
    assert config.rollout.guidance == 5 and config.rollout.temperature == 1 and config.weighting == "sqrt"
    assert config.model.path.lower().endswith(file.stem.replace("_", "-").removesuffix("-80gb").removesuffix("-24gb"))
    pairing = parse_config(PairConfig, ["--config", str(ROOT / "paper" / "pair.yaml")], "pair")
    assert (pairing.extractor, pairing.clusters, pairing.similarity_floor) == ("resnet50", 5000, 0.6)


@pytest.mark.parametrize("file", PAPER, ids=lambda f: f.stem)
def test_the_paper_models_build_on_the_meta_device(file: Path) -> None:
    """The model that a config names, with no memory: its size, and an optimiser over it with the config's options."""
    train = parse_config(TrainConfig, ["--config", str(file)], "train")
    hidden, intermediate, layers, heads, total = JANUS_PRO[train.model.path]
    text = {"model_type": "llama", "hidden_size": hidden, "intermediate_size": intermediate, "vocab_size": 102400}
    text |= {"num_hidden_layers": layers, "num_attention_heads": heads, "max_position_embeddings": 16384}
    vision, vq = {"projection_dim": hidden}, {"projection_dim": hidden, "image_token_embed_dim": hidden}
    config = JanusConfig(text_config=text, vision_config=vision, vq_config=vq, tie_word_embeddings=False)
    with torch.device("meta"):
        model = JanusForConditionalGeneration(config)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(total, rel=0.005)
    assert Optimizer(model.named_parameters(), train.optim).named.keys() == dict(model.named_parameters()).keys()
