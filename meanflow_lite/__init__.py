"""MeanFlow one-step generation: average velocities, JVP targets and samplers, tested exactly.

Five names stand here, imported when they are first asked for: ``MeanFlow``, ``train``, ``sample``,
``integrate`` and ``load``. Everything else is in the modules that the API reference lists.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meanflow_lite.objectives import MeanFlow
    from meanflow_lite.runs.model import load
    from meanflow_lite.samplers import integrate, sample
    from meanflow_lite.training import train

__version__ = "0.1.0"

__all__ = ["MeanFlow", "integrate", "load", "sample", "train"]

_PLACES = {
    "MeanFlow": "objectives",
    "integrate": "samplers",
    "load": "runs.model",
    "sample": "samplers",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
