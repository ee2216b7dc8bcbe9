"""Exercises of chapter 08: a rule for duals, tangents of another signature, the bill."""

from __future__ import annotations

import torch

from meanflow_lite.notebook.exercises import exercise

_A = torch.tensor([-3.0, -0.5, 0.2, 2.0], dtype=torch.float64)


_SLOPE = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)


_V = torch.tensor([[0.4, -1.0], [2.0, 0.3], [-0.7, 1.2]], dtype=torch.float64)


exercise(
    "08-dual",
    right=(0.5, 1.75),
    mistakes={
        "The place moves with -1, not with 1: its part is -t^2.": (0.5, 2.25),
        "The place moves too: its part, v t^2 = -0.25, is missing.": (0.5, 2.0),
        "The clock runs too: its part, 2 z t = 2, is missing.": (0.5, -0.25),
        "The derivative of t^2 is 2 t, so the part of t is 2 z t = 2.": (0.5, 0.75),
        "The value is z t^2 = 2 x 0.25.": (1.0, 1.75),
    },
    praise="Right: (2 - d)(0.25 + d) = 0.5 + 1.75 d.",
)


def _gate(a):
    return torch.sigmoid(a)


exercise(
    "08-silu",
    use=lambda silu: silu(_A, _SLOPE),
    right=lambda a, da: (a * _gate(a), (_gate(a) + a * _gate(a) * (1 - _gate(a))) * da),
    mistakes={
        "The value is right. The slope is the derivative alone: multiply it by the slope that "
        "came in.": lambda a, da: (a * _gate(a), _gate(a) + a * _gate(a) * (1 - _gate(a))),
        "The product rule has two terms: the gate changes too.": lambda a, da: (
            a * _gate(a),
            _gate(a) * da,
        ),
        "The product rule has two terms: the factor a changes too.": lambda a, da: (
            a * _gate(a),
            a * _gate(a) * (1 - _gate(a)) * da,
        ),
        "The activation was applied to the slope: a slope is multiplied by the derivative.": (
            lambda a, da: (a * _gate(a), da * _gate(da))
        ),
    },
    praise="Right: the product rule, then the slope that came in.",
)


def _net(z, t, h):
    """A network of (z, t, h)."""
    return torch.sin(z * (1 + t)[:, None]) + (h**2)[:, None] * z + (t * h)[:, None]


def _times(tangent, like):
    """A number, [B] or [B, 1], as [B]."""
    return torch.as_tensor(tangent, dtype=like.dtype).reshape(-1).expand_as(like)


def _slope(tangents):
    dz, dt, dh = tangents(_V)
    t = torch.tensor([0.9, 0.6, 0.8], dtype=torch.float64)
    h = torch.tensor([0.9, 0.2, 0.5], dtype=torch.float64)
    z = torch.tensor([[1.0, 0.2], [-0.3, 0.8], [0.5, -1.5]], dtype=torch.float64)
    along = (torch.as_tensor(dz).expand_as(z), _times(dt, t), _times(dh, h))
    return torch.func.jvp(_net, (z, t, h), along)[1]


exercise(
    "08-tangents",
    use=_slope,
    right=lambda v: (v, 1.0, 1.0),
    mistakes={
        "That holds the length h fixed, so r moves along with t. Here r stays: what does h do?": (
            lambda v: (v, 1.0, 0.0)
        ),
        "That holds t fixed and lets h grow: r moves down. Along the path t grows.": lambda v: (
            v,
            0.0,
            1.0,
        ),
        "h = t - r grows with t, and not against it.": lambda v: (v, 1.0, -1.0),
        "z moves too, with velocity v.": lambda v: (0 * v, 1.0, 1.0),
    },
    praise="Right: r stays, so t and h = t - r grow together.",
)


exercise(
    "08-cost",
    use=lambda cost: [cost(0.0), cost(0.25), cost(1.0)],
    right=lambda q: (4 + q) / 3,
    mistakes={
        "The guidance forward is missing: one more evaluation on every row.": (
            lambda q: (3 + q) / 3
        ),
        "That evaluation keeps no record, so it has no backward pass: one F and not three.": (
            lambda q: (6 + q) / 3
        ),
        "The derivative runs on a share q of the rows only.": lambda q: 5 / 3,
        "This is in units of F: divide by flow matching's three.": lambda q: 4 + q,
    },
    praise="Right: three for flow matching, q for the derivative, one for guidance.",
)
