"""A MeanFlow step in NumPy, from the paper: nothing of the library or of PyTorch is used.

    python tests/golden_step.py    # writes tests/golden_step.json

Weights and draws are sines of their position, so that both writings can make them. The derivative
is by a complex step, du/dt = Im u(z + i h v, r, t + i h) / h, which is exact to rounding (Squire &
Trapp 1998) and shares no rule with the library's duals. Geng et al. 2025, Algorithm 1 and
equations 19 to 22.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

STORED = Path(__file__).with_suffix(".json")
DIM, WIDTH, CLASSES, B, N_EQUAL = 2, 8, 3, 8, 3
#: name and shape of each parameter, in the order of the library's MLP of depth 3
SHAPES = {
    "label.weight": (CLASSES + 1, WIDTH),
    "first.weight": (WIDTH, DIM + 2 * 7),
    "first.bias": (WIDTH,),
    "hidden.0.weight": (WIDTH, WIDTH),
    "hidden.0.bias": (WIDTH,),
    "hidden.1.weight": (WIDTH, WIDTH),
    "hidden.1.bias": (WIDTH,),
    "last.weight": (DIM, WIDTH),
    "last.bias": (DIM,),
}
#: omega, kappa and the interval of t, for the plain and for the guided step
CASES = {"plain": None, "guided": (1.5, 0.25, (0.2, 0.8))}
P, C = 0.75, 0.01


def sines(k: int, *shape: int) -> np.ndarray:
    return np.sin(1.7 * k + 0.9 * np.arange(1, np.prod(shape) + 1) ** 1.1).reshape(shape)


def parameters() -> dict[str, np.ndarray]:
    return {name: 0.7 * sines(k, *shape) for k, (name, shape) in enumerate(SHAPES.items())}


def draws() -> dict[str, np.ndarray]:
    a, b = (0.5 + 0.5 * sines(k, B) for k in (20, 21))
    r, t = np.minimum(a, b), np.maximum(a, b)
    r = np.where(np.arange(B) < N_EQUAL, t, r)
    y = np.array([0, 1, 2, 3, 0, 1, 2, 3])
    return {"x": 1.5 * sines(22, B, DIM), "eps": 1.3 * sines(23, B, DIM), "r": r, "t": t, "y": y}


def silu(a: np.ndarray) -> np.ndarray:
    return a / (1 + np.exp(-a))


def field(z: np.ndarray, r: np.ndarray, t: np.ndarray, y: np.ndarray) -> np.ndarray:
    w = parameters()
    told = np.stack([t, t - r], 1)
    waves = np.concatenate([told[:, i : i + 1] * 2.0 ** np.arange(3) for i in (0, 1)], 1)
    waves = waves * np.pi / 2
    h = np.concatenate([z, told, np.cos(waves), np.sin(waves)], 1)
    h = h @ w["first.weight"].T + w["first.bias"] + w["label.weight"][y]
    for k in (0, 1):
        h = silu(h) @ w[f"hidden.{k}.weight"].T + w[f"hidden.{k}.bias"]
    return silu(h) @ w["last.weight"].T + w["last.bias"]


def step(guidance: tuple[float, float, tuple[float, float]] | None) -> dict[str, list]:
    d = draws()
    r, t, y = d["r"], d["t"], d["y"]
    z = (1 - t)[:, None] * d["x"] + t[:, None] * d["eps"]
    v = d["eps"] - d["x"]
    if guidance is not None:
        omega, kappa, (low, high) = guidance
        own, none = field(z, t, t, y), field(z, t, t, np.full(B, CLASSES))
        mixed = omega * v + kappa * own + (1 - omega - kappa) * none
        on = (y != CLASSES) & (t >= low) & (t <= high)
        v = np.where(on[:, None], mixed, v)
    h = 1e-30
    dudt = field(z + 1j * h * v, r, t + 1j * h, y).imag / h
    u, target = field(z, r, t, y), v - (t - r)[:, None] * dudt
    error = ((u - target) ** 2).sum(1)
    weight = (error + C) ** -P
    slope = (2 * weight[:, None] * (u - target)).mean(0)  # of the mean loss, in last.bias
    found = {"u": u, "dudt": dudt, "target": target, "loss": weight * error, "slope": slope}
    return {name: value.tolist() for name, value in found.items()}


if __name__ == "__main__":
    STORED.write_text(json.dumps({name: step(g) for name, g in CASES.items()}, indent=1) + "\n")
