"""Checkpoint files to names and tensors, recognized by what is in them; nothing is executed.

A name is the path of a leaf joined by ``/``. Known are the two layouts of Orbax (OCDBT, and one
msgpack file), flax's msgpack, safetensors, PyTorch's format, and zips and folders of these.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

INSTALL = 'pip install "meanflow-lite[weights]"'
CHUNKED = "__msgpack_chunked_array__"
ORBAX = "manifest.ocdbt"
#: Levels of folders that are searched for a checkpoint.
DEPTH = 4


class WeightsError(ValueError):
    """A checkpoint that is damaged, of an unknown kind, or does not fit a network."""


@dataclass(frozen=True)
class Stored:
    """What a file held: leaves by name, what stood beside them, its format, the file."""

    leaves: dict[str, Tensor]
    format: str
    path: Path
    beside: dict[str, Any] = field(default_factory=dict)


def read(source: Path | str) -> Stored:
    """The leaves of a checkpoint: a file, a zip, or a folder that holds one.

    Raises:
        WeightsError: there is none, it is damaged, of an unknown kind, or more than tensors.
        ImportError: the format needs a package of the extra ``weights``.
    """
    path = Path(source)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file or folder")
    with path.open("rb") as file:
        start = file.read(16)
    if start[:4] == b"PK\x03\x04":
        return _read_zip(path)
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
        return Stored(_read_torch(path), "torch", path)
    if start[8:9] == b"{":
        return Stored(_read_safetensors(path), "safetensors", path)
    if start[:1] and (start[0] & 0xF0 == 0x80 or start[0] in (0xDE, 0xDF)):
        return Stored(_read_msgpack(path), "msgpack", path)
    raise WeightsError(
        f"{path} is no checkpoint that is known here (a zip, PyTorch, safetensors or msgpack file, "
        f"or an Orbax folder): it starts with {start[:4]!r}. A download may have ended early"
    )


def _read_folder(folder: Path) -> Stored:
    found = _candidates(folder, DEPTH)
    if not found:
        raise WeightsError(
            f"{folder} holds no checkpoint: no {ORBAX}, no msgpack, safetensors or PyTorch file"
        )
    best = _newest(found)
    if best.name == ORBAX:
        return Stored(_read_ocdbt(best.parent), "orbax (OCDBT)", best.parent)
    stored = read(best)
    beside = best.parent / "metadata.json"
    if beside.is_file():
        return Stored(stored.leaves, stored.format, best, _json(beside))
    return stored


def _candidates(folder: Path, depth: int) -> list[Path]:
    """Files that a checkpoint starts at, or `manifest.ocdbt` of an Orbax folder."""
    if (folder / ORBAX).is_file():
        return [folder / ORBAX]
    if (folder / "_METADATA").is_file() and (folder / "checkpoint").is_file():
        return [folder / "checkpoint"]
    files = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and p.is_file())
    if files or depth == 0:
        return files
    inner = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("__MACOSX"))
    return [found for child in inner for found in _candidates(child, depth - 1)]


SUFFIXES = (".msgpack", ".safetensors", ".pt", ".pth", ".ckpt", ".bin")


def _newest(found: list[Path]) -> Path:
    """The only one, or that of the highest step where folders are called checkpoint_STEP."""
    if len(found) == 1:
        return found[0]
    steps = {path: re.search(r"checkpoint_(\d+)", str(path)) for path in found}
    if all(steps.values()):
        return max(found, key=lambda path: int(steps[path].group(1)))  # pyright: ignore
    shown = ", ".join(str(p) for p in found[:4])
    raise WeightsError(f"there are {len(found)} checkpoints ({shown} ...): name one of them")


def _read_zip(path: Path) -> Stored:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith("data.pkl") for name in names):
                return Stored(_read_torch(path), "torch", path)
            if any(name.startswith("/") or ".." in Path(name).parts for name in names):
                raise WeightsError(f"{path} holds names that lead outside of it: refused")
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".unzip-") as folder:
                archive.extractall(folder)
                inner = _read_folder(Path(folder))
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise WeightsError(f"{path} is damaged or cut short ({error}): fetch it again") from error
    except WeightsError as error:
        raise WeightsError(str(error).replace(folder_of(error), str(path))) from error
    return Stored(inner.leaves, f"zip of {inner.format}", path, inner.beside)


def folder_of(error: Exception) -> str:
    """The temporary folder that a message names, to be replaced by the name of the zip."""
    found = re.search(r"\S*\.unzip-\w+", str(error))
    return found.group() if found else "\0"


def _read_torch(path: Path) -> dict[str, Tensor]:
    # SiT stores its command line beside the weights: names and values, no code
    torch.serialization.add_safe_globals([argparse.Namespace])
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|global) ([\w.]+)", str(error))
        what = f" ({named.group(1)})" if named else ""
        raise WeightsError(
            f"{path} is a pickle of more than tensors{what}: loading it would run code that it "
            "names, so it is refused. Convert it to safetensors where you trust it"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{path} is damaged or cut short ({reason}): fetch it again") from error
    return flatten(stored)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return {name.replace(".", "/"): value for name, value in load_file(path).items()}
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged or cut short ({error}): fetch it again") from error


def _read_msgpack(path: Path) -> dict[str, Tensor]:
    try:
        import msgpack
    except ImportError as error:
        raise ImportError(f"{path} is read by the package msgpack: {INSTALL}") from error
    try:
        tree = msgpack.unpackb(path.read_bytes(), ext_hook=_array, raw=False, strict_map_key=False)
    except Exception as error:  # msgpack has many, without a common base
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is damaged or cut short ({reason}): fetch it again") from error
    return flatten(tree)


def _array(code: int, data: bytes) -> Any:
    """Flax's extension types: 1 an array, 2 a complex number, 3 a scalar; none is executed."""
    import msgpack

    if code not in (1, 3):
        return None
    shape, dtype, content = msgpack.unpackb(data, raw=False)
    return tensor_of(content, dtype, tuple(shape))


