"""Who writes into a folder: one at a time, known by host and process, with a sign of life.

A run, a cache and a folder of samples are each written by one job. :func:`locked` holds the file
``.lock`` in the folder: by the operating system's lock, which ends with the process, and by a line
of text (host, process, command) whose time is renewed while the process lives, for file systems
that know no locks between hosts. A second writer is refused and changes nothing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meanflow_lite.files.write import alive, clear_partials, naming, owner

LOCK = ".lock"
#: Seconds between two signs of life, and how long one of another host is waited for.
BEAT, PATIENCE = 10.0, 45.0

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


class Locked(ValueError):
    """Another process writes into this folder."""


@contextmanager
def locked(folder: Path | str) -> Iterator[None]:
    """Hold ``folder``, which exists, while the block runs; clears what the dead left in it.

    Raises:
        Locked: if another living process holds it; nothing was changed then.
    """
    path = Path(folder) / LOCK
    with naming(path):
        file = open(path, "a+b", buffering=0)  # noqa: SIM115
    with file, _held(file, Path(folder)):
        clear_partials(folder)
        yield


@contextmanager
def _held(file, folder: Path) -> Iterator[None]:
    with naming(folder / LOCK):
        if not _taken(file):
            raise _refusal(folder, _holder(file))
        _outlive_other_hosts(folder, file)
        host, pid = owner()
        mine = {"host": host, "pid": pid, "command": shlex.join(sys.argv)[:1000]}
        _tell(file, json.dumps(mine).encode())
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(folder / LOCK, stop), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        with contextlib.suppress(OSError):
            _tell(file, b"")


def _taken(file) -> bool:
    """Whether the system's lock is ours now; also true where there is no such thing."""
    try:
        import fcntl
    except ImportError:  # Windows
        return not _lives_here(_holder(file))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return not _lives_here(_holder(file))
    return True


def _lives_here(holder: dict) -> bool:
    host, pid = owner()
    return holder.get("host") == host and holder["pid"] != pid and alive(holder["pid"])


def _holder(file) -> dict:
    """What the lock says; nothing if it was given back, or if a crash cut the line."""
    file.seek(0)
    with contextlib.suppress(ValueError):
        found = json.loads(file.read(4096) or b"{}")
        if isinstance(found, dict) and isinstance(found.get("pid"), int):
            return found
    return {}


def _tell(file, text: bytes) -> None:
    file.truncate(0)
    file.write(text)


def _outlive_other_hosts(folder: Path, file) -> None:
    """A holder on another host may live where its lock is not seen here: its beats are.

    They are not compared with a clock, as two hosts have two: they move or they do not.
    """
    holder = _holder(file)
    if not holder or holder.get("host") == owner()[0]:
        return
    seen = os.fstat(file.fileno()).st_mtime_ns
    end = time.monotonic() + PATIENCE
    print(
        f"{folder} was written from {holder['host']}: waiting for a sign of life", file=sys.stderr
    )
    while time.monotonic() < end:
        time.sleep(min(1.0, PATIENCE / 10))
        if os.stat(folder / LOCK).st_mtime_ns != seen:
            raise _refusal(folder, holder)


def _refusal(folder: Path, holder: dict) -> Locked:
    who = (
        f"process {holder['pid']} on {holder.get('host')} ({holder.get('command')})"
        if holder
        else "another process"
    )
    return Locked(
        f"{folder} is being written by {who}: wait for it or stop it, or use another --out. "
        "Nothing was changed"
    )


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(path)
