r"""The diffusion transformer (DiT, adaLN-Zero) as an average-velocity field :math:`u(z, r, t)`."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from timm.layers.mlp import Mlp
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from meanflow_lite.networks.attention import Attention, under_forward_mode
from meanflow_lite.networks.embedding import Conditioning, frequencies
from meanflow_lite.networks.tangent import (
    Dual,
    affine,
    chunk,
    gated_sum,
    gelu,
    modulated_norm,
    silu,
)


@dataclass(frozen=True)
class DiTConfig:
    """What defines a DiT: sizes in pixels (or latent cells), channels, tokens' width.

    Attributes:
        image_size: height and width of `z`.
        patch_size: side of a token's patch; `image_size` is a multiple of it.
        channels: channels of `z`.
        width: size of a token, a multiple of `heads` and of 4.
        depth: number of blocks.
        heads: attention heads.
        num_classes: labels 0 .. num_classes - 1, null class `num_classes`; None: no labels.
        times: which of "t", "r", "t-r" the network is told.
        conditions: further numbers per row that it is told, such as ("omega",).
        aux_head_depth: blocks of the auxiliary velocity head, which leaves the trunk that many
            blocks before the end; 0: no such head.
        checkpoint: recompute activations in the backward pass instead of storing them.
    """

    image_size: int = 32
    patch_size: int = 2
    channels: int = 4
    width: int = 768
    depth: int = 12
    heads: int = 12
    num_classes: int | None = 1000
    times: tuple[str, ...] = ("t", "t-r")
    conditions: tuple[str, ...] = ()
    aux_head_depth: int = 0
    checkpoint: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        if self.image_size % self.patch_size:
            raise ValueError(
                f"patch_size must divide image_size={self.image_size}, got {self.patch_size}"
            )
        if self.width % 4 or self.width % self.heads:
            raise ValueError(
                f"width must be a multiple of 4 and of heads={self.heads}, got {self.width}"
            )
        if not 0 <= self.aux_head_depth <= self.depth:
            raise ValueError(
                f"aux_head_depth must lie in [0, depth={self.depth}], got {self.aux_head_depth}"
            )


class Block(nn.Module):
    r"""Transformer block: :math:`x + g_1 A(n_1(x))`, then :math:`x + g_2 M(n_2(x))`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.mlp = Mlp(
            width, 4 * width
        )  # for its two layers: `gelu` is applied here, with its rule
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Dual, c: Dual) -> Dual:
        """Tokens [B, N, C] and activated conditioning [B, C] to tokens [B, N, C]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = chunk(affine(self.modulation, c), 6)
        x = gated_sum(x, gate1, self.attn(modulated_norm(x, shift1, scale1)))
        h = gelu(affine(self.mlp.fc1, modulated_norm(x, shift2, scale2)))
        return gated_sum(x, gate2, affine(self.mlp.fc2, h))


class FinalLayer(nn.Module):
    """Modulated normalization and a linear map from tokens to patches [B, N, p * p * channels]."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, outputs)
        self.modulation = nn.Linear(width, 2 * width)

    def forward(self, x: Dual, c: Dual) -> Dual:
        """Tokens [B, N, C] and activated conditioning [B, C] to patches."""
        shift, scale = chunk(affine(self.modulation, c), 2)
        return affine(self.linear, modulated_norm(x, shift, scale))


