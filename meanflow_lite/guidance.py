r"""Guidance: inside the training target, and at sampling time.

The guided velocity is :math:`v^\omega = \omega\,v(z, t \mid y) + (1 - \omega)\,v(z, t)`
(Ho & Salimans 2022). MeanFlow learns the average of *this* field, so that one evaluation samples
with guidance; the scale is then fixed by training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from meanflow_lite.domains import INSTANT, Domain, classes_of, domain_of
from meanflow_lite.fields import Field, field_rows, resting
from meanflow_lite.paths import bcast


def check_scales(**scales: float) -> None:
    """Raise ``ValueError`` if a scale of guidance is not a finite number."""
    for name, scale in scales.items():
        if not math.isfinite(scale):
            raise ValueError(f"{name} must be a finite number: got {scale}")


def check_null(null: int, u: object) -> None:
    """Raise ``ValueError`` unless ``null`` is the null label of the network in ``u``, if known."""
    classes = classes_of(u)
    if classes == 0:
        raise ValueError(
            "guidance and label dropout need a network with labels: build it with num_classes"
        )
    if classes is not None and null != classes:
        kind = "is one of its classes" if 0 <= null < classes else "is none of its labels"
        raise ValueError(
            f"the null label of a network of {classes} classes is {classes}: null = {null} {kind}"
        )


@dataclass(frozen=True)
class LabelDropout:
    """Replace the label by ``null`` in a share ``rate`` of the rows, so that one network also
    learns the unconditional field.

    Rows are dropped at random. ``positional`` drops the same random *number* of rows from the
    front of the batch, as the official code of MeanFlow does: the null label is then only ever
    trained on rows with r = t.
    """

    null: int
    rate: float = 0.1
    positional: bool = False

    def __post_init__(self) -> None:
        if self.null < 0:
            raise ValueError(f"the null label is the number of classes: got {self.null}")
        if not 0 <= self.rate <= 1:
            raise ValueError(f"label dropout is a rate in [0, 1]: got {self.rate}")

    def __call__(self, y: Int[Tensor, " b"] | None, uniform: Float[Tensor, " b"]) -> Tensor:
        """Labels after dropout; ``uniform`` are draws on [0, 1), one a row."""
        if y is None:
            raise ValueError("label dropout needs labels y: got None")
        drop = uniform < self.rate
        if self.positional:
            drop = torch.arange(len(y), device=y.device) < drop.sum()
        return torch.where(drop, self.null, y)


def guided_velocity(
    u: Field,
    z: Float[Tensor, " b *d"],
    t: Float[Tensor, " b"],
    v: Float[Tensor, " b *d"],
    y: Int[Tensor, " b"],
    null: int,
    omega: float | Float[Tensor, " b"],
    kappa: float | Float[Tensor, " b"] = 0.0,
    own: Float[Tensor, " b *d"] | None = None,
) -> Float[Tensor, " b *d"]:
    r""":math:`\omega v + \kappa\,u(z,t,t|y) + (1 - \omega - \kappa)\,u(z,t,t|\varnothing)`.

    Equations 20 and 21 of Geng et al. 2025; the fixed point has the effective scale
    :math:`\omega' = \omega / (1 - \kappa)`. Rows that already carry the null label keep ``v``.
    No gradient flows. ``own`` is :math:`u(z,t,t \mid y)` where it is known already; it is
    evaluated only where it is missing and kappa is not the number 0. Shapes: ``z, v``
    ``[B, *data]``; ``t, y`` ``[B]``; the scales are numbers or ``[B]``.
    """
    without = resting(u, z, t, t, torch.full_like(y, null))
    if own is None and not (isinstance(kappa, float) and kappa == 0):
        own = resting(u, z, t, t, y)
    return _mixed(v, without, own, y != null, omega, kappa)


@torch.no_grad()
def _mixed(
    v: Tensor,
    without: Tensor,
    own: Tensor | None,
    guided: Tensor,
    omega: float | Tensor,
    kappa: float | Tensor,
) -> Tensor:
    shift = _rows(omega, v) * (v - without)
    if own is not None:
        shift = shift + _rows(kappa, v) * (own - without)
    return torch.where(bcast(guided, v), without + shift, v)


def _rows(scale: float | Tensor, z: Tensor) -> float | Tensor:
    return bcast(scale, z) if isinstance(scale, Tensor) else scale


@dataclass(frozen=True)
class Scales:
    r"""Effective scales with the density :math:`\propto s^{-\beta}` on ``[low, high]``.

    One scale a row, for a network that takes omega as an input: the scale is then chosen at
    sampling. Improved MeanFlow (Geng et al. 2025b) draws on [1, 8], see :class:`OwnGuidance`.
    """

    low: float = 1.0
    high: float = 4.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        check_scales(low=self.low, high=self.high, beta=self.beta)
        if not 0 < self.low < self.high:
            raise ValueError(f"scales need 0 < low < high: got {self.low} and {self.high}")

    def __call__(self, uniform: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Scales ``[B]`` from draws on [0, 1)."""
        power = 1 - self.beta
        if power == 0:
            return self.low * torch.from_numpy(np.power(self.high / self.low, uniform.numpy()))
        low, high = self.low**power, self.high**power
        mixed = low + (high - low) * uniform
        # NumPy's power rounds alike in every row, so that parts agree with the whole batch
        return torch.from_numpy(np.power(mixed.numpy(), 1 / power))


