"""The linear path between data and noise, and the laws that training times are drawn from.

Convention, everywhere in this package: ``t = 0`` is data, ``t = 1`` is noise and
``0 <= r <= t <= 1``. Times are ``[B]`` tensors; states are ``[B, *data]`` tensors of any rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from scipy.special import expit
from torch import Tensor


def bcast(t: Tensor, z: Tensor) -> Tensor:
    """View ``t`` of shape ``[B]`` as ``[B, 1, ..., 1]`` so that it multiplies ``z`` row by row.

    Raises:
        ValueError: if ``t`` is not ``[B]`` with the ``B`` of ``z``.
    """
    if t.ndim != 1 or z.ndim < 1 or t.shape[0] != z.shape[0]:
        raise ValueError(
            f"times must have shape [B] with the B of the state: got {tuple(t.shape)} "
            f"for a state of shape {tuple(z.shape)}"
        )
    return t.reshape(-1, *(1,) * (z.ndim - 1))


def interpolate(
    x: Float[Tensor, " b *d"], eps: Float[Tensor, " ..."], t: Float[Tensor, " b"]
) -> Float[Tensor, " b *d"]:
    r""":math:`z_t = (1 - t) x + t \epsilon`, the linear path (Lipman et al. 2023; Liu et al. 2023).

    Shapes: ``x`` and ``eps`` are ``[B, *data]``, ``t`` is ``[B]``; returns ``[B, *data]``.
    """
    if x.shape != eps.shape:
        raise ValueError(
            f"x and eps must have one shape: got {tuple(x.shape)} and {tuple(eps.shape)}"
        )
    w = bcast(t, x)
    return (1 - w) * x + w * eps


def conditional_velocity(
    x: Float[Tensor, " b *d"], eps: Float[Tensor, " b *d"]
) -> Float[Tensor, " b *d"]:
    r""":math:`v = \mathrm{d}z_t / \mathrm{d}t = \epsilon - x`, constant along one linear path."""
    return eps - x


def check_times(r: Tensor, t: Tensor) -> None:
    """Raise ``ValueError`` unless ``0 <= r <= t <= 1`` in every row (NaN fails too)."""
    ok = (r >= 0) & (r <= t) & (t <= 1)
    if not bool(ok.all()):
        i = int((~ok).nonzero()[0, 0])
        raise ValueError(
            f"times must satisfy 0 <= r <= t <= 1: row {i} has r = {float(r[i]):.6g} and "
            f"t = {float(t[i]):.6g} (t = 0 is data, t = 1 is noise)"
        )


@runtime_checkable
class TimeLaw(Protocol):
    """A law of one time on [0, 1]: maps standard uniforms and normals to times.

    It is called with the rows of one part of a batch, on the CPU. Vectorized functions of PyTorch
    may round differently at the end of a tensor; those of NumPy and SciPy do not, so that with
    them any split of a batch has the same times to the last bit.
    """

    def __call__(self, normal: Tensor, uniform: Tensor) -> Tensor:
        """Times in [0, 1] from independent standard normal and uniform draws of one shape."""
        ...


@dataclass(frozen=True)
class Uniform:
    r""":math:`t \sim U[0, 1]`."""

    def __call__(self, normal: Tensor, uniform: Tensor) -> Tensor:
        """Return the uniform draws themselves."""
        return uniform


@dataclass(frozen=True)
class LogitNormal:
    r""":math:`t = \sigma(\mu + s\,\xi),\ \xi \sim N(0, 1)`.

    The default is the one that MeanFlow trains with on ImageNet (Geng et al. 2025, Table 1d).
    """

    mean: float = -0.4
    std: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.std < math.inf:
            raise ValueError(f"std of a logit-normal law must be positive: got {self.std}")
        if not math.isfinite(self.mean):
            raise ValueError(f"mean of a logit-normal law must be finite: got {self.mean}")

    def __call__(self, normal: Tensor, uniform: Tensor) -> Tensor:
        """Squash the normal draws, by a function that rounds alike in every row of a tensor."""
        return torch.from_numpy(expit((self.mean + self.std * normal).numpy()))


@runtime_checkable
class PairLaw(Protocol):
    """A law of the two ends ``r <= t`` of a jump."""

    def __call__(self, time: Callable[[TimeLaw, str], Tensor]) -> tuple[Tensor, Tensor]:
        """``(r, t)``, each ``[B]``; ``time(law, stream)`` draws one time a row from a law.

        Draws of one stream are equal: independent times have streams of different names.
        """
        ...


@dataclass(frozen=True)
class Ordered:
    """Two independent draws of one law: t is the larger, r the smaller (Geng et al. 2025)."""

    law: TimeLaw = LogitNormal()

    def __call__(self, time: Callable[[TimeLaw, str], Tensor]) -> tuple[Tensor, Tensor]:
        """Draw twice and sort."""
        a, b = time(self.law, "a"), time(self.law, "b")
        return torch.minimum(a, b), torch.maximum(a, b)


@dataclass(frozen=True)
class Below:
    """t from its law, then r uniform on [0, t)."""

    law: TimeLaw = LogitNormal()

    def __call__(self, time: Callable[[TimeLaw, str], Tensor]) -> tuple[Tensor, Tensor]:
        """Draw t, then r below it."""
        t = time(self.law, "t")
        return t * time(Uniform(), "r / t"), t


@dataclass(frozen=True)
class Separate:
    """t and r each from its own law, then ``r = min(r, t)`` (the CIFAR-10 code of MeanFlow)."""

    t_law: TimeLaw = LogitNormal(-0.6, 1.6)
    r_law: TimeLaw = LogitNormal(-4.0, 1.6)

    def __call__(self, time: Callable[[TimeLaw, str], Tensor]) -> tuple[Tensor, Tensor]:
        """Draw both and cut r at t."""
        t = time(self.t_law, "t")
        return torch.minimum(time(self.r_law, "r"), t), t


@dataclass(frozen=True)
class ToData:
    """t from its law and r = 0: every jump ends at the data, as in consistency models."""

    law: TimeLaw = LogitNormal()

    def __call__(self, time: Callable[[TimeLaw, str], Tensor]) -> tuple[Tensor, Tensor]:
        """Draw t; r is zero."""
        t = time(self.law, "t")
        return torch.zeros_like(t), t


def count_equal(p_equal: float, n: int) -> int:
    """Number of rows with r = t among ``n``: the share ``p_equal``, rounded.

    A share between 0 and 1 means that there are rows of both kinds, so at least one of each is
    kept.

    ``p_equal`` is the share of *equal* rows: 0.75 means that three rows in four are plain flow
    matching. Other repositories use the same number with the opposite meaning.
    """
    if not 0 <= p_equal <= 1:
        raise ValueError(f"p_equal is a share of rows in [0, 1]: got {p_equal}")
    if n == 0 or p_equal in (0, 1):
        return int(p_equal * n)
    if n == 1:
        raise ValueError(
            f"a batch of one row cannot hold rows with r = t and others: p_equal is {p_equal}. "
            "Take a batch of at least 2, or p_equal 0 or 1"
        )
    return max(1, min(n - 1, round(p_equal * n)))


def equal_rows(r: Tensor, t: Tensor, n_equal: int) -> Tensor:
    """``r`` with ``r = t`` in the first ``n_equal`` rows.

    The split is by position, so it is the same number in every step: a compiled step keeps one
    graph, and only the rows behind it pay for a derivative. Rows are exchangeable, as the data
    order is random.
    """
    return torch.cat([t[:n_equal], r[n_equal:]])
