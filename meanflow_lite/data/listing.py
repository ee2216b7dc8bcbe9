"""Which image files lie below a folder: hidden names are skipped, links are followed once."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
#: Pictures in formats that are not read: counted, so that nobody misses them silently.
UNREAD = {".gif", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".svg", ".raw", ".dng"}


def hidden(name: str) -> bool:
    """Names that a system or an editor makes: ``.DS_Store``, ``._a.png``, ``__MACOSX``."""
    return name.startswith((".", "__"))


def folders(root: Path) -> list[str]:
    """Sorted names of the folders in ``root``, links to folders included, hidden ones not.

    Raises:
        ValueError: for a link that leads nowhere, in a circle, or back to ``root`` or above it.
    """
    found = []
    above = {_identity(p) for p in [root.resolve(), *root.resolve().parents]}
    for entry in sorted(root.iterdir()):
        if hidden(entry.name):
            continue
        if entry.is_symlink() and entry.suffix.lower() not in SUFFIXES:
            if not _leads_somewhere(entry):
                raise ValueError(f"{entry} is a link that leads nowhere, or in a circle: remove it")
            if _identity(entry) in above:
                raise ValueError(
                    f"{entry} is a link that leads back to {entry.resolve()}: move it away"
                )
        if entry.is_dir():
            found.append(entry.name)
    return found


def pictures(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files below ``folder`` that should be images, and those in formats that are not read.

    Sorted by path. Links to folders are followed; a folder that was already entered is not
    entered again, so that a link in a circle ends.

    Raises:
        OSError: if a folder may not be read.
    """
    files = sorted(_walk(folder, set()))
    unread = [p for p in files if p.suffix.lower() in UNREAD]
    return [p for p in files if p.suffix.lower() in SUFFIXES], unread


def _walk(folder: Path, entered: set[tuple[int, int]]) -> Iterator[Path]:
    here = _identity(folder)
    if here in entered:
        return
    entered.add(here)
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not hidden(entry.name))
    for name in names:
        path = folder / name
        if path.is_dir():
            yield from _walk(path, entered)
        else:
            yield path


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _leads_somewhere(path: Path) -> bool:
    try:
        path.stat()
    except OSError as error:
        if isinstance(error, FileNotFoundError) or _circle(error):
            return False
        raise
    return True


def _circle(error: OSError) -> bool:
    return error.errno == errno.ELOOP
