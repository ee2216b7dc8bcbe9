"""Reading: a plain file, its checksum, its schema; and what is wrong with it, by kind."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import types
import typing
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Union

from meanflow_lite.files.write import CHECKSUM, digest_of, naming

if TYPE_CHECKING:
    import numpy as np

Kind = Any  # a type, list[...], dict[str, ...] or a union of those
Schema = Mapping[str, Kind]
BLOCK = 1 << 22


class Damage(ValueError):
    """The content of a file is wrong. The message has the path and what is wrong."""

    def __init__(self, path: Path | str, what: str) -> None:
        self.path, self.what = Path(path), what
        super().__init__(f"{path} is damaged: {what}")


class OtherVersion(ValueError):
    """A sound file of another version of this library, or of another program."""


def read_bytes(path: Path | str) -> bytes:
    """The content of a plain file; a pipe, a device or a folder is no such file."""
    with plain(path) as file:
        return file.read()


def sha256(path: Path | str) -> str:
    """SHA-256 of a plain file."""
    digest = hashlib.sha256()
    with plain(path) as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: Path | str, schema: Schema, version: int | None = None) -> dict[str, Any]:
    """A JSON object that has the keys of ``schema`` and its own checksum, if it carries one.

    With ``version`` it must carry both: that number as ``format``, and a checksum. Kinds are
    types, ``list[int]``, ``dict[str, str]``, ``int | None``; further keys are allowed.

    Raises:
        Damage: if it is not JSON, not an object, changed since it was written, or lacks a key.
        OtherVersion: if its ``format`` is another.
        OSError: if it cannot be read, or is not there.
    """
    content = read_bytes(path)
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Damage(path, f"it is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise Damage(path, f"it holds {short(value)}, not a JSON object")
    digest = value.pop(CHECKSUM, None)
    if digest is not None and digest != digest_of(value):
        raise Damage(path, "its content is not that of its checksum")
    if version is not None:
        _check_version(path, value, version, digest)
    _check_schema(path, value, schema)
    return value


def read_npz(path: Path | str, names: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """All arrays of an npz file, whose members carry checksums; ``names`` must be among them.

    Raises:
        Damage: if it is cut, changed, holds objects, or lacks a name.
        OSError: if it cannot be read, or is not there.
    """
    import numpy as np

    wrong = (ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)
    with plain(path) as file:
        try:
            stored = np.load(file, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise ValueError("it is one array")
            arrays = {name: stored[name] for name in stored.files}
        except wrong as error:
            raise Damage(path, "it is not a whole npz file of plain arrays") from error
    missing = sorted(set(names) - arrays.keys())
    if missing:
        raise Damage(path, f"it holds {sorted(arrays)}, not {', '.join(missing)}")
    return arrays


@contextmanager
def plain(path: Path | str) -> Iterator[IO[bytes]]:
    """A file open for reading; ``Damage`` if it is none: a pipe is waited for without an end."""
    with naming(path):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
            raise Damage(path, f"it is {what}, not a file")
        with open(path, "rb") as file:
            yield file


def fits(value: object, kind: Kind) -> bool:
    """Whether a JSON value is of a kind; a bool is no number, a whole number is a float."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, Union):
        return any(fits(value, k) for k in inner)
    if origin is list:
        return isinstance(value, list) and all(fits(v, inner[0]) for v in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(v, inner[1]) for v in value.values())
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def short(value: object) -> str:
    """A value in at most sixty characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_schema(path: Path | str, value: dict, schema: Schema) -> None:
    for key, kind in schema.items():
        if key not in value:
            raise Damage(path, f"{key!r} is missing")
        if not fits(value[key], kind):
            named = isinstance(kind, type) and not typing.get_args(kind)
            said = kind.__name__ if named else str(kind)
            raise Damage(path, f"{key!r} is {short(value[key])}, not {said}")


def _check_version(path: Path | str, value: dict, version: int, digest: object) -> None:
    found, by = value.get("format"), value.get("versions")
    if found == version:
        if digest is None:
            raise Damage(path, "its checksum is missing")
        return
    name = by.get("meanflow_lite") if isinstance(by, dict) else None
    raise OtherVersion(
        f"{path} has format {short(found)}, of "
        f"{f'meanflow_lite {name}' if name else 'another program or version'}; this version reads "
        f"format {version}: use that version, or make the file again"
    )
