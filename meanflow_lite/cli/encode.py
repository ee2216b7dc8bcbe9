"""``meanflow-lite encode`` and ``verify``: from a folder of images to a latent cache."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import tyro
from tqdm import tqdm

from meanflow_lite.data.encoding import CacheSettings, Work, begin, finish, left_out
from meanflow_lite.data.images import ImageFolder, scan
from meanflow_lite.data.latents import damaged, read_manifest
from meanflow_lite.data.vae import Vae
from meanflow_lite.files import locked
from meanflow_lite.runs.processes import gather, joined, place, wait


@dataclass(frozen=True)
class Encode:
    """Encode images by a VAE, once, so that training reads latents. Runs under torchrun too.

    IMAGES holds one subfolder a class. Interrupted, the same command goes on where it stopped.
    All images are looked at before the VAE begins, and those that cannot be used are listed. The
    preset `digits` needs no encoding.

    Attributes:
        images: folder of the images, IMAGES/CLASS/NAME.jpg.
        out: folder of the cache.
        vae: id at the Hugging Face hub, or a local folder of a diffusers autoencoder.
        size: side of the center crop in pixels.
        flip: store a mirrored view of each image as well.
        exif: turn photographs as their cameras say; False: as published ImageNet preparations do.
        shard: images a shard.
        skip_bad: leave images out that cannot be used, and list them, instead of stopping.
        labeled: False: all images below IMAGES are of one class, whatever folder they are in.
        num_classes: number of classes that the folder must have; None: any.
        update: the list of images has changed on purpose: encode the shards that it changes.
        batch: images that the VAE takes at once.
        device: `cpu`, `cuda`, or `auto`: a GPU where there is one.
    """

    images: Annotated[Path, tyro.conf.Positional]
    out: Path = Path("latents")
    vae: str = "stabilityai/sd-vae-ft-mse"
    size: int = 256
    flip: bool = False
    exif: bool = True
    shard: int = 1024
    skip_bad: bool = False
    labeled: bool = True
    num_classes: int | None = None
    update: bool = False
    batch: int = 32
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"--batch must be at least 1: got {self.batch}")

    def run(self) -> None:
        """Write the shards of this process, and complete the cache when all have."""
        settings = CacheSettings(self.size, self.flip, self.shard, self.skip_bad, self.exif)
        folder = ImageFolder.open(self.images, self.num_classes, self.labeled)
        with joined(self.device, patience=timedelta(days=2)) as device:
            if place()[0] == 0:
                _describe(folder)

            def plan() -> Work:
                return begin(folder, Vae(self.vae, device), self.out, settings, self.update)

            _write(self.out, plan, self.batch)


@dataclass(frozen=True)
class Verify:
    """Find the damaged shards of a latent cache, or encode just those again.

    Nothing is removed: a shard is replaced when the new one is whole.

    Attributes:
        cache: folder of the cache.
        repair: encode the damaged shards again, from the images where they were; False: only look.
        images: where the images are now, if they have moved.
        vae: where the VAE is now, if it has moved; it must be the same.
        batch: images that the VAE takes at once.
        device: `cpu`, `cuda`, or `auto`: a GPU where there is one.
    """

    cache: Annotated[Path, tyro.conf.Positional]
    repair: bool = False
    images: Path | None = None
    vae: str | None = None
    batch: int = 32
    device: str = "auto"

    def run(self) -> None:
        """Compare all checksums; exits with 1 if there is damage that was not repaired."""
        manifest = read_manifest(self.cache)
        bad = damaged(self.cache)
        print(f"{manifest['shards'] - len(bad)} of {manifest['shards']} shards are sound")
        if not bad:
            return
        for index, what in bad.items():
            print(f"damaged: shard-{index:05d} ({what})")
        if not self.repair:
            print("nothing was changed; --repair True encodes the damaged shards again")
            raise SystemExit(1)
        classes = manifest["classes"]
        folder = ImageFolder.open(
            self.images or manifest["root"], len(classes), classes != ["images"]
        )
        settings = CacheSettings(**manifest["settings"], skip_bad=bool(manifest["left_out"]))
        with joined(self.device, patience=timedelta(days=2)) as device:

            def plan() -> Work:
                vae = Vae(self.vae or manifest["vae"], device, manifest["vae_fingerprint"])
                return begin(folder, vae, self.cache, settings, only=bad)

            _write(self.cache, plan, self.batch)


def _describe(folder: ImageFolder) -> None:
    """The classes with their numbers, and what is passed over."""
    counts = [folder.labels.count(label) for label in range(len(folder.classes))]
    shown = [f"{i} {n} ({c})" for i, (n, c) in enumerate(zip(folder.classes, counts, strict=True))]
    more = f" ... {shown[-1]}" if len(shown) > 20 else ""
    print(f"classes: {', '.join(shown[:20])}{more}", file=sys.stderr)
    if folder.unread:
        print(
            f"{len(folder.unread)} pictures are in formats that are not read, such as "
            f"{folder.unread[0]}",
            file=sys.stderr,
        )


def _write(out: Path, plan: Any, batch: int) -> None:
    """Encode what is missing, with a bar, and say what was left out."""
    # after an interruption the missing shards may all be one process's: the others wait for it
    part, parts = place()
    with ExitStack() as held:
        if part == 0:
            out.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(out))
        wait()
        work: Work = plan()
        wait()  # before one writes, all have looked
        if part == 0:
            _look_at_all(work)
        wait()
        mine = work.missing[part::parts]
        total = sum(len(work.rows(index)) for index in mine)
        with tqdm(total=total, unit="image", disable=part > 0, file=sys.stderr) as bar:
            work.write(batch, mine, bar.update)
        gather(len(mine))
        if part == 0:
            _finish(out)


def _look_at_all(work: Work) -> None:
    """Find the images that cannot be used before hours are spent on the others."""
    rows = [row for index in work.missing for row in work.rows(index)]
    problems = scan([work.images.paths[row] for row in rows])
    if problems and not work.settings.skip_bad:
        lines = [*problems.values()]
        listed = "".join(f"\n  {line}" for line in lines[1:20])
        raise ValueError(
            f"{len(lines)} of {len(rows)} images cannot be used: mend them, or add --skip-bad True "
            f"to leave them out. The first: {lines[0]}{listed}"
        )


def _finish(out: Path) -> None:
    manifest = finish(out)
    for line in left_out(out):
        print(f"left out: {line}", file=sys.stderr)
    print(
        f"{manifest['count']} latents of {len(manifest['classes'])} classes in {out}, "
        f"{manifest['left_out']} images left out, {manifest['turned']} turned by their EXIF "
        f"orientation, {manifest['transparent']} transparent ones laid on white",
        file=sys.stderr,
    )
    scaled = manifest["deviation"] * manifest["vae_scale"]
    print(
        f"their deviation is {manifest['deviation']:.4g}, and {scaled:.3g} with the VAE's factor "
        f"{manifest['vae_scale']:.5g}",
        file=sys.stderr,
    )
