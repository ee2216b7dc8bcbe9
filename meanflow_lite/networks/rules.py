r"""Further rules on duals: what the transformers of 2025 are made of, beside `tangent`'s.

RMS normalization, rotary position embedding, SwiGLU, gates that are parameters, and attention over
duals. As in `tangent`, tangents are detached; they may belong to the last rows of the batch alone.
The Jacobian of RMS normalization is symmetric, rotations are linear: each rule costs about as much
as its value.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meanflow_lite.networks.attention import attend, attend_tangent
from meanflow_lite.networks.tangent import Dual, tail

_aten = torch.ops.aten


class RMSNorm(nn.Module):
    r""":math:`y = w \hat x, \hat x = x / \sqrt{\overline{x^2} + \varepsilon}`, over the last axis.

    :math:`dy = w\,(dx - \hat x\,\overline{\hat x\,dx}) / \sqrt{\overline{x^2} + \varepsilon}`.
    """

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Dual) -> Dual:
        """[..., C] to [..., C]."""
        w = self.weight
        y = F.rms_norm(x.primal, w.shape, None, self.eps) * w
        if x.tangent is None:
            return Dual(y)
        with torch.no_grad():
            primal, dx = tail(x.primal, x.tangent), x.tangent
            rstd = (primal.square().mean(-1, keepdim=True) + self.eps).rsqrt()
            x_hat = primal * rstd
            along = (x_hat * dx).mean(-1, keepdim=True)
            return Dual(y, (dx - x_hat * along) * (rstd * w))


def modulated(x: Dual, shift: Dual, scale: Dual) -> Dual:
    r""":math:`y = (1 + s)\,x + b`, `x` [B, N, C], `s, b` [B, 1, C].

    :math:`dy = (1 + s)\,dx + x\,ds + db`.
    Source: adaLN of DiT (arXiv 2212.09748).
    """
    gain = 1 + scale.primal
    y = torch.addcmul(shift.primal, x.primal, gain)
    if x.tangent is None:
        return Dual(y)
    with torch.no_grad():
        dy = tail(gain, x.tangent) * x.tangent
        if scale.tangent is not None and shift.tangent is not None:
            dy = dy + tail(x.primal, x.tangent) * scale.tangent + shift.tangent
        return Dual(y, dy)


def swiglu(gate: Dual, value: Dual) -> Dual:
    r""":math:`y = \mathrm{silu}(a)\,b, \; dy = \mathrm{silu}'(a)\,b\,da + \mathrm{silu}(a)\,db`."""
    active = F.silu(gate.primal)
    y = active * value.primal
    if gate.tangent is None or value.tangent is None:
        return Dual(y)
    with torch.no_grad():
        d_active = _aten.silu_backward(gate.tangent, tail(gate.primal, gate.tangent))
        dy = d_active.mul_(tail(value.primal, d_active))
        return Dual(y, dy.addcmul_(tail(active, dy), value.tangent))


def scaled_sum(x: Dual, scale: Tensor, h: Dual) -> Dual:
    r"""Residual :math:`y = x + g\,h` whose gate `g` [C] is a parameter: :math:`dx + g\,dh`."""
    y = torch.addcmul(x.primal, scale, h.primal)
    if x.tangent is None or h.tangent is None:
        return Dual(y)
    with torch.no_grad():
        return Dual(y, torch.addcmul(x.tangent, scale, h.tangent))


class Rotation(nn.Module):
    r"""Rotary embedding: pair k of a head's coordinates is turned by the angle :math:`w_k p`.

    Args:
        angles: [N, d / 2], the angle of each pair at each token.
        halves: pairs are (k, k + d / 2); otherwise neighbours (2 k, 2 k + 1).

    Source: RoFormer (arXiv 2104.09864).
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, angles: Float[Tensor, " n k"], halves: bool = False) -> None:
        super().__init__()
        self.halves = halves
        whole = torch.cat([angles, angles], -1) if halves else angles.repeat_interleave(2, -1)
        self.register_buffer("cos", whole.cos().to(torch.get_default_dtype()), persistent=False)
        self.register_buffer("sin", whole.sin().to(torch.get_default_dtype()), persistent=False)

    def forward(self, x: Dual) -> Dual:
        """[B, heads, N, d] to the same; linear, so that the tangent is turned alike."""
        y = self._turn(x.primal)
        if x.tangent is None:
            return Dual(y)
        with torch.no_grad():
            return Dual(y, self._turn(x.tangent))

    def _turn(self, x: Tensor) -> Tensor:
        if self.halves:
            a, b = x.chunk(2, -1)
            crossed = torch.cat([-b, a], -1)
        else:
            a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
            crossed = torch.stack([-b, a], -1).flatten(-2)
        return x * self.cos + crossed * self.sin


