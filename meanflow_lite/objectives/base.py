"""What every objective is: a law of its random draws, and a pure loss of them.

``draw`` holds all randomness of a step; ``__call__`` is the equation. The trainer knows these
types and no method by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from meanflow_lite.fields import Field
from meanflow_lite.paths import TimeLaw, conditional_velocity, interpolate

T = TypeVar("T")


@dataclass(frozen=True)
class Context:
    """All that an objective may know beyond its batch.

    A step is split into ``parts`` (processes times micro-batches). Every part draws for the
    whole batch from the same generator and takes rows ``part, part + parts, ...``: one process
    and many then train on the same rows.
    """

    u_ema: Field
    teacher: Field | None
    progress: Tensor  # [] in [0, 1], the share of training done
    generator: torch.Generator | None  # on the CPU, seeded by (seed, step); None in the pure call
    part: int = 0
    parts: int = 1

    def normal(self, like: Float[Tensor, " b *d"]) -> Float[Tensor, " b *d"]:
        """Standard normal draws with the shape, type and device of ``like``."""
        return self._rows(torch.randn, like.shape).to(like)

    def uniform(self, like: Float[Tensor, " b *d"]) -> Float[Tensor, " b *d"]:
        """Uniform draws on [0, 1) with the shape, type and device of ``like``."""
        return self._rows(torch.rand, like.shape).to(like)

    def time(self, law: TimeLaw, like: Float[Tensor, " b *d"]) -> Float[Tensor, " b"]:
        """One time a row, ``[B]``, from ``law``."""
        n = len(like) * self.parts
        # The law is applied before the rows are cut: vectorized functions round differently at
        # the end of a tensor, and parts have to agree with the whole to the last bit.
        whole = law(*(draw(n, generator=self.generator) for draw in (torch.randn, torch.rand)))
        return whole[self.part :: self.parts].to(like)

    def share(self, n: int) -> int:
        """How many of the first ``n`` rows of the whole batch belong to this part."""
        return len(range(self.part, n, self.parts))

    def _rows(self, law: Any, shape: Sequence[int]) -> Tensor:
        whole = law(shape[0] * self.parts, *shape[1:], generator=self.generator)
        return whole[self.part :: self.parts]


@dataclass(frozen=True)
class Draw:
    """The random draws of one step: rows ``[0, n_equal)`` have ``r = t``.

    ``extra`` holds what one method needs beyond the common ones, by name.
    """

    x: Float[Tensor, " b *d"]
    y: Int[Tensor, " b"] | None
    eps: Float[Tensor, " b *d"]
    r: Float[Tensor, " b"]
    t: Float[Tensor, " b"]
    n_equal: int = 0
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def z(self) -> Float[Tensor, " b *d"]:
        r""":math:`z_t = (1 - t) x + t \\epsilon`."""
        return interpolate(self.x, self.eps, self.t)

    @property
    def v(self) -> Float[Tensor, " b *d"]:
        r"""The conditional velocity :math:`\\epsilon - x`."""
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


@dataclass(frozen=True)
class Domain:
    """The jumps ``(r, t)`` that an objective trains; a sampler asks :meth:`check`."""

    name: str
    levels: int = 0

    def check(self, times: Sequence[float | int]) -> None:
        """Raise ``ValueError`` if a walk along ``times`` makes a jump that was not trained."""
        for t, r in zip(times, times[1:], strict=False):
            reason = self._refuses(float(r), float(t))
            if reason:
                raise ValueError(f"this field was not trained for the jump {t} -> {r}: {reason}")

    def _refuses(self, r: float, t: float) -> str:
        if self.name == "instant":
            return "it knows only r = t; walk it with integrate(), or wrap it in instantaneous()"
        if self.name == "to_data" and r != 0:
            return "it only jumps to r = 0; use jump_and_renoise() for several steps"
        if self.name == "one_jump" and (r, t) != (0.0, 1.0):
            return "it only jumps from t = 1 to r = 0; use times = [1, 0]"
        if self.name == "dyadic":
            n = 2**self.levels
            width = (t - r) * n
            power = any(abs(width - 2**k) < 1e-6 * n for k in range(self.levels + 1))
            if not power or abs(t / (t - r) - round(t / (t - r))) > 1e-6:
                return f"it knows jumps of 1/{n}, 2/{n}, 4/{n}, ..., 1 between their own multiples"
        return ""


INSTANT = Domain("instant")
TO_DATA = Domain("to_data")
ANY = Domain("any")
ONE_JUMP = Domain("one_jump")


def dyadic(levels: int) -> Domain:
    """Jumps of width 2**-k, k = 0 ... levels, between multiples of their own width."""
    return Domain("dyadic", levels)


def trained(net: T, domain: Domain) -> T:
    """Attach the domain that ``net`` was trained on; samplers read it. Returns ``net``."""
    net.domain = domain  # type: ignore[attr-defined]
    return net


def domain_of(u: Field) -> Domain:
    """The domain attached to a field (looking through ``functools.partial``), else any."""
    inner = getattr(u, "func", u)
    return getattr(inner, "domain", ANY)


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


class SingleStage:
    """The common case: one stage, and no moving average in the targets."""

    target_ema: float | None = None

    def stage(self, progress: float) -> int:
        """Return 0."""
        return 0