#: ``(v, rows, own) -> guided v`` of a slice of the rows of a batch; see :meth:`Guidance.ahead`
GuidedRows = Callable[..., Tensor]


@dataclass(frozen=True)
class Guidance:
    r"""Guidance in training; the effective scale is :math:`\omega' = \omega/(1-\kappa)`.

    ``interval`` is the range of t in which it acts; outside, :math:`\omega = 1, \kappa = 0`. With
    ``scales`` each row has its own effective scale, the objective tells the network as the
    condition ``omega``, and the number ``omega`` here is not used.
    """

    null: int
    omega: float = 1.0
    kappa: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)
    scales: Scales | None = None

    def __post_init__(self) -> None:
        check_scales(omega=self.omega)
        if self.null < 0:
            raise ValueError(f"the null label is the number of classes: got {self.null}")
        if not 0 <= self.kappa < 1:
            raise ValueError(f"kappa must be in [0, 1): got {self.kappa}")
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"the guidance interval must be within [0, 1]: got {self.interval}")

    @classmethod
    def effective(
        cls, scale: float, null: int, kappa: float = 0.0, interval: tuple[float, float] = (0.0, 1.0)
    ) -> Guidance:
        r"""The settings with :math:`\omega = \omega'(1 - \kappa)` for an effective scale."""
        return cls(null, scale * (1 - kappa), kappa, interval)

    @property
    def effective_scale(self) -> float:
        r""":math:`\omega' = \omega / (1 - \kappa)`."""
        return self.omega / (1 - self.kappa)

    def __call__(
        self,
        u: Field,
        z: Float[Tensor, " b *d"],
        t: Float[Tensor, " b"],
        v: Float[Tensor, " b *d"],
        y: Int[Tensor, " b"] | None,
        own: Float[Tensor, " b *d"] | None = None,
        scale: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, " b *d"]:
        """:func:`guided_velocity` with these settings, in the rows whose t is in the interval.

        ``own`` is u(z, t, t | y) where it is known; ``scale`` are effective scales of the rows, in
        place of that of the settings.
        """
        if y is None:
            raise ValueError("guidance needs labels y: got None")
        without, computed = self.references(u, z, t, y, 0 if own is None else len(z))
        return self.mix(v, without, computed if own is None else own, t, y, scale)

    def ahead(
        self,
        u: Field,
        z: Tensor,
        t: Tensor,
        y: Tensor | None,
        n: int = 0,
        scale: Tensor | None = None,
    ) -> GuidedRows:
        """``(v, rows, own) -> guided v`` of a slice of the rows, ``u`` being evaluated here.

        ``own`` is u(z, t, t | y) of those rows; it may be left out where they are the rows n on.
        """
        if y is None:
            raise ValueError("guidance needs labels y: got None")
        without, known = self.references(u, z, t, y, n)

        def guide(v: Tensor, rows: slice, own: Tensor | None = known) -> Tensor:
            scales = None if scale is None else scale[rows]
            return self.mix(v, without[rows], own, t[rows], y[rows], scales)

        return guide

    def references(
        self, u: Field, z: Tensor, t: Tensor, y: Tensor, n: int = 0
    ) -> tuple[Tensor, Tensor | None]:
        r""":math:`u(z,t,t \mid \varnothing)` of all rows and :math:`u(z,t,t \mid y)` of rows n on.

        One pass, without a graph and in evaluation mode; the second only where kappa asks for it.
        """
        null = torch.full_like(y, self.null)
        if self.kappa == 0 or n == len(z):
            return resting(u, z, t, t, null), None
        rows = torch.arange(len(z), device=z.device)
        rows = torch.cat([rows, rows[n:]])
        both = resting(field_rows(u, rows), z[rows], t[rows], t[rows], torch.cat([null, y[n:]]))
        return both[: len(z)], both[len(z) :]

    def mix(
        self,
        v: Tensor,
        without: Tensor,
        own: Tensor | None,
        t: Tensor,
        y: Tensor,
        scale: Tensor | None = None,
    ) -> Tensor:
        """The guided v of rows whose :meth:`references` are known, v in rows that have none."""
        low, high = self.interval
        guided = (y != self.null) & (t >= low) & (t <= high)
        omega = self.omega if scale is None else scale * (1 - self.kappa)
        return _mixed(v, without, own if self.kappa else None, guided, omega, self.kappa)


