r"""The MeanFlow identity and the derivatives in it.

Along a trajectory :math:`\dot z_t = v(z_t, t)` the average velocity satisfies

.. math:: u(z_t, r, t) = v(z_t, t) - (t - r)\,\frac{\mathrm{d}u}{\mathrm{d}t},\qquad
          \frac{\mathrm{d}u}{\mathrm{d}t} = \partial_z u\,v + \partial_t u,

so :math:`\mathrm{d}u/\mathrm{d}t` is one Jacobian-vector product, with tangent
:math:`(v, 0, 1)` on :math:`(z, r, t)` (Geng et al. 2025, equations 6 and 8).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from meanflow_lite.fields import Field, field_rows
from meanflow_lite.paths import bcast

Tangent = tuple[float, float, float]
Pair = tuple[Tensor, Tensor]

#: Multiples of ``(v, 1, 1)`` on ``(z, r, t)``. ``"v01"`` is the total derivative; the next three
#: are the wrong ones of Table 1b of the paper; ``"001"`` is the partial derivative in t.
TANGENTS: dict[str, Tangent] = {
    "v01": (1.0, 0.0, 1.0),
    "v00": (1.0, 0.0, 0.0),
    "v10": (1.0, 1.0, 0.0),
    "v11": (1.0, 1.0, 1.0),
    "001": (0.0, 0.0, 1.0),
}

#: ``(u, z, r, t, v, y) -> (u(z, r, t), its derivative)``, of the last rows if ``v`` has fewer
Derivative = Callable[..., tuple[Tensor, Tensor]]


def in_float32(like: Tensor) -> torch.autocast:
    """A region without autocast, for a difference that is divided by a small number.

    In bfloat16 an output is right to three digits; the difference of two outputs over
    :math:`t - s = 1/1024` is then right to none.
    """
    return torch.autocast(like.device.type, enabled=False)


_wants_float32 = False


@contextmanager
def derivatives_in_float32(wanted: bool = True) -> Iterator[None]:
    """A region in which derivatives are taken in float32, also under autocast.

    The rows that have a derivative then leave the pass of the others, value and derivative
    together. Published recipes in bfloat16 do so; what it is worth was measured:
    ``benchmarks/derivative_precision.py``.
    """
    global _wants_float32
    before, _wants_float32 = _wants_float32, wanted
    try:
        yield
    finally:
        _wants_float32 = before


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
    first alone: a field with a method ``forward_with_tangent`` (MLP, DiT) then records no graph
    for its tangents, which is cheaper and gives the same numbers.
    Shapes: ``z`` ``[B, *data]``, ``r, t`` ``[B]``; the tangents ``dz, dr, dt`` belong to the last
    k rows, ``[k, *data]`` and ``[k]`` with k <= B. Returns the value ``[B, *data]`` and the
    derivative ``[k, *data]``. Rows in front of the last k pay for no derivative.

    Raises:
        ValueError: if a shape does not match, or the field returns another shape than ``z``.
    """
    _check_shapes(z, r, t, dz)
    apart = _wants_float32 and torch.is_autocast_enabled(z.device.type)
    fast = detach and hasattr(u, "forward_with_tangent")

    def pushed(u: Field, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None) -> Pair:
        with in_float32(z) if apart else nullcontext():
            if fast:
                return u.forward_with_tangent(z, r, t, dz, dr, dt, y)  # pyright: ignore
            return forward_derivative(lambda z, r, t: u(z, r, t, y), (z, r, t), (dz, dr, dt))

    if fast and not apart:
        value, derivative = pushed(u, z, r, t, y)
    else:
        value, derivative = _last_rows(pushed, len(dz), u, z, r, t, y)
    if value.shape != z.shape:
        raise ValueError(
            f"a field returns the shape of its state {tuple(z.shape)}: got {tuple(value.shape)}"
        )
    return value, derivative.detach() if detach else derivative


class NoForwardDerivative(NotImplementedError):
    """A network has a layer without a forward-mode derivative; the message says what to do."""


