"""A process that is killed, or refused, at its n-th operation on files.

Run in a forked child: ``operations`` counts what a command does to files below a folder, and at the
chosen one ends the process as SIGKILL does, or raises what a disk says.
"""

import builtins
import io
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from meanflow_lite.files.write import _Writer

#: Functions of ``os`` that change or synchronize files; all take a path or a handle first.
NAMES = ("replace", "rename", "fsync", "mkdir", "unlink", "rmdir", "open", "truncate")
KILLED = 137


def intercept(folder: Path, at: int, act: Callable[[str], None]) -> Callable[[], int]:
    """Call ``act(name)`` before operation ``at`` below ``folder``; returns a counter of all."""
    lock, count = threading.Lock(), [0]

    def before(name: str, target: object) -> None:
        known = isinstance(target, str | bytes | os.PathLike)
        if known and not os.fsdecode(target).startswith((str(folder), ".")):
            return
        with lock:
            count[0] += 1
            mine = count[0]
        if mine == at:
            act(name)

    def watched(name: str, real: Callable) -> Callable:
        def function(target, *rest, **options):
            before(name, target)
            return real(target, *rest, **options)

        return function

    _install(watched, before)
    return lambda: count[0]


def _install(watched: Callable, before: Callable) -> None:
    for name in NAMES:
        setattr(os, name, watched(name, getattr(os, name)))
    opened = watched("open", io.open)
    builtins.open = io.open = opened  # pathlib asks io
    made = _Writer.__init__

    def initialize(self, file) -> None:
        made(self, file)
        write = self.write

        def counted(content):
            before("write", None)
            return write(content)

        self.write = counted

    _Writer.__init__ = initialize


def in_child(folder: Path, at: int, code: int | None, command: Callable[[], None]) -> tuple:
    """Exit code, what was said, and the number of operations of a command in a forked copy.

    ``code`` None kills it; else an ``OSError`` of that number is raised, once.
    """
    said, told = folder.parent / "said", folder.parent / "count"
    pid = os.fork()
    if pid == 0:
        handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 2)
        os.dup2(handle, 1)
        sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1)

        def act(name: str) -> None:
            if code is None:
                os._exit(KILLED)
            raise OSError(code, os.strerror(code))

        counter, result = intercept(folder, at, act), 0
        try:
            command()
        except SystemExit as stop:
            result = int(stop.code or 0)
        except BaseException as error:
            import traceback

            traceback.print_exception(error)
            result = 99
        told.write_text(str(counter()))
        os._exit(result)
    result = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    operations = int(told.read_text()) if at == 0 else -1
    return result, said.read_text(errors="replace"), operations
