r"""Random numbers that are a function of where they are used, and of nothing else.

A number depends on (seed, step, stream, row, column): there is no generator whose state has to
be saved, and no row depends on who else draws. One process, sixty-four processes and any number
of micro-batches then train on the same numbers to the last bit, and each draws its own rows only.

They come from the counter-based generator Philox 4x64-10 (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3") in NumPy's implementation. The key is (seed, step); the counter
counts the blocks of the batch row by row, and its upper half is the stream, so that noise, times
and label dropout are apart. Normal draws are the inverse of their distribution function at
uniform ones, by SciPy, number by number: vectorized functions may round differently at the end of
an array, and parts would no longer agree with the whole batch.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import ndtri
from torch import Tensor

#: 32-bit words of one block: what one value of the counter gives
WORDS = 8
#: Blocks between two wanted rows from which on it is cheaper to jump than to draw and drop them.
FAR = 128


@dataclass(frozen=True)
class Random:
    """The random numbers of one step of a run.

    ``stream`` is a name: two draws of one step that shall be independent have different ones.
    ``rows`` are positions in the whole batch, such as ``range(part, n, parts)``. All numbers are
    float32, on the CPU.

    Raises:
        ValueError: if seed or step is negative or has more than 64 bits.
    """

    seed: int
    step: int = 0

    def __post_init__(self) -> None:
        for name, key in (("seed", self.seed), ("step", self.step)):
            if not 0 <= key < 2**64:
                raise ValueError(f"{name} must be a whole number in [0, 2**64): got {key}")

    def uniform(self, stream: str, rows: range, *shape: int) -> Float[Tensor, " n *d"]:
        """Uniform on the multiples of 2**-24 in [0, 1), ``[len(rows), *shape]``."""
        draws = _uniform(self._words(stream, rows, prod(shape)))
        return torch.from_numpy(draws).reshape(len(rows), *shape)

    def normal(self, stream: str, rows: range, *shape: int) -> Float[Tensor, " n *d"]:
        """Standard normal, ``[len(rows), *shape]``; none is larger than 6.4 in size."""
        draws = _normal(self._words(stream, rows, prod(shape)))
        return torch.from_numpy(draws).reshape(len(rows), *shape)

    def pair(self, stream: str, rows: range) -> tuple[Tensor, Tensor]:
        """A standard normal and a uniform draw of each row, both ``[len(rows)]``."""
        first, second = self._words(stream, rows, 2).T
        return torch.from_numpy(_normal(first)), torch.from_numpy(_uniform(second))

    def _words(self, stream: str, rows: range, size: int) -> np.ndarray:
        """The first ``size`` 32-bit words of each of ``rows``, ``[len(rows), size]``."""
        blocks = -(-size // WORDS)
        counter = rows.start * blocks + (zlib.crc32(stream.encode()) << 128)
        philox = np.random.Philox(counter=counter, key=self.seed + (self.step << 64))
        gap = (rows.step - 1) * blocks
        if gap <= FAR:
            drawn = philox.random_raw(len(rows) * rows.step * blocks * WORDS // 2)
            drawn = drawn.reshape(len(rows), -1)[:, : blocks * WORDS // 2]
        else:
            drawn = np.empty((len(rows), blocks * WORDS // 2), np.uint64)
            for row in drawn:
                row[:] = philox.random_raw(len(row))
                philox.advance(gap)
        return np.ascontiguousarray(drawn, "<u8").view("<u4")[:, :size]


def _uniform(words: np.ndarray) -> np.ndarray:
    return (words >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def _normal(words: np.ndarray) -> np.ndarray:
    return ndtri((words + 0.5) * 2.0**-32).astype(np.float32)
