"""A set of images to be judged: a folder of image files, or an npz as ADM writes it."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from meanflow_lite.data.images import opened, read_image, scan, to_rgb
from meanflow_lite.data.listing import pictures
from meanflow_lite.files import Damage, OtherVersion, fits, read_json
from meanflow_lite.files.read import plain

GRID, NOTE, NOTE_FORMAT = "grid.png", "samples.json", 1
#: What a note of the sample command has at least.
ABOUT = {"complete": bool, "count": int, "labels": list[int]}
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, NotImplementedError)


@dataclass(frozen=True)
class ImageSet:
    """Images of one size: how many, their shape ``(C, H, W)``, and what was noted of them.

    ``about`` is what the sample command wrote, empty for images from elsewhere. The images are
    read when they are asked for, never all at once.
    """

    path: Path
    count: int
    shape: tuple[int, int, int]
    about: dict = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    crop: int | None = None
    exif: bool = True
    left_out: tuple[str, ...] = ()

    @classmethod
    def open(
        cls,
        path: Path | str,
        crop: int | None = None,
        exif: bool = True,
        skip_bad: bool = False,
    ) -> ImageSet:
        """The set at ``path``: every header is looked at before any image is decoded.

        Images are gray if all are, else RGB. ``crop`` is the side of a center crop; None: as they
        are. ``skip_bad`` leaves images out that cannot be used, and lists them in ``left_out``.

        Raises:
            ValueError: if there are none, one cannot be used, their sizes differ, the array of
                an npz is not bytes ``[N, H, W, 1 or 3]``, or a sampling has not ended.
        """
        path = Path(path)
        if path.is_dir():
            return _open_folder(path, crop, exif, skip_bad)
        if path.suffix != ".npz":
            raise ValueError(f"{path} is neither an npz nor a folder with images")
        if crop is not None:
            raise ValueError(f"a crop is of the images of a folder, but {path} is an npz")
        return _open_npz(path)

    def kinds(self) -> str:
        """The formats of the files, such as ``png`` or ``jpg, png``."""
        suffixes = {file.suffix.lower().removeprefix(".") for file in self.files}
        return ", ".join(sorted(suffixes)) or "npz"

    def batches(
        self, size: int, part: int = 0, parts: int = 1
    ) -> Iterator[UInt8[Tensor, " b c h w"]]:
        """Batches ``part::parts`` of ``size`` images in bytes."""
        if self.files:
            yield from self._from_files(size, part, parts)
        else:
            yield from self._from_npz(size, part, parts)

    def _from_files(self, size: int, part: int, parts: int) -> Iterator[Tensor]:
        with ThreadPoolExecutor(8) as pool:
            for first in range(part * size, self.count, parts * size):
                some = self.files[first : first + size]
                yield torch.stack([*pool.map(self._pixels, some)])

    def _pixels(self, path: Path) -> Tensor:
        if self.crop is not None:
            return read_image(path, self.crop, self.exif)
        with opened(path) as image:
            gray = self.shape[0] == 1
            pixels = np.array(image.convert("L") if gray else to_rgb(image))
        whole = torch.from_numpy(pixels)
        return whole[None] if gray else whole.permute(2, 0, 1)

    def _from_npz(self, size: int, part: int, parts: int) -> Iterator[Tensor]:
        channels, height, width = self.shape
        image = channels * height * width
        try:
            with _arrays(self.path) as file:
                _header(file)
                for number, first in enumerate(range(0, self.count, size)):
                    wanted = min(size, self.count - first) * image
                    content = file.read(wanted)
                    if len(content) != wanted:
                        raise EOFError("it ends too early")
                    if number % parts == part:
                        rows = np.frombuffer(content, np.uint8).copy()
                        rows = torch.from_numpy(rows).view(-1, height, width, channels)
                        yield rows.permute(0, 3, 1, 2)
                file.read(1)  # at the end the archive compares its checksum
        except _DAMAGE as error:
            raise ValueError(f"{self.path} is damaged ({error}): sample again") from error


def describe(path: Path | str) -> dict:
    """What the sample command noted about its samples, empty if it did not write them.

    Raises:
        ValueError: if the note is damaged.
    """
    path = Path(path)
    where = path if path.suffix == ".npz" else path / NOTE
    try:
        about = _note_in(path) if path.suffix == ".npz" else _note_beside(where)
        labels = about.get("labels")
        if labels is not None and not fits(labels, list[int]):
            raise Damage(where, "its labels are not a list of whole numbers")
        return about
    except OtherVersion as error:
        raise ValueError(
            f"{error}. Or move the note away to judge the images without it"
        ) from error
    except (Damage, ValueError, RecursionError) as error:
        said = error.what if isinstance(error, Damage) else error
        raise ValueError(
            f"what the sample command noted in {where} is damaged ({said}): sample again into "
            "another --out, or move the note away to judge the images without it"
        ) from error


def _note_in(path: Path) -> dict:
    with plain(path) as file:
        try:
            stored = np.load(file, allow_pickle=False)
            about = json.loads(str(stored["about"])) if "about" in stored else {}
        except _DAMAGE as error:
            raise Damage(path, str(error)) from error
    if not isinstance(about, dict):
        raise Damage(path, "it is not a table of names and values")
    return about


def _note_beside(note: Path) -> dict:
    return read_json(note, ABOUT, NOTE_FORMAT) if os.path.lexists(note) else {}


def _open_folder(path: Path, crop: int | None, exif: bool, skip_bad: bool) -> ImageSet:
    about = describe(path)
    if about.get("complete") is False:
        raise ValueError(
            f"the sampling into {path} has not ended: run the same `meanflow-lite sample` again, "
            "which goes on where it was"
        )
    files, _ = pictures(path)
    files = tuple(file for file in files if file.name != GRID)
    problems = scan(list(files)) if skip_bad else {}
    files = tuple(file for file in files if file not in problems)
    if not files:
        raise ValueError(f"{path} is neither an npz nor a folder with images")
    with ThreadPoolExecutor(8) as pool:
        headers = [*pool.map(_mode_and_size, files)]
    sizes = {size for _, size in headers}
    if crop is None and len(sizes) > 1:
        other = next(i for i, (_, size) in enumerate(headers) if size != headers[0][1])
        raise ValueError(
            f"the images in {path} differ in size: {files[0].name} is {_by(headers[0][1])} and "
            f"{files[other].name} {_by(headers[other][1])}. Photographs need a --crop"
        )
    gray = crop is None and all(mode in ("L", "1") for mode, _ in headers)
    wide, high = headers[0][1] if crop is None else (crop, crop)
    _agree(path, about, len(files))
    shape = (1 if gray else 3, high, wide)
    left_out = tuple(problems.values())
    return ImageSet(path, len(files), shape, about, files, crop, exif, left_out)


def _mode_and_size(path: Path) -> tuple[str, tuple[int, int]]:
    with opened(path) as image:
        return image.mode, image.size


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _open_npz(path: Path) -> ImageSet:
    try:
        with _arrays(path) as file:
            shape, fortran, dtype = _header(file)
    except _DAMAGE as error:
        said = error.what if isinstance(error, Damage) else error
        raise ValueError(
            f"{path} is damaged, or not an npz with an array arr_0 ({said})"
        ) from error
    if dtype != np.uint8 or len(shape) != 4 or shape[-1] not in (1, 3) or fortran:
        raise ValueError(
            f"{path}: images are bytes (uint8) [N, H, W, 1 or 3], row by row; its arr_0 is {dtype} "
            f"{list(shape)}{' in Fortran order' if fortran else ''}"
        )
    count, height, width, channels = shape
    about = describe(path)
    _agree(path, about, count)
    return ImageSet(path, count, (channels, height, width), about)


@contextmanager
def _arrays(path: Path) -> Iterator[Any]:
    """The array ``arr_0`` of an npz as a stream."""
    with plain(path) as file, zipfile.ZipFile(file) as archive, archive.open("arr_0.npy") as array:
        yield array


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _agree(path: Path, about: dict, count: int) -> None:
    labels = about.get("labels")
    if labels is not None and len(labels) != count:
        raise ValueError(
            f"{path} holds {count} images but describes {len(labels)}: sample again, into an "
            "empty folder"
        )
