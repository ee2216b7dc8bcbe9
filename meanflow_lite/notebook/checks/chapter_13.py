"""Exercises of chapter 13: a limit, and five methods with a mistake each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from meanflow_lite.notebook.bugs import CATALOG, Bug
from meanflow_lite.notebook.exercises import exercise
from meanflow_lite.objectives import Consistency, Context, Draw, TerminalVelocity
from meanflow_lite.paths import bcast

#: One mistake of the catalog each; the reader finds out which.
SUSPECTS: dict[int, Bug] = {
    1: CATALOG["shortcut: time not advanced"],
    2: CATALOG["alphaflow: inverse weight twice"],
    3: CATALOG["terminal velocity: sign"],
    4: CATALOG["consistency: no boundary"],
    5: CATALOG["splitmeanflow: weights swapped"],
}


_FIELDS: dict[str, Callable[..., Tensor]] = {
    "u = 1": lambda z, r, t, y=None: torch.ones_like(z),
    "u = z": lambda z, r, t, y=None: z,
    "u = r": lambda z, r, t, y=None: bcast(r, z) + 0 * z,
    "u = t": lambda z, r, t, y=None: bcast(t, z) + 0 * z,
    "u = z + r": lambda z, r, t, y=None: z + bcast(r, z),
}


def probe(suspect: Any) -> str:
    """|value - target| of five fields on one row: x = 1, eps = 3, r = 0, t = 1/2, split at 3/8.

    The mistake in AlphaFlow is a factor and not a target: there it is the ratio of the gradients
    at alpha = 0.1 and 0.01.
    """
    alphaflow = CATALOG["alphaflow: inverse weight twice"]
    if suspect in (alphaflow.correct, alphaflow.broken):
        return f"gradient changes by {alphaflow.diagnostic(suspect):.0f}"
    one = torch.ones(1, dtype=torch.float64)
    extra = {"lambda": 0.25 * one}
    if isinstance(suspect, Consistency):
        extra["s"] = 0.25 * one
    row = Draw(one[:, None], None, 3 * one[:, None], 0 * one, 0.5 * one, extra=extra)
    said = []
    for name, field in _FIELDS.items():
        ctx = Context(field, None, torch.tensor(0.5), None)
        if isinstance(suspect, TerminalVelocity):
            squared = suspect.terminal_error(field, row, field)
        elif isinstance(suspect, Consistency):
            squared = suspect(field, row, ctx).per_sample * 0.25  # undo the weight 1 / (t - s)
        else:
            squared = suspect(field, row, ctx).per_sample
        said.append(f"{name}: {float(squared.sqrt()):.3g}")
    return ", ".join(said)


exercise(
    "13-alpha",
    use=lambda alpha: torch.tensor([alpha(1, 8), alpha(3, 8), alpha(64, 64)], dtype=torch.float64),
    right=lambda k, n: 1 / k,
    mistakes={
        "That is t - s; alpha is its share of the whole jump from t to 0.": lambda k, n: 1 / n,
        "That is s / t, the share that is left to the network.": lambda k, n: (k - 1) / k,
        "That is one over s / (t - s); divide t - s by t.": lambda k, n: 1 / max(k - 1, 1),
    },
    praise="Right: (t - s) / t = 1 / k, which is one at the first point of every grid.",
)


_ANSWER = ("time", "inverse", "sign", "boundary", "weights")


exercise(
    "13-suspects",
    right=_ANSWER,
    mistakes={
        "One moves its state: the probe with u = z is right. Look at u = t.": (
            "state",
            *_ANSWER[1:],
        ),
        "Five asks at the right places: with u = r only the near half is not zero. It counts for "
        "three quarters there, in place of one.": (*_ANSWER[:4], "time"),
        "A sign would not take the loss of a field of ones away, as happens in four.": (
            *_ANSWER[:3],
            "sign",
            _ANSWER[4],
        ),
    },
    praise="Right: each in one line of code, and none of them raises an error.",
    hint="Work the probe out by hand for the right code, then for each mistake.",
)
