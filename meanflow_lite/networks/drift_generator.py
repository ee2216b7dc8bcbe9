r"""The generator of Drifting as a field: :math:`u(z, 0, 1) = z - G(z)`, one evaluation, no time.

A sample is a function of the noise and of integers drawn with it, the noise labels. Class,
guidance scale and noise labels make one vector, which modulates every block (adaLN) and stands in
front of the patches as tokens.

Source: Drifting (arXiv 2602.04770).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meanflow_lite.networks.dit import checkpointed, position_features
from meanflow_lite.networks.embedding import TimestepEmbedder
from meanflow_lite.networks.patches import check_conditions, check_rows, patchify, unpatchify
from meanflow_lite.networks.rules import (
    RMSNorm,
    Rotation,
    attention,
    joined,
    line_angles,
    mapped,
    modulated,
    plus,
    split_heads,
    swiglu,
)
from meanflow_lite.networks.tangent import Dual, affine, chunk, gated_sum, silu

#: What the network may be told beside the label.
CONDITIONS = ("omega", "noise_labels")
#: Factor on the normalized embedding of the guidance scale.
OMEGA_SHARE = 0.02


@dataclass(frozen=True)
class DriftConfig:
    """What defines Drifting's generator.

    Attributes:
        image_size: height and width of `z`.
        patch_size: side of a token's patch; `image_size` is a multiple of it.
        channels: channels of `z`.
        width: size of a token, a multiple of `heads`.
        depth: number of blocks.
        heads: attention heads.
        condition_width: size of the condition.
        num_classes: labels 0 .. num_classes - 1; there is no null class.
        class_tokens: tokens of the condition in front of the patches.
        noise_coordinates: noise labels of a sample.
        noise_classes: they are integers below this.
        omega: guidance scale where a call names none.
        checkpoint: recompute activations in the backward pass instead of storing them.
    """

    image_size: int = 32
    patch_size: int = 2
    channels: int = 4
    width: int = 768
    depth: int = 12
    heads: int = 12
    condition_width: int = 768
    num_classes: int = 1000
    class_tokens: int = 16
    noise_coordinates: int = 32
    noise_classes: int = 64
    omega: float = 1.0
    checkpoint: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        if self.image_size % self.patch_size:
            raise ValueError(
                f"patch_size must divide image_size={self.image_size}, got {self.patch_size}"
            )
        if self.width % self.heads or self.width % 4 or self.width // self.heads % 2:
            raise ValueError(
                f"width must be a multiple of 4 and of heads={self.heads} with heads of an even "
                f"size, got {self.width}"
            )

    @property
    def hidden(self) -> int:
        """Hidden size of SwiGLU: two thirds of 4 width, up to the next multiple of 32."""
        return -(-int(self.width * 4 * 2 / 3) // 32) * 32


class Attention(nn.Module):
    """Self-attention with biases; queries and keys are normalized, then rotated."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.q_norm, self.k_norm = RMSNorm(width // heads), RMSNorm(width // heads)

    def forward(self, x: Dual, rotation: Rotation) -> Dual:
        """Tokens [B, N, C] to tokens [B, N, C]."""
        qkv = affine(self.qkv, x)
        width = x.primal.shape[-1]
        q, k, v = (
            split_heads(mapped(qkv, lambda p, i=i: p[..., i * width : (i + 1) * width]), self.heads)
            for i in range(3)
        )
        return affine(self.proj, attention(rotation(self.q_norm(q)), rotation(self.k_norm(k)), v))


