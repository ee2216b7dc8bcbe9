r"""The in-context transformer of improved and pixel MeanFlow: conditions are tokens.

There is no adaLN: label, guidance scale omega, guidance interval [t_min, t_max] and duration t - r
are groups of tokens in front of the patches. The last blocks exist twice, once for the average
velocity u and once for the instantaneous v, on a shared trunk. Pixel MeanFlow's network predicts
the data, :math:`u = (z - x_\theta) / \max(t, 0.05)`.

Source: improved MeanFlow (arXiv 2512.02012) and pixel MeanFlow (arXiv 2601.22158).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from meanflow_lite.networks.dit import checkpointed
from meanflow_lite.networks.embedding import TimestepEmbedder
from meanflow_lite.networks.patches import check_conditions, check_rows, unpatchify
from meanflow_lite.networks.rules import (
    RMSNorm,
    Rotation,
    attention,
    grid_angles,
    joined,
    line_angles,
    mapped,
    plus,
    scaled_sum,
    split_heads,
    swiglu,
    tail,
)
from meanflow_lite.networks.tangent import Dual, affine

#: Tokens of each condition, in their order in front of the patches.
TOKENS = {"label": 8, "omega": 4, "t_min": 2, "t_max": 2, "time": 4}
PREFIX = sum(TOKENS.values())
#: What the network may be told beside times and label, [B] each.
CONDITIONS = ("omega", "t_min", "t_max")
#: In place of a condition, where blocks have none.
NOTHING = Dual(torch.empty(0))
#: Below this t, the division of a network that predicts the data is by this number.
SMALLEST_T = 0.05


@dataclass(frozen=True)
class InContextConfig:
    """What defines an in-context transformer.

    Attributes:
        image_size: height and width of `z`.
        patch_size: side of a token's patch; `image_size` is a multiple of it.
        channels: channels of `z`.
        width: size of a token, a multiple of `heads`.
        depth: blocks between the input and u.
        heads: attention heads.
        num_classes: labels 0 .. num_classes - 1; the null class is `num_classes`.
        aux_head_depth: how many of the blocks belong to u alone; v has as many of its own.
        velocity_head: whether v's blocks are there (published inference weights lack them).
        pixels: pMF's variant: patches through a bottleneck, a learned position table, rotation in
            two dimensions, and an output that is the data.
        bottleneck: channels between the two layers of pMF's patch embedding.
        omega: guidance scale where a call names none.
        t_min: lower end of the guidance interval where a call names none.
        t_max: upper end of that interval.
        noise_scale: factor on the noise that the network is trained with (it acts in `z`).
        checkpoint: recompute activations in the backward pass instead of storing them.
    """

    image_size: int = 32
    patch_size: int = 2
    channels: int = 4
    width: int = 768
    depth: int = 12
    heads: int = 12
    num_classes: int = 1000
    aux_head_depth: int = 8
    velocity_head: bool = True
    pixels: bool = False
    bottleneck: int = 128
    omega: float = 1.0
    t_min: float = 0.0
    t_max: float = 1.0
    noise_scale: float = 1.0
    checkpoint: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        if self.image_size % self.patch_size:
            raise ValueError(
                f"patch_size must divide image_size={self.image_size}, got {self.patch_size}"
            )
        if self.width % self.heads or self.width // self.heads % (4 if self.pixels else 2):
            raise ValueError(
                f"width must be a multiple of heads={self.heads} with heads of an even size (of "
                f"four for pixels), got {self.width}"
            )
        if not 0 <= self.aux_head_depth <= self.depth:
            raise ValueError(
                f"aux_head_depth must lie in [0, depth={self.depth}], got {self.aux_head_depth}"
            )


class Attention(nn.Module):
    """Self-attention without biases; queries and keys are normalized, then rotated."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.q_norm, self.k_norm = RMSNorm(width // heads), RMSNorm(width // heads)

    def forward(self, x: Dual, rotation: Rotation) -> Dual:
        """Tokens [B, N, C] to tokens [B, N, C]."""
        q, k, v = (split_heads(affine(layer, x), self.heads) for layer in (self.q, self.k, self.v))
        return affine(self.out, attention(rotation(self.q_norm(q)), rotation(self.k_norm(k)), v))


