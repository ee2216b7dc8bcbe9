"""Exercises of chapter 13: a term of the bound, an affine target, a loss that cannot fall."""

from __future__ import annotations

import torch

from meanflow_lite.notebook.exercises import exercise

_E = torch.tensor([0.1, 0.4], dtype=torch.float64)
_R = torch.tensor([0.5, 0.9], dtype=torch.float64)
_M = torch.tensor([2.0, 0.7], dtype=torch.float64)
_V = torch.tensor([[0.3, -1.0], [2.0, 0.1], [0.0, 0.4]], dtype=torch.float64)

exercise(
    "13-gap",
    use=lambda gap: gap(_E, _R, _M),
    right=lambda e, r, m: e * torch.exp(m * r),
    mistakes={
        "Time runs down from r to 0, so a falling velocity drives the paths apart.": (
            lambda e, r, m: e * torch.exp(-m * r)
        ),
        "The rate acts for a time r, not for 1 - r.": lambda e, r, m: e * torch.exp(m * (1 - r)),
        "The gap grows exponentially, not linearly.": lambda e, r, m: e * (1 + m * r),
    },
    praise="Right: this is the factor of (13.5) for a constant rate.",
)

exercise(
    "13-affine",
    right="yes",
    mistakes={
        "The derivative is taken at z_t, r, t: no random velocity enters it. The target is v_c "
        "plus something known.": "no",
    },
    praise="Right: affine, so its mean is unbiased. Whether the target is good is another matter.",
)


exercise(
    "13-normalized",
    use=lambda loss: torch.as_tensor(loss(_V)),
    right=lambda v: (v / v.square().sum(1).mean().sqrt()).square().sum(1).mean(),
    mistakes={
        "This is the size before the division.": lambda v: v.square().sum(1).mean(),
        "Divide by the size over the whole batch, not row by row.": (
            lambda v: (
                (v / v.square().sum(1, keepdim=True).mean(1).sqrt().mean()).square().sum(1).mean()
            )
        ),
    },
    praise="Right: one, whatever the force. Nothing can be read from it.",
)