#: What to do about a layer, by a word of PyTorch's message on it.
_REMEDIES = {
    "in-place": "a layer that changes its own state, such as BatchNorm in training mode: use "
    "GroupNorm or LayerNorm, or set track_running_stats=False",
    "saved tensor hooks": "activation checkpointing inside the network: switch it off",
    "functorch transforms": "an autograd.Function of its own: give it setup_context and jvp",
    "forward AD": "a kernel that PyTorch knows no forward derivative of: use another one",
}


def forward_derivative(
    f: Callable[..., Tensor], primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> Pair:
    """``torch.func.jvp`` of a foreign network, its attention by the kernel that has a derivative.

    Fused attention has no forward-mode derivative: ``scaled_dot_product_attention`` and
    ``nn.MultiheadAttention`` are computed by plain matrix products here.

    Raises:
        NoForwardDerivative: if a layer has none, with what to do about it.
    """
    if torch.compiler.is_compiling():
        with sdpa_kernel(SDPBackend.MATH):
            return jvp(f, primals, tangents)[:2]
    fast = torch.backends.mha.get_fastpath_enabled()
    no_hooks = torch.autograd.graph.disable_saved_tensors_hooks("saved tensor hooks are off")
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with sdpa_kernel(SDPBackend.MATH), no_hooks:
            return jvp(f, primals, tangents)[:2]
    except (NotImplementedError, RuntimeError) as error:
        remedy = next((advice for sign, advice in _REMEDIES.items() if sign in str(error)), None)
        if remedy is None:
            raise
        raise NoForwardDerivative(
            f"the derivative of this network cannot be taken: it has {remedy}. Or take it by "
            "differences: MeanFlow(derivative=finite_difference)"
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _check_shapes(z: Tensor, r: Tensor, t: Tensor, dz: Tensor) -> None:
    if dz.shape[1:] != z.shape[1:] or len(dz) > len(z):
        raise ValueError(
            "the tangent of z must have the shape of z, or of its last rows: got "
            f"{tuple(dz.shape)} for {tuple(z.shape)}"
        )
    for name, time in (("r", r), ("t", t)):
        if time.shape != z.shape[:1]:
            raise ValueError(
                f"{name} must have shape [B] = [{z.shape[0]}]: got {tuple(time.shape)}"
            )


def _last_rows(
    rule: Callable[..., Pair], k: int, u: Field, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None
) -> Pair:
    """Value of all rows and derivative of the last ``k``, by a rule that gives both of its rows."""
    n = len(z) - k
    if n == 0:
        return rule(u, z, r, t, y)
    plain, last = slice(None, n), slice(n, None)
    value = field_rows(u, plain)(z[plain], r[plain], t[plain], None if y is None else y[plain])
    own, derivative = rule(
        field_rows(u, last), z[last], r[last], t[last], None if y is None else y[last]
    )
    return torch.cat([value, own]), derivative


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
    dr, dt = (torch.full_like(time[len(z) - len(v) :], w) for time, w in ((r, b), (t, c)))
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
    evaluation leaves ``[r, t]``; rows with r = t return zero, as their derivative is multiplied
    by t - r. Fewer rows of ``v`` are those of the last rows, as in :func:`directional_derivative`;
    these are evaluated in float32, also under autocast (see :func:`in_float32`).
    Two or three evaluations; ``v`` is pushed *through* the field, so a conditional velocity
    in place of the marginal one leaves a bias (chapter 6). With ``detach`` the derivative
    carries no gradient, and the shifted evaluations record none.
    """
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2: got {order}")
    if not step > 0:
        raise ValueError(f"step must be positive: got {step}")

    def differences(u: Field, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None) -> Pair:
        delta = torch.clamp((t - r) / order, max=step)
        safe = bcast(torch.where(delta > 0, delta, 1.0), z)

        def at(k: int) -> Tensor:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not detach):
                return u(z - k * bcast(delta, z) * v, r, t - k * delta, y)

        with in_float32(z):
            value = u(z, r, t, y)
            u0 = value.detach() if detach else value
            if order == 1:
                return value, (u0 - at(1)) / safe
            return value, (3 * u0 - 4 * at(1) + at(2)) / (2 * safe)

    _check_shapes(z, r, t, v)
    return _last_rows(differences, len(v), u, z, r, t, y)


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
