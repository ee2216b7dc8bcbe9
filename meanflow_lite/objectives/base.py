"""What every objective is: a law of its random draws, and a pure loss of them.

``draw`` holds all randomness of a step; ``__call__`` is the equation. The trainer knows these
types and no method by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meanflow_lite.domains import (
    ANY,
    INSTANT,
    ONE_JUMP,
    TO_DATA,
    Domain,
    domain_of,
    dyadic,
    trained,
)
from meanflow_lite.fields import Field, as_field
from meanflow_lite.objectives.settings import check_fit
from meanflow_lite.paths import TimeLaw, conditional_velocity, interpolate
from meanflow_lite.randomness import Random
from meanflow_lite.samplers import check_labels

__all__ = [
    "ANY",
    "INSTANT",
    "ONE_JUMP",
    "TO_DATA",
    "Context",
    "Domain",
    "Draw",
    "InOneLine",
    "Loss",
    "Objective",
    "SingleStage",
    "domain_of",
    "dyadic",
    "trained",
]


@dataclass(frozen=True)
class Context:
    """All that an objective may know beyond its batch.

    A step is split into ``parts`` (processes times micro-batches), and part k has the rows
    ``k, k + parts, ...`` of the batch. A draw is a function of seed, step, row and the name of
    its stream alone: any split trains on the same numbers, and no part draws those of another.
    Draws are float32 numbers, whatever the data is; for float64 data they come as float64.
    """

    u_ema: Field
    teacher: Field | None
    progress: Tensor  # [] in [0, 1], the share of training done
    random: Random | None  # of this step; None in the pure call
    part: int = 0
    parts: int = 1

    def normal(self, like: Float[Tensor, " b *d"], stream: str = "noise") -> Tensor:
        """Standard normal draws with the shape and device of ``like``."""
        return _as(self._random.normal(stream, self._rows(like), *like.shape[1:]), like)

    def uniform(self, like: Float[Tensor, " b *d"], stream: str) -> Float[Tensor, " b"]:
        """Uniform draws on [0, 1), one a row, on the device of ``like``."""
        return _as(self._random.uniform(stream, self._rows(like)), like)

    def time(self, law: TimeLaw, like: Float[Tensor, " b *d"], stream: str = "t") -> Tensor:
        """One time a row, ``[B]``, from ``law``."""
        return _as(law(*self._random.pair(stream, self._rows(like))), like)

    def share(self, n: int) -> int:
        """How many of the first ``n`` rows of the whole batch belong to this part."""
        return len(range(self.part, n, self.parts))

    @property
    def _random(self) -> Random:
        if self.random is None:
            raise ValueError("this context draws nothing: give it random=Random(seed, step)")
        return self.random

    def _rows(self, like: Tensor) -> range:
        """Where the rows of this part stand in the whole batch."""
        return range(self.part, len(like) * self.parts, self.parts)


def _as(draws: Tensor, like: Tensor) -> Tensor:
    """On the device of ``like``, in its type unless that is of half precision."""
    return draws.to(like.device, torch.promote_types(like.dtype, torch.float32))


@dataclass(frozen=True)
class Draw:
    """The random draws of one step: rows ``[0, n_equal)`` have ``r = t``.

    ``extra`` holds what one method needs beyond the common ones, by name. Data of half precision
    is taken to float32: a method's arithmetic is exact to more digits than its data.
    """

    x: Float[Tensor, " b *d"]
    y: Int[Tensor, " b"] | None
    eps: Float[Tensor, " b *d"]
    r: Float[Tensor, " b"]
    t: Float[Tensor, " b"]
    n_equal: int = 0
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.x.dtype in (torch.bfloat16, torch.float16):
            object.__setattr__(self, "x", self.x.float())

    @property
    def z(self) -> Float[Tensor, " b *d"]:
        r""":math:`z_t = (1 - t) x + t \epsilon`."""
        return interpolate(self.x, self.eps, self.t)

    @property
    def v(self) -> Float[Tensor, " b *d"]:
        r"""The conditional velocity :math:`\epsilon - x`."""
        return conditional_velocity(self.x, self.eps)

    def rows(self, start: int, stop: int | None = None) -> Draw:
        """The draws of rows ``[start, stop)``."""
        cut = self.map(lambda value: value[start:stop])
        n_equal = max(0, self.n_equal - start)
        return replace(cut, n_equal=min(n_equal, len(cut.x)))

    def map(self, change: Callable[[Tensor], Tensor]) -> Draw:
        """The draws with each tensor changed."""
        changed = {
            f.name: change(value)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        extra = {name: change(value) for name, value in self.extra.items()}
        return replace(self, **changed, extra=extra)

    def split(self) -> tuple[Draw, Draw]:
        """The plain rows (r = t) and the jump rows (r < t)."""
        return self.rows(0, self.n_equal), self.rows(self.n_equal)


@dataclass(frozen=True)
class Loss:
    """``per_sample`` ``[B]`` is what is optimized; ``watch`` is what a person looks at.

    The values in ``watch`` are detached tensors of any length; a logger takes their mean.
    """

    per_sample: Float[Tensor, " b"]
    watch: dict[str, Tensor]


@runtime_checkable
class Objective(Protocol):
    """A training objective: a law of draws and a pure loss."""

    @property
    def domain(self) -> Domain:
        """The jumps that it trains."""
        ...

    @property
    def target_ema(self) -> float | None:
        """Rate of the moving average that its targets use (not the sampling one), if any."""
        ...

    def draw(self, x: Tensor, y: Tensor | None, ctx: Context) -> Draw:
        """All randomness of the step. Eager, never compiled."""
        ...

    def __call__(self, u: Field, draw: Draw, ctx: Context) -> Loss:
        """The equation: pure, without randomness."""
        ...

    def stage(self, progress: float) -> int:
        """Index of the training stage at a share of training; 0 throughout for most."""
        ...


class InOneLine:
    """``objective.loss(net, x, y)``: a step's loss in one line, for a loop of one's own."""

    def loss(
        self: Any,
        net: nn.Module | Field,
        x: Tensor,
        y: Any = None,
        *,
        seed: int | torch.Generator | None = None,
        progress: float = 0.0,
        u_ema: nn.Module | Field | None = None,
        teacher: nn.Module | Field | None = None,
    ) -> Float[Tensor, ""]:
        """The mean loss of one batch, noise and times drawn here: call ``backward()`` on it.

        ``net`` is called ``net(z, r, t, y)``, or ``net(z, r, t)`` if it knows no labels.
        ``seed`` makes the draws those of one step (default: PyTorch's own generator chooses it);
        ``progress`` in [0, 1] is the share of training done, for methods that change on the way;
        ``u_ema`` is the moving average that some targets use (default: the network), and
        ``teacher`` what a distillation starts from. Shapes: ``x`` ``[B, *data]``; ``y`` ``[B]``,
        a list, or None.

        Raises:
            ValueError: if the batch is empty or no floating point, labels do not fit, or network
                and objective do not (see `check_fit`).
        """
        if not len(x) or not x.is_floating_point():
            raise ValueError(f"a batch has rows of floating point: got {tuple(x.shape)}, {x.dtype}")
        if not 0 <= progress <= 1:
            raise ValueError(f"progress is the share of training done, in [0, 1]: got {progress}")
        y = check_labels(y, len(x), net)
        check_fit(self, net, y is not None)
        if not isinstance(seed, int):
            seed = int(torch.randint(2**62, (), generator=seed, device="cpu"))
        u, average = as_field(net), as_field(net if u_ema is None else u_ema)
        taught = None if teacher is None else as_field(teacher)
        ctx = Context(average, taught, torch.tensor(progress, device="cpu"), Random(seed))
        draw = self.draw(x, None if y is None else y.to(x.device), ctx)
        return self(u, draw, replace(ctx, random=None)).per_sample.mean()


class SingleStage(InOneLine):
    """The common case: one stage, and no moving average in the targets."""

    target_ema: float | None = None

    def stage(self, progress: float) -> int:
        """Return 0."""
        return 0