def tensor_of(content: bytes, dtype: str, shape: tuple[int, ...]) -> Tensor:
    """Raw little-endian numbers as a tensor; bfloat16 too, which numpy does not have."""
    if dtype == "bfloat16":
        return (
            torch.from_numpy(np.frombuffer(content, np.int16).copy())
            .view(torch.bfloat16)
            .reshape(shape)
        )
    return torch.from_numpy(np.frombuffer(content, np.dtype(dtype)).reshape(shape).copy())


def flatten(tree: Any, name: str = "") -> dict[str, Tensor]:
    """Leaves of nested maps by their paths; names of PyTorch, with dots, become paths too."""
    if isinstance(tree, Tensor):
        return {name: tree.detach()}
    if isinstance(tree, Mapping):
        if CHUNKED in tree:
            return {name: _joined(tree)}
        inner = {str(key): value for key, value in tree.items()}
    elif isinstance(tree, list | tuple):
        inner = {str(i): value for i, value in enumerate(tree)}
    else:
        return {}
    leaves: dict[str, Tensor] = {}
    for key, value in inner.items():
        path = key.replace(".", "/")
        leaves |= flatten(value, f"{name}/{path}" if name else path)
    return leaves


def _joined(chunked: Mapping[str, Any]) -> Tensor:
    """An array that was too large for one message of msgpack."""

    def ordered(part: Any) -> Iterable[Any]:
        if isinstance(part, Mapping):
            return [part[key] for key in sorted(part, key=int)]
        return part

    shape = [int(n) for n in ordered(chunked["shape"])]
    return torch.cat([chunk.flatten() for chunk in ordered(chunked["chunks"])]).reshape(shape)


def _read_ocdbt(folder: Path) -> dict[str, Tensor]:
    try:
        import tensorstore
    except ImportError as error:
        raise ImportError(f"{folder} is read by the package tensorstore: {INSTALL}") from error
    files = {"driver": "file", "path": f"{folder.resolve()}/"}
    base = {"driver": "ocdbt", "base": files}
    try:
        keys = tensorstore.KvStore.open(base).result().list().result()
        names = sorted(
            key.decode().removesuffix("/.zarray") for key in keys if key.endswith(b"/.zarray")
        )
        wanted = _averages(names)
        arrays = {
            name: tensorstore.open({"driver": "zarr", "kvstore": base, "path": name}, open=True)
            for name in wanted
        }
        reads = {name: array.result().read() for name, array in arrays.items()}
        return {
            name.replace(".", "/"): tensor_of(value.tobytes(), str(value.dtype), value.shape)
            for name, value in ((name, np.asarray(read.result())) for name, read in reads.items())
        }
    except (ValueError, OSError) as error:
        reason = _short(str(error))
        raise WeightsError(f"{folder} is damaged or incomplete ({reason})") from error


def _averages(names: list[str]) -> list[str]:
    """The averaged weights where there are some: the optimizer's state is not even read."""
    return [name for name in names if name.startswith("ema_params.")] or [
        name for name in names if not name.startswith("opt_state.")
    ]


def _short(message: str) -> str:
    line = message.splitlines()[0]
    return line if len(line) < 160 else line[:157] + "..."


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise WeightsError(f"{path} is damaged ({error})") from error
    return content if isinstance(content, dict) else {}
