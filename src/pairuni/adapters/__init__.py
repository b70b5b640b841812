"""Policies as models of other evaluation programs, each an optional extra. `lmms` is for lmms-eval's tasks.

What other programs load at their start stands here, and needs no torch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]


def lmms_eval_manifest() -> "ModelManifest":
    """What lmms-eval asks of the entry points `lmms_eval.models`: a model's name and the class behind it."""
    from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]

    return ModelManifest(model_id="pairuni", simple_class_path="pairuni.adapters.lmms.PairuniModel")
