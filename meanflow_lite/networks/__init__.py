"""Networks that are fields: the MLP for the toys and the DiT for images."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from meanflow_lite.networks.mlp import MLP

if TYPE_CHECKING:
    from meanflow_lite.networks.dit import DiT, DiTConfig
    from meanflow_lite.networks.presets import PRESETS, build
    from meanflow_lite.networks.sit import from_sit

__all__ = ["MLP", "PRESETS", "DiT", "DiTConfig", "build", "from_sit"]

_LAZY = {
    "DiT": "dit",
    "DiTConfig": "dit",
    "PRESETS": "presets",
    "build": "presets",
    "from_sit": "sit",
}


def __getattr__(name: str) -> Any:
    """Import the DiT when it is first asked for: timm takes seconds, and toys do not need it."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
