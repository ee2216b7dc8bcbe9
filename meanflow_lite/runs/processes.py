"""One process or many: what ``torchrun`` sets up, and where to compute."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@contextmanager
def joined(
    device: str = "auto", patience: timedelta = timedelta(minutes=10)
) -> Iterator[torch.device]:
    """Join the processes of ``torchrun``, if it started this one; yields the device to use.

    ``auto`` is this process's GPU where there is one; each process takes its own. ``patience`` is
    how long one waits for the others before it gives up. Raises ``ValueError`` for another device.
    """
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
    many = "RANK" in os.environ and not dist.is_initialized()
    if many:
        if chosen.type == "cuda":
            dist.init_process_group("nccl", timeout=patience, device_id=chosen)
        else:
            dist.init_process_group("gloo", timeout=patience)
    try:
        yield chosen
    finally:
        if many:
            dist.destroy_process_group()


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


def share(value: T) -> T:
    """The first process's value, in all."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def wait() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()
