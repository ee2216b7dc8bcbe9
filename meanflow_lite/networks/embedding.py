r"""What a network is told besides `z`: times, label, further conditions; one vector [B, C]."""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meanflow_lite.networks.tangent import Dual, affine, silu, tail

# each time that a network can be told, as the coefficients (a, b) of a * r + b * t
TIMES = {"t": (0.0, 1.0), "r": (1.0, 0.0), "t-r": (-1.0, 1.0)}
MAX_PERIOD = 10_000.0


def frequencies(features: int, like: Tensor) -> Tensor:
    r""":math:`w_k = 10000^{-k / K}, \; k = 0 \dots K - 1, \; K` = `features / 2`."""
    half = features // 2
    k = torch.arange(half, dtype=like.dtype, device=like.device)
    return torch.exp(-math.log(MAX_PERIOD) / half * k)


class TimestepEmbedder(nn.Module):
    r"""A number :math:`s` to :math:`W_2\,\mathrm{silu}(W_1 [\cos(w s), \sin(w s)] + b_1) + b_2`.

    The number is used as it is: times lie in [0, 1] and are *not* multiplied by 1000, which would
    make the network, and with it :math:`\partial_t u`, a thousand times steeper in its input.

    Args:
        width: size of the output.
        features: number of sinusoidal features (even).
    """

    def __init__(self, width: int, features: int = 256) -> None:
        super().__init__()
        if features % 2:
            raise ValueError(f"features must be even (cosines and sines), got {features}")
        self.features = features
        self.mlp = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))
        for layer in (self.first, self.last):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    @property
    def first(self) -> nn.Linear:
        """The layer that reads the sinusoidal features."""
        return self.mlp[0]  # pyright: ignore[reportReturnType]

    @property
    def last(self) -> nn.Linear:
        """The layer that writes the embedding."""
        return self.mlp[2]  # pyright: ignore[reportReturnType]

    def forward(self, s: Float[Tensor, " b"]) -> Float[Tensor, " b c"]:
        """Numbers [B] to vectors [B, C]."""
        return self.push(Dual(s)).primal

    def push(self, s: Dual) -> Dual:
        """As `forward`, carrying the tangent of `s` along."""
        return affine(self.last, silu(affine(self.first, self._sinusoids(s))))

    def _sinusoids(self, s: Dual) -> Dual:
        w = frequencies(self.features, s.primal)
        angle = s.primal[:, None] * w
        cos, sin = angle.cos(), angle.sin()
        dtype = self.first.weight.dtype
        y = torch.cat([cos, sin], dim=-1).to(dtype)
        if s.tangent is None:
            return Dual(y)
        with torch.no_grad():
            slope = torch.cat([-tail(sin, s.tangent), tail(cos, s.tangent)], dim=-1) * w.repeat(2)
            return Dual(y, (slope * s.tangent[:, None]).to(dtype))


class Conditioning(nn.Module):
    r"""Sum of embeddings :math:`c = \sum_s E_s(s) + E_y[y] + \sum_k E_k(k)`.

    Args:
        width: size of the output.
        times: which of "t", "r", "t-r" the network is told, each with its own `TimestepEmbedder`.
        num_classes: labels 0 .. num_classes - 1; the table has one more row, the null class
            `num_classes`. None: no labels.
        conditions: names of further numbers per row, such as "omega".
        features: sinusoidal features of each embedder.

    Raises:
        ValueError: `times` is empty, repeats itself or names an unknown time.

    Source: MeanFlow (arXiv 2505.13447), table 1c compares the choices of `times`.
    """

    def __init__(
        self,
        width: int,
        times: Sequence[str] = ("t", "t-r"),
        num_classes: int | None = None,
        conditions: Sequence[str] = (),
        features: int = 256,
    ) -> None:
        super().__init__()
        if not times or len(set(times)) != len(times) or not set(times) <= TIMES.keys():
            raise ValueError(
                f"times must be distinct names out of {tuple(TIMES)}, got {tuple(times)}"
            )
        if num_classes is not None and num_classes < 1:
            raise ValueError(
                f"num_classes must be at least 1, or None for no labels, got {num_classes}"
            )
        self.num_classes = num_classes
        self.times = nn.ModuleDict({name: TimestepEmbedder(width, features) for name in times})
        self.conditions = nn.ModuleDict(
            {name: TimestepEmbedder(width, features) for name in conditions}
        )
        if num_classes is not None:
            self.labels = nn.Embedding(num_classes + 1, width)
            nn.init.normal_(self.labels.weight, std=0.02)

    def forward(
        self,
        r: Float[Tensor, " b"],
        t: Float[Tensor, " b"],
        y: Int[Tensor, " b"] | None = None,
        cond: Mapping[str, Float[Tensor, " b"]] | None = None,
    ) -> Float[Tensor, " b c"]:
        """Times, labels (None: the null class for all), further conditions [B] to vectors [B, C].

        Raises:
            ValueError: labels for a network without, or other conditions than it was built with.
        """
        return self.push(Dual(r), Dual(t), y, cond).primal

    def push(self, r: Dual, t: Dual, y: Tensor | None, cond: Mapping[str, Tensor] | None) -> Dual:
        """As `forward`, carrying the tangents of `r` and `t` along; `y` and `cond` have none."""
        cond = cond or {}
        if cond.keys() != set(self.conditions):
            raise ValueError(
                f"this network takes the conditions {sorted(self.conditions)}, got {sorted(cond)}: "
                "build it with conditions=(...), or bind them: functools.partial(net, omega=...)"
            )
        embedded = [embed.push(_combine(r, t, *TIMES[name])) for name, embed in self._timed()]
        c = torch.stack([e.primal for e in embedded]).sum(0)
        for name, embed in self.conditions.items():
            c = c + embed(cond[name])
        if self.num_classes is not None:
            c = c + self.labels(self._or_null(y, r.primal))
        elif y is not None:
            raise ValueError(
                "y was given to a network without labels: pass None or set num_classes"
            )
        tangents = [e.tangent for e in embedded if e.tangent is not None]
        return Dual(c, torch.stack(tangents).sum(0) if tangents else None)

    def _timed(self) -> list[tuple[str, TimestepEmbedder]]:
        return list(self.times.items())  # pyright: ignore[reportReturnType]

    def _or_null(self, y: Tensor | None, like: Tensor) -> Tensor:
        if y is None:
            return torch.full(
                like.shape, self.num_classes or 0, dtype=torch.long, device=like.device
            )
        return y


def _combine(r: Dual, t: Dual, a: float, b: float) -> Dual:
    if r.tangent is None or t.tangent is None:
        return Dual(a * r.primal + b * t.primal)
    return Dual(a * r.primal + b * t.primal, a * r.tangent + b * t.tangent)
