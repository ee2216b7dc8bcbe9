"""Samples of a run: which labels they have, and the folder or the npz that they go into.

New samples are written beside what is there and take its place when all are whole. A sampling that
was interrupted goes on with what it has, if the same samples are asked for.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from meanflow_lite.data.batches import seeded
from meanflow_lite.data.image_sets import ABOUT, GRID, NOTE, NOTE_FORMAT
from meanflow_lite.files import Damage, OtherVersion, read_json, write_bytes, write_json, writing
from meanflow_lite.runs.class_names import class_number
from meanflow_lite.runs.images import as_picture, save_grid

#: Samples in one piece of an npz.
PIECE = 64


@dataclass(frozen=True)
class Target:
    """Where samples go: a folder of PNGs, or an npz; ``about`` says which samples they are.

    They are collected in ``staging``, PNG by PNG or in pieces of an npz, and each is written whole.
    """

    out: Path
    about: dict[str, Any]

    @property
    def packed(self) -> bool:
        """Whether the samples become one npz."""
        return self.out.suffix == ".npz"

    @property
    def staging(self) -> Path:
        """A folder beside the samples, on the same disk."""
        return self.out.with_suffix(".parts") if self.packed else self.out / ".new"

    @property
    def folder(self) -> Path:
        """What is locked while samples are written."""
        return self.staging if self.packed else self.out

    def units(self) -> list[range]:
        """The samples of each file."""
        size = PIECE if self.packed else 1
        count = self.about["count"]
        return [range(first, min(first + size, count)) for first in range(0, count, size)]

    def begin(self) -> list[range]:
        """Make the folders, and say what is missing; what is there stays as it is."""
        if self._is_whole():
            return []
        stored = _note(self.staging / NOTE)
        if stored is not None and stored != self._unfinished():
            print(f"{self.staging} held samples of another command: they go", file=sys.stderr)
            for path in self.staging.glob("*.np[yg]"):
                path.unlink()
        self.staging.mkdir(parents=True, exist_ok=True)
        write_json(self.staging / NOTE, self._unfinished())
        if not self.packed and _note(self.out / NOTE) is None:
            write_json(self.out / NOTE, self._unfinished())
        return [unit for unit in self.units() if not self._file(unit).exists()]

    def write(self, unit: range, pixels: np.ndarray) -> None:
        """Keep the bytes ``[len(unit), H, W, C]`` of some samples."""
        buffer = io.BytesIO()
        if self.packed:
            np.save(buffer, pixels)
        else:
            as_picture(pixels[0]).save(buffer, "PNG")
        write_bytes(self.staging / self._name(unit), buffer.getvalue(), durable=False)

    def finish(self) -> None:
        """Put all samples in their place, and the description of them last."""
        if self._is_whole():
            return
        if self.packed:
            self._pack()
        else:
            self._place()
        shutil.rmtree(self.staging, ignore_errors=True)

    def _unfinished(self) -> dict[str, Any]:
        return {**self.about, "complete": False}

    def _is_whole(self) -> bool:
        """Whether just these samples are there already."""
        if self.packed:
            return False
        wanted = {**self.about, "complete": True}
        names = [self.out / self._name(unit) for unit in self.units()]
        return _note(self.out / NOTE) == wanted and all(name.exists() for name in names)

    def _name(self, unit: range) -> str:
        return f"{unit.start:06d}.{'npy' if self.packed else 'png'}"

    def _file(self, unit: range) -> Path:
        """Where a unit is, if it is: a killed :meth:`finish` has moved some already."""
        name = self._name(unit)
        moved = not self.packed and _note(self.out / NOTE) == self._unfinished()
        there = self.out / name
        return there if moved and there.exists() else self.staging / name

    def _place(self) -> None:
        files = [self._file(unit) for unit in self.units()]
        old = _note(self.out / NOTE)
        write_json(self.out / NOTE, self._unfinished())
        if old != self._unfinished():  # earlier samples go only now, when all new ones are whole
            for path in self.out.glob("[0-9]" * 6 + ".png"):
                path.unlink()
        for path in files:
            path.replace(self.out / path.name)
        shown = [self.out / path.name for path in files[:100]]
        save_grid(load_pictures(shown), self.out / GRID, 10)
        write_json(self.out / NOTE, {**self.about, "complete": True})

    def _pack(self) -> None:
        """Piece by piece into the npz, so that memory holds one piece."""
        pieces = [self._file(unit) for unit in self.units()]
        shape = (self.about["count"], *np.load(pieces[0]).shape[1:])
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        with writing(self.out) as file, zipfile.ZipFile(file, "w") as archive:
            with archive.open("arr_0.npy", "w", force_zip64=True) as array:
                np.lib.format.write_array_header_1_0(array, header)
                for piece in pieces:
                    array.write(np.load(piece).tobytes())
            _add(archive, "labels", np.array(self.about["labels"]))
            _add(archive, "about", np.array(json.dumps({**self.about, "complete": True})))


def _add(archive: zipfile.ZipFile, name: str, value: np.ndarray) -> None:
    with archive.open(f"{name}.npy", "w") as file:
        np.lib.format.write_array(file, value, allow_pickle=False)


def _note(path: Path) -> dict[str, Any] | None:
    """A description, or None if there is none that is sound."""
    try:
        return read_json(path, ABOUT, NOTE_FORMAT)
    except (Damage, OtherVersion, FileNotFoundError):
        return None


def load_pictures(paths: Iterable[Path]) -> torch.Tensor:
    """Images in [-1, 1] from files of one size."""
    arrays = [np.asarray(Image.open(path)) for path in paths]
    stacked = torch.from_numpy(np.stack(arrays))
    stacked = stacked[:, None] if stacked.ndim == 3 else stacked.permute(0, 3, 1, 2)
    return stacked.float() / 127.5 - 1


def in_batches(units: list[range], size: int) -> Iterable[list[range]]:
    """Units together, as many as have ``size`` samples at most, and at least one."""
    group: list[range] = []
    for unit in units:
        if group and sum(map(len, group)) + len(unit) > size:
            yield group
            group = []
        group.append(unit)
    if group:
        yield group


def choose_labels(
    rule: str, count: int, num_classes: int, seed: int, classes: Sequence[str] | None = None
) -> torch.Tensor:
    """Labels ``[count]``: ``random`` (uniform), ``balanced`` (in turn), or a list in turn.

    A list has numbers or names: those in ``classes``, or ImageNet's for 1,000 classes.

    Raises:
        ValueError: for anything else, or classes out of range.
    """
    if rule == "random":
        return torch.randint(num_classes, (count,), generator=seeded(seed, 5))
    if rule == "balanced":
        return torch.arange(count) % num_classes
    try:
        numbers = [class_number(part, num_classes, classes) for part in rule.split(",")]
    except ValueError as error:
        raise ValueError(
            f"--labels is random, balanced or a list such as 3,3,7: got {rule!r} ({error})"
        ) from error
    given = torch.tensor(numbers)
    if given.min() < 0 or given.max() > num_classes:
        raise ValueError(
            f"--labels must be 0 ... {num_classes - 1}, or {num_classes} for none: got {rule}"
        )
    return given[torch.arange(count) % len(given)]


def protocol(rule: str) -> Literal["random", "balanced", "given"]:
    """The name of a label rule, as it belongs beside an FID."""
    return rule if rule in ("random", "balanced") else "given"  # pyright: ignore
