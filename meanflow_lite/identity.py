r"""The MeanFlow identity and the derivatives in it.

Along a trajectory :math:`\dot z_t = v(z_t, t)` the average velocity satisfies

.. math:: u(z_t, r, t) = v(z_t, t) - (t - r)\,\frac{\mathrm{d}u}{\mathrm{d}t},\qquad
          \frac{\mathrm{d}u}{\mathrm{d}t} = \partial_z u\,v + \partial_t u,

so :math:`\mathrm{d}u/\mathrm{d}t` is one Jacobian-vector product, with tangent
:math:`(v, 0, 1)` on :math:`(z, r, t)` (Geng et al. 2025, equations 6 and 8).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import jvp

from meanflow_lite.fields import Field
from meanflow_lite.paths import bcast

Tangent = tuple[float, float, float]

#: Multiples of ``(v, 1, 1)`` on ``(z, r, t)``. ``"v01"`` is the total derivative; the next three
#: are the wrong ones of Table 1b of the paper; ``"001"`` is the partial derivative in t.
TANGENTS: dict[str, Tangent] = {
    "v01": (1.0, 0.0, 1.0),
    "v00": (1.0, 0.0, 0.0),
    "v10": (1.0, 1.0, 0.0),
    "v11": (1.0, 1.0, 1.0),
    "001": (0.0, 0.0, 1.0),
}

#: ``(u, z, r, t, v, y) -> (u(z, r, t), its derivative)``
Derivative = Callable[..., tuple[Tensor, Tensor]]


def directional_derivative(
    u: Field,
    z: Tensor,
    r: Tensor,
    t: Tensor,
    dz: Tensor,
    dr: Tensor,
    dt: Tensor,
    y: Tensor | None = None,
    *,
    detach: bool = False,
) -> tuple[Tensor, Tensor]:
    r""":math:`\left(u,\ \partial_z u\,\dot z + \partial_r u\,\dot r + \partial_t u\,\dot t\right)`.

    One forward-mode pass gives both. Gradients flow through both, or with ``detach`` through the
    first alone: a field with a method ``forward_with_tangent`` (the DiT) then records no graph
    for its tangents, which is cheaper and gives the same numbers.
    Shapes: states and tangents ``[B, *data]``, times ``[B]``; returns two ``[B, *data]``.

    Raises:
        ValueError: if a shape does not match, or the field returns another shape than ``z``.
    """
    if dz.shape != z.shape:
        raise ValueError(
            f"the tangent of z must have the shape of z: got {tuple(dz.shape)} for {tuple(z.shape)}"
        )
    for name, time in (("r", r), ("t", t)):
        if time.shape != z.shape[:1]:
            raise ValueError(
                f"{name} must have shape [B] = [{z.shape[0]}]: got {tuple(time.shape)}"
            )
    fast = getattr(u, "forward_with_tangent", None) if detach else None
    if fast is not None:
        value, derivative = fast(z, r, t, dz, dr, dt, y)
    else:
        value, derivative = jvp(lambda z, r, t: u(z, r, t, y), (z, r, t), (dz, dr, dt))[:2]
    if value.shape != z.shape:
        raise ValueError(
            f"a field returns the shape of its state {tuple(z.shape)}: got {tuple(value.shape)}"
        )
    return value, derivative.detach() if detach else derivative


def total_derivative(
    u: Field,
    z: Float[Tensor, " b *d"],
    r: Float[Tensor, " b"],
    t: Float[Tensor, " b"],
    v: Float[Tensor, " ..."],
    y: Int[Tensor, " b"] | None = None,
    *,
    tangent: Tangent = TANGENTS["v01"],
    detach: bool = False,
) -> tuple[Tensor, Tensor]:
    r""":math:`\left(u,\ \frac{\mathrm{d}u}{\mathrm{d}t} = \partial_z u\,v + \partial_t u\right)`.

    ``tangent`` multiplies ``(v, 1, 1)`` on ``(z, r, t)``: :data:`TANGENTS` holds the right one
    and the wrong ones that chapters 5 to 8 study. Shapes: as :func:`directional_derivative`.
    """
    a, b, c = tangent
    dr, dt = torch.full_like(r, b), torch.full_like(t, c)
    return directional_derivative(u, z, r, t, a * v, dr, dt, y, detach=detach)


def end_derivative(
    u: Field,
    z: Float[Tensor, " b *d"],
    r: Float[Tensor, " b"],
    t: Float[Tensor, " b"],
    y: Int[Tensor, " b"] | None = None,
) -> tuple[Tensor, Tensor]:
    r""":math:`(u,\ \partial_r u)`: the derivative at the end of the jump, with tangent (0, 1, 0).

    Used by terminal velocity matching (Zhou et al. 2025).
    """
    return directional_derivative(
        u, z, r, t, torch.zeros_like(z), torch.ones_like(r), torch.zeros_like(t), y
    )


def finite_difference(
    u: Field,
    z: Float[Tensor, " b *d"],
    r: Float[Tensor, " b"],
    t: Float[Tensor, " b"],
    v: Float[Tensor, " ..."],
    y: Int[Tensor, " b"] | None = None,
    *,
    step: float = 1e-3,
    order: int = 1,
    detach: bool = False,
) -> tuple[Tensor, Tensor]:
    r""":math:`(u, \mathrm{d}u/\mathrm{d}t)` by differences back along :math:`(v, 0, 1)`.

    Order 1: :math:`(u_0 - u_1)/\delta`; order 2: :math:`(3u_0 - 4u_1 + u_2)/2\delta`, where
    :math:`u_k` is taken at :math:`(z - k\delta v, r, t - k\delta)`. The step is cut so that no
    evaluation leaves
    ``[r, t]``; rows with r = t return zero, as their derivative is multiplied by t - r.
    Two or three evaluations; ``v`` is pushed *through* the field, so a conditional velocity
    in place of the marginal one leaves a bias (chapter 6). With ``detach`` the derivative
    carries no gradient, and the shifted evaluations record none.
    """
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2: got {order}")
    if not step > 0:
        raise ValueError(f"step must be positive: got {step}")
    delta = torch.clamp((t - r) / order, max=step)
    safe = torch.where(delta > 0, delta, 1.0)

    def at(k: int) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not detach):
            return u(z - k * bcast(delta, z) * v, r, t - k * delta, y)

    value = u(z, r, t, y)
    u0 = value.detach() if detach else value
    if order == 1:
        return value, (u0 - at(1)) / bcast(safe, z)
    return value, (3 * u0 - 4 * at(1) + at(2)) / (2 * bcast(safe, z))


def residual(
    u: Field,
    z: Float[Tensor, " b *d"],
    r: Float[Tensor, " b"],
    t: Float[Tensor, " b"],
    v: Float[Tensor, " ..."],
    y: Int[Tensor, " b"] | None = None,
    *,
    tangent: Tangent = TANGENTS["v01"],
) -> Float[Tensor, " b *d"]:
    r""":math:`u + (t - r)\,\mathrm{d}u/\mathrm{d}t - v`: zero exactly when the identity holds."""
    value, derivative = total_derivative(u, z, r, t, v, y, tangent=tangent)
    return value + bcast(t - r, z) * derivative - v
