r"""A cache of VAE latents: :math:`x = (m + s\,\xi)\cdot 0.18215`, mean m and deviation s stored.

A cache is a folder with ``manifest.json`` and shards ``shard-00000.npy`` of float32
``[n, views, 2 * channels, H, W]`` (mean, then standard deviation; two views if flips are stored),
each with a ``.json`` of its labels, its checksum and the images that were left out. Shards are
read through memory maps, which hold no open files: ImageNet has more shards than a process may
open. Everything is written under another name and renamed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from meanflow_lite.data.batches import Batch, epoch_rows
from meanflow_lite.data.images import BadImage, ImageFolder, read_image
from meanflow_lite.randomness import Random

MANIFEST = "manifest.json"
SCALE = 0.18215
#: Threads that read and crop images while the VAE works.
READERS = 8


class CacheError(ValueError):
    """A latent cache that is incomplete, damaged or of other settings."""


class Vae:
    """An ``AutoencoderKL`` of diffusers, by hub id or local folder.

    Raises ``ValueError`` if it cannot be loaded.
    """

    def __init__(self, name: str, device: torch.device | str = "cpu") -> None:
        from diffusers import AutoencoderKL  # pyright: ignore[reportPrivateImportUsage]

        try:
            vae = AutoencoderKL.from_pretrained(name, low_cpu_mem_usage=False)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"cannot load the VAE {name!r}: give a local folder or a hub id such as "
                f"stabilityai/sd-vae-ft-mse ({str(error).splitlines()[0]})"
            ) from error
        self.name, self.device = name, device
        self.net = vae.to(device).eval().requires_grad_(False)  # pyright: ignore

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of some weights: it tells two VAEs of one name apart."""
        digest = hashlib.sha256()
        for value in list(self.net.state_dict().values())[::7]:
            digest.update(value.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def encode(self, images: Float[Tensor, " b 3 h w"]) -> Float[Tensor, " b c h2 w2"]:
        """Mean and standard deviation of the latents, one behind the other in the channels."""
        latent = self.net.encode(images.to(self.device)).latent_dist  # pyright: ignore
        return torch.cat([latent.mean, latent.std], 1).float().cpu()

    @torch.no_grad()
    def decode(self, z: Float[Tensor, " b c h w"]) -> Float[Tensor, " b 3 h2 w2"]:
        """Images in [-1, 1] from latents that carry no scale."""
        decoded = self.net.decode(z.to(self.device))  # pyright: ignore[reportArgumentType]
        return decoded.sample.float().clamp(-1, 1)  # pyright: ignore[reportAttributeAccessIssue]


@dataclass(frozen=True)
class CacheSettings:
    """What decides the content of a cache."""

    size: int = 256
    flip: bool = False
    shard: int = 1024
    skip_bad: bool = False


def encode(
    images: ImageFolder,
    vae: Vae,
    folder: Path | str,
    settings: CacheSettings,
    batch: int = 32,
    part: int = 0,
    parts: int = 1,
    on_images: Callable[[int], object] = lambda n: None,
) -> list[str]:
    """Write the shards ``part::parts`` that are missing; returns the images that were left out.

    Interrupted anywhere, it goes on with the first shard that is not whole. Call :func:`finish`
    when all parts are done.

    Raises:
        CacheError: if the folder belongs to other images, another VAE or other settings.
        BadImage: for a damaged image, unless ``skip_bad``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _agree(folder, _description(images, vae, settings))
    left_out = []
    shards = [*enumerate(shard_rows(len(images), settings.shard))]
    for index, rows in shards[part::parts]:
        if _sidecar(folder, index).exists():
            on_images(len(rows))
        else:
            _encode_shard(images, vae, folder, settings, batch, index, rows, on_images)
        left_out += json.loads(_sidecar(folder, index).read_text())["left_out"]
    return left_out


def finish(folder: Path | str) -> dict:
    """Write the counts and checksums of all shards into the manifest, which completes the cache."""
    folder = Path(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    sidecars = [json.loads(_sidecar(folder, i).read_text()) for i in range(manifest["shards"])]
    manifest |= {
        "complete": True,
        "count": sum(s["count"] for s in sidecars),
        "left_out": sum(len(s["left_out"]) for s in sidecars),
        "sha256": [s["sha256"] for s in sidecars],
    }
    if not manifest["count"]:
        raise CacheError(f"{folder}: not one of {manifest['images']} images could be read")
    _write(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
    return manifest


def damaged(folder: Path | str) -> list[int]:
    """Numbers of the shards that are missing or do not have their checksum."""
    folder, manifest = Path(folder), read_manifest(folder)
    return [
        index
        for index, digest in enumerate(manifest["sha256"])
        if not _sidecar(folder, index).exists() or _digest(_shard(folder, index)) != digest
    ]


def remove_shards(folder: Path | str, indices: list[int]) -> None:
    """Delete shards, so that :func:`encode` writes them again."""
    for index in indices:
        _sidecar(Path(folder), index).unlink(missing_ok=True)
        _shard(Path(folder), index).unlink(missing_ok=True)


def read_manifest(folder: Path | str) -> dict:
    """The manifest of a complete cache.

    Raises:
        CacheError: if it is missing, damaged, or the encoding has not ended.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CacheError(
            f"{folder} is not a latent cache ({error}): write one with `meanflow-lite encode`"
        ) from error
    if not manifest.get("complete"):
        raise CacheError(f"the encoding of {folder} has not ended: run the same encode again")
    return manifest


class LatentCache:
    """Batches from a cache: rows of shuffled epochs, sampled from their Gaussians in every step.

    Raises ``CacheError`` if the cache is incomplete, a shard is missing, cut or of another cache,
    or a label is out of range. The shards' bytes are compared with their checksums by
    ``meanflow-lite verify``, not at every start. ``content`` is a checksum of those checksums.
    """

    def __init__(self, folder: Path | str, scale: float = SCALE) -> None:
        self.folder, self.scale = Path(folder), scale
        manifest = read_manifest(folder)
        self.vae: str = manifest["vae"]
        self.num_classes = len(manifest["classes"])
        self.content = hashlib.sha256("".join(manifest["sha256"]).encode()).hexdigest()[:16]
        self._maps, labels = [], []
        for index, digest in enumerate(manifest["sha256"]):
            shard, sidecar = self._open(index, digest)
            self._maps.append(shard)
            labels += sidecar["labels"]
        self.labels = torch.tensor(labels)
        if len(labels) and not 0 <= min(labels) <= max(labels) < self.num_classes:
            raise CacheError(
                f"{folder} has labels {min(labels)} ... {max(labels)} but {self.num_classes} "
                "classes: encode again"
            )
        self._ends = np.cumsum([len(m) for m in self._maps])
        views, both, height, width = next(m for m in self._maps if len(m)).shape[1:]
        self.views, self.shape = views, (both // 2, height, width)

    def _open(self, index: int, digest: str) -> tuple[Tensor, dict]:
        try:
            sidecar = json.loads(_sidecar(self.folder, index).read_text())
            shard = _mapped(_shard(self.folder, index))
        except (OSError, ValueError) as error:
            raise CacheError(
                f"{_shard(self.folder, index)} is missing or damaged ({error}): run "
                f"`meanflow-lite verify {self.folder}`, which writes it again"
            ) from error
        if len(shard) != sidecar["count"] or len(sidecar["labels"]) != sidecar["count"]:
            raise CacheError(
                f"{_shard(self.folder, index)} has {len(shard)} rows, not {sidecar['count']}: "
                f"run `meanflow-lite verify {self.folder}`"
            )
        if sidecar["sha256"] != digest:
            raise CacheError(
                f"{self.folder / MANIFEST} is of another cache (another VAE, or other images) than "
                f"{_shard(self.folder, index)}: put its own manifest back, or encode again into "
                "an empty folder"
            )
        return shard, sidecar

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def moments(self, rows: Tensor, views: Tensor) -> Float[Tensor, " n c h w"]:
        """Mean and standard deviation of these rows."""
        shards = np.searchsorted(self._ends, rows.numpy(), side="right")
        starts = np.concatenate([[0], self._ends])
        places = zip(shards, rows.numpy() - starts[shards], views.tolist(), strict=True)
        return torch.stack([self._maps[shard][row, view] for shard, row, view in places])

    def __call__(self, step: int, size: int, seed: int, part: int = 0, parts: int = 1) -> Batch:
        """Rows ``part::parts`` of one step: ``(mean + std * noise) * scale`` and labels."""
        rows = epoch_rows(len(self), step, size, seed)[part::parts]
        random, places = Random(seed, step), range(part, size, parts)
        views = (random.uniform("view", places) * self.views).long()
        noise = random.normal("latent", places, *self.shape)
        mean, std = self.moments(rows, views).chunk(2, 1)
        x = (mean + std * noise) * self.scale
        if not torch.isfinite(x).all():
            bad = int(rows[(~torch.isfinite(x)).flatten(1).any(1)][0])
            shard = int(np.searchsorted(self._ends, bad, side="right"))
            raise CacheError(
                f"{_shard(self.folder, shard)} holds NaN or infinite latents (row {bad}): run "
                f"`meanflow-lite verify {self.folder}`"
            )
        return x, self.labels[rows]


def _encode_shard(
    images: ImageFolder,
    vae: Vae,
    folder: Path,
    settings: CacheSettings,
    batch: int,
    index: int,
    rows: range,
    on_images: Callable[[int], object],
) -> None:
    chunks, labels, left_out = [], [], []
    with ThreadPoolExecutor(READERS) as pool:
        ahead = pool.map(lambda row: _read(images.paths[row], settings), rows)
        for first in range(0, len(rows), batch):
            some = rows[first : first + batch]
            read = {row: next(ahead) for row in some}
            good = {row: pixels for row, pixels in read.items() if isinstance(pixels, Tensor)}
            left_out += [problem for problem in read.values() if isinstance(problem, str)]
            if good:
                x = torch.stack([*good.values()]).float() / 127.5 - 1
                views = [vae.encode(x)] + ([vae.encode(x.flip(-1))] if settings.flip else [])
                chunks.append(torch.stack(views, 1).numpy())
                _refuse_nan(chunks[-1], [images.paths[row] for row in good])
            labels += [images.labels[row] for row in good]
            on_images(len(some))
    data = np.concatenate(chunks) if chunks else np.empty((0, 1, 0, 0, 0), np.float32)
    for leftover in folder.glob(f".shard-{index:05d}*.partial"):  # of a process that was killed
        leftover.unlink()
    buffer = io.BytesIO()  # numpy writes to files through C, where a full disk can go unnoticed
    np.save(buffer, data)
    _write(_shard(folder, index), buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    content = {"count": len(data), "labels": labels, "sha256": digest, "left_out": left_out}
    _write(_sidecar(folder, index), json.dumps(content).encode())  # last: its presence says whole


def _read(path: Path, settings: CacheSettings) -> Tensor | str:
    """The pixels of an image, or what is wrong with it if damaged images may be left out."""
    try:
        return read_image(path, settings.size)
    except BadImage as error:
        if not settings.skip_bad:
            raise
        return str(error)


def _refuse_nan(latents: np.ndarray, paths: list[Path]) -> None:
    finite = np.isfinite(latents).reshape(len(latents), -1).all(1)
    if not finite.all():
        bad = paths[int(finite.argmin())]
        raise CacheError(f"the VAE gives NaN for {bad}: run it in float32, or look at the image")


def _description(images: ImageFolder, vae: Vae, settings: CacheSettings) -> dict:
    names = "\n".join(str(p.relative_to(images.root)) for p in images.paths)
    return {
        "format": 1,
        "root": str(images.root.resolve()),
        "images": len(images),
        "names": hashlib.sha256(names.encode()).hexdigest()[:16],
        "classes": list(images.classes),
        "vae": vae.name,
        "vae_fingerprint": vae.fingerprint,
        "settings": asdict(settings),
        "shards": len(shard_rows(len(images), settings.shard)),
    }


def _agree(folder: Path, wanted: dict) -> None:
    """Refuse a folder of something else; note what this one is, before the first shard."""
    path = folder / MANIFEST
    if not path.exists():
        _write(path, json.dumps({**wanted, "complete": False}, indent=1).encode())
        return
    stored = json.loads(path.read_text())
    differ = [k for k in wanted if k != "root" and stored.get(k) != wanted[k]]
    if differ:
        key = differ[0]
        raise CacheError(
            f"{folder} is a cache of something else: {key} is {stored.get(key)!r} there and "
            f"{wanted[key]!r} here. Use another --out, or delete it"
        )


def shard_rows(images: int, shard: int) -> list[range]:
    """The images of each shard; all but the last have ``shard``."""
    if shard < 1:
        raise CacheError(f"a shard holds at least one image: got {shard}")
    return [range(first, min(first + shard, images)) for first in range(0, images, shard)]


def _shard(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.npy"


def _sidecar(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.json"


def _mapped(path: Path) -> Tensor:
    """The array in an npy file, mapped into memory; numpy's own map keeps the file open."""
    with path.open("rb") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("not an npy file of version 1.0")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        offset = file.tell()
    count = int(np.prod(shape))
    if fortran or dtype != np.float32 or path.stat().st_size != offset + 4 * count:
        raise ValueError(f"not {shape} float32 numbers")
    whole = torch.from_file(str(path), False, offset // 4 + count, dtype=torch.float32)
    return whole[offset // 4 :].view(shape)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    if path.exists():
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _write(path: Path, content: bytes) -> None:
    process = f"{platform.node()}-{os.getpid()}"  # several may write at once, on several nodes
    partial = path.with_name(f".{path.name}.{process}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
