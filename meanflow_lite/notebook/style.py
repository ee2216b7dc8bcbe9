"""How figures look, and how a sentence with a number is printed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import matplotlib.pyplot as plt
import torch
from cycler import cycler
from IPython.display import Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, which survives the three common kinds of color blindness, by role.
COLORS: Mapping[str, str] = MappingProxyType(
    {
        "data": "#0072B2",  # blue: samples of the data
        "noise": "#999999",  # gray: Gaussian noise
        "flow": "#E69F00",  # orange: instantaneous velocity, flow matching
        "meanflow": "#009E73",  # green: average velocity, MeanFlow
        "exact": "#000000",  # black: closed forms
        "wrong": "#D55E00",  # vermilion: a mistake, a wrong identity
        "other": "#CC79A7",  # purple: any further method
        "sky": "#56B4E9",
    }
)
# The same roles for words inside a figure: at least 4.5 to 1 on white (book.css holds the twins for
# the dark page).
INK: Mapping[str, str] = MappingProxyType(
    {
        "data": "#0072B2",
        "noise": "#5F6670",
        "flow": "#8F5F00",
        "meanflow": "#00785A",
        "exact": "#000000",
        "wrong": "#B54A00",
        "other": "#9C3F77",
        "sky": "#17689C",
    }
)
GROUND, GRID = "#FFFFFF", "#DDDDDD"
# For maps: one perceptually uniform, one diverging around zero.
SEQUENTIAL, DIVERGING = "viridis", "PuOr"

_RC: dict[str, Any] = {
    "figure.figsize": (5.6, 3.4),
    "figure.facecolor": GROUND,
    "savefig.facecolor": GROUND,
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "image.cmap": SEQUENTIAL,
    "axes.prop_cycle": cycler(
        color=[COLORS[k] for k in ("data", "flow", "meanflow", "wrong", "other", "sky", "exact")]
    ),
}


def conditions(seed: int) -> None:
    """Conditions of every chapter: figure style, seed, one thread unless OMP_NUM_THREADS says more.

    The networks here are so small that threads cost more than they give.
    """
    plt.style.use(_RC)
    # The first forward-mode derivative of a process makes PyTorch 2.14 warn about itself.
    warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", FutureWarning)
    warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
    torch.manual_seed(seed)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_printoptions(precision=4, sci_mode=False)


def panels(columns: int = 1, rows: int = 1, *, height: float = 3.0) -> tuple[Figure, list[Axes]]:
    """A figure of ``columns`` x ``rows`` axes, never wider than a phone can show, as a flat list.

    More than two columns are unreadable on a phone: use rows, or a slider.
    """
    fig, axes = plt.subplots(rows, columns, figsize=(5.6, height * rows), squeeze=False)
    return fig, list(axes.flat)


def say(text: str) -> None:
    """Print a sentence of Markdown; the way a number that was computed enters the prose."""
    display(Markdown(text))
