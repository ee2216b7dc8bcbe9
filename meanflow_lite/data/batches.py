"""Batches as pure functions of (seed, step): resuming needs no saved state.

A batch of ``size`` rows belongs to the whole run; part ``k`` of ``n`` gets rows ``k, k + n, ...``,
the same rows that :class:`~meanflow_lite.objectives.base.Context` draws noise for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader

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
    packing two numbers into one would make different seeds collide. Two of 100,000 generators may
    share a state, which an order of rows does not notice; noise comes from
    :class:`~meanflow_lite.randomness.Random`.

    Raises:
        ValueError: for a key that is negative or has more than 64 bits.
    """
    _check_keys(keys)
    state = np.random.SeedSequence(keys).generate_state(1)[0]
    return torch.Generator().manual_seed(int(state))


def _check_keys(keys: tuple[int, ...]) -> None:
    if not all(0 <= key < 2**64 for key in keys):
        raise ValueError(f"a seed is a whole number from 0 to 2^64 - 1: got {keys}")


@dataclass(frozen=True)
class FromDistribution:
    """Fresh samples of a distribution in every step."""

    distribution: Distribution

    def __call__(self, step: int, size: int, seed: int, part: int = 0, parts: int = 1) -> Batch:
        """Draw the whole batch and take the rows of this part."""
        x, y = checked(*self.distribution.sample(size, seeded(seed, step, 1)))
        return x[part::parts], None if y is None else y[part::parts]


@dataclass(frozen=True)
class FromTensors:
    """Rows of a data set in memory, reshuffled every epoch.

    Shapes: ``x`` ``[N, *data]`` of floating-point numbers, ``y`` ``[N]`` of whole numbers from 0
    on, or None. Half precision may be stored: batches are float32 then.

    Raises:
        ValueError: for other types (rounded times and noise would train on nothing), values that
            are not finite, or labels that are not one for each row.
    """

    x: Tensor
    y: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.x.is_floating_point():
            raise ValueError(
                f"the data is {self.x.dtype}: floating-point numbers are needed, as noise is added "
                "to it; x.float() makes them, images in bytes also belong into [-1, 1]"
            )
        if not torch.isfinite(self.x).all():
            raise ValueError("the data holds NaN or infinite values: clean it before training")
        if self.y is None:
            return
        if self.y.dtype not in LABELS or self.y.shape != self.x.shape[:1]:
            raise ValueError(
                f"labels are whole numbers [{len(self.x)}], one for each row of data: got "
                f"{self.y.dtype} {list(self.y.shape)}"
            )
        if len(self.y) and self.y.min() < 0:
            raise ValueError(f"labels are 0, 1, ...: got {int(self.y.min())}")

    def __call__(self, step: int, size: int, seed: int, part: int = 0, parts: int = 1) -> Batch:
        """Take rows of the shuffled epochs."""
        rows = epoch_rows(len(self.x), step, size, seed)[part::parts]
        return checked(self.x[rows], None if self.y is None else self.y[rows])


#: Types of labels; all are int64 in a batch, as an embedding needs it.
LABELS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def checked(x: Tensor, y: Tensor | None) -> Batch:
    """A batch in float32 or float64 with labels in int64.

    Times and noise have the type of the data: in half precision some times would round to 1, and
    in whole numbers all to 0.
    """
    if not x.is_floating_point():
        raise ValueError(f"data has floating-point numbers: got {x.dtype}")
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    return wide, None if y is None else y.long()


def epoch_rows(n: int, step: int, size: int, seed: int) -> Int[Tensor, " size"]:
    """Positions ``[step * size, (step + 1) * size)`` in an endless run of shuffled epochs."""
    if size < 1:
        raise ValueError(f"a batch has at least one row: got {size}")
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


class FromLoader:
    """The batches of a ``DataLoader``, epoch after epoch, as they come.

    Its batches are ``x`` or ``(x, y)`` of the size that the training asks for; a shorter last one
    of an epoch is left out. The loader shuffles and draws by its own rules, so a run that is
    resumed sees other batches than an uninterrupted one, and one process has all of the parts.

    Raises:
        ValueError: if its batches have another size, its epoch holds no whole batch, or another
            process or part asks for rows.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        self._batches: Iterator[Any] = iter(())

    def __call__(self, step: int, size: int, seed: int, part: int = 0, parts: int = 1) -> Batch:
        """The next batch."""
        if parts != 1:
            raise ValueError(
                "a DataLoader gives whole batches to one process: use FromTensors, or an iterable "
                "Batches of your own, with several processes or accumulate"
            )
        if self.loader.batch_size not in (None, size):
            raise ValueError(
                f"the DataLoader has batches of {self.loader.batch_size}, the training of {size}: "
                "give both the same number"
            )
        for _ in range(2):
            for batch in self._batches:
                x, y = batch if isinstance(batch, tuple | list) else (batch, None)
                if len(x) == size:
                    return checked(x, y)
            self._batches = iter(self.loader)
        raise ValueError(f"an epoch of the DataLoader holds no batch of {size} rows")
