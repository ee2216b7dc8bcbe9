"""Writing a latent cache: shard by shard, each whole or not at all, resumed anywhere."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from meanflow_lite.data.images import MAX_SIDE, BadImage, ImageFolder, Picture
from meanflow_lite.data.latents import (
    ABOUT,
    FORMAT,
    MANIFEST,
    CacheError,
    digest_of_sidecar,
    read_sidecar,
    shard_path,
    sidecar_path,
)
from meanflow_lite.data.vae import Vae
from meanflow_lite.files import Damage, OtherVersion, read_json, set_aside, write_bytes, write_json

#: Threads that read and crop images while the VAE works.
READERS = 8
#: What two caches must share to be one; where the images or the VAE lie does not count.
SAME = ("vae_fingerprint", "settings", "classes")


@dataclass(frozen=True)
class CacheSettings:
    """What decides the content of a cache; ``skip_bad`` only whether a damaged image ends it."""

    size: int = 256
    flip: bool = False
    shard: int = 1024
    skip_bad: bool = False
    exif: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MAX_SIDE:
            raise CacheError(f"the side of a crop is 1 ... {MAX_SIDE} pixels: got {self.size}")
        if self.shard < 1:
            raise CacheError(f"a shard holds at least one image: got {self.shard}")

    def stored(self) -> dict[str, Any]:
        """The part that decides the content."""
        return {k: v for k, v in asdict(self).items() if k != "skip_bad"}


@dataclass
class Work:
    """The shards of a cache that are still to be written, and by which rules."""

    images: ImageFolder
    vae: Vae
    folder: Path
    settings: CacheSettings
    about: dict[str, Any]
    missing: list[int]

    def rows(self, index: int) -> range:
        """The images of a shard."""
        return shard_rows(len(self.images), self.settings.shard)[index]

    def write(
        self,
        batch: int = 32,
        shards: Iterable[int] | None = None,
        on_images: Callable[[int], object] = lambda n: None,
    ) -> None:
        """Encode the missing shards, or these of them; one that is there is replaced when whole.

        Raises:
            BadImage: for a damaged image, unless ``skip_bad``; the shards so far stay.
            CacheError: for a batch below one, or an image that the VAE makes NaN of.
        """
        if batch < 1:
            raise CacheError(f"the VAE takes at least one image at once: got {batch}")
        for index in self.missing if shards is None else shards:
            _encode_shard(self, index, batch, on_images)


def begin(
    images: ImageFolder,
    vae: Vae,
    folder: Path | str,
    settings: CacheSettings,
    update: bool = False,
    only: Iterable[int] | None = None,
) -> Work:
    """Look at what is there and what is missing; writes nothing but the manifest's first state.

    A shard counts as there if its labels are sound and its images are those wanted. ``update``:
    also if the list of images has changed since; ``only``: these shards, whatever is there.

    Raises:
        CacheError: if the folder belongs to other images, another VAE or other settings.
    """
    folder = Path(folder)
    if settings.size % vae.factor:
        raise CacheError(f"--size is a multiple of {vae.factor} for this VAE: got {settings.size}")
    about = _description(images, vae, settings)
    stored = _stored(folder)
    if stored is not None:
        _agree(folder, stored, about, images, settings, update)
    folder.mkdir(parents=True, exist_ok=True)
    work = Work(images, vae, folder, settings, about, [])
    shards = range(about["shards"])
    work.missing = [*only] if only is not None else [i for i in shards if not _is_there(work, i)]
    if stored is None or (only is None and work.missing):
        write_json(folder / MANIFEST, {**about, "complete": False})
    return work


def encode(
    images: ImageFolder,
    vae: Vae,
    folder: Path | str,
    settings: CacheSettings,
    batch: int = 32,
    part: int = 0,
    parts: int = 1,
    on_images: Callable[[int], object] = lambda n: None,
) -> None:
    """Write what is missing of the shards ``part::parts``, and say nothing of it.

    Interrupted anywhere, it goes on with the first shard that is not whole. Call :func:`finish`
    when all parts are done.
    """
    work = begin(images, vae, folder, settings)
    work.write(batch, [i for i in work.missing if i % parts == part], on_images)


def finish(folder: Path | str) -> dict[str, Any]:
    """Write counts, checksums and content into the manifest, which completes the cache.

    Raises:
        CacheError: if a shard is missing or damaged, or not one image could be read.
    """
    folder = Path(folder)
    about = read_json(folder / MANIFEST, ABOUT, FORMAT)
    try:
        sidecars = [read_sidecar(folder, i) for i in range(about["shards"])]
    except (Damage, FileNotFoundError) as error:
        raise CacheError(f"{error}: run the same encode again, which keeps the others") from error
    left_out = [line for s in sidecars for line in s["left_out"]]
    names = [name for s in sidecars for name in s["names"]]
    content = {k: about[k] for k in ("classes", "vae_fingerprint")}
    content |= {"settings": {k: v for k, v in about["settings"].items() if k != "shard"}}
    content |= {"names": _digest(names), "labels": [s["labels"] for s in sidecars]}
    totals = {
        "complete": True,
        "count": len(names),
        "left_out": len(left_out),
        "turned": sum(s.get("turned", 0) for s in sidecars),
        "transparent": sum(s.get("transparent", 0) for s in sidecars),
        "deviation": _deviation(sidecars),
        "sidecars": [digest_of_sidecar(s) for s in sidecars],
        "content": _digest([json.dumps(content, sort_keys=True)]),
    }
    if not names:
        raise CacheError(f"{folder}: not one of {about['images']} images could be read")
    manifest = {**{k: about[k] for k in (*ABOUT, "format")}, **totals}
    write_json(folder / MANIFEST, manifest)
    return manifest


def left_out(folder: Path | str) -> list[str]:
    """The images of a cache that were left out, and why."""
    shards = read_json(Path(folder) / MANIFEST, ABOUT, FORMAT)["shards"]
    return [line for i in range(shards) for line in read_sidecar(Path(folder), i)["left_out"]]


def shard_rows(images: int, shard: int) -> list[range]:
    """The images of each shard; all but the last have ``shard``."""
    return [range(first, min(first + shard, images)) for first in range(0, images, shard)]


def _encode_shard(work: Work, index: int, batch: int, on_images: Callable[[int], object]) -> None:
    images, settings, rows = work.images, work.settings, work.rows(index)
    chunks, used, bad, read = [], [], [], []
    with ThreadPoolExecutor(READERS) as pool:
        ahead = pool.map(lambda row: _read(images, row, settings), rows)
        for first in range(0, len(rows), batch):
            some = [(row, next(ahead)) for row in rows[first : first + batch]]
            good = [(row, found) for row, found in some if isinstance(found, Picture)]
            bad += [found for _, found in some if isinstance(found, str)]
            if good:
                x = torch.stack([found.pixels for _, found in good]).float() / 127.5 - 1
                views = [work.vae.encode(x)]
                views += [work.vae.encode(x.flip(-1))] if settings.flip else []
                chunks.append(torch.stack(views, 1).numpy())
                _refuse_nan(chunks[-1], [images.names[row] for row, _ in good])
            used += [row for row, _ in good]
            read += [found for _, found in good]
            on_images(len(some))
    data = np.concatenate(chunks) if chunks else np.empty((0, 1, 2, 1, 1), np.float32)
    buffer = io.BytesIO()
    np.save(buffer, data)
    for path in (shard_path(work.folder, index), sidecar_path(work.folder, index)):
        if os.path.lexists(path) and not path.is_file():  # a folder, a pipe, a link in a circle
            set_aside(path)
    sidecar = {
        "format": FORMAT,
        "of": _of(work.about),
        "count": len(used),
        "labels": [images.labels[row] for row in used],
        "names": [images.names[row] for row in used],
        "left_out": bad,
        "sha256": write_bytes(shard_path(work.folder, index), buffer.getvalue()),
        "turned": sum(found.turned for found in read),
        "transparent": sum(found.transparent for found in read),
        "mean": float(data[:, 0, : data.shape[2] // 2].mean()) if used else 0.0,
        "square": float(np.square(data[:, 0]).sum(1).mean() * 2 / data.shape[2]) if used else 0.0,
        "wanted": _digest(images.names[row] for row in rows),
    }
    write_json(sidecar_path(work.folder, index), sidecar)  # last: its presence says whole


def _read(images: ImageFolder, row: int, settings: CacheSettings) -> Picture | str:
    """An image, or what is wrong with it if damaged images may be left out."""
    try:
        return images.picture(row, settings.size, settings.exif)
    except BadImage as error:
        if not settings.skip_bad:
            raise BadImage(
                f"{error}. Mend it, or add --skip-bad True: finished shards are kept either way"
            ) from error
        return str(error)


def _refuse_nan(latents: np.ndarray, names: list[str]) -> None:
    finite = np.isfinite(latents).reshape(len(latents), -1).all(1)
    if not finite.all():
        bad = names[int(finite.argmin())]
        raise CacheError(f"the VAE gives NaN for {bad}: run it in float32, or look at the image")


def _description(images: ImageFolder, vae: Vae, settings: CacheSettings) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "root": str(images.root.resolve()),
        "images": len(images),
        "names": _digest(images.names),
        "classes": list(images.classes),
        "vae": vae.name,
        "vae_fingerprint": vae.fingerprint,
        "vae_scale": vae.scale,
        "settings": settings.stored(),
        "shards": len(shard_rows(len(images), settings.shard)),
    }


def _stored(folder: Path) -> dict[str, Any] | None:
    """What a folder says that it is; a damaged manifest is set aside, as its shards say enough."""
    try:
        return read_json(folder / MANIFEST, ABOUT, FORMAT)
    except FileNotFoundError:
        return None
    except Damage:
        set_aside(folder / MANIFEST)
        return None


def _agree(
    folder: Path,
    stored: dict[str, Any],
    wanted: dict[str, Any],
    images: ImageFolder,
    settings: CacheSettings,
    update: bool,
) -> None:
    for key in SAME:
        if stored[key] != wanted[key]:
            raise CacheError(
                f"{folder} is a cache of something else: {key} is {stored[key]!r} there and "
                f"{wanted[key]!r} here. Use another --out"
            )
    if stored["names"] != wanted["names"] and not update:
        first = _first_change(folder, stored, images, settings)
        raise CacheError(
            f"{folder} was encoded from {stored['images']} images and there are "
            f"{wanted['images']} now{first}. With --update True the shards before the first change "
            "are kept and the others encoded again; or use another --out"
        )


def _first_change(
    folder: Path, stored: dict[str, Any], images: ImageFolder, settings: CacheSettings
) -> str:
    """Which image is the first that was added or has gone, where the sidecars tell."""
    now = set(images.names)
    for index in range(stored["shards"]):
        try:
            there = read_sidecar(folder, index)["names"]
        except (Damage, FileNotFoundError):
            continue
        gone = [name for name in there if name not in now]
        if gone:
            return f" ({gone[0]} has gone)"
        rows = shard_rows(len(images), settings.shard)
        known = set(there)
        new = [images.names[i] for i in rows[index] if images.names[i] not in known]
        if index < len(rows) and new:
            return f" ({new[0]} is new)"
    return ""


def _is_there(work: Work, index: int) -> bool:
    try:
        sidecar = read_sidecar(work.folder, index)
    except (Damage, OtherVersion, FileNotFoundError):
        return False
    wanted = _digest(work.images.names[row] for row in work.rows(index))
    same = (sidecar["of"], sidecar.get("wanted")) == (_of(work.about), wanted)
    return same and (not sidecar["count"] or shard_path(work.folder, index).is_file())


def _of(about: dict[str, Any]) -> str:
    """What a shard belongs to: the same VAE, settings and classes."""
    return _digest([json.dumps({k: about[k] for k in SAME}, sort_keys=True)])


def _deviation(sidecars: list[dict[str, Any]]) -> float:
    """Of all latents together, noise included; a factor of one over it makes it one."""
    count = max(1, sum(s["count"] for s in sidecars))
    mean, square = (
        sum(s["count"] * s.get(key, 0.0) for s in sidecars) / count for key in ("mean", "square")
    )
    return float(np.sqrt(max(square - mean**2, 0.0)))


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
