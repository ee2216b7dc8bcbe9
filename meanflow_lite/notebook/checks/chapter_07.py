"""Exercises of chapter 07: a frozen Gaussian, three derivatives, a test that is not blind."""

from __future__ import annotations

from typing import Any

import torch

from meanflow_lite.fields import Gaussian
from meanflow_lite.identity import TANGENTS, residual
from meanflow_lite.notebook.exercises import exercise

exercise(
    "07-width",
    right=2.1,
    tolerance=3e-3,
    mistakes={
        "That is the coefficient of the frozen average; a step adds it to the noise itself.": 1.1,
        "That is the truth; the frozen average falls short of it.": 3.0,
        "The step subtracts a negative number: 1 + 1.10.": -0.1,
        "The logarithm is of 3, the ratio of the widths, not of 9.": 3.2,
        "That is for data twice as wide as the noise.": 1.69,
    },
    praise="Right: 1 + log 3 = 2.10 instead of 3, and the gap grows with the width.",
)

exercise(
    "07-handed-in",
    right="Ben",
    mistakes={
        "Hers passes on N(0, 1) at (0, 1) and fails on three groups: she moves r in place of t.": (
            "Ada"
        ),
        "Hers passes on N(0, 1) at (0, 1) and fails on three groups: she holds z fixed.": "Cleo",
        "One of them is right: try data with three groups.": "nobody",
    },
    hint="Answer with one of the three names.",
    praise="Right: his alone leaves nothing on data with three groups.",
)


def _design(answer: Any) -> str:
    """What the least residual of the four wrong directions says about the test."""
    s, r, t = (float(value) for value in answer)
    if not (s > 0 and 0 <= r <= t <= 1):
        return "impossible"
    if r == t:
        return "no jump"
    data, at = Gaussian([0.0], [s]), torch.full((1,), t, dtype=torch.float64)
    z = torch.sqrt((1 - at) ** 2 * s**2 + at**2)[:, None]
    sizes = {
        name: float(
            residual(data.average, z, 0 * at + r, at, data.velocity(z, at), tangent=tangent)
        )
        for name, tangent in TANGENTS.items()
        if name != "v01"
    }
    if min(abs(size) for size in sizes.values()) > 0.5:
        return "sharp"
    return "symmetric" if abs(s - 1) < 1e-9 else "weak"


exercise(
    "07-design",
    use=_design,
    right=(2.0, 0.0, 1.0),
    mistakes={
        "At r = t every direction leaves nothing: t - r is zero.": (2.0, 0.5, 0.5),
        "On N(0, 1) paths have a symmetry that hides mistakes: take another width.": (
            1.0,
            0.0,
            1.0,
        ),
        "One of the four wrong directions leaves less than one half there.": (2.0, 0.4, 0.6),
        "s must be positive, and 0 <= r <= t <= 1.": (2.0, 1.0, 0.0),
    },
    hint="Three numbers: s, r and t.",
    praise="Right: this pair of times alone tells all four mistakes from the truth.",
)
