"""Where a checkpoint is and what it says it is, whatever its family: a shipped model, a folder, or a hub id."""

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedConfig

from pairuni.errors import InputError
from pairuni.files import read_json

SHIPPED = {name: f"pretrain/checkpoints/{name}" for name in ("shapes-janus", "shapes-dimoo")}
# What transformers, safetensors and tokenizers raise for files that are absent, cut off or of another model.
BROKEN = (OSError, ValueError, KeyError, RuntimeError, AttributeError, SafetensorError, StrictDataclassError)


def model_type(path_or_hub_id: str | Path) -> str:
    """The `model_type` of a checkpoint's config.json.

    Raises:
        InputError: no such folder, nothing of that name on the Hub, or a config.json that is missing or broken.
    """
    source = resolve_model(path_or_hub_id)
    if isinstance(source, Path):
        config = read_json(source / "config.json")
    else:
        try:
            config, _ = PreTrainedConfig.get_config_dict(source)
        except (OSError, ValueError) as err:
            message = f"is neither a folder nor a model that could be fetched from the Hub ({brief(err)})"
            raise InputError(message, file=source) from None
    if not isinstance(config.get("model_type"), str):
        raise InputError("is missing or not a string", file=f"{source}/config.json", field="model_type")
    return config["model_type"]


def resolve_model(path_or_hub_id: str | Path) -> str | Path:
    """A folder that exists, or a hub id."""
    name = str(path_or_hub_id)
    if name in SHIPPED:
        # Not imported as a package: pretrain is a higher layer, only its files are needed.
        folder = Path(str(files("pairuni"))) / SHIPPED[name]
        if not folder.is_dir():
            raise InputError(f"this installation lacks the shipped model ({folder})", file=name)
        return folder
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise InputError("is a file; a model is a folder in save_pretrained form", file=path)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise InputError("no such folder", file=path)
    return name


def pick_device(name: str) -> torch.device:
    """The device of a name, "auto" being CUDA where there is one. Raises InputError: no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise InputError(f"{name!r} is no device ({brief(err)})", field="device") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"{name!r}: this machine has {torch.cuda.device_count()} CUDA devices", field="device")
    return device


def brief(err: BaseException) -> str:
    """The libraries' messages run over many lines; the first ones say what is wrong."""
    return " ".join(str(err).split())[:300] or type(err).__name__


def pick_precision(precision: str, device: torch.device) -> Literal["fp32", "bf16"]:
    """Of forward passes, "auto" being bf16 on CUDA and fp32 elsewhere. Raises InputError: another word."""
    if precision not in ("auto", "fp32", "bf16"):
        raise InputError(f"must be auto, fp32 or bf16, not {precision!r}", field="precision")
    return "bf16" if precision == "bf16" or (precision == "auto" and device.type == "cuda") else "fp32"


def refuse_broken(weights: Iterable[tuple[str, Tensor]], absent: Iterable[str], source: str | Path) -> None:
    """Raises InputError: weights are absent, which transformers fills with random numbers, or not finite."""
    missing = sorted(absent)
    if missing:
        raise InputError(f"{len(missing)} weights are missing, e.g. {missing[0]}", file=source)
    # A sum takes no memory; only where it is not finite is each number looked at.
    doubted = [(name, p) for name, p in weights if not bool(p.detach().sum().isfinite())]
    broken = [name for name, parameter in doubted if not bool(parameter.isfinite().all())]
    if broken:
        raise InputError(f"{len(broken)} weights hold NaN or infinity, e.g. {broken[0]}", file=source)
