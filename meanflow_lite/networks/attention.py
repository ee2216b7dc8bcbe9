r"""Self-attention with timm's parameters and three ways through: fused, explicit, with a tangent.

The fused kernel of `scaled_dot_product_attention` has no forward-mode derivative. It is used wherever
no forward-mode derivative is being taken; under `torch.func.jvp` (or an open dual level of
`torch.autograd.forward_ad`) the same product is written out with an explicit softmax.
"""

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from meanflow_lite.networks.tangent import Dual, affine


def under_forward_mode() -> bool:
    """Whether a forward-mode derivative is being taken here (`torch.func.jvp` opens such a level)."""
    return forward_ad._current_level >= 0


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    r""":math:`o = \mathrm{softmax}(q k^\top / \sqrt d)\, v`, all [B, heads, N, d]."""
    if under_forward_mode():
        return _weights(q, k) @ v
    return F.scaled_dot_product_attention(q, k, v)


def attend_tangent(qkv: tuple[Tensor, ...], dqkv: tuple[Tensor, ...]) -> Tensor:
    r""":math:`do = dp\,v + p\,dv, \; dp = J_{\mathrm{softmax}}(dq\,k^\top + q\,dk^\top)/\sqrt d`."""
    (q, k, v), (dq, dk, dv) = qkv, dqkv
    p = _weights(q, k)
    ds = (dq @ k.mT + q @ dk.mT) * q.shape[-1] ** -0.5
    # softmax has a symmetric Jacobian, so its backward kernel is also its forward-mode kernel
    dp = torch.ops.aten._softmax_backward_data(ds.to(p.dtype), p, -1, p.dtype)
    return dp @ v + p @ dv


def _weights(q: Tensor, k: Tensor) -> Tensor:
    return (q * q.shape[-1] ** -0.5 @ k.mT).softmax(dim=-1)


class Attention(nn.Module):
    """Multi-head self-attention, parameters named and laid out as in `timm.layers.Attention`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, got width={width}, heads={heads}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Dual) -> Dual:
        """Tokens [B, N, C] to tokens [B, N, C]."""
        qkv = affine(self.qkv, x)
        q, k, v = self._split(qkv.primal)
        o = self._join(attend(q, k, v))
        if qkv.tangent is None:
            return affine(self.proj, Dual(o))
        with torch.no_grad():
            do = self._join(attend_tangent((q, k, v), self._split(qkv.tangent)))
        return affine(self.proj, Dual(o, do))

    def _split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        return qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def _join(self, o: Tensor) -> Tensor:
        return o.transpose(1, 2).flatten(2)
