r"""Samplers: walks from noise (t = 1) to data (t = 0).

A jump of an average velocity is :math:`z_r = z_t - (t - r)\,u(z_t, r, t)`. Times are decreasing
numbers: ``[1, 0]`` is one step and ``[1, t_mid, 0]`` two, with no special case; a whole number
``n`` stands for ``uniform_times(n)``. Labels are ``[B]`` integers, a list of them, or one for all
rows. Every walk asks the field's domain for each of its jumps, puts networks into eval mode while
it goes, and tells times in float32 where the state is in half precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meanflow_lite.domains import classes_of, domain_of, layers
from meanflow_lite.fields import Field, as_field
from meanflow_lite.paths import interpolate

Times = Sequence[float | int] | int
Labels = Tensor | Sequence[int] | int


def uniform_times(n: int) -> list[float]:
    """``n`` equal steps from 1 to 0: ``[1, (n-1)/n, ..., 0]``."""
    if n < 1:
        raise ValueError(f"the number of steps must be at least 1: got {n}")
    return [(n - k) / n for k in range(n + 1)]


@torch.no_grad()
def sample(
    u: Field | nn.Module,
    eps: Float[Tensor, " b *d"],
    times: Times = (1.0, 0.0),
    y: Labels | None = None,
) -> Float[Tensor, " b *d"]:
    r"""Walk by jumps: :math:`z_r = z_t - (t - r)\,u(z_t, r, t)` along ``times``.

    One evaluation a jump (Geng et al. 2025, equation 12). Shapes: ``eps`` ``[B, *data]``,
    ``y`` ``[B]``; returns ``[B, *data]``.

    Raises:
        ValueError: if the times do not decrease within [0, 1], labels do not fit, the field
            returns another shape, or it was not trained for one of the jumps.
    """
    times = check_walk(times)
    domain_of(u).check(times)
    with _walking(u, eps, y) as evaluate:
        z = eps
        for t, r in zip(times, times[1:], strict=False):
            z = z - (t - r) * evaluate(z, r, t)
    return z


@torch.no_grad()
def jump_and_renoise(
    u: Field | nn.Module,
    noises: Sequence[Float[Tensor, " b *d"]],
    times: Times = (1.0, 0.0),
    y: Labels | None = None,
) -> Float[Tensor, " b *d"]:
    r"""Jump to the data, then go back: :math:`z \leftarrow (1 - t)(z - t\,u(z, 0, t)) + t\epsilon`.

    Multi-step sampling of a field that only jumps to r = 0 (Song et al. 2023, Algorithm 1).
    ``noises`` holds one ``[B, *data]`` for each time but the last, which is 0. Errors as
    :func:`sample`.
    """
    times = check_walk(times)
    if times[-1] != 0:
        raise ValueError(
            f"jump_and_renoise ends at the data: the last time must be 0: got {times[-1]}"
        )
    if len(noises) != len(times) - 1:
        raise ValueError(
            f"one noise a jump is needed: got {len(noises)} noises for {len(times) - 1} jumps"
        )
    for t in times[:-1]:
        domain_of(u).check_jump(0.0, t)
    with _walking(u, noises[0], y) as evaluate:
        z = noises[0]
        for k, t in enumerate(times[:-1]):
            if k:
                z = interpolate(z, noises[k], _rows(t, z)).to(z.dtype)
            z = z - t * evaluate(z, 0.0, t)
    return z


Step = Callable[[Callable[[Tensor, float], Tensor], Tensor, float, float], Tensor]


def euler(v: Callable[[Tensor, float], Tensor], z: Tensor, t: float, r: float) -> Tensor:
    r""":math:`z_r = z_t - h\,v(z_t, t)`: first order, one evaluation."""
    return z - (t - r) * v(z, t)


def heun(v: Callable[[Tensor, float], Tensor], z: Tensor, t: float, r: float) -> Tensor:
    r""":math:`z_r = z_t - \tfrac h2 (k_1 + k_2)`: second order, two evaluations."""
    h = t - r
    k1 = v(z, t)
    return z - h / 2 * (k1 + v(z - h * k1, r))


def rk4(v: Callable[[Tensor, float], Tensor], z: Tensor, t: float, r: float) -> Tensor:
    r""":math:`z_r = z_t - \tfrac h6 (k_1 + 2k_2 + 2k_3 + k_4)`: fourth order, four evaluations."""
    h, mid = t - r, (t + r) / 2
    k1 = v(z, t)
    k2 = v(z - h / 2 * k1, mid)
    k3 = v(z - h / 2 * k2, mid)
    return z - h / 6 * (k1 + 2 * k2 + 2 * k3 + v(z - h * k3, r))


#: Evaluations a step (NFE) of each solver.
EVALUATIONS: dict[Step, int] = {euler: 1, heun: 2, rk4: 4}


@torch.no_grad()
def integrate(
    u: Field | nn.Module,
    eps: Float[Tensor, " b *d"],
    times: Times,
    y: Labels | None = None,
    step: Step = euler,
) -> Float[Tensor, " b *d"]:
    r"""Solve :math:`\dot z = v(z, t)` with :math:`v(z, t) = u(z, t, t)` along ``times``.

    For instantaneous fields, and for any other field that was trained at r = t; ``step`` is
    :func:`euler`, :func:`heun` or :func:`rk4`. Shapes and errors as :func:`sample`.
    """
    times = check_walk(times)
    domain_of(u).check_jump(times[0], times[0])
    with _walking(u, eps, y) as evaluate:
        z = eps
        for t, r in zip(times, times[1:], strict=False):
            z = step(lambda z, t: evaluate(z, t, t), z, t, r)
    return z


def check_walk(times: Any) -> list[float]:
    """``times`` as floats; ``ValueError`` unless two or more of them fall within [0, 1]."""
    if isinstance(times, int) and not isinstance(times, bool):
        return uniform_times(times)
    if isinstance(times, Tensor) and not times.is_floating_point():
        raise ValueError(
            f"times are numbers such as [1, 0] or a count of steps: got a tensor of {times.dtype}; "
            "labels come after the times, as y"
        )
    if isinstance(times, bool | float) or not hasattr(times, "__len__"):
        raise ValueError(f"times are numbers such as [1, 0] or a count of steps: got {times!r}")
    if len(times) < 2:
        raise ValueError(f"times needs a start and an end, such as [1, 0]: got {list(times)}")
    numbers = [float(t) for t in times]
    falling = all(a > b for a, b in zip(numbers, numbers[1:], strict=False))
    if not falling or not all(math.isfinite(t) and 0 <= t <= 1 for t in numbers):
        raise ValueError(
            f"times must fall strictly within [0, 1], from noise (1) to data (0): got {numbers}"
        )
    return numbers


def check_labels(y: Any, n: int, u: object = None) -> Int[Tensor, " b"] | None:
    """Labels as ``[n]`` 64-bit integers: from a tensor, a list, or one number for all rows.

    Raises:
        ValueError: if they are no integers, not one a row, or outside 0 ... ``num_classes`` (the
            null label) of the network in ``u``, where that is known.
    """
    if y is None:
        return None
    labels = torch.full((n,), y) if isinstance(y, int) else torch.as_tensor(y)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels y are whole numbers: got {labels.dtype}")
    if labels.shape != (n,):
        raise ValueError(
            f"labels y are one a row, [{n}], or one number for all: got {tuple(labels.shape)}"
        )
    classes = classes_of(u)
    if classes and n and not 0 <= int(labels.min()) <= int(labels.max()) <= classes:
        raise ValueError(
            f"labels y are 0 ... {classes - 1}, or {classes} for no label: got "
            f"{int(labels.min())} ... {int(labels.max())}"
        )
    return labels.long()


@contextmanager
def _walking(
    u: Field | nn.Module, eps: Tensor, y: Labels | None
) -> Iterator[Callable[[Tensor, float, float], Tensor]]:
    """The field as ``(z, r, t) -> [B, *data]`` for numbers r and t, its networks in eval mode."""
    if not eps.is_floating_point():
        raise ValueError(f"a walk starts from floating-point noise: got {eps.dtype}")
    labels = check_labels(y, len(eps), u)
    labels = None if labels is None else labels.to(eps.device)
    field = as_field(u)
    awake = [m for layer in layers(u) if isinstance(layer, nn.Module) for m in layer.modules()]
    awake = [module for module in awake if module.training]

    def evaluate(z: Tensor, r: float, t: float) -> Tensor:
        if not len(z):
            return torch.zeros_like(z)
        value = field(z, _rows(r, z), _rows(t, z), labels)
        if value.shape != z.shape:
            raise ValueError(
                f"a field returns the shape of its state {tuple(z.shape)}: got {tuple(value.shape)}"
            )
        return value.to(z.dtype)

    for module in awake:
        module.training = False
    try:
        yield evaluate
    finally:
        for module in awake:
            module.training = True


def _rows(t: float, z: Tensor) -> Tensor:
    """``[B]`` times: in float32 for a state in half precision, which would round them."""
    dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    return torch.full(z.shape[:1], float(t), dtype=dtype, device=z.device)
