"""One run from its last checkpoint to its end: saving, logging, stopping when asked to."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from meanflow_lite.training.checkpoint import load_checkpoint, read_checkpoint, restore
from meanflow_lite.training.loop import Record, Trainer
from meanflow_lite.training.saver import Saver, Saving

#: Seconds after which a second Ctrl-C is one: torchrun repeats the one that a terminal sends.
PATIENCE = 2.0
#: What asks a run to save and to stop, where the system has it: clusters send TERM, USR1 or XCPU,
#: a terminal that closes HUP, a person INT.
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP", "SIGXCPU")
    if hasattr(signal, name)
]


class Stopped(SystemExit):
    """The run was asked to stop (a signal from a cluster, or Ctrl-C) and has saved its state."""


def fit(
    trainer: Trainer,
    folder: Path | str,
    run: Mapping[str, object],
    saving: Saving | None = None,
    on_step: Callable[[Record], None] = lambda record: None,
) -> Saver:
    """Train to the end; checkpoints go to ``folder`` as ``saving`` says, and at the end.

    A checkpoint that is already there has to be loaded before. A change of stage is saved at
    once: its teacher exists nowhere else. Writing goes on beside training, which waits for a copy
    in memory alone; ``waited`` of the result says how long.

    Raises:
        Stopped: after a signal, with exit code 0, or Ctrl-C, with 130, once a checkpoint is
            written. A second Ctrl-C interrupts at once.
        NotWritten: if a checkpoint cannot be written.
        Diverged: from training, or if the state to be saved is not finite.
    """
    stage = trainer.stage
    saver = Saver(trainer, folder, run, saving or Saving())
    try:
        with _on_signals() as asked:
            for record in trainer.run():
                on_step(record)
                stop = _agreed(trainer, asked())
                ended = trainer.step == trainer.config.steps
                saver.after_step()
                if stop or ended or trainer.stage != stage:
                    saver.save()
                    stage = trainer.stage
                if stop and not ended:
                    saver.finish()
                    raise Stopped(128 + stop if stop == signal.SIGINT else 0)
            saver.finish()
    finally:
        saver.close()
    return saver


def start(trainer: Trainer, folder: Path | str, run: Mapping[str, object]) -> Path | None:
    """Load the newest sound checkpoint in ``folder``, if any: ``--resume auto``.

    The first of several processes decides which; the others read that one.
    """
    if trainer.world == 1:
        return load_checkpoint(trainer, folder, run)
    path = load_checkpoint(trainer, folder, run) if trainer.rank == 0 else None
    told = [path]
    dist.broadcast_object_list(told, device=trainer.device)
    if trainer.rank > 0 and told[0] is not None:
        restore(trainer, _seen(told[0]), run, told[0])
    return told[0]


def _seen(path: Path, patience: float = 30.0):
    """A checkpoint that the first process has read; a network mount may show it late."""
    end = time.monotonic() + patience
    while not path.exists():
        if time.monotonic() > end:
            raise RuntimeError(
                f"{path} is not seen by this process: --out must be on a file system that all of "
                "the processes share"
            )
        time.sleep(0.1)
    return read_checkpoint(path)


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

    before = {s: signal.signal(s, note) for s in SIGNALS}
    try:
        yield lambda: max(received, default=0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
