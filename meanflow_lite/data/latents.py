r"""A cache of VAE latents: :math:`x = (m + s\,\xi)\cdot 0.18215`, mean m and deviation s stored.

A cache is a folder with ``manifest.json`` and shards ``shard-00000.npy`` of float32
``[n, views, 2 * channels, H, W]`` (mean, then standard deviation; two views if flips are stored),
each with a ``.json`` of its labels, the names of its images and its checksum; the manifest has the
checksums of those. :mod:`~meanflow_lite.data.encoding` writes it. Shards are read through memory
maps, which hold no open files: ImageNet has more shards than a process may open.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from meanflow_lite.data.batches import Batch, epoch_rows
from meanflow_lite.data.vae import SCALE, Vae
from meanflow_lite.files import Damage, OtherVersion, read_json, sha256
from meanflow_lite.files.read import plain
from meanflow_lite.randomness import Random

__all__ = ["SCALE", "CacheError", "LatentCache", "Vae", "damaged", "read_manifest"]

MANIFEST, FORMAT = "manifest.json", 2
ABOUT = {
    "complete": bool,
    "root": str,
    "images": int,
    "names": str,
    "classes": list[str],
    "vae": str,
    "vae_fingerprint": str,
    "vae_scale": float,
    "settings": dict,
    "shards": int,
}
TOTALS = {"count": int, "left_out": int, "sidecars": list[str], "content": str}
SIDECAR = {
    "of": str,
    "count": int,
    "labels": list[int],
    "names": list[str],
    "left_out": list[str],
    "sha256": str,
}


class CacheError(ValueError):
    """A latent cache that is incomplete, damaged or of other settings."""


class LatentCache:
    """Batches from a cache: rows of shuffled epochs, sampled from their Gaussians in every step.

    ``content`` names what was encoded: images, classes, VAE and settings, not the last bits of the
    latents, which depend on the machine. The labels' checksums are compared here, those of the
    shards' bytes by ``meanflow-lite verify``, not at every start.

    Raises:
        CacheError: if the cache is incomplete, a shard is missing, cut or of another cache, or a
            label is out of range.
        ValueError: for a scale that is not a positive number.
    """

    def __init__(self, folder: Path | str, scale: float = SCALE) -> None:
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"the scale of latents is a positive number: got {scale}")
        self.folder, self.scale = Path(folder), scale
        manifest = read_manifest(folder)
        self.vae: str = manifest["vae"]
        self.vae_fingerprint: str = manifest["vae_fingerprint"]
        self.vae_scale: float = manifest["vae_scale"]
        self.classes: tuple[str, ...] = tuple(manifest["classes"])
        self.num_classes = len(self.classes)
        self.content: str = manifest["content"]
        self._maps, labels = [], []
        for index, checksum in enumerate(manifest["sidecars"]):
            shard, sidecar = self._open(index, checksum)
            self._maps.append(shard)
            labels += sidecar["labels"]
        self.labels = torch.tensor(labels)
        if not 0 <= min(labels) <= max(labels) < self.num_classes:
            raise CacheError(
                f"{folder} has labels {min(labels)} ... {max(labels)} but {self.num_classes} "
                "classes: encode again into another --out"
            )
        self._ends = np.cumsum([len(m) for m in self._maps])
        views, both, height, width = next(m for m in self._maps if len(m)).shape[1:]
        self.views, self.shape = views, (both // 2, height, width)

    def _open(self, index: int, checksum: str) -> tuple[Tensor, dict[str, Any]]:
        path = shard_path(self.folder, index)
        try:
            sidecar = read_sidecar(self.folder, index, checksum)
            shard = _mapped(path) if sidecar["count"] else torch.empty(0, 1, 2, 1, 1)
            if len(shard) != sidecar["count"]:
                raise Damage(path, f"it has {len(shard)} rows, not {sidecar['count']}")
        except (Damage, FileNotFoundError) as error:
            raise CacheError(f"{_said(error)}. {remedy(self.folder)}") from error
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
                f"{shard_path(self.folder, shard)} holds NaN or infinite latents (row {bad}). "
                f"{remedy(self.folder)}"
            )
        return x, self.labels[rows]


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """The manifest of a complete cache.

    Raises:
        CacheError: if it is missing, damaged, of another version, or the encoding has not ended.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = read_json(path, ABOUT, FORMAT)
        if manifest["complete"]:
            manifest = read_json(path, {**ABOUT, **TOTALS}, FORMAT)
    except FileNotFoundError as error:
        raise CacheError(
            f"{folder} is not a latent cache, it has no {MANIFEST}: write one with `meanflow-lite "
            "encode IMAGES --out CACHE`"
        ) from error
    except OtherVersion as error:
        raise CacheError(str(error)) from error
    except Damage as error:
        raise CacheError(
            f"{error}. The same `meanflow-lite encode` again keeps all sound shards and writes it "
            "anew"
        ) from error
    if not manifest["complete"]:
        raise CacheError(f"the encoding of {folder} has not ended: run the same encode again")
    if len(manifest["sidecars"]) != manifest["shards"] or not manifest["count"]:
        raise CacheError(f"{path} is damaged: it counts {manifest['shards']} shards otherwise")
    return manifest