@dataclass(frozen=True)
class OwnGuidance:
    r"""Improved MeanFlow's guidance: the target is :math:`v + (1 - 1/\omega)(v_c - v_\varnothing)`.

    :math:`v_c` is the network's own guided velocity under omega and :math:`v_\varnothing` that of
    the null label under omega 1, so that where they agree with their targets,
    :math:`v_c = \omega v + (1 - \omega) v_\varnothing`. Each row has a scale and an interval of t
    in which it acts, ``t_min`` and ``t_max`` uniform on the ranges given; the network is told all
    three, and they are chosen at sampling. Rows with r = t are guided everywhere.

    Source: Geng et al. 2025b (arXiv 2512.02012) and its code; the defaults are theirs.
    """

    null: int
    scales: Scales = Scales(1.0, 8.0)
    t_min: tuple[float, float] = (0.0, 0.5)
    t_max: tuple[float, float] = (0.5, 1.0)

    def __post_init__(self) -> None:
        if self.null < 0:
            raise ValueError(f"the null label is the number of classes: got {self.null}")
        if not 0 <= self.t_min[0] <= self.t_min[1] <= self.t_max[0] <= self.t_max[1] <= 1:
            raise ValueError(
                "0 <= t_min <= t_max <= 1 is needed of all intervals: got the ranges "
                f"{self.t_min} and {self.t_max}"
            )

    def conditions(
        self, uniform: Callable[[str], Tensor], n: int
    ) -> dict[str, Float[Tensor, " b"]]:
        """``omega, t_min, t_max`` of each row from uniform draws by name; ``n`` rows have r = t."""
        omega = self.scales(uniform("omega"))
        told = {"omega": omega}
        for name, (low, high) in (("t_min", self.t_min), ("t_max", self.t_max)):
            everywhere = torch.full_like(omega[:n], float(name == "t_max"))
            told[name] = torch.cat([everywhere, low + (high - low) * uniform(name)[n:].to(omega)])
        return told

    def velocities(
        self,
        v: Callable[..., Tensor],
        z: Tensor,
        t: Tensor,
        y: Tensor | None,
        told: Mapping[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        r""":math:`v_c` and the shift :math:`(1 - 1/\omega)(v_c - v_\varnothing)` of the target.

        ``v(z, t, y, cond)`` is the network's velocity without a graph. Outside its interval a row
        counts as one of omega 1, and rows that carry the null label are not shifted.
        """
        if y is None:
            raise ValueError("guidance needs labels y: got None")
        on = (t >= told["t_min"]) & (t <= told["t_max"])
        one, twice = torch.ones_like(t), torch.cat([t, t])
        omega = torch.where(on, told["omega"], one)
        cond = {"omega": torch.cat([omega, one]), "t_min": 0 * twice, "t_max": 0 * twice + 1}
        both = v(torch.cat([z, z]), twice, torch.cat([y, torch.full_like(y, self.null)]), cond)
        own, without = both[: len(z)], both[len(z) :]
        share = torch.where(y != self.null, 1 - 1 / omega, 0.0)
        return own, bcast(share, z) * (own - without)


@dataclass(frozen=True)
class Amplified:
    r"""The field :math:`\omega\,u(z, r, t, y)` of a network that is told :math:`1/\omega`.

    How terminal velocity matching is guided (Zhou et al. 2025): the guided velocity grows with
    omega, and the network has to represent something of the size of the data only. ``omega`` is a
    number or ``[B]``; the network takes the condition ``inverse_omega``.
    """

    u: Field
    omega: float | Tensor

    def __call__(
        self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None, **cond: Tensor
    ) -> Tensor:
        """Evaluate."""
        omega = self.omega * torch.ones_like(t)
        return bcast(omega, z) * self.u(z, r, t, y, inverse_omega=1 / omega, **cond)

    @property
    def wrapped(self) -> Field:
        """The network."""
        return self.u


@dataclass(frozen=True)
class ClassifierFree:
    r"""The field :math:`\omega\,u(z,r,t \mid y) + (1-\omega)\,u(z,r,t \mid \varnothing)`.

    Classifier-free guidance at sampling time, for walking an instantaneous velocity: two
    evaluations a call. Of an *average* velocity it is not the average of the guided field, so its
    domain is r = t alone, whatever ``u`` was trained for, unless ``average`` says that the mix of
    averages is meant; then it is that of ``u``.

    Raises:
        ValueError: if omega is not finite, or ``null`` is not the null label of the network.
    """

    u: Field
    null: int
    omega: float
    average: bool = False

    def __post_init__(self) -> None:
        check_scales(omega=self.omega)
        check_null(self.null, self.u)

    def __call__(
        self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None, **cond: Tensor
    ) -> Tensor:
        """Evaluate the mixture; ``y`` is required."""
        if y is None:
            raise ValueError("classifier-free guidance needs labels y: got None")
        with_y = self.u(z, r, t, y, **cond)
        without = self.u(z, r, t, torch.full_like(y, self.null), **cond)
        return self.omega * with_y + (1 - self.omega) * without

    @property
    def wrapped(self) -> Field:
        """The field that is mixed."""
        return self.u

    @property
    def domain(self) -> Domain:
        """Only r = t, or with ``average`` what ``u`` was trained for."""
        inner = domain_of(self.u)
        if self.average:
            return inner
        inner.check_jump(1.0, 1.0)
        return INSTANT
