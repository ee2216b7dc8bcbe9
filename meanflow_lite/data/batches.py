"""Batches as pure functions of (seed, step): resuming needs no saved state.

A batch of ``size`` rows belongs to the whole run; part ``k`` of ``n`` gets rows ``k, k + n, ...``,
the same rows that :class:`~meanflow_lite.objectives.base.Context` draws noise for.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

Batch = tuple[Tensor, Tensor | None]
T = TypeVar("T")


@runtime_checkable
class Batches(Protocol):
    """``batches(step, size, seed, part, parts) -> (x, y)``, rows ``part::parts`` of the batch."""

    def __call__(self, step: int, size: int, seed: int, part: int = 0, parts: int = 1) -> Batch:
        """The rows of one part of one step."""
        ...


@runtime_checkable
class Distribution(Protocol):
    """Anything that can be sampled."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Batch:
        """``n`` rows and their labels, if any."""
        ...


def seeded(*keys: int) -> torch.Generator:
    """A CPU generator whose state depends on all ``keys`` (seed, step, purpose).

    The keys are hashed together: PyTorch's CPU generator only reads 32 bits of a seed, so
    packing two numbers into one would make different seeds collide.
    """
    state = np.random.SeedSequence(keys).generate_state(1)[0]
    return torch.Generator().manual_seed(int(state))


@dataclass(frozen=True)
class FromDistribution:
    """Fresh samples of a distribution in every step."""

    distribution: Distribution

    def __call__(self, step: int, size: int, seed: int, part: int = 0, parts: int = 1) -> Batch:
        """Draw the whole batch and take the rows of this part."""
        x, y = self.distribution.sample(size, seeded(seed, step, 1))
        return x[part::parts], None if y is None else y[part::parts]


@dataclass(frozen=True)
class FromTensors:
    """Rows of a data set in memory, reshuffled every epoch.

    Shapes: ``x`` ``[N, *data]``, ``y`` ``[N]`` or None.
    """

    x: Float[Tensor, " n *d"]
    y: Int[Tensor, " ..."] | None = None

    def __post_init__(self) -> None:
        if not torch.isfinite(self.x).all():
            raise ValueError("the data holds NaN or infinite values: clean it before training")
        if self.y is not None and len(self.y) != len(self.x):
            raise ValueError(f"{len(self.x)} rows of data but {len(self.y)} labels")

    def __call__(self, step: int, size: int, seed: int, part: int = 0, parts: int = 1) -> Batch:
        """Take rows of the shuffled epochs."""
        rows = epoch_rows(len(self.x), step, size, seed)[part::parts]
        return self.x[rows], None if self.y is None else self.y[rows]


def epoch_rows(n: int, step: int, size: int, seed: int) -> Int[Tensor, " size"]:
    """Positions ``[step * size, (step + 1) * size)`` in an endless run of shuffled epochs."""
    if size > n:
        raise ValueError(f"the batch ({size}) is larger than the data set ({n} rows)")
    epoch, offset = divmod(step * size, n)
    rows = _shuffled(n, seed, epoch)[offset : offset + size]
    missing = size - len(rows)
    if missing:
        rows = torch.cat([rows, _shuffled(n, seed, epoch + 1)[:missing]])
    return rows


@lru_cache(maxsize=2)
def _shuffled(n: int, seed: int, epoch: int) -> Int[Tensor, " n"]:
    """The order of an epoch; kept, as shuffling a million rows takes longer than a step."""
    return torch.randperm(n, generator=seeded(seed, epoch, 2))


class Ahead(Generic[T]):
    """A pure function of a whole number whose next value a thread computes meanwhile.

    Reading and drawing then hide behind the work of a GPU.
    """

    def __init__(self, function: Callable[[int], T]) -> None:
        self.function = function
        self._pool = ThreadPoolExecutor(1)
        self._begun: tuple[int, Future[T]] | None = None

    def __call__(self, n: int) -> T:
        """The value at ``n``; that at ``n + 1`` is begun."""
        begun, self._begun = self._begun, None
        value = begun[1].result() if begun and begun[0] == n else self.function(n)
        self._begun = (n + 1, self._pool.submit(self.function, n + 1))
        return value
