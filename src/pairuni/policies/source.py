"""Where a checkpoint is and what it says it is, whatever its family: a shipped model, a folder, or a hub id."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import StrictDataclassError
from huggingface_hub.file_download import repo_folder_name
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.utils.logging import disable_progress_bar

from pairuni.errors import InputError
from pairuni.files import read_json, read_text
from pairuni.runs import RunDir

CHECKPOINTS = "checkpoints"
_POINTERS = ("best", "latest")
ORIGINAL = "multi_modality"
"""The model_type of Janus as DeepSeek published it."""
SHIPPED = {name: f"checkpoints/{name}" for name in ("shapes-janus", "shapes-dimoo")}
# What transformers, safetensors and tokenizers raise for files that are absent, cut off or of another model, and for a
# config.json whose numbers make no model.
_BROKEN = (
    OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError, ArithmeticError, SafetensorError,
    StrictDataclassError,
)  # fmt: skip


def model_type(path_or_hub_id: str | Path) -> str:
    """The `model_type` of a checkpoint's config.json.

    Raises:
        InputError: no such folder, nothing of that name on the Hub, or a config.json that is missing or broken; what is
            no model, but has one beside it or elsewhere (adapters, DeepSeek's own format, files that Git LFS left out).
    """
    source = resolve_model(path_or_hub_id)
    if isinstance(source, Path):
        if not (source / "config.json").is_file():
            raise InputError("holds no config.json; a model is a folder in save_pretrained form", file=source)
        _refuse_pointers(source)
        config = read_json(source / "config.json")
    else:
        try:
            config, _ = PreTrainedConfig.get_config_dict(source)
        except (OSError, ValueError) as err:
            message = f"is neither a folder nor a model that could be fetched from the Hub ({brief(err)})"
            raise InputError(message, file=source) from None
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise InputError("is missing or not a string", file=f"{source}/config.json", field="model_type")
    if kind == ORIGINAL:
        same = "deepseek-community/Janus-Pro-1B or deepseek-community/Janus-Pro-7B"
        raise InputError(f"this is the original format: take {same}, the same weights for transformers", file=source)
    return kind


def resolve_model(path_or_hub_id: str | Path) -> str | Path:
    """A folder that exists, or a hub id. What training writes has several names for a model, and each will do.

    RUN, RUN/latest: its latest checkpoint; RUN/best: the one of `log.best`; RUN/checkpoints/step_N: its model/.
    """
    name = str(path_or_hub_id)
    if name in SHIPPED:
        folder = Path(str(files("pairuni"))) / SHIPPED[name]
        if not folder.is_dir():
            raise InputError(f"this installation lacks the shipped model ({folder})", file=name)
        return folder
    path = Path(name).expanduser()
    if path.is_dir():
        return _model_in(path)
    run = path.parent.parent if path.parent.name == CHECKPOINTS else path.parent
    if path.name in _POINTERS and (run / CHECKPOINTS).is_dir():
        return _checkpoint_model(run, path.name)
    if path.exists():
        raise InputError("is a file; a model is a folder in save_pretrained form", file=path)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise InputError("no such folder", file=path)
    return name


def weight_files(folder: Path) -> list[Path]:
    """All files of weights, those of parts in sub-folders too (Lumina-DiMOO's image tokenizer), sorted."""
    return sorted(
        path for end in ("safetensors", "bin") for path in (*folder.glob(f"*.{end}"), *folder.glob(f"*/*.{end}"))
    )


def hub_revision(hub_id: str) -> str | None:
    """The commit of a model in the local cache of the Hub; None where the cache does not hold it."""
    cached = try_to_load_from_cache(hub_id, "config.json")
    if isinstance(cached, str):  # <cache>/models--<name>/snapshots/<revision>/config.json
        return Path(cached).parent.name
    main = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=hub_id, repo_type="model") / "refs" / "main"
    return main.read_text(encoding="utf-8").strip() if main.is_file() else None


def model_name(path_or_hub_id: str) -> str:
    """How what is done with a model names it: the folder that a run's name leads to now; others as they are.

    Raises InputError as `resolve_model` does.
    """
    source = resolve_model(path_or_hub_id)
    return path_or_hub_id if path_or_hub_id in SHIPPED else str(source)


def _model_in(folder: Path) -> Path:
    if (folder / "config.json").is_file():
        return folder
    if (folder / "adapter_config.json").is_file():
        merged = folder.parent / "model"
        where = f"{merged}" if merged.is_dir() else "../model, in the checkpoint that they come from"
        raise InputError(f"these are adapters: their merged model is {where}", file=folder)
    if (folder / "model" / "config.json").is_file():
        return folder / "model"
    if folder.name == CHECKPOINTS and any(
        (folder.parent / name).is_file() for name in ("config.yaml", "metrics.jsonl")
    ):
        return _checkpoint_model(folder.parent, "latest")
    if (folder / CHECKPOINTS).is_dir():
        return _checkpoint_model(folder, "latest")
    if (folder / "config.yaml").is_file() and (folder / "inputs.json").is_file():
        raise InputError("is a run without a checkpoint", file=folder)
    return folder


def _checkpoint_model(run: Path, pointer: str) -> Path:
    """The model that a run's `best` or `latest` names."""
    file = {"best": RunDir(run).best, "latest": RunDir(run).latest}[pointer]
    if not file.is_file():
        what = "is a run without a checkpoint" if pointer == "latest" else "no checkpoint is named best; see log.best"
        raise InputError(what, file=run)
    folder = file.parent / read_text(file).strip() / "model"
    if not folder.is_dir():
        raise InputError(f"names {folder.parent.name}, which holds no model", file=file)
    return folder


def _refuse_pointers(folder: Path) -> None:
    """Raises InputError: Git LFS has left a pointer in the place of a file."""
    for file in sorted(path for path in (*folder.iterdir(), *folder.glob("*/*")) if path.is_file()):
        if file.stat().st_size < 1024 and file.read_bytes().startswith(b"version https://git-lfs"):
            what = "weights were" if file.suffix in (".safetensors", ".bin", ".pth") else "file was"
            raise InputError(f"is a Git LFS pointer, the {what} not downloaded; `git lfs pull` does that", file=file)


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


@dataclass(frozen=True)
class Checkpoint:
    """What to load, where to, and in which precision forward passes run."""

    source: str | Path
    device: torch.device
    precision: Literal["fp32", "bf16"]


def open_checkpoint(
    path_or_hub_id: str | Path, family: str, device: str = "auto", precision: str = "auto"
) -> Checkpoint:
    """Finds a checkpoint whose config.json says that it is of `family` (its model_type).

    Raises:
        InputError: no such checkpoint, one of another family, or an unknown device or precision.
    """
    place = pick_device(device)
    found = Checkpoint(resolve_model(path_or_hub_id), place, pick_precision(precision, place))
    if (kind := model_type(path_or_hub_id)) != family:
        raise InputError(f"must be {family!r}, not {kind!r}", file=found.source, field="model_type")
    return found


@contextmanager
def loading(source: str | Path, model: str) -> Iterator[None]:
    """Inside, whatever is wrong with a checkpoint becomes an InputError that names it and the kind of model."""
    disable_progress_bar()  # transformers' bars for reading and writing shards would break into ours
    try:
        yield
    except InputError as err:
        raise InputError(err.message, file=err.file or source, line=err.line, field=err.field) from None
    except _BROKEN as err:
        raise InputError(f"cannot be loaded as a {model} model: {brief(err)}", file=source) from err


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