def line_angles(tokens: int, head: int) -> Float[Tensor, " n k"]:
    r""":math:`p \cdot 10000^{-2k/d}` for positions p = 0 ... tokens - 1, k = 0 ... d/2 - 1."""
    k = torch.arange(0, head, 2, dtype=torch.float64)
    return torch.arange(tokens, dtype=torch.float64)[:, None] * 10_000.0 ** (-k / head)


def grid_angles(prefix: int, side: int, head: int) -> Float[Tensor, " n k"]:
    """As `line_angles`, of the row in the first half of a head and of the column in the second.

    The `prefix` tokens in front of the grid are not turned.
    """
    axis = line_angles(side, head // 2)
    row = axis[:, None].expand(side, side, -1)
    column = axis[None].expand(side, side, -1)
    grid = torch.cat([row, column], -1).flatten(0, 1)
    return torch.cat([grid.new_zeros(prefix, grid.shape[1]), grid])


def attention(q: Dual, k: Dual, v: Dual) -> Dual:
    r""":math:`\mathrm{softmax}(q k^\top / \sqrt d)\, v`: heads [B, H, N, d] to tokens [B, N, C]."""
    o = attend(q.primal, k.primal, v.primal).transpose(1, 2).flatten(2)
    if q.tangent is None or k.tangent is None or v.tangent is None:
        return Dual(o)
    with torch.no_grad():
        heads = q.primal.shape[1]
        flat = (
            Dual(tail(x.primal, dx).flatten(0, 1), dx.flatten(0, 1).to(x.primal.dtype))
            for x, dx in ((q, q.tangent), (k, k.tangent), (v, v.tangent))
        )
        do = attend_tangent(*flat).unflatten(0, (-1, heads))
        return Dual(o, do.transpose(1, 2).flatten(2))


def split_heads(x: Dual, heads: int) -> Dual:
    """Tokens [B, N, C] to heads [B, H, N, C / H]."""
    return mapped(x, lambda p: p.unflatten(-1, (heads, -1)).transpose(1, 2))


def mapped(x: Dual, move: Callable[[Tensor], Tensor]) -> Dual:
    """`move`, which only moves entries about (a slice, a view), on the value and on the tangent."""
    return Dual(move(x.primal), None if x.tangent is None else move(x.tangent))


def plus(x: Dual, constant: Tensor) -> Dual:
    """A constant added: the tangent stays."""
    return Dual(x.primal + constant, x.tangent)


def joined(parts: list[Dual]) -> Dual:
    """Tokens [B, n, C] behind one another; a part without a tangent is constant."""
    primal = torch.cat([part.primal for part in parts], 1)
    known = [part.tangent for part in parts if part.tangent is not None]
    if not known:
        return Dual(primal)
    with torch.no_grad():
        tangents = [
            part.tangent
            if part.tangent is not None
            else tail(part.primal, known[0]).new_zeros(()).expand_as(tail(part.primal, known[0]))
            for part in parts
        ]
        return Dual(primal, torch.cat([d.to(known[0].dtype) for d in tangents], 1))