class DiT(nn.Module):
    r"""Field :math:`u_\theta(z, r, t \mid y)`; adaLN-Zero: :math:`u_\theta \equiv 0` at first.

    Args:
        config: the sizes; see `PRESETS` and `build` in `meanflow_lite.networks.presets`.

    Source: DiT (arXiv 2212.09748); two time embedders as in MeanFlow (arXiv 2505.13447), inputs
    t and t - r in [0, 1], not multiplied by 1000.
    """

    pos_embed: Tensor

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        width, patch, channels = config.width, config.patch_size, config.channels
        self.x_embedder = PatchEmbed(config.image_size, patch, channels, width)
        self.register_buffer("pos_embed", position_features(config.image_size // patch, width))
        self.conditioning = Conditioning(width, config.times, config.num_classes, config.conditions)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.final_layer = FinalLayer(width, patch * patch * channels)
        if config.aux_head_depth:
            head = (Block(width, config.heads) for _ in range(config.aux_head_depth))
            self.velocity_blocks = nn.ModuleList(head)
            self.velocity_layer = FinalLayer(width, patch * patch * channels)
        self._initialize()

    def _initialize(self) -> None:
        conditioning = set(self.conditioning.modules())
        for module in self.modules():
            if isinstance(module, nn.Linear) and module not in conditioning:
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.view(self.config.width, -1))
        nn.init.zeros_(self.x_embedder.proj.bias)  # pyright: ignore[reportArgumentType]
        for module in self.modules():
            if isinstance(module, Block | FinalLayer):
                nn.init.zeros_(module.modulation.weight)
            if isinstance(module, FinalLayer):
                nn.init.zeros_(module.linear.weight)

    def forward(
        self,
        z: Float[Tensor, " b c h w"],
        r: Float[Tensor, " b"],
        t: Float[Tensor, " b"],
        y: Int[Tensor, " b"] | None = None,
        **cond: Float[Tensor, " b"],
    ) -> Float[Tensor, " b c h w"]:
        """Average velocity from `t` down to `r` at `z`; `y` None is the null class for every row.

        Raises:
            ValueError: shapes, labels or conditions that do not fit the network; activation
                checkpointing under a forward-mode derivative.
        """
        x, c = self._embed(Dual(z), Dual(r), Dual(t), y, cond)
        return self._unpatchify(self.final_layer(self._walk(self.blocks, x, c), c).primal)

    def forward_with_tangent(
        self,
        z: Float[Tensor, " b c h w"],
        r: Float[Tensor, " b"],
        t: Float[Tensor, " b"],
        dz: Float[Tensor, " k c h w"],
        dr: Float[Tensor, " k"],
        dt: Float[Tensor, " k"],
        y: Int[Tensor, " b"] | None = None,
        **cond: Float[Tensor, " b"],
    ) -> tuple[Float[Tensor, " b c h w"], Float[Tensor, " k c h w"]]:
        r""":math:`u` and :math:`\partial_z u\,dz + \partial_r u\,dr + \partial_t u\,dt`, one pass.

        The tangents, and the derivative, are of the last k rows. Equal to `torch.func.jvp` of
        `forward`, with the derivative detached: gradients flow through
        `u` alone, and the derivative stores nothing for the backward pass.

        Raises:
            ValueError: as `forward`.
        """
        x, c = self._embed(Dual(z, dz), Dual(r, dr), Dual(t, dt), y, cond)
        u = self.final_layer(self._walk(self.blocks, x, c), c)
        return self._unpatchify(u.primal), self._unpatchify(u.tangent)

    def with_velocity(
        self,
        z: Float[Tensor, " b c h w"],
        r: Float[Tensor, " b"],
        t: Float[Tensor, " b"],
        y: Int[Tensor, " b"] | None = None,
        **cond: Float[Tensor, " b"],
    ) -> tuple[Float[Tensor, " b c h w"], Float[Tensor, " b c h w"]]:
        """Average velocity `u` and, from the auxiliary head, the instantaneous velocity `v`.

        Raises:
            ValueError: the network has no such head; otherwise as `forward`.

        Source: improved MeanFlow (arXiv 2512.02012).
        """
        if not self.config.aux_head_depth:
            raise ValueError(
                "this network has no velocity head: build it with aux_head_depth of at least 1"
            )
        x, c = self._embed(Dual(z), Dual(r), Dual(t), y, cond)
        split = self.config.depth - self.config.aux_head_depth
        trunk = self._walk(self.blocks[:split], x, c)
        u = self.final_layer(self._walk(self.blocks[split:], trunk, c), c)
        v = self.velocity_layer(self._walk(self.velocity_blocks, trunk, c), c)
        return self._unpatchify(u.primal), self._unpatchify(v.primal)

    def _embed(
        self, z: Dual, r: Dual, t: Dual, y: Tensor | None, cond: dict[str, Tensor]
    ) -> tuple[Dual, Dual]:
        self._check(z.primal, r.primal, t.primal, y, cond)
        # timm's patches lie channels first in memory; left so, every later layer pays for it
        x = (self.x_embedder(z.primal) + self.pos_embed).contiguous()
        c = silu(self.conditioning.push(r, t, y, cond))
        if z.tangent is None:
            return Dual(x), c
        with torch.no_grad():
            dx = F.conv2d(z.tangent, self.x_embedder.proj.weight, stride=self.config.patch_size)
        return Dual(x, dx.flatten(2).mT.to(x.dtype).contiguous()), c

    def _check(
        self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None, cond: dict[str, Tensor]
    ) -> None:
        size, channels = self.config.image_size, self.config.channels
        if z.shape[1:] != (channels, size, size):
            raise ValueError(f"z must be [B, {channels}, {size}, {size}], got {tuple(z.shape)}")
        for name, value in {"r": r, "t": t, "y": y, **cond}.items():
            if value is not None and value.shape != z.shape[:1]:
                raise ValueError(
                    f"{name} must be [B] with B = {z.shape[0]}, got {tuple(value.shape)}"
                )

    def _walk(self, blocks: nn.ModuleList, x: Dual, c: Dual) -> Dual:
        for block in blocks:
            if self.config.checkpoint and torch.is_grad_enabled():
                x = checkpointed(block, x, c)
            else:
                x = block(x, c)
        return x

    def _unpatchify(self, patches: Tensor) -> Tensor:
        side, patch = self.config.image_size // self.config.patch_size, self.config.patch_size
        grid = patches.unflatten(1, (side, side)).unflatten(-1, (patch, patch, -1))  # b i j p q c
        return grid.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def checkpointed(block: Callable[[Dual, Dual], Dual], x: Dual, c: Dual) -> Dual:
    """`block(x, c)` with activations recomputed in the backward pass; tangents pushed only once."""
    if under_forward_mode():
        raise ValueError(
            "activation checkpointing has no forward-mode derivative: it recomputes outside of "
            "torch.func.jvp. Build with checkpoint=False, or call forward_with_tangent"
        )
    if torch.compiler.is_compiling():  # no side effects there: the compiler drops tangents itself
        return _compiled_checkpoint(block, x, c)
    tangents = [(x.tangent, c.tangent)]  # taken by the forward pass: the recomputation finds none
    pushed: list[Tensor | None] = []

    def run(x: Tensor, c: Tensor) -> Tensor:
        dx, dc = tangents.pop() if tangents else (None, None)
        out = block(Dual(x, dx), Dual(c, dc))
        if dx is not None:
            pushed.append(out.tangent)
        return out.primal

    y = checkpoint(run, x.primal, c.primal, use_reentrant=False)
    return Dual(y, pushed.pop() if pushed else None)


def _compiled_checkpoint(block: Callable[[Dual, Dual], Dual], x: Dual, c: Dual) -> Dual:
    """The same with the tangents as outputs: what the recomputation does not need is removed."""
    given = [a for a in (*x, *c) if a is not None]

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        pairs = [given[:1], given[1:]] if len(given) == 2 else [given[:2], given[2:]]
        return tuple(a for a in block(*(Dual(*pair) for pair in pairs)) if a is not None)

    return Dual(*checkpoint(run, *given, use_reentrant=False))


def position_features(side: int, width: int) -> Float[Tensor, " 1 n c"]:
    """Fixed sines and cosines of the token grid: one half for the column, one half for the row."""
    position = torch.arange(side, dtype=torch.float64)
    angle = position[:, None] * frequencies(width // 2, position)
    axis = torch.cat([angle.sin(), angle.cos()], dim=-1)
    column = axis[None].expand(side, side, -1)
    row = axis[:, None].expand(side, side, -1)
    return torch.cat([column, row], dim=-1).flatten(0, 1)[None].to(torch.get_default_dtype())
