"""``meanflow-lite encode`` and ``verify``: from a folder of images to a latent cache."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from meanflow_lite.data.images import ImageFolder
from meanflow_lite.data.latents import (
    CacheSettings,
    Vae,
    damaged,
    encode,
    finish,
    read_manifest,
    remove_shards,
    shard_rows,
)
from meanflow_lite.runs.processes import joined, place, wait


@dataclass(frozen=True)
class Encode:
    """Encode images by a VAE, once, so that training reads latents. Runs under torchrun too.

    IMAGES holds one subfolder a class. Interrupted, the same command goes on where it stopped.
    The preset `digits` needs no encoding.

    Attributes:
        images: folder of the images, IMAGES/CLASS/NAME.jpg.
        out: folder of the cache.
        vae: id at the Hugging Face hub, or a local folder of a diffusers AutoencoderKL.
        size: side of the center crop in pixels.
        flip: store a mirrored view of each image as well.
        shard: images a shard.
        skip_bad: leave damaged images out and list them, instead of stopping.
        num_classes: number of classes that the folder must have; None: any.
        batch: images that the VAE takes at once.
        device: `cpu`, `cuda`, or `auto`: a GPU where there is one.
    """

    images: Annotated[Path, tyro.conf.Positional]
    out: Path = Path("latents")
    vae: str = "stabilityai/sd-vae-ft-mse"
    size: int = 256
    flip: bool = False
    shard: int = 1024
    skip_bad: bool = False
    num_classes: int | None = None
    batch: int = 32
    device: str = "auto"

    def run(self) -> None:
        """Write the shards of this process, and complete the cache when all have."""
        folder = ImageFolder.open(self.images, self.num_classes)
        settings = CacheSettings(self.size, self.flip, self.shard, self.skip_bad)
        write(folder, self.out, self.vae, settings, self.batch, self.device)


@dataclass(frozen=True)
class Verify:
    """Find the damaged shards of a latent cache, and encode just those again.

    Attributes:
        cache: folder of the cache.
        repair: encode damaged shards again, from the images where they were.
        images: where the images are now, if they have moved.
        batch: images that the VAE takes at once.
        device: `cpu`, `cuda`, or `auto`: a GPU where there is one.
    """

    cache: Annotated[Path, tyro.conf.Positional]
    repair: bool = True
    images: Path | None = None
    batch: int = 32
    device: str = "auto"

    def run(self) -> None:
        """Compare all checksums; exits with 1 if there is damage that was not repaired."""
        manifest = read_manifest(self.cache)
        bad = damaged(self.cache)
        print(f"{manifest['shards'] - len(bad)} of {manifest['shards']} shards are sound")
        if not bad:
            return
        print(f"damaged: {', '.join(f'shard-{i:05d}' for i in bad)}")
        if not self.repair:
            raise SystemExit(1)
        remove_shards(self.cache, bad)
        folder = ImageFolder.open(self.images or manifest["root"], len(manifest["classes"]))
        settings = CacheSettings(**manifest["settings"])
        write(folder, self.cache, manifest["vae"], settings, self.batch, self.device)


def write(
    folder: ImageFolder, out: Path, vae: str, settings: CacheSettings, batch: int, device: str
) -> None:
    """Encode what is missing, with a bar, and say what was left out."""
    # after an interruption the missing shards may all be one process's: the others wait for it
    with joined(device, patience=timedelta(days=2)) as chosen:
        part, parts = place()
        if part == 0:
            out.mkdir(parents=True, exist_ok=True)
        wait()
        total = sum(len(rows) for rows in shard_rows(len(folder), settings.shard)[part::parts])
        with tqdm(total=total, unit="image", disable=part > 0, file=sys.stderr) as bar:
            left_out = encode(
                folder, Vae(vae, chosen), out, settings, batch, part, parts, bar.update
            )
        for line in left_out:
            print(f"left out: {line}", file=sys.stderr)
        wait()
        if part == 0:
            manifest = finish(out)
            print(
                f"{manifest['count']} latents of {len(manifest['classes'])} classes in {out}, "
                f"{manifest['left_out']} images left out",
                file=sys.stderr,
            )
