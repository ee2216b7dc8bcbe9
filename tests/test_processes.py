"""One of two processes fails: it says why before it waits for anybody, and the other one ends."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from meanflow_lite import cli
from meanflow_lite.cli.sample import Sample
from meanflow_lite.training import Trainer

TRAIN = ["train", "--network", "digits-XS", "--batch", "16", "--device", "cpu"]
TRAIN += ["--grid-every", "0", "--steps", "4"]
#: The words of a command, and what each process does of it in turn.
COMMANDS = {
    "train": (TRAIN, Trainer, "_advance"),
    "sample": (["sample", "--count", "6", "--batch", "2", "--device", "cpu"], Sample, "_made"),
}
#: What is raised, the exit code, and what is printed of it.
ERRORS = {
    "of the user": (ValueError("planted here"), 2, "error: planted here"),
    "of the disk": (OSError(28, "planted here"), 2, "error: [Errno 28] planted here"),
    "of the program": (KeyError("planted here"), 1, "Traceback (most recent call last)"),
    "of Ctrl-C": (KeyboardInterrupt(), 130, "interrupted"),
}
LOST = "error: another process has ended; it said why"
CASES = [
    ("train", "of the user", 0),
    ("train", "of the program", 1),
    ("train", "of the disk", 1),
    ("sample", "of Ctrl-C", 1),
    ("sample", "of the program", 0),
]


def start(rank: int, port: int, folder: Path, name: str, turn: Callable[[], None]) -> int:
    """A process as torchrun starts it, but forked; ``turn`` comes before its second piece."""
    pid = os.fork()
    if pid:
        return pid
    handle = os.open(folder / f"said-{rank}", os.O_WRONLY | os.O_CREAT)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    words, kind, method = COMMANDS[name]
    whole, calls = getattr(kind, method), []

    def in_turn(*arguments):
        calls.append(None)
        if len(calls) == 2:
            turn()
        return whole(*arguments)

    setattr(kind, method, in_turn)
    try:
        cli.main([*words, "--out", str(folder / "out")])
    except SystemExit as stop:
        os._exit(int(stop.code or 0))
    except BaseException:
        os._exit(99)
    os._exit(0)


def ended(pid: int) -> int:
    """The exit code; a process that does not end within a minute is killed, as -9."""
    for _ in range(600):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def held_by(go: Path) -> None:
    while not go.exists():
        time.sleep(0.01)


@pytest.mark.parametrize(("name", "error", "failing"), CASES)
def test_an_error_of_one_process_is_said_before_it_waits_and_ends_both(
    name, error, failing, tmp_path
):
    """The sound process is held where it meets nobody until the failed one is gone."""
    planted, code, message = ERRORS[error]
    go = tmp_path / "go"

    def fail():
        raise planted

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    turns = [lambda: held_by(go), lambda: held_by(go)]
    turns[failing] = fail
    pids = [start(rank, port, tmp_path, name, turns[rank]) for rank in (0, 1)]
    try:
        assert ended(pids[failing]) == code
        said = (tmp_path / f"said-{failing}").read_text()
        assert message in said and ("planted here" in said or code == 130), said
        assert LOST not in said
        assert os.waitpid(pids[1 - failing], os.WNOHANG) == (0, 0)  # nobody was waited for
    finally:
        go.touch()
        other = ended(pids[1 - failing])
    said = (tmp_path / f"said-{1 - failing}").read_text()
    assert other == 2 and LOST in said and "Traceback" not in said, said
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_without_an_error_both_end_well(name, tmp_path):
    """The control: the same two processes, in which nothing is raised."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    pids = [start(rank, port, tmp_path, name, lambda: None) for rank in (0, 1)]
    assert [ended(pid) for pid in pids] == [0, 0]
    assert not any(LOST in (tmp_path / f"said-{rank}").read_text() for rank in (0, 1))
