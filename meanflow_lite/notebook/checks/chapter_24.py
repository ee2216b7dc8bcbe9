"""Exercises of chapter 24: a term of the bound, an affine target."""

from __future__ import annotations

import torch

from meanflow_lite.notebook.exercises import exercise

_E = torch.tensor([0.1, 0.4], dtype=torch.float64)


_R = torch.tensor([0.5, 0.9], dtype=torch.float64)


_M = torch.tensor([2.0, 0.7], dtype=torch.float64)


exercise(
    "24-gap",
    use=lambda gap: gap(_E, _R, _M),
    right=lambda e, r, m: e * torch.exp(m * r),
    mistakes={
        "Time runs down from r to 0, so a falling velocity drives the paths apart.": (
            lambda e, r, m: e * torch.exp(-m * r)
        ),
        "The rate acts for a time r, not for 1 - r.": lambda e, r, m: e * torch.exp(m * (1 - r)),
        "The gap grows exponentially, not linearly.": lambda e, r, m: e * (1 + m * r),
    },
    praise="Right: this is the factor of (24.5) for a constant rate.",
)


exercise(
    "24-affine",
    right="yes",
    mistakes={
        "The derivative is taken at z_t, r, t: no random velocity enters it. The target is v_c "
        "plus something known.": "no",
    },
    praise="Right: affine, so its mean is unbiased. Whether the target is good is another matter.",
)
