"""What a run is: its settings, its folder, the model in it, its samples and its cost.

The command line prints what is computed here; notebooks and other programs import it from here:
``load("runs/b2").sample(labels=[3, 3])``.
"""

from meanflow_lite.runs.model import Model, load
from meanflow_lite.runs.settings import PRESETS, Settings

__all__ = ["PRESETS", "Model", "Settings", "load"]
