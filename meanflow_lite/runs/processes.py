"""One process or many: what ``torchrun`` sets up, and where to compute."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@contextmanager
def joined(
    device: str = "auto", patience: timedelta = timedelta(minutes=10)
) -> Iterator[torch.device]:
    """Join the processes of ``torchrun``, if it started this one; yields the device to use.

    ``auto`` is this process's GPU where there is one; each process takes its own. ``patience`` is
    how long one waits for the others before it gives up. After an error nobody is waited for:
    the processes that sit in a reduction would never come, so the group is left to the end of the
    process (see :func:`leave`). Raises ``ValueError`` for another device, or for ``srun`` without
    ranks.
    """
    refuse_strangers()
    chosen = _chosen(device)
    many = "RANK" in os.environ and not dist.is_initialized()
    if many:
        if chosen.type == "cuda":
            dist.init_process_group("nccl", timeout=patience, device_id=chosen)
        else:
            dist.init_process_group("gloo", timeout=patience)
    try:
        yield chosen
    except SystemExit:  # agreed on by all of them
        if many:
            dist.destroy_process_group()
        raise
    if many:
        dist.destroy_process_group()


def _chosen(device: str) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"--device is auto, cpu, cuda or, say, cuda:1: got {device!r}")
    chosen = torch.device(device)
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("--device cuda: no GPU is visible; run `meanflow-lite doctor`")
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", chosen.index or 0)))
        torch.cuda.set_device(chosen)
    return chosen


def refuse_strangers() -> None:
    """Raise ``ValueError`` where ``srun`` starts several processes that do not know of each other.

    Each would be a run of its own, in the same folder.
    """
    tasks = os.environ.get("SLURM_NTASKS", "1")
    if "RANK" not in os.environ and tasks.isdigit() and int(tasks) > 1:
        raise ValueError(
            f"Slurm has {tasks} tasks here, but no RANK says which one this is: start torchrun "
            "once a node (srun --ntasks-per-node 1 torchrun ...), or one task with SLURM_NTASKS=1"
        )


def leave(code: int) -> NoReturn:
    """End this process; without cleaning up if it is one of several, as that would wait for all.

    ``torchrun`` then ends the others within seconds.
    """
    if dist.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)


def told(value: T) -> T:
    """What the first process says, in all of them."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def set_tf32(device: torch.device, wanted: bool) -> None:
    """Whether a GPU multiplies float32 matrices in TF32; a CPU is left as it is."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if wanted else "highest")


def place() -> tuple[int, int]:
    """Rank and number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def gather(value: T) -> list[T]:
    """The values of all processes in the first one, in their order; an empty list in the others."""
    if not dist.is_initialized():
        return [value]
    found: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found if dist.get_rank() == 0 else []


def wait() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()
