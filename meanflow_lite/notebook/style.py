"""How figures look, how they carry their alt text, and how a sentence with a number is printed."""

from __future__ import annotations

import io
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
# For maps: one perceptually uniform, one diverging around zero.
SEQUENTIAL, DIVERGING = "viridis", "PuOr"

_RC: dict[str, Any] = {
    "figure.figsize": (5.6, 3.4),
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "image.cmap": SEQUENTIAL,
    "axes.prop_cycle": cycler(
        color=[COLORS[k] for k in ("data", "flow", "meanflow", "wrong", "other", "sky", "exact")]
    ),
}


def setup(seed: int = 0) -> None:
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


def png(fig: Figure, *, dpi: int = 160) -> bytes:
    """The figure as PNG, without the metadata that would make two builds differ; closes it."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    plt.close(fig)
    return buffer.getvalue()


def show(fig: Figure, alt: str) -> None:
    """Display ``fig`` with its alternative text, once, at its size in CSS pixels.

    The text travels with the output (and is what a plain-text reader sees); nbval compares it, so
    numbers inside it are tested. `tools/notebooks.py` copies it to where the book's pages read it.
    """
    if len(alt.split()) < 4:
        raise ValueError(f"alt={alt!r}: describe what the figure shows, in at least four words")
    alt = " ".join(alt.split())
    width = round(fig.get_figwidth() * 100)
    display(
        {"image/png": png(fig), "text/plain": alt},
        metadata={"image/png": {"width": width, "alt": alt}},
        raw=True,
    )


def say(text: str) -> None:
    """Print a sentence of Markdown; the way a number that was computed enters the prose."""
    display(Markdown(text))
