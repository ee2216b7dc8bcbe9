"""What a field is, and the checks that every exact field makes at its entry."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meanflow_lite.domains import ANY, Domain, bare, layers
from meanflow_lite.paths import check_times


@runtime_checkable
class Field(Protocol):
    r""":math:`u(z_t, r, t) = \frac{1}{t-r}\int_r^t v(z_\tau, \tau)\,\mathrm{d}\tau`, or a model.

    Closed forms, networks, their averages over training and guided mixtures are all fields.
    """

    def __call__(
        self,
        z: Float[Tensor, " b *d"],
        r: Float[Tensor, " b"],
        t: Float[Tensor, " b"],
        y: Int[Tensor, " b"] | None = None,
        **cond: Tensor,
    ) -> Float[Tensor, " b *d"]:
        """Return ``[B, *data]`` like ``z``; ``r, t`` and each further condition are ``[B]``.

        ``y [B]`` holds labels: the null label is the number of classes, and None means
        unlabeled data.
        """
        ...


#: An instantaneous velocity ``v(z, t, y=None)``.
Velocity = Callable[..., Tensor]


@dataclass(frozen=True)
class Instantaneous:
    """A velocity as a field that ignores r; see :func:`instantaneous`."""

    v: Velocity
    domain: Domain = ANY  # who writes it means it: no jump is refused

    def __call__(
        self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None, **cond: Tensor
    ) -> Tensor:
        """Evaluate ``v(z, t, y)``."""
        return self.v(z, t, y, **cond)

    @property
    def wrapped(self) -> Velocity:
        """The velocity."""
        return self.v


@dataclass(frozen=True)
class Conditioned:
    """A field with its further conditions bound, one value a row: again a field.

    Unlike a ``partial`` it keeps a network's ``forward_with_tangent``; the domain is that of ``u``.
    """

    u: Field
    cond: Mapping[str, Tensor]

    def __call__(
        self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None, **cond: Tensor
    ) -> Tensor:
        """Evaluate ``u`` under the conditions."""
        return self.u(z, r, t, y, **self.cond, **cond)

    @property
    def wrapped(self) -> Field:
        """The field without its conditions."""
        return self.u

    @property
    def forward_with_tangent(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """That of ``u``; ``AttributeError`` if it has none."""
        return partial(self.u.forward_with_tangent, **self.cond)  # pyright: ignore


def field_rows(u: Field, rows: slice | Tensor) -> Field:
    """``u`` for some of the rows (a slice, or their numbers), its bound conditions cut alike."""
    if isinstance(u, Conditioned):
        return Conditioned(u.u, {name: value[rows] for name, value in u.cond.items()})
    if isinstance(u, partial):
        return partial(u.func, *u.args, **{name: value[rows] for name, value in u.keywords.items()})
    return u


def resting(u: Field, *at: Tensor | None) -> Tensor:
    """``u(*at)`` without a graph and in evaluation mode: no dropout, no moving statistics.

    So a network gives its own target. Modules that are training go on training afterwards.
    """
    modules = [m for layer in layers(u) if isinstance(layer, nn.Module) for m in layer.modules()]
    training = [m for m in modules if m.training]
    try:
        for module in training:
            module.training = False
        with torch.no_grad():
            return u(*at)  # pyright: ignore[reportArgumentType, reportCallIssue]
    finally:
        for module in training:
            module.training = True


@dataclass(frozen=True)
class VelocityOf:
    """The velocity inside a field; see :func:`velocity_of`."""

    wrapped: Field

    def __call__(self, z: Tensor, t: Tensor, y: Tensor | None = None, **cond: Tensor) -> Tensor:
        """Evaluate ``u(z, t, t, y)``."""
        return self.wrapped(z, t, t, y, **cond)


def instantaneous(v: Velocity) -> Field:
    r"""The field :math:`u(z, r, t) = v(z, t)`: right at r = t, and wrong for any real jump."""
    return Instantaneous(v)


@dataclass(frozen=True)
class Unlabelled:
    """A network that is called ``net(z, r, t)``, without labels, as a field; see `as_field`."""

    wrapped: Callable[..., Tensor]

    def __call__(
        self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None, **cond: Tensor
    ) -> Tensor:
        """Evaluate; ``ValueError`` if there are labels."""
        if y is not None:
            raise ValueError(
                f"{type(self.wrapped).__name__} is called net(z, r, t) and takes no labels: leave "
                "y out of the data, or give its forward a fourth argument y"
            )
        return self.wrapped(z, r, t, **cond)


def as_field(net: Callable[..., Tensor]) -> Field:
    """``net`` itself, or, if its call has no room for labels, a field that refuses them.

    So an unconditional network may be written ``forward(self, z, r, t)``.

    Raises:
        ValueError: if it cannot be called with a state and two times.
    """
    try:
        call = inspect.signature(bare(net).forward if isinstance(net, nn.Module) else net)
    except (TypeError, ValueError):  # a builtin: nothing is known of it
        return net
    if _takes(call, 4):
        return net
    if _takes(call, 3):
        return Unlabelled(net)
    raise ValueError(
        f"a network is called net(z, r, t, y) or net(z, r, t): {type(net).__name__} takes {call}. "
        "CONVENTIONS in meanflow_lite.conventions translates other orders and times"
    )


def _takes(call: inspect.Signature, n: int) -> bool:
    try:
        call.bind(*range(n))
    except TypeError:
        return False
    return True


def velocity_of(u: Field) -> Velocity:
    """The velocity :math:`v(z, t) = u(z, t, t)` inside a field (the limit of r to t)."""
    return VelocityOf(u)


def check_call(
    z: Tensor,
    r: Tensor,
    t: Tensor,
    y: Tensor | None,
    *,
    dim: int,
    num_classes: int | None,
    cond: dict[str, Tensor],
) -> None:
    """Raise ``ValueError`` unless the arguments fit an exact field on ``[B, dim]`` data.

    Shapes are always checked; values (NaN, r > t, labels) wherever tracing does not hide them.
    """
    if z.ndim != 2 or z.shape[1] != dim:
        raise ValueError(f"z must have shape [B, {dim}]: got {tuple(z.shape)}")
    if not z.is_floating_point():
        raise ValueError(f"z must be a floating-point tensor: got {z.dtype}")
    if _known(z.isnan().any()):
        raise ValueError("z holds NaN: look for the first step that produced it")
    _check_interval(z, r, t)
    if cond:
        raise ValueError(f"an exact field takes no further condition: got {sorted(cond)}")
    if y is not None:
        _check_labels(z, y, num_classes)


def _check_interval(z: Tensor, r: Tensor, t: Tensor) -> None:
    for name, time in (("r", r), ("t", t)):
        if time.shape != z.shape[:1]:
            raise ValueError(
                f"{name} must have shape [B] = [{z.shape[0]}]: got {tuple(time.shape)}"
            )
    if _known(((r < 0) | (r > t) | (t > 1) | r.isnan() | t.isnan()).any()):
        check_times(r, t)


def _check_labels(z: Tensor, y: Tensor, num_classes: int | None) -> None:
    if num_classes is None:
        raise ValueError("this distribution has no labels: pass y=None")
    if y.shape != z.shape[:1] or y.is_floating_point():
        raise ValueError(
            f"y must be [B] = [{z.shape[0]}] integer labels: got {tuple(y.shape)} of {y.dtype}"
        )
    if _known(((y < 0) | (y > num_classes)).any()):
        raise ValueError(
            f"labels y must be 0 to {num_classes - 1}, or {num_classes} for the null label: "
            f"got {int(y.min())} to {int(y.max())}"
        )


def _known(bad: Tensor) -> bool:
    """The truth of ``bad``, or False where tracing hides its value (vmap, torch.compile)."""
    if torch.compiler.is_compiling():
        return False
    try:
        return bool(bad)
    except RuntimeError:
        return False


def rows_where(mask: Tensor) -> Tensor:
    """Indices of the rows where ``mask`` holds, or of all rows where tracing hides its values."""
    everything = torch.arange(len(mask), device=mask.device)
    if torch.compiler.is_compiling():
        return everything
    try:
        return everything[mask]
    except RuntimeError:
        return everything