class Block(nn.Module):
    r""":math:`x + g_1 A(n_1(x))`, then :math:`x + g_2\,W_2\,\mathrm{swiglu}(W_1 h, W_3 h)`.

    :math:`h = n_2(x)`; the gates are vectors of parameters and start at zero.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        hidden = int(width * 8 / 3)
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.attn = Attention(width, heads)
        self.w1, self.w3 = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.w2 = nn.Linear(hidden, width, bias=False)
        self.attn_scale, self.mlp_scale = (nn.Parameter(torch.zeros(width)) for _ in range(2))

    def forward(self, x: Dual, rotation: Rotation) -> Dual:
        """Tokens [B, N, C] to tokens [B, N, C]."""
        x = scaled_sum(x, self.attn_scale, self.attn(self.norm1(x), rotation))
        h = self.norm2(x)
        return scaled_sum(
            x, self.mlp_scale, affine(self.w2, swiglu(affine(self.w1, h), affine(self.w3, h)))
        )


class PatchEmbedding(nn.Module):
    """Patches to tokens by a convolution; with `bottleneck`, through so many channels."""

    def __init__(self, config: InContextConfig) -> None:
        super().__init__()
        patch, first = config.patch_size, config.bottleneck if config.pixels else config.width
        self.proj = nn.Conv2d(config.channels, first, patch, patch)
        self.expand = nn.Linear(first, config.width) if config.pixels else None

    def initialize(self) -> None:
        """Xavier weights, zero biases."""
        for layer in (self.proj, self.expand):
            if layer is not None:
                nn.init.xavier_uniform_(layer.weight.flatten(1))
                nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, z: Dual) -> Dual:
        """[B, channels, H, W] to tokens [B, N, C]."""
        tokens = Dual(self.proj(z.primal).flatten(2).mT.contiguous())
        if z.tangent is not None:
            with torch.no_grad():
                dx = F.conv2d(z.tangent, self.proj.weight, stride=self.proj.stride)  # pyright: ignore
            tokens = Dual(tokens.primal, dx.flatten(2).mT.to(tokens.primal.dtype).contiguous())
        return tokens if self.expand is None else affine(self.expand, tokens)


class InContextTransformer(nn.Module):
    r"""Field :math:`u_\theta(z, r, t \mid y, \omega, t_{min}, t_{max})` of iMF and pMF.

    It is told t - r and not t. The scale enters as :math:`1 - 1/\omega`. Conditions that a call
    leaves out have the values in `config`.

    Source: arXiv 2512.02012 (iMF), arXiv 2601.22158 (pMF). Not here: dropout of activations.
    """

    def __init__(self, config: InContextConfig) -> None:
        super().__init__()
        self.config = config
        width, head = config.width, config.width // config.heads
        side = config.image_size // config.patch_size
        self.x_embedder = PatchEmbedding(config)
        self.labels = nn.Embedding(config.num_classes + 1, width)
        self.embedders = nn.ModuleDict(
            {name: TimestepEmbedder(width) for name in TOKENS if name != "label"}
        )
        self.tokens = nn.ParameterDict(
            {name: nn.Parameter(torch.empty(n, width)) for name, n in TOKENS.items()}
        )
        if config.pixels:
            self.positions = nn.Parameter(torch.empty(PREFIX + side**2, width))
            self.rotation = Rotation(grid_angles(PREFIX, side, head))
        else:
            self.register_parameter("positions", None)
            self.rotation = Rotation(line_angles(PREFIX + side**2, head))
        own = config.aux_head_depth
        self.trunk = self._blocks(config.depth - own)
        self.u_blocks, self.u_layer = self._blocks(own), self._final_layer()
        if config.velocity_head:
            self.v_blocks, self.v_layer = self._blocks(own), self._final_layer()
        self._initialize()

    def _blocks(self, count: int) -> nn.ModuleList:
        return nn.ModuleList(Block(self.config.width, self.config.heads) for _ in range(count))

    def _final_layer(self) -> nn.ModuleDict:
        outputs = self.config.patch_size**2 * self.config.channels
        width = self.config.width
        return nn.ModuleDict({"norm": RMSNorm(width), "linear": nn.Linear(width, outputs)})

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                constant = 0.32 if module.bias is None else 1.0  # layers of the blocks have none
                nn.init.normal_(module.weight, std=constant * module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for table in (self.labels.weight, *self.tokens.values()):
            nn.init.normal_(table, std=self.config.width**-0.5)
        for name, value in self.named_parameters():
            if name.startswith(("u_layer.linear", "v_layer.linear")):
                nn.init.zeros_(value)
        if self.positions is not None:
            nn.init.normal_(self.positions, std=0.02)
        self.x_embedder.initialize()

    def forward(
        self,
        z: Float[Tensor, " b c h w"],
        r: Float[Tensor, " b"],
        t: Float[Tensor, " b"],
        y: Int[Tensor, " b"] | None = None,
        **cond: Tensor,
    ) -> Float[Tensor, " b c h w"]:
        """Average velocity from `t` down to `r` at `z`; `y` None is the null class for every row.

        `omega`, `t_min`, `t_max` are [B] each.

        Raises:
            ValueError: shapes, labels or conditions that do not fit the network.
        """
        return self._u(self._through_trunk(Dual(z), Dual(r), Dual(t), y, cond), Dual(z), Dual(t))[0]

    def forward_with_tangent(
        self,
        z: Float[Tensor, " b c h w"],
        r: Float[Tensor, " b"],
        t: Float[Tensor, " b"],
        dz: Float[Tensor, " k c h w"],
        dr: Float[Tensor, " k"],
        dt: Float[Tensor, " k"],
        y: Int[Tensor, " b"] | None = None,
        **cond: Tensor,
    ) -> tuple[Float[Tensor, " b c h w"], Float[Tensor, " k c h w"]]:
        r""":math:`u` and :math:`\partial_z u\,dz + \partial_r u\,dr + \partial_t u\,dt`, one pass.

        Equal to `torch.func.jvp` of `forward`, with the derivative detached. The tangents may be
        those of the last k rows alone.

        Raises:
            ValueError: as `forward`.
        """
        z_, t_ = Dual(z, dz), Dual(t, dt)
        u, du = self._u(self._through_trunk(z_, Dual(r, dr), t_, y, cond), z_, t_)
        assert du is not None
        return u, du

    def with_velocity(
        self,
        z: Float[Tensor, " b c h w"],
        r: Float[Tensor, " b"],
        t: Float[Tensor, " b"],
        y: Int[Tensor, " b"] | None = None,
        **cond: Tensor,
    ) -> tuple[Float[Tensor, " b c h w"], Float[Tensor, " b c h w"]]:
        """Average velocity `u` and, from blocks of its own, the instantaneous velocity `v`.

        Raises:
            ValueError: the network has no blocks for v; otherwise as `forward`.
        """
        if not self.config.velocity_head:
            raise ValueError(
                "this network has no velocity head (published weights for sampling lack its "
                "blocks): build it with velocity_head=True, or fine-tune from it, where the head "
                "starts as a copy of u's"
            )
        z_, t_ = Dual(z), Dual(t)
        x = self._through_trunk(z_, Dual(r), t_, y, cond)
        v = self._velocity(self._head(self.v_blocks, self.v_layer, x), z_, t_)[0]
        return self._u(x, z_, t_)[0], v

    def _u(self, x: Dual, z: Dual, t: Dual) -> tuple[Tensor, Tensor | None]:
        return self._velocity(self._head(self.u_blocks, self.u_layer, x), z, t)

    def _through_trunk(
        self, z: Dual, r: Dual, t: Dual, y: Tensor | None, cond: Mapping[str, Tensor]
    ) -> Dual:
        config = self.config
        check_conditions(CONDITIONS, cond)
        shape = (config.channels, config.image_size, config.image_size)
        check_rows(z.primal, shape, {"r": r.primal, "t": t.primal, "y": y, **cond})
        x = joined([*self._conditions(r, t, y, cond), self.x_embedder(z)])
        if self.positions is not None:
            x = plus(x, self.positions)
        return self._walk(self.trunk, x)

    def _conditions(
        self, r: Dual, t: Dual, y: Tensor | None, cond: Mapping[str, Tensor]
    ) -> list[Dual]:
        """One group of tokens a condition: a table plus the same vector in every row of it."""
        like, config = r.primal, self.config
        if y is None:
            y = torch.full_like(like, config.num_classes, dtype=torch.long)
        told = {n: cond.get(n, torch.full_like(like, getattr(config, n))) for n in CONDITIONS}
        told["omega"] = 1 - 1 / told["omega"]
        vectors = {"label": Dual(self.labels(y))}
        vectors |= {n: self.embedders[n].push(Dual(s)) for n, s in told.items()}  # pyright: ignore
        duration = Dual(t.primal - r.primal)
        if t.tangent is not None and r.tangent is not None:
            duration = Dual(duration.primal, t.tangent - r.tangent)
        vectors["time"] = self.embedders["time"].push(duration)  # pyright: ignore
        return [self._group(name, vectors[name]) for name in TOKENS]

    def _group(self, name: str, vector: Dual) -> Dual:
        tokens = mapped(vector, lambda p: p[:, None].expand(-1, TOKENS[name], -1))
        return plus(tokens, self.tokens[name])

    def _walk(self, blocks: nn.ModuleList, x: Dual) -> Dual:
        for block in blocks:
            if self.config.checkpoint and torch.is_grad_enabled():
                x = checkpointed(lambda x, _, block=block: block(x, self.rotation), x, NOTHING)
            else:
                x = block(x, self.rotation)
        return x

    def _head(self, blocks: nn.ModuleList, layer: nn.ModuleDict, x: Dual) -> Dual:
        """The prediction [B, channels, H, W] of a head."""
        patches = mapped(self._walk(blocks, x), lambda p: p[:, PREFIX:])
        return mapped(
            affine(layer["linear"], layer["norm"](patches)),
            lambda p: unpatchify(p, self.config.patch_size),
        )

    def _velocity(self, out: Dual, z: Dual, t: Dual) -> tuple[Tensor, Tensor | None]:
        """The prediction as a velocity: itself, or where it is the data, (z - x) / max(t, .05)."""
        if not self.config.pixels:
            return out
        m = t.primal.clamp(min=SMALLEST_T)[:, None, None, None]
        u = (z.primal - out.primal) / m
        if out.tangent is None or z.tangent is None or t.tangent is None:
            return u, None
        with torch.no_grad():
            dt = (t.tangent * (tail(t.primal, t.tangent) > SMALLEST_T))[:, None, None, None]
            slope = z.tangent - out.tangent - tail(u, out.tangent) * dt
            return u, slope / tail(m, out.tangent)
