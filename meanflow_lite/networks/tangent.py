r"""Values that carry a detached directional derivative: the rules behind the fast MeanFlow step.

A `Dual` is a value and its derivative along one direction, for the last k rows of a batch: the
plain rows of a MeanFlow step, which need no derivative, stand in front of its jump rows, and one
pass serves both. Each rule below takes duals to duals, and a network written in these rules is
written once: without tangents it is an ordinary network (reverse mode, forward mode and
`torch.compile` all apply), with tangents it returns :math:`u` and :math:`du/dt` from one pass.

Two observations make this cheaper than general forward-mode differentiation:

* MeanFlow's target is detached, so tangents need no autograd graph: every tangent is computed under
  `no_grad` and freed as soon as the next layer has used it.
* The Jacobians of layer normalization, softmax and elementwise functions are symmetric,
  :math:`J = J^\top`, so the fused backward kernel that PyTorch already has *is* the forward-mode
  kernel: :math:`J\,dx = J^\top dx`.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_aten = torch.ops.aten


class Dual(NamedTuple):
    """A value [B, ...] and the tangent [k, ...] of its last k rows, k <= B.

    No tangent means that no derivative is asked for; then all tangents are None.
    """

    primal: Tensor
    tangent: Tensor | None = None


def tail(p: Tensor, d: Tensor) -> Tensor:
    """The rows of `p` that the tangent `d` belongs to: the last ones."""
    return p if len(p) == len(d) else p[len(p) - len(d) :]


def affine(layer: nn.Module, x: Dual) -> Dual:
    r""":math:`y = W x + b, \; dy = W\,dx`."""
    y = layer(x.primal)
    if x.tangent is None:
        return Dual(y)
    with torch.no_grad():
        return Dual(y, F.linear(x.tangent, layer.weight))  # pyright: ignore[reportArgumentType]


def gelu(x: Dual) -> Dual:
    r""":math:`y = \mathrm{gelu}(x), \; dy = \mathrm{gelu}'(x)\,dx` (tanh form)."""
    y = F.gelu(x.primal, approximate="tanh")
    if x.tangent is None:
        return Dual(y)
    with torch.no_grad():
        p = tail(x.primal, x.tangent)
        return Dual(y, _aten.gelu_backward(x.tangent, p, approximate="tanh"))


def silu(x: Dual) -> Dual:
    r""":math:`y = x\,\sigma(x), \; dy = y'(x)\,dx`."""
    y = F.silu(x.primal)
    if x.tangent is None:
        return Dual(y)
    with torch.no_grad():
        return Dual(y, _aten.silu_backward(x.tangent, tail(x.primal, x.tangent)))


def modulated_norm(x: Dual, shift: Dual, scale: Dual, eps: float = 1e-6) -> Dual:
    r"""Adaptive normalization :math:`y = (1 + s)\,\hat x + b`, `x` [B, N, C], `s, b` [B, 1, C].

    :math:`dy = (1 + s)\,d\hat x + \hat x\,ds + db` with
    :math:`d\hat x = (dx - \overline{dx} - \hat x\,\overline{\hat x\,dx}) / \sigma`.
    """
    shape = x.primal.shape[-1:]
    x_hat, mean, rstd = torch.native_layer_norm(x.primal, shape, None, None, eps)
    gain = 1 + scale.primal
    y = torch.addcmul(shift.primal, x_hat, gain)
    if x.tangent is None or scale.tangent is None or shift.tangent is None:
        return Dual(y)
    with torch.no_grad():
        dx = x.tangent
        p, x_hat, mean, rstd, gain = (tail(a, dx) for a in (x.primal, x_hat, mean, rstd, gain))
        dx_hat, _, _ = _aten.native_layer_norm_backward(
            dx, p, shape, mean, rstd, None, None, [True, False, False]
        )
        dy = torch.addcmul(shift.tangent, x_hat, scale.tangent).addcmul_(dx_hat, gain)
    return Dual(y, dy)


def gated_sum(x: Dual, gate: Dual, h: Dual) -> Dual:
    r"""Residual :math:`y = x + g\,h`, `g` [B, 1, C]: :math:`dy = dx + g\,dh + h\,dg`."""
    y = torch.addcmul(x.primal, gate.primal, h.primal)
    if x.tangent is None or gate.tangent is None or h.tangent is None:
        return Dual(y)
    with torch.no_grad():
        g, value = tail(gate.primal, h.tangent), tail(h.primal, h.tangent)
        dy = torch.addcmul(x.tangent, g, h.tangent).addcmul_(value, gate.tangent)
    return Dual(y, dy)


def chunk(x: Dual, chunks: int) -> list[Dual]:
    """[B, chunks * C] into `chunks` duals [B, 1, C], ready to broadcast over tokens."""
    primals = x.primal.unsqueeze(1).chunk(chunks, dim=-1)
    if x.tangent is None:
        return [Dual(p) for p in primals]
    return [
        Dual(p, d)
        for p, d in zip(primals, x.tangent.unsqueeze(1).chunk(chunks, dim=-1), strict=True)
    ]
