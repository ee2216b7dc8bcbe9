"""Checkpoints beside training: a copy in memory, then a thread that writes it.

The training loop waits for the copy alone. Its memory is taken once, by the thread, during the
first step: a page that is touched for the first time takes longer than the copy.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from meanflow_lite.training.checkpoint import State, Tensors, state_of, write_state
from meanflow_lite.training.loop import Trainer


@dataclass(frozen=True)
class Saving:
    """When the state is saved, and how much of it is kept.

    ``minutes`` between two checkpoints; ``every`` so many steps besides, if it is given.
    Of those the first one in each of ``milestones`` equal parts of the run is kept for ever (the
    very first part aside), and of the others the last ``keep``.
    """

    minutes: float = 15.0
    every: int | None = None
    milestones: int = 10
    keep: int = 3

    def __post_init__(self) -> None:
        if not self.minutes > 0:
            raise ValueError(f"minutes between checkpoints must be positive: got {self.minutes}")
        if self.every is not None and self.every < 1:
            raise ValueError(f"steps between checkpoints must be at least 1: got {self.every}")
        if self.milestones < 0 or self.keep < 1:
            raise ValueError(
                "at least one checkpoint is kept, and milestones are not negative: got "
                f"{self.keep} and {self.milestones}"
            )

    def is_milestone(self, before: int, step: int, steps: int) -> bool:
        """Whether a state saved at ``step`` is the first of its part of the run.

        ``before`` is the step that was saved last. No state is saved for the sake of it.
        """
        part = self.milestones / steps
        return int(before * part + 1e-9) < int(step * part + 1e-9)


class Saver:
    """Writes checkpoints of a trainer to a folder; only the first process does.

    ``waited`` is how long training has stood still for it, in seconds.
    """

    def __init__(
        self, trainer: Trainer, folder: Path | str, run: Mapping[str, object], saving: Saving
    ) -> None:
        self.trainer, self.folder, self.run = trainer, Path(folder), run
        self.saving, self.waited = saving, 0.0
        self._pool = ThreadPoolExecutor(1)
        self._job: Future[None] | None = None
        self._copy: dict[str, Tensors] = {}
        self._last, self._clock = trainer.step, time.monotonic()

    def after_step(self) -> None:
        """Save if it is time to; a write that has failed is reported here.

        Raises:
            NotWritten, Diverged: as :func:`~meanflow_lite.training.checkpoint.save_checkpoint`.
        """
        if self.trainer.rank > 0:
            return
        if self._job is not None and self._job.done():
            self.finish()
        if not self._copy and self._job is None:
            self._job = self._pool.submit(self._take_memory, state_of(self.trainer))
        step, every = self.trainer.step, self.saving.every
        late = self._job is None and time.monotonic() - self._clock > 60 * self.saving.minutes
        if late or (every and step % every == 0):
            self.save()

    def save(self) -> None:
        """Copy the state now; it is written meanwhile. An earlier write is waited for."""
        if self.trainer.rank > 0 or self._last == self.trainer.step:
            return
        began = time.monotonic()
        self.finish()
        state = self._copied(state_of(self.trainer, self.run))
        self.waited += time.monotonic() - began
        steps = self.trainer.config.steps
        milestone = self.saving.is_milestone(self._last, state.step, steps)
        self._last, self._clock = self.trainer.step, time.monotonic()
        self._job = self._pool.submit(write_state, state, self.folder, self.saving.keep, milestone)

    def finish(self) -> None:
        """Wait until everything is on the disk, or raise why it is not."""
        job, self._job = self._job, None
        if job is not None:
            job.result()

    def close(self) -> None:
        """Wait for the thread and end it, without an error of its own."""
        self._pool.shutdown()

    def _take_memory(self, state: State) -> None:
        """Room for a copy, touched once. ``state`` is only asked for sizes."""
        self._copy = {
            part: {name: _room(value) for name, value in tensors.items()}
            for part, tensors in state.parts.items()
        }

    def _copied(self, state: State) -> State:
        if not _same_sizes(self._copy, state.parts):  # another stage, or the first step
            self._take_memory(state)
        for part, tensors in state.parts.items():
            for name, value in tensors.items():
                self._copy[part][name].copy_(value.detach(), non_blocking=True)
        if self.trainer.device.type == "cuda":
            torch.cuda.synchronize(self.trainer.device)
        return State(state.manifest, self._copy)


def _room(value: Tensor) -> Tensor:
    """Memory on the CPU for a copy, of which every page was touched."""
    pinned = value.device.type == "cuda"
    return torch.zeros(value.shape, dtype=value.dtype, pin_memory=pinned).fill_(0)


def _same_sizes(a: dict[str, Tensors], b: dict[str, Tensors]) -> bool:
    return _sizes(a) == _sizes(b)


def _sizes(parts: dict[str, Tensors]) -> dict[str, dict[str, tuple]]:
    return {p: {n: (v.shape, v.dtype) for n, v in t.items()} for p, t in parts.items()}
