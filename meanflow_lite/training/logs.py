"""What a run writes for people: a progress bar, lines of JSON, TensorBoard."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from meanflow_lite.files import append, naming, read_bytes, write_bytes
from meanflow_lite.training.loop import Record, Trainer


class Logger:
    """Logs a mean over every ``every`` steps; only the first process writes.

    Each line has the step, the loss, the watched errors (``velocity_error`` is that of the rows
    with r = t, unweighted), the gradient's norm, images a second, memory in GiB, and ``mfu``: the
    share of ``peak`` (FLOPs a second, all devices) that ``flops`` of training one image take.
    """

    def __init__(
        self, trainer: Trainer, folder: Path | str, every: int, flops: float, peak: float | None
    ) -> None:
        self.trainer, self.every, self.flops, self.peak = trainer, every, flops, peak
        self.path = Path(folder) / "log.jsonl"
        self.quiet = trainer.rank > 0
        self.records: list[Record] = []
        if not self.quiet:
            self._drop_lines_after(trainer.step)
        self.bar = tqdm(
            total=trainer.config.steps,
            initial=trainer.step,
            unit="step",
            disable=self.quiet,
            mininterval=1.0,
            file=sys.stderr,
        )
        self.board = None if self.quiet else _tensorboard(self.path.parent, trainer.step)
        self.clock = time.perf_counter()

    def __call__(self, record: Record) -> None:
        """Take note of one step."""
        self.records.append(record)
        self.bar.update()
        if record.step % self.every and record.step != self.trainer.config.steps:
            return
        line = self._line()
        self.records, self.clock = [], time.perf_counter()
        if self.quiet:
            return
        append(self.path, json.dumps(line))
        with naming(self.path.parent / "tensorboard"):
            for name, value in line.items() if self.board else ():
                self.board.add_scalar(name, value, record.step)  # pyright: ignore
        shown = {"velocity_error", "error", "grad_norm", "images_per_second"} & line.keys()
        self.bar.set_postfix({name: f"{line[name]:.3g}" for name in sorted(shown)})

    def _line(self) -> dict[str, float | int]:
        last = self.records[-1]
        sound = [r for r in self.records if math.isfinite(r.loss) and math.isfinite(r.grad_norm)]
        skipped, records = len(self.records) - len(sound), sound or self.records
        names = [name for name in last.watch if all(name in r.watch for r in records)]
        rate = self.trainer.config.batch * len(self.records) / (time.perf_counter() - self.clock)
        line: dict[str, float | int] = {
            "step": last.step,
            "loss": sum(r.loss for r in records) / len(records),
            **{name: sum(r.watch[name] for r in records) / len(records) for name in names},
            "grad_norm": sum(r.grad_norm for r in records) / len(records),
            "lr": last.lr,
            "images_per_second": rate,
            "memory_gib": memory(self.trainer.device),
        }
        if skipped:
            line["skipped"] = skipped
        if self.peak:
            line["mfu"] = self.flops * rate / self.peak
        return line

    def _drop_lines_after(self, step: int) -> None:
        """A run that goes on from a checkpoint writes the steps since then again."""
        if not self.path.exists():
            return
        lines = read_bytes(self.path).decode("utf-8", "replace").splitlines()
        steps = [_step_of(line) for line in lines]
        kept = [line for line, at in zip(lines, steps, strict=True) if at and at <= step]
        if steps.count(None):
            self.say(f"{self.path}: {steps.count(None)} damaged lines are left out")
        write_bytes(self.path, "".join(line + "\n" for line in kept).encode())

    def say(self, text: str) -> None:
        """One line on its own, from the first process."""
        if not self.quiet:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """End the bar and write what is buffered."""
        self.bar.close()
        if self.board:
            with naming(self.path.parent / "tensorboard"):
                self.board.close()


def _step_of(line: str) -> int | None:
    """The step of a line of the log; None for a line that a crash has cut or mixed."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return step if isinstance(step, int) else None


def memory(device: torch.device) -> float:
    """Peak memory of the device, or of the process on a CPU, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform == "win32":
        return 0.0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _tensorboard(folder: Path, step: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step)