class Block(nn.Module):
    r""":math:`x + g_1 A((1 + s_1) n_1(x) + b_1)`, then the same with SwiGLU in place of A."""

    def __init__(self, config: DriftConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.attn = Attention(width, config.heads)
        self.gate, self.value = (nn.Linear(width, config.hidden) for _ in range(2))
        self.out = nn.Linear(config.hidden, width)
        self.modulation = nn.Linear(config.condition_width, 6 * width)

    def forward(self, x: Dual, c: Dual, rotation: Rotation) -> Dual:
        """Tokens [B, N, C] and activated condition [B, D] to tokens."""
        shift1, scale1, gate1, shift2, scale2, gate2 = chunk(affine(self.modulation, c), 6)
        h = self.attn(modulated(self.norm1(x), shift1, scale1), rotation)
        x = gated_sum(x, still(gate1, h), h)
        h = modulated(self.norm2(x), shift2, scale2)
        h = affine(self.out, swiglu(affine(self.gate, h), affine(self.value, h)))
        return gated_sum(x, still(gate2, h), h)


def still(constant: Dual, like: Dual) -> Dual:
    """A constant as a dual with a zero tangent, for rules that ask for one."""
    if like.tangent is None or constant.tangent is not None:
        return constant
    shape = (len(like.tangent), *constant.primal.shape[1:])
    return Dual(constant.primal, like.tangent.new_zeros(()).expand(shape))


class DriftGenerator(nn.Module):
    r"""Field :math:`u_\theta(z, 0, 1 \mid y, \omega, n) = z - G_\theta(z, y, \omega, n)`.

    `G` is `generate`. The times of a call are not used: its only jump is from 1 to 0, and
    samplers refuse another one. Noise labels `n` [B, coordinates] are part of the noise: with other
    labels the same `z` is another sample. Where a call leaves them out, they are drawn from
    PyTorch's generator; where it leaves out omega, it has the value in `config`.

    Source: arXiv 2602.04770. Not here: the published computation in bfloat16 (use autocast).
    """

    def __init__(self, config: DriftConfig) -> None:
        super().__init__()
        self.config = config
        width, condition = config.width, config.condition_width
        side, patch = config.image_size // config.patch_size, config.patch_size
        self.labels = nn.Embedding(config.num_classes, condition)
        self.noise = nn.ModuleList(
            nn.Embedding(config.noise_classes, condition) for _ in range(config.noise_coordinates)
        )
        self.omega, self.omega_norm = TimestepEmbedder(condition), RMSNorm(condition)
        self.x_embedder = nn.Linear(patch**2 * config.channels, width)
        self.positions = nn.Parameter(position_features(side, width)[0])
        self.tokens = nn.Parameter(torch.empty(config.class_tokens, width))
        self.token = nn.Linear(condition, width)
        sequence = config.class_tokens + side**2
        self.rotation = Rotation(line_angles(sequence, width // config.heads), halves=True)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm, self.modulation = RMSNorm(width), nn.Linear(condition, 2 * width)
        self.linear = nn.Linear(width, patch**2 * config.channels)
        self._initialize()

    def _initialize(self) -> None:
        embedder = set(self.omega.modules())
        for module in self.modules():
            if isinstance(module, nn.Linear) and module not in embedder:
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, Block | DriftGenerator):
                nn.init.zeros_(module.modulation.weight)
        nn.init.normal_(self.tokens, std=0.02)
        nn.init.zeros_(self.linear.weight)

    def forward(
        self,
        z: Float[Tensor, " b c h w"],
        r: Float[Tensor, " b"],
        t: Float[Tensor, " b"],
        y: Int[Tensor, " b"] | None = None,
        **cond: Tensor,
    ) -> Float[Tensor, " b c h w"]:
        """:math:`z - G(z)`; `omega` is [B], `noise_labels` [B, coordinates].

        Raises:
            ValueError: no labels; shapes or conditions that do not fit the network.
        """
        check_rows(z, z.shape[1:], {"r": r, "t": t})
        return z - self._generate(Dual(z), y, cond).primal

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
        r""":math:`u` and :math:`\partial_z u\,dz` of the last k rows, detached; r, t play no part.

        Raises:
            ValueError: as `forward`.
        """
        check_rows(z, z.shape[1:], {"r": r, "t": t})
        made = self._generate(Dual(z, dz), y, cond)
        assert made.tangent is not None
        return z - made.primal, dz - made.tangent

    def generate(
        self, eps: Float[Tensor, " b c h w"], y: Int[Tensor, " b"], **cond: Tensor
    ) -> Float[Tensor, " b c h w"]:
        """The sample itself, from noise, labels, `omega` [B] and `noise_labels`.

        Raises:
            ValueError: as `forward`.
        """
        return self._generate(Dual(eps), y, cond).primal

    def _generate(self, z: Dual, y: Tensor | None, cond: Mapping[str, Tensor]) -> Dual:
        config = self.config
        self._check(z.primal, y, cond)
        assert y is not None
        vector = self._condition(z.primal, y, cond)
        c = silu(Dual(vector))
        x = plus(
            affine(self.x_embedder, mapped(z, lambda p: patchify(p, config.patch_size))),
            self.positions,
        )
        front = self.token(vector)[:, None] + self.tokens
        x = joined([Dual(front), x])
        for block in self.blocks:
            if config.checkpoint and torch.is_grad_enabled():
                x = checkpointed(lambda x, c, block=block: block(x, c, self.rotation), x, c)
            else:
                x = block(x, c, self.rotation)
        shift, scale = chunk(affine(self.modulation, c), 2)
        x = affine(self.linear, modulated(self.norm(x), shift, scale))
        return mapped(x, lambda p: unpatchify(p[:, config.class_tokens :], config.patch_size))

    def _condition(self, z: Tensor, y: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        config = self.config
        omega = cond.get("omega", torch.full_like(z[:, 0, 0, 0], config.omega))
        noise = cond.get("noise_labels")
        if noise is None:
            shape = (len(z), config.noise_coordinates)
            noise = torch.randint(config.noise_classes, shape, device=z.device)
        c = self.labels(y) + OMEGA_SHARE * self.omega_norm(Dual(self.omega(omega))).primal
        return c + sum(table(noise[:, i]) for i, table in enumerate(self.noise))

    def _check(self, z: Tensor, y: Tensor | None, cond: Mapping[str, Tensor]) -> None:
        config = self.config
        check_conditions(CONDITIONS, cond)
        rows = {"y": y, "omega": cond.get("omega")}
        check_rows(z, (config.channels, config.image_size, config.image_size), rows)
        noise, wanted = cond.get("noise_labels"), (*z.shape[:1], config.noise_coordinates)
        if noise is not None and noise.shape != wanted:
            raise ValueError(f"noise_labels must be {wanted}, got {tuple(noise.shape)}")
        if y is None:
            raise ValueError("this generator has no null class: give labels y, one a row")
