"""One run from its last checkpoint to its end: saving, logging, stopping when asked to."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from meanflow_lite.training.checkpoint import load_checkpoint, save_checkpoint
from meanflow_lite.training.loop import Record, Trainer


class Stopped(SystemExit):
    """The run was asked to stop (SIGTERM, as a cluster sends it) and has saved its state."""


def fit(
    trainer: Trainer,
    folder: Path | str,
    run: Mapping[str, object],
    save_every: int,
    keep: int = 3,
    on_step: Callable[[Record], None] = lambda record: None,
) -> None:
    """Train to the end; checkpoints go to ``folder`` every ``save_every`` steps and at the end.

    A checkpoint that is already there has to be loaded before. A change of stage is saved at
    once: its teacher exists nowhere else.

    Raises:
        Stopped: after SIGTERM, with exit code 0, once a checkpoint is written.
        CheckpointError: if a checkpoint cannot be written.
    """
    stage = trainer.stage
    with _on_sigterm() as asked:
        for record in trainer.run():
            on_step(record)
            stop = _any(trainer, asked())
            ended = trainer.step == trainer.config.steps
            if stop or ended or trainer.stage != stage or trainer.step % save_every == 0:
                save_checkpoint(trainer, folder, run, keep)
                stage = trainer.stage
            if stop and not ended:
                raise Stopped(0)


def start(trainer: Trainer, folder: Path | str, run: Mapping[str, object]) -> Path | None:
    """Load the newest sound checkpoint in ``folder``, if any: ``--resume auto``."""
    path = load_checkpoint(trainer, folder, run)
    if trainer.world > 1:
        steps = torch.tensor([trainer.step, -trainer.step], device=trainer.device)
        dist.all_reduce(steps, dist.ReduceOp.MAX)
        if steps[0] != -steps[1]:
            raise RuntimeError(
                f"the processes see different checkpoints in {folder} (steps {-int(steps[1])} to "
                f"{int(steps[0])}): --out must be on a file system that all of them share"
            )
    return path


def _any(trainer: Trainer, flag: bool) -> bool:
    """Whether any process was asked to stop: all of them then stop at the same step."""
    if trainer.world == 1:
        return flag
    votes = torch.tensor(float(flag), device=trainer.device)
    dist.all_reduce(votes)
    return bool(votes > 0)


@contextmanager
def _on_sigterm() -> Iterator[Callable[[], bool]]:
    received = []
    before = signal.signal(signal.SIGTERM, lambda *_: received.append(True))
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, before)
