"""pairuni: Pair-GRPO for unified vision-language models (PairUni, arXiv 2510.25682).

The public names are imported on first use, so that `import pairuni` (and `pairuni --help`) needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pairuni.errors import InputError
    from pairuni.policies import load_policy
    from pairuni.records import read_pairs, read_quadruples
    from pairuni.types import Pair, Prompt, Quadruple, SamplingSpec, Side

__version__ = "0.1.0"

_PUBLIC = {
    "InputError": "pairuni.errors",
    "Side": "pairuni.types",
    "Pair": "pairuni.types",
    "Quadruple": "pairuni.types",
    "Prompt": "pairuni.types",
    "read_pairs": "pairuni.records",
    "read_quadruples": "pairuni.records",
    "SamplingSpec": "pairuni.types",
    "load_policy": "pairuni.policies",
}
__all__ = [
    "InputError",
    "Pair",
    "Prompt",
    "Quadruple",
    "SamplingSpec",
    "Side",
    "__version__",
    "load_policy",
    "read_pairs",
    "read_quadruples",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'pairuni' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
