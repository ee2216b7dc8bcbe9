"""Samples a second that the latent cache delivers, cold and warm, beside what training needs.

    python benchmarks/reader.py --images 4096

Needed: eight H100s training B/2 at the share of the peak that `meanflow-lite cost` assumes; each of
the eight processes reads its own eighth. Cold: after the pages of the shards were dropped from the
cache of the operating system (`posix_fadvise`), by the clock on the wall, the best of three: disks
and what else the machine does (`load`) show in it. Warm: a second of processor time, so that it is
that of a free core. One thread of one process is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from harness import RESULTS, environment, write

from meanflow_lite.data.encoding import CacheSettings, encode, finish
from meanflow_lite.data.images import ImageFolder, Picture
from meanflow_lite.data.latents import LatentCache
from meanflow_lite.data.vae import Vae
from meanflow_lite.networks.presets import PRESETS as NETWORKS
from meanflow_lite.runs.cost import PEAKS, forward_macs, passes
from meanflow_lite.runs.settings import PRESETS

BATCH, PROCESSES, MFU = 256, 8, 0.35


class Random(Vae):
    """Latents with the shapes of ImageNet 256, of no images."""

    def __init__(self) -> None:
        self.name = self.fingerprint = "random"

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """A mean and a deviation for each image."""
        return torch.rand(len(images), 8, 32, 32)


class Black(ImageFolder):
    """Images that need no file."""

    def picture(self, row: int, size: int, exif: bool = True) -> Picture:
        """A black one."""
        return Picture(torch.zeros(3, size, size, dtype=torch.uint8), False, False)


def write_cache(folder: Path, images: int, shard: int = 1024) -> None:
    """A cache of random latents, as `meanflow-lite encode` writes it."""
    paths = tuple(folder / "a" / f"{i:08d}.png" for i in range(images // shard * shard))
    encode(
        Black(folder, ("a",), paths, (0,) * len(paths)),
        Random(),
        folder,
        CacheSettings(256, shard=shard),
        batch=shard,
    )
    finish(folder)


def drop(folder: Path) -> None:
    """Forget the pages of the shards."""
    for path in folder.glob("*.npy"):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def rate(read: Callable[[int], object], rows: int, steps: int, clock: Callable[[], float]) -> float:
    began = clock()
    for step in range(steps):
        read(step)
    return rows * steps / (clock() - began)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Throughput of the latent cache.")
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--out", type=Path, default=RESULTS / "reader.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = PRESETS["b2"]
    work = 2 * forward_macs(NETWORKS[settings.network]) * passes(settings).step
    needed = PROCESSES * PEAKS["H100"] * MFU / work
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cache(folder, args.images)
        cache = LatentCache(folder)
        steps = args.images // BATCH
        own = BATCH // PROCESSES

        def whole(step: int) -> object:
            return cache(step, BATCH, 0)

        def part(step: int) -> object:
            return cache(step, BATCH, 0, 3, PROCESSES)

        cold = 0.0
        for _ in range(3):
            drop(folder)
            cold = max(cold, rate(whole, BATCH, steps, time.perf_counter))
        warm = rate(whole, BATCH, 3 * steps, time.process_time)
        share = rate(part, own, 3 * steps, time.process_time)
    result = {
        "environment": environment(),
        "load": os.getloadavg()[0],
        "images": args.images,
        "batch": BATCH,
        "cold_samples_per_second": cold,
        "warm_samples_per_second": warm,
        "one_of_eight_processes_samples_per_second": share,
        "needed_by_eight_h100_samples_per_second": needed,
        "needed_by_each_process": needed / PROCESSES,
        "keeps_up": share > needed / PROCESSES,
    }
    write(args.out, result)
    print(json.dumps(result))