def read_sidecar(folder: Path, index: int, checksum: str | None = None) -> dict[str, Any]:
    """Labels, names and checksum of a shard, compared with their own checksum.

    ``checksum`` is what the manifest says of it.

    Raises:
        Damage: if it is cut, changed, or not the one of the manifest.
        OSError: if it cannot be read.
    """
    path = sidecar_path(folder, index)
    sidecar = read_json(path, SIDECAR, FORMAT)
    if not len(sidecar["labels"]) == len(sidecar["names"]) == sidecar["count"]:
        raise Damage(path, f"it does not have {sidecar['count']} labels and names")
    if checksum is not None and digest_of_sidecar(sidecar) != checksum:
        raise Damage(path, "it is whole, but of another cache than the manifest beside it")
    return sidecar


def digest_of_sidecar(sidecar: dict[str, Any]) -> str:
    """What the manifest keeps of a sidecar."""
    text = json.dumps({k: sidecar[k] for k in SIDECAR}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def damaged(folder: Path | str) -> dict[int, str]:
    """What is wrong with each shard that is missing, cut or changed; reads all of them.

    Raises:
        CacheError: if the manifest cannot be used.
        OSError: if the file system refuses, which says nothing about the content.
    """
    folder, manifest = Path(folder), read_manifest(folder)
    found = {}
    for index, checksum in enumerate(manifest["sidecars"]):
        try:
            sidecar = read_sidecar(folder, index, checksum)
            if sidecar["count"] and sha256(shard_path(folder, index)) != sidecar["sha256"]:
                raise Damage(shard_path(folder, index), "its content is not that of its checksum")
        except (Damage, FileNotFoundError, OtherVersion) as error:
            found[index] = _said(error)
    return found


def remedy(folder: Path) -> str:
    """What to do about a damaged shard; nothing is removed by it."""
    return (
        f"`meanflow-lite verify {folder}` lists all damage, and with --repair True encodes just "
        "that again"
    )


def shard_path(folder: Path, index: int) -> Path:
    """Where a shard's latents are."""
    return folder / f"shard-{index:05d}.npy"


def sidecar_path(folder: Path, index: int) -> Path:
    """Where a shard's labels, names and checksum are."""
    return folder / f"shard-{index:05d}.json"


def _said(error: Exception) -> str:
    missing = isinstance(error, FileNotFoundError)
    return f"{error.filename} is missing" if missing else str(error)


def _mapped(path: Path) -> Tensor:
    """The array in an npy file, mapped into memory; numpy's own map keeps the file open."""
    with plain(path) as file:
        size = path.stat().st_size
        try:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("it is no npy file of version 1.0")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        except ValueError as error:
            raise Damage(path, str(error)) from error
        offset = file.tell()
    count = int(np.prod(shape))
    if fortran or dtype != np.float32 or len(shape) != 5 or size != offset + 4 * count:
        raise Damage(path, f"it does not hold {shape} float32 numbers")
    whole = torch.from_file(str(path), False, offset // 4 + count, dtype=torch.float32)
    return whole[offset // 4 :].view(shape)
