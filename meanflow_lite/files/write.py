"""Writing: under another name, to the disk, renamed."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

CHECKSUM = "checksum"
_PARTIAL = re.compile(r"\..+\.(?P<host>[^/]+)-(?P<pid>\d+)\.partial")
#: What a file system says that cannot synchronize this kind of thing: some network mounts.
_NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextmanager
def writing(path: Path | str, durable: bool = True) -> Iterator[IO[bytes]]:
    """A binary file that appears under its name when the block ends, whole; else not at all.

    ``durable`` waits until it is on the disk; without it a loss of power may leave an empty file,
    a killed process may not.

    Raises:
        OSError: naming ``path``; what was there before is as it was.
    """
    path = Path(path)
    partial = partial_name(path)
    if durable:
        clear_partials(path.parent, glob.escape(path.name))
    try:
        with naming(path):
            with open(partial, "wb") as file:
                yield _Writer(file)  # pyright: ignore[reportReturnType]
                file.flush()
                if durable:
                    _sync(file.fileno())
            os.replace(partial, path)
            if durable:
                sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextmanager
def writing_folder(path: Path | str) -> Iterator[Path]:
    """A folder that appears under its name when the block ends, with all that was put into it.

    Raises:
        OSError: naming ``path``, also if it exists and is not empty.
    """
    path = Path(path)
    partial = partial_name(path)
    try:
        with naming(path):
            shutil.rmtree(partial, ignore_errors=True)
            os.mkdir(partial)
            yield partial
            sync_folder(partial)
            os.rename(partial, path)
            sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_bytes(path: Path | str, content: bytes, durable: bool = True) -> str:
    """Write ``content``; returns its SHA-256."""
    with writing(path, durable) as file:
        file.write(content)
    return hashlib.sha256(content).hexdigest()


def write_json(path: Path | str, value: Mapping[str, Any]) -> str:
    """Write a JSON object with the checksum of its content inside; returns that."""
    plain = {k: v for k, v in json.loads(json.dumps(value)).items() if k != CHECKSUM}
    digest = digest_of(plain)
    write_bytes(path, (json.dumps({**plain, CHECKSUM: digest}, indent=1) + "\n").encode())
    return digest


def append(path: Path | str, line: str) -> None:
    """Add a line to a text file. A reader has to expect that the last one may be cut."""
    with naming(path), open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")


def set_aside(path: Path | str) -> Path:
    """Rename what is damaged to ``damaged-NAME`` beside it, and return that name."""
    path = Path(path)
    new = path.with_name(f"damaged-{path.name}")
    n = 1
    while os.path.lexists(new):
        n += 1
        new = path.with_name(f"damaged-{path.name}.{n}")
    with naming(path):
        os.rename(path, new)
        sync_folder(path.parent)
    return new


def owner() -> tuple[str, int]:
    """Host and number of this process."""
    return platform.node() or "localhost", os.getpid()


def partial_name(path: Path) -> Path:
    """Where this process writes what shall become ``path``."""
    host, pid = owner()
    return path.with_name(f".{path.name}.{host}-{pid}.partial")


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """An ``OSError`` of the block without a path, or of a partial file, names this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None or ".partial" in str(error.filename):
            error.filename = str(path)
            if error.filename2 is not None:
                del error.filename2  # None would be shown
        raise


def sync_folder(folder: Path | str) -> None:
    """Bring the names in a folder to the disk, where the system can: Windows cannot."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        _sync(handle)
    finally:
        os.close(handle)


def digest_of(value: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object's content: spaces and the order of keys do not count."""
    content = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def alive(pid: int) -> bool:
    """Whether a process of this host with this number lives."""
    if os.name == "nt":  # signal 0 would end it there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def clear_partials(folder: Path | str, name: str = "*", patience: float = 3600.0) -> list[Path]:
    """Remove what processes that have ended left half written in ``folder``; returns the names.

    ``name`` restricts it to one file. Those of a living process of this host stay; those of
    another host stay if anything in them was written within ``patience`` seconds.
    """
    gone = []
    for path in Path(folder).glob(f".{name}.*.partial"):
        match = _PARTIAL.fullmatch(path.name)
        if match is None or _owned_by_the_living(path, match, patience):
            continue
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            gone.append(path)
    return gone


def _owned_by_the_living(path: Path, match: re.Match[str], patience: float) -> bool:
    host, pid = owner()
    if match["host"] == host:
        return int(match["pid"]) != pid and alive(int(match["pid"]))
    try:
        newest = max(p.lstat().st_mtime for p in [path, *path.glob("*")])
        now = _now_by_the_file_system(path.parent)
    except OSError:
        return True
    return now - newest < patience


def _now_by_the_file_system(folder: Path) -> float:
    """Its clock, not ours: on a network mount the two differ."""
    probe = partial_name(folder / "clock")
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


class _Writer:
    """A file without a number: numpy would write past Python, where a full disk goes unnoticed."""

    def __init__(self, file: IO[bytes]) -> None:
        self.write, self.seek, self.tell = file.write, file.seek, file.tell
        self.flush, self.read = file.flush, file.read  # np.savez knows a file by ``read``


def _sync(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
