r"""Samplers: walks from noise (t = 1) to data (t = 0).

A jump of an average velocity is :math:`z_r = z_t - (t - r)\,u(z_t, r, t)`. Times are decreasing
numbers: ``[1, 0]`` is one step and ``[1, t_mid, 0]`` two, with no special case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from meanflow_lite.domains import TO_DATA, domain_of
from meanflow_lite.fields import Field
from meanflow_lite.paths import interpolate

Times = Sequence[float | int]


def uniform_times(n: int) -> list[float]:
    """``n`` equal steps from 1 to 0: ``[1, (n-1)/n, ..., 0]``."""
    if n < 1:
        raise ValueError(f"the number of steps must be at least 1: got {n}")
    return [(n - k) / n for k in range(n + 1)]


@torch.no_grad()
def sample(
    u: Field,
    eps: Float[Tensor, " b *d"],
    times: Times = (1.0, 0.0),
    y: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, " b *d"]:
    r"""Walk by jumps: :math:`z_r = z_t - (t - r)\,u(z_t, r, t)` along ``times``.

    One evaluation a jump (Geng et al. 2025, equation 12). Shapes: ``eps`` ``[B, *data]``,
    ``y`` ``[B]``; returns ``[B, *data]``.

    Raises:
        ValueError: if the times do not decrease within [0, 1], the field returns another shape,
            or it was not trained for one of the jumps.
    """
    times = check_walk(times)
    domain_of(u).check(times)
    z = eps
    for t, r in zip(times, times[1:], strict=False):
        z = _jump(u, z, r, t, y)
    return z


@torch.no_grad()
def jump_and_renoise(
    u: Field,
    noises: Sequence[Float[Tensor, " b *d"]],
    times: Times = (1.0, 0.0),
    y: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, " b *d"]:
    r"""Jump to the data, then go back: :math:`z \leftarrow (1 - t)(z - t\,u(z, 0, t)) + t\epsilon`.

    Multi-step sampling of a field that only jumps to r = 0 (Song et al. 2023, Algorithm 1).
    ``noises`` holds one ``[B, *data]`` for each time but the last, which is 0.
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
    if domain_of(u) != TO_DATA:
        domain_of(u).check([times[0], 0.0])
    z = noises[0]
    for k, t in enumerate(times[:-1]):
        if k:
            z = interpolate(z, noises[k], _rows(t, z))
        z = _jump(u, z, 0.0, t, y)
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
    u: Field,
    eps: Float[Tensor, " b *d"],
    times: Times,
    y: Int[Tensor, " b"] | None = None,
    step: Step = euler,
) -> Float[Tensor, " b *d"]:
    r"""Solve :math:`\dot z = v(z, t)` with :math:`v(z, t) = u(z, t, t)` along ``times``.

    For instantaneous fields, and for any other field through its r = t values; ``step`` is
    :func:`euler`, :func:`heun` or :func:`rk4`. Shapes and errors as :func:`sample`.
    """
    times = check_walk(times)

    def v(z: Tensor, t: float) -> Tensor:
        return _evaluate(u, z, t, t, y)

    z = eps
    for t, r in zip(times, times[1:], strict=False):
        z = step(v, z, t, r)
    return z


def check_walk(times: Times) -> list[float]:
    """``times`` as floats; ``ValueError`` unless two or more of them fall within [0, 1]."""
    if len(times) < 2:
        raise ValueError(f"times needs a start and an end, such as [1, 0]: got {list(times)}")
    numbers = [float(t) for t in times]
    falling = all(a > b for a, b in zip(numbers, numbers[1:], strict=False))
    if not falling or not all(math.isfinite(t) and 0 <= t <= 1 for t in numbers):
        raise ValueError(
            f"times must fall strictly within [0, 1], from noise (1) to data (0): got {numbers}"
        )
    return numbers


def _jump(u: Field, z: Tensor, r: float, t: float, y: Tensor | None) -> Tensor:
    return z - (t - r) * _evaluate(u, z, r, t, y)


def _evaluate(u: Field, z: Tensor, r: float, t: float, y: Tensor | None) -> Tensor:
    value = u(z, _rows(r, z), _rows(t, z), y)
    if value.shape != z.shape:
        raise ValueError(
            f"a field returns the shape of its state {tuple(z.shape)}: got {tuple(value.shape)}"
        )
    return value


def _rows(t: float, z: Tensor) -> Tensor:
    return torch.full(z.shape[:1], float(t), dtype=z.dtype, device=z.device)
