"""The picture of the README: one noise, fifty steps of flow matching beside one of MeanFlow.

Trains both on the ring of eight Gaussians with the same network, batches and budget, which takes
about a minute, and writes ``book/_static/one_step.png``:

    python -m tools.hero
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from torch import Tensor

from meanflow_lite.data.batches import FromDistribution, seeded
from meanflow_lite.data.toys import ring
from meanflow_lite.evaluation.distances import compare, energy_distance
from meanflow_lite.fields import Field
from meanflow_lite.networks.mlp import MLP
from meanflow_lite.notebook import COLORS, setup
from meanflow_lite.objectives import FlowMatching, MeanFlow, Objective
from meanflow_lite.paths import Below, Uniform
from meanflow_lite.samplers import integrate, sample, uniform_times
from meanflow_lite.training import TrainConfig, train

Walk = Callable[[Field, Tensor, Sequence[float]], Tensor]
PICTURE = Path(__file__).parents[1] / "book/_static/one_step.png"
CONFIG = TrainConfig(steps=3000, batch=512, lr=4e-3, clip=10.0, cooldown=0.5)
LINES = 90  # paths drawn; all points are


def fit(objective: Objective) -> Field:
    """Train a fresh network, from the same initial weights whatever the objective."""
    torch.manual_seed(0)
    net = MLP(2, width=128, depth=3)
    field, _ = train(net, objective, FromDistribution(ring()), CONFIG)
    return field  # pyright: ignore[reportReturnType]


def paths(walk: Walk, u: Field, eps: Tensor, steps: int) -> Tensor:
    """Every state from ``eps`` on, ``[steps + 1, B, 2]``; ``walk`` samples by u or by v."""
    states, times = [eps], uniform_times(steps)
    for t, r in zip(times, times[1:], strict=False):
        states.append(walk(u, states[-1], (t, r)))
    return torch.stack(states)


def draw(ax: Axes, states: Tensor, title: str, color: str) -> None:
    """Noise, the first ``LINES`` paths, and where all points end."""
    lines = states[:, :LINES].transpose(0, 1)
    ax.scatter(*states[0].T, s=3, color=COLORS["noise"], alpha=0.25, linewidths=0)
    ax.add_collection(LineCollection([*lines.numpy()], colors=color, linewidths=0.8, alpha=0.5))
    ax.scatter(*states[-1].T, s=7, color=COLORS["data"], alpha=0.4, linewidths=0, zorder=3)
    ax.set(xlim=(-3.3, 3.3), ylim=(-3.3, 3.3), aspect="equal")
    ax.set_title(title, color=color, weight="bold", fontsize=12, pad=2)
    ax.axis("off")


def main() -> None:
    """Train, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PICTURE)
    out: Path = parser.parse_args().out
    setup()
    eps = torch.randn(3000, 2, generator=seeded(7))
    flow = fit(FlowMatching(law=Uniform()))
    mean = fit(MeanFlow(pair=Below(Uniform()), p_equal=0.25, p=0.0))
    shown = [
        (integrate, flow, 50, "Flow matching, 50 steps", "#B87000"),
        (integrate, flow, 1, "Flow matching, 1 step", COLORS["wrong"]),
        (sample, mean, 1, "MeanFlow, 1 step", COLORS["meanflow"]),
    ]
    fig, axes = plt.subplots(1, len(shown), figsize=(9.6, 3.5))
    for ax, (walk, u, steps, title, color) in zip(axes, shown, strict=True):
        states = paths(walk, u, eps, steps)
        draw(ax, states, title, color)
        distance = compare(energy_distance, states[-1], ring(), seeded(8))
        print(f"{title}: energy distance to the data {distance.distance:.4f}, ", end="")
        print(f"from data to data {distance.floor:.4f}")
    # An opaque white ground: the same on a light and on a dark page.
    fig.savefig(out, dpi=150, facecolor="white", metadata={"Software": None})
    plt.close(fig)


if __name__ == "__main__":
    main()
