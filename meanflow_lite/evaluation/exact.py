"""Errors to the exact field, for methods that aim at the flow map."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from meanflow_lite.data.toys import Toy
from meanflow_lite.fields import Field
from meanflow_lite.paths import interpolate
from meanflow_lite.samplers import Times, sample


class Points(NamedTuple):
    """Where two fields are compared: ``z [B, *data]``, ``r, t [B]``, labels ``y [B]`` or None."""

    z: Tensor
    r: Tensor
    t: Tensor
    y: Tensor | None


def triangle_points(
    data: Toy,
    n: int,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Points:
    r""":math:`(r, t)` uniform on the triangle :math:`0 \le r \le t \le 1`, and :math:`z \sim p_t`.

    The labels are those of the data behind z: pass them to a conditional field, leave them out
    for an unconditional one.
    """
    x, y = data.sample(n, generator)
    eps = torch.randn(x.shape, generator=generator, dtype=dtype)
    ends = torch.rand(2, n, generator=generator, dtype=dtype)
    r, t = ends.amin(0), ends.amax(0)
    return Points(interpolate(x.to(dtype), eps, t), r, t, y)


@torch.no_grad()
def field_error(
    u: Field,
    exact: Field,
    z: Float[Tensor, " b *d"],
    r: Float[Tensor, " b"],
    t: Float[Tensor, " b"],
    y: Int[Tensor, " b"] | None = None,
) -> float:
    r""":math:`\sqrt{\operatorname{mean}_i \|u - u^\star\|^2}` at the given points.

    The norm sums over data dimensions, the mean is over rows; in units of velocity.
    Raises ``ValueError`` if the two fields return different shapes.
    """
    return _root_mean_square(u(z, r, t, y), exact(z, r, t, y))


def one_step_error(
    u: Field,
    exact: Field,
    eps: Float[Tensor, " b *d"],
    y: Int[Tensor, " b"] | None = None,
    times: Times = (1.0, 0.0),
) -> float:
    r""":math:`\sqrt{\operatorname{mean}_i \|x_u - x^\star\|^2}` from the same noise.

    ``u`` walks along ``times`` (one step by default), the exact field takes one step. In units
    of the data. Raises ``ValueError`` if the two walks end in different shapes.
    """
    return _root_mean_square(sample(u, eps, times, y), sample(exact, eps, (1.0, 0.0), y))


def _root_mean_square(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        raise ValueError(f"a field returned shape {tuple(a.shape)}, the exact one {tuple(b.shape)}")
    return float((a - b).double().square().flatten(1).sum(1).mean().sqrt())
