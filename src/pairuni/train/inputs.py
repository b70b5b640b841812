"""inputs.json of a run: which pairs and which model it began with, by content."""

from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from pairuni.config import TrainConfig
from pairuni.files import file_hash
from pairuni.policies.source import resolve_model

_WEIGHTS = ("*.safetensors", "*.bin")


def input_record(config: TrainConfig) -> dict[str, Any]:
    """SHA-256 of pairs.jsonl and of each weight file; of a model on the Hub the revision, None where it is not known.

    Raises:
        InputError: there is no model of that name.
    """
    pairs = {"path": config.data.pairs, "sha256": file_hash(config.data.pairs)}
    return {"pairs": pairs, "model": model_record(config.model.path)}


def model_record(path: str) -> dict[str, Any]:
    """The part of `input_record` that is about the model. Raises InputError: there is no model of that name."""
    source = resolve_model(path)
    model: dict[str, Any] = {"path": path}
    if isinstance(source, Path):
        files = sorted(file for pattern in _WEIGHTS for file in source.glob(pattern))
        model["sha256"] = {file.name: file_hash(file) for file in files}
    else:
        cached = try_to_load_from_cache(source, "config.json")
        # <cache>/models--<name>/snapshots/<revision>/config.json
        model["revision"] = Path(cached).parent.name if isinstance(cached, str) else None
    return model
