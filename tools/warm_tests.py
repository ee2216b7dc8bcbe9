"""Runs chosen tests in seconds: a process that has torch loaded already forks for each request.

    python -m tools.warm_tests serve SOCKET COVERAGE.json      # one server a folder
    python tools/warm_tests.py ask SOCKET [TEST ...]         # the exit code; imports nothing

A request without tests is about a mutant: the server compares the files of the coverage table with
what they held at its start, and runs the tests that reach the changed lines, quick ones first.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

LIMIT = 90  # seconds for the tests of one request; a mutant that hangs counts as noticed
PRELOAD = ("torch", "torch.func", "numpy", "scipy", "sklearn", "timm", "ot", "pytest", "hypothesis")


class Choice:
    """Which tests reach a line. ``table`` has ``seconds`` of a test and, a file, tests a line."""

    def __init__(self, table: dict) -> None:
        self.seconds: dict[str, float] = table["seconds"]
        self.lines: dict[str, dict[str, list[str]]] = table["lines"]
        self.before = {f: Path(f).read_text("utf-8").splitlines() for f in self.lines}

    def changed(self) -> dict[str, int]:
        """The first line that differs now, counted from one, of each file that differs."""
        found = {}
        for file, old in self.before.items():
            new = Path(file).read_text("utf-8").splitlines()
            if new != old:
                pairs = zip([*old, None], [*new, None], strict=False)
                found[file] = next(n for n, (a, b) in enumerate(pairs, 1) if a != b)
        return found

    def tests(self, most: float = 60.0) -> list[str]:
        """Tests that run the changed lines, or else the lines nearest to them."""
        chosen: set[str] = set()
        for file, line in self.changed().items():
            reached = {int(n): tests for n, tests in self.lines[file].items() if tests}
            if not reached:
                continue
            # a default value or a decorator runs at import: the nearest line that a test reaches
            nearest = min(reached, key=lambda n: (abs(n - line), -n))
            chosen |= set(reached[nearest])
        ranked, total = sorted(chosen, key=lambda test: self.seconds.get(test, 1.0)), 0.0
        kept = []
        for test in ranked:
            total += self.seconds.get(test, 1.0)
            if kept and total > most:
                break
            kept.append(test)
        return kept


def serve(path: str, table: str) -> None:
    """Answer requests one after the other until a request says "stop"."""
    import importlib
    import json

    for name in PRELOAD:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    choice = Choice(json.loads(Path(table).read_text("utf-8")))
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(path)
        door.listen()
        while True:
            guest, _ = door.accept()
            with guest:
                asked = guest.recv(1 << 16).decode().split("\n")
                if asked == ["stop"]:
                    return
                code = _run([t for t in asked if t] or choice.tests())
                guest.sendall(str(code).encode())


def _run(tests: list[str]) -> int:
    """The exit code of pytest in a child, 1 when it is killed or takes too long."""
    if not tests:
        return 0  # nothing reaches the line: the mutant survives
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.signal(signal.SIGALRM, lambda *_: os.killpg(0, signal.SIGKILL))
        signal.alarm(LIMIT)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        import pytest

        os._exit(int(pytest.main(["-x", "-q", "--no-header", "--tb=no", *tests])))
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1


def ask(path: str, tests: list[str]) -> int:
    """Send a request and wait for the exit code."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(path)
        line.sendall(("\n".join(tests) or "\n").encode())
        return int(line.recv(64) or 1)


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    if command == "serve":
        serve(*rest)
    else:
        sys.exit(ask(rest[0], rest[1:]))
