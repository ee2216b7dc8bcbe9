"""One run from its last checkpoint to its end: saving, logging, stopping when asked to."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from meanflow_lite.training.checkpoint import load_checkpoint, save_checkpoint
from meanflow_lite.training.loop import Record, Trainer

#: Seconds after which a second Ctrl-C is one: torchrun repeats the one that a terminal sends.
PATIENCE = 2.0


class Stopped(SystemExit):
    """The run was asked to stop (SIGTERM from a cluster, or Ctrl-C) and has saved its state."""


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
        Stopped: after SIGTERM, with exit code 0, or Ctrl-C, with 130, once a checkpoint is
            written. A second Ctrl-C interrupts at once.
        CheckpointError: if a checkpoint cannot be written.
    """
    stage = trainer.stage
    with _on_signals() as asked:
        for record in trainer.run():
            on_step(record)
            stop = _agreed(trainer, asked())
            ended = trainer.step == trainer.config.steps
            if stop or ended or trainer.stage != stage or trainer.step % save_every == 0:
                save_checkpoint(trainer, folder, run, keep)
                stage = trainer.stage
            if stop and not ended:
                raise Stopped(0 if stop == signal.SIGTERM else 128 + stop)


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


def _agreed(trainer: Trainer, asked: int) -> int:
    """The signal by which any process was asked to stop, 0 for none: all stop at one step."""
    if trainer.world == 1:
        return asked
    votes = torch.tensor(asked, device=trainer.device)
    dist.all_reduce(votes, dist.ReduceOp.MAX)
    return int(votes)


@contextmanager
def _on_signals() -> Iterator[Callable[[], int]]:
    received: dict[int, float] = {}

    def note(number: int, _: object) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and now - received.get(number, now) > PATIENCE:
            raise KeyboardInterrupt
        received.setdefault(number, now)

    before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: max(received, default=0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
