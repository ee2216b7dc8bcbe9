"""What chapters use: figures with alt text, static sliders, checked exercises, cited numbers."""

from meanflow_lite.notebook.claims import all_published, published, results, runs, settings
from meanflow_lite.notebook.exercises import EXERCISES, Exercise, Verdict, check, exercise
from meanflow_lite.notebook.figures import numbered, setup, show
from meanflow_lite.notebook.live import live
from meanflow_lite.notebook.panels import panel
from meanflow_lite.notebook.predict import predict, score
from meanflow_lite.notebook.sliders import slider, triangle_slider
from meanflow_lite.notebook.style import (
    COLORS,
    DIVERGING,
    INK,
    SEQUENTIAL,
    panels,
    say,
)

__all__ = [
    "COLORS",
    "DIVERGING",
    "EXERCISES",
    "INK",
    "SEQUENTIAL",
    "Exercise",
    "Verdict",
    "all_published",
    "check",
    "exercise",
    "live",
    "numbered",
    "panel",
    "panels",
    "predict",
    "published",
    "results",
    "runs",
    "say",
    "score",
    "settings",
    "setup",
    "show",
    "slider",
    "triangle_slider",
]
