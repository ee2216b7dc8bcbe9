"""Tensors: safetensors files that carry their own checksum, hashed on the way to the disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from meanflow_lite.files.read import BLOCK, Damage, plain
from meanflow_lite.files.write import CHECKSUM, writing

_ZEROS = "0" * 64
_LETTERS = {"float": "F", "bfloat": "BF", "int": "I", "uint": "U"}


def write_tensors(
    path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> str:
    """Write a safetensors file with its own checksum in its metadata; returns that.

    The checksum is that of the file with zeros in its place. It is computed on the way to the
    disk, a tensor at a time: nothing is read back and no second copy is held. Tensors on other
    devices are copied one by one.
    """
    header = _header(tensors, {**(metadata or {}), CHECKSUM: _ZEROS})
    start, digest = header.index(_ZEROS.encode()), hashlib.sha256(header)
    with writing(path) as file:
        file.write(header)
        for name in _in_order(tensors):
            value = tensors[name].detach().cpu().contiguous().flatten()
            raw = value.view(torch.uint8).numpy().data
            for first in range(0, len(raw), BLOCK):
                block = raw[first : first + BLOCK]
                digest.update(block)
                file.write(block)
        file.seek(start)
        file.write(digest.hexdigest().encode())
    return digest.hexdigest()


def read_tensors(
    path: Path | str, checksum: str | None = None, sealed: bool = True
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, compared with the checksum inside.

    ``checksum`` is what a manifest says of it. ``sealed=False`` also reads files of other
    programs, which carry none.

    Raises:
        Damage: if it is cut, changed, no safetensors file, or not that of the manifest.
        OSError: if it cannot be read, or is not there.
    """
    metadata, found = _seal(path)
    told = metadata.pop(CHECKSUM, None)
    if told is None and sealed:
        raise Damage(path, "its checksum is missing")
    if told is not None and told != found:
        raise Damage(path, "its content is not that of its checksum")
    if checksum is not None and told != checksum:
        raise Damage(path, "it is whole, but not the file that its manifest describes")
    try:
        return load_file(path), metadata
    except SafetensorError as error:
        raise Damage(path, f"it is not a safetensors file ({error})") from error


def tensor_shapes(path: Path | str) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a safetensors file by its header: before memory is taken."""
    with plain(path) as file:
        header = _read_header(path, file)[1]
    try:
        return {k: tuple(v["shape"]) for k, v in header.items() if k != "__metadata__"}
    except (KeyError, TypeError) as error:
        raise Damage(path, "it is not a safetensors file") from error


def _in_order(tensors: Mapping[str, Tensor]) -> list[str]:
    """Wide numbers first, so that all are aligned."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def _dtype_name(value: Tensor) -> str:
    """``F32`` for float32, as safetensors names it."""
    name = str(value.dtype).removeprefix("torch.")
    word = name.rstrip("0123456789")
    return "BOOL" if name == "bool" else _LETTERS[word] + name.removeprefix(word)


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Its length in eight bytes, then JSON, padded to a multiple of eight."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in _in_order(tensors):
        value = tensors[name]
        first, end = end, end + value.numel() * value.element_size()
        place = {"shape": list(value.shape), "data_offsets": [first, end]}
        entries[name] = {"dtype": _dtype_name(value), **place}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _read_header(path: Path | str, file: IO[bytes]) -> tuple[bytes, dict[str, Any]]:
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > size - 8:
        raise Damage(path, "it is cut, or not a safetensors file")
    raw = file.read(length)
    try:
        header = json.loads(raw.decode("utf-8"))
        header["__metadata__"] = dict(header.get("__metadata__") or {})
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise Damage(path, "it is not a safetensors file") from error
    return start + raw, header


def _seal(path: Path | str) -> tuple[dict[str, str], str | None]:
    """Metadata, and the checksum that the content has; None if the file tells none."""
    with plain(path) as file:
        raw, header = _read_header(path, file)
        metadata = header["__metadata__"]
        told = metadata.get(CHECKSUM)
        if not (isinstance(told, str) and len(told) == 64):
            return metadata, None
        digest = hashlib.sha256(raw.replace(told.encode(), _ZEROS.encode(), 1))
        while block := file.read(BLOCK):
            digest.update(block)
    return metadata, digest.hexdigest()
