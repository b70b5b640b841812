"""Makes policies available to other evaluation programs, each an optional extra: `lmms` to lmms-eval.

Other programs load this module at their start, so it needs no torch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]


def lmms_eval_manifest() -> "ModelManifest":
    """The entry point `lmms_eval.models`: the model's name and the class behind it."""
    from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]

    return ModelManifest(model_id="pairuni", simple_class_path="pairuni.adapters.lmms.PairuniModel")
