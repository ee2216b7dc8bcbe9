r"""Self-attention with timm's parameters and three ways through: fused, explicit, with a tangent.

The fused kernel of `scaled_dot_product_attention` has no forward-mode derivative. It is used
wherever no forward-mode derivative is being taken; under `torch.func.jvp` (or an open dual level of
`torch.autograd.forward_ad`) the same product is written out with an explicit softmax.
"""

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from meanflow_lite.networks.tangent import Dual, affine, tail


def under_forward_mode() -> bool:
    """Whether a forward-mode derivative is being taken, by `torch.func.jvp` for example."""
    return forward_ad._current_level >= 0


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    r""":math:`o = \mathrm{softmax}(q k^\top / \sqrt d)\, v`, all [B, heads, N, d]."""
    if under_forward_mode():
        return _weights(q, k) @ v
    return F.scaled_dot_product_attention(q, k, v)


def attend_tangent(q: Dual, k: Dual, v: Dual) -> Tensor:
    r""":math:`do = dp\,v + p\,dv`, where :math:`dp = J\,(dq\,k^\top + q\,dk^\top) / \sqrt d`.

    Matrices are [B * heads, N, d], :math:`J` is the Jacobian of softmax: symmetric, so that its
    backward kernel is its forward-mode kernel.
    """
    assert q.tangent is not None and k.tangent is not None and v.tangent is not None
    scale = q.primal.shape[-1] ** -0.5
    p = _weights(q.primal, k.primal)
    ds = torch.bmm(q.tangent, k.primal.mT)
    ds = torch.baddbmm(ds, q.primal, k.tangent.mT, beta=scale, alpha=scale)
    dp = torch.ops.aten._softmax_backward_data(ds.to(p.dtype), p, -1, p.dtype)
    return torch.baddbmm(torch.bmm(dp, v.primal), p, v.tangent)


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
        o = attend(q, k, v).transpose(1, 2).flatten(2)
        if qkv.tangent is None:
            return affine(self.proj, Dual(o))
        with torch.no_grad():
            p, d = tail(qkv.primal, qkv.tangent), qkv.tangent
            batched = zip(self._batch(p), self._batch(d), strict=True)
            do = attend_tangent(*(Dual(*pair) for pair in batched))
            do = do.unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(2)
        return affine(self.proj, Dual(o, do))

    def _split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """[B, N, 3 C] to queries, keys and values [B, heads, N, d]."""
        return qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def _batch(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """The same as matrices [B * heads, N, d] in one copy, where `bmm` would copy each."""
        heads = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).contiguous()
        return heads.flatten(1, 2).unbind(0)
