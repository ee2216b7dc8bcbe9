"""Every command, killed or refused at an operation on files, goes on and ends with the same bytes.

A sample by a seed here; all operations by ``make crash``, which sets ``CRASH=all``.
"""

import errno
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from crash import KILLED, in_child
from PIL import Image
from safetensors.torch import load_file
from test_latents import FakeVae

from meanflow_lite import cli

ALL = os.environ.get("CRASH") == "all"
ERRORS = {name: getattr(errno, name) for name in ("ENOSPC", "EIO", "ESTALE", "EMFILE")}
TINY = ["--network", "digits-XS", "--batch", "16", "--device", "cpu", "--grid-every", "0"]
TRAIN = ["train", *TINY, "--steps", "5", "--save-every", "2", "--log-every", "1", "--keep", "2"]
ENCODE = ["encode", "IMAGES", "--size", "16", "--shard", "4", "--device", "cpu"]
COMMANDS = {
    "train": [*TRAIN, "--out", "OUT"],
    "train on": [*TRAIN, "--out", "OUT", "--change", "steps=8"],
    "encode": [*ENCODE, "--out", "OUT"],
    "sample": ["sample", "--count", "5", "--out", "OUT", "--device", "cpu"],
    "sample npz": ["sample", "--count", "5", "--out", "OUT/s.npz", "--device", "cpu"],
    "fid": ["fid", "--samples", "SAMPLES", "--save-statistics", "OUT/st.npz", "--device", "cpu"],
}


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> dict[str, Path]:
    """Images, samples and a run that is over: what commands start from."""
    folder = tmp_path_factory.mktemp("given")
    rng = np.random.default_rng(0)
    for i in range(10):
        place = folder / "images" / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(16, 16, 3), dtype=np.uint8)).save(
            place / f"{i}.png"
        )
    cli.main(["sample", "--count", "40", "--out", str(folder / "samples"), "--device", "cpu"])
    cli.main([*TRAIN, "--out", str(folder / "run")])
    return {"IMAGES": folder / "images", "SAMPLES": folder / "samples", "RUN": folder / "run"}


@pytest.fixture(autouse=True)
def vae(monkeypatch):
    monkeypatch.setattr("meanflow_lite.cli.encode.Vae", lambda *_: FakeVae())


def prepared(name: str, given: dict[str, Path], out: Path) -> list[str]:
    """A fresh folder for a command, and its words."""
    shutil.rmtree(out, ignore_errors=True)
    if name == "train on":
        shutil.copytree(given["RUN"], out)
    elif "OUT/" in " ".join(COMMANDS[name]):
        out.mkdir()
    places = {**{k: str(v) for k, v in given.items()}, "OUT": str(out)}
    words = []
    for word in COMMANDS[name]:
        for key, value in places.items():
            word = word.replace(key, value) if word.startswith(key) else word
        words.append(word)
    return words


def content(out: Path) -> dict[str, object]:
    """What a command has made: all but times and what names the moment of writing."""
    found: dict[str, object] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.is_dir() or "tensorboard" in name or path.name in (".lock", "run.json"):
            continue
        if path.suffix == ".safetensors":
            tensors = load_file(path)
            found[name] = tuple(tensors[k].numpy().tobytes() for k in sorted(tensors))
        elif path.suffix == ".npz":
            with np.load(path) as stored:
                found[name] = tuple(stored[k].tobytes() for k in sorted(stored.files))
        elif path.suffix in (".npy", ".png"):
            found[name] = path.read_bytes()
        elif path.name == "manifest.json" or path.name.endswith(".partial"):
            found[name] = None
    return found


def places(name: str, total: int, share: int) -> list[int]:
    if ALL:
        return list(range(1, total + 1))
    return sorted(random.Random(name).sample(range(1, total + 1), min(share, total)))


@pytest.fixture(scope="module")
def reference(given, tmp_path_factory):
    """Of each command: how many operations it makes, and what it makes of them."""
    known: dict[str, tuple[int, dict]] = {}

    def of(name: str) -> tuple[int, dict]:
        if name not in known:
            out = tmp_path_factory.mktemp("reference") / "out"
            words = prepared(name, given, out)
            code, said, total = in_child(out, 0, None, lambda: cli.main(words))
            assert code == 0 and total > 3, said
            known[name] = total, content(out)
        return known[name]

    return of


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_an_operation_the_same_command_ends_with_the_same_bytes(
    name, given, reference, tmp_path
):
    total, expected = reference(name)
    out = tmp_path / "out"
    for at in places(name, total, 3):
        words = prepared(name, given, out)
        code, said, _ = in_child(out, at, None, lambda words=words: cli.main(words))
        assert code in (KILLED, 0), (at, said)  # 0: threads make operations in any order
        code, said, _ = in_child(out, -1, None, lambda words=words: cli.main(words))
        assert code == 0, (at, said)
        assert content(out) == expected, (at, said)


@pytest.mark.parametrize("name", COMMANDS)
def test_refused_at_an_operation_it_says_one_line_and_loses_nothing(
    name, given, reference, tmp_path
):
    total, expected = reference(name)
    out = tmp_path / "out"
    rng = random.Random(name)
    for at in places(name + "!", total, 3):
        for error in ERRORS if ALL else [rng.choice([*ERRORS])]:
            words = prepared(name, given, out)
            code, said, _ = in_child(out, at, ERRORS[error], lambda words=words: cli.main(words))
            where = (at, error, said)
            assert code in (0, 2), where  # 0: what is only tidied up may fail
            assert "Traceback" not in said and "delete" not in said, where
            assert "damaged" not in said, where
            if code == 2:
                assert said.count("error: [Errno") == 1 or said.count("could not write") == 1, where
                assert os.strerror(ERRORS[error]) in said, where
                assert ("free space" in said) == (error == "ENOSPC"), where
            code, said, _ = in_child(out, -1, None, lambda words=words: cli.main(words))
            assert code == 0 and content(out) == expected, (*where, said)


@pytest.mark.parametrize("kills", [40 if ALL else 2])
def test_killed_at_random_moments_with_writing_in_the_background(given, kills, tmp_path):
    """Each kill falls on any instruction; then to the end, with the same bits, each time anew."""
    rng, words = random.Random(kills), [*TRAIN, "--out", str(tmp_path / "whole")]
    cli.main(words)
    expected = load_file(tmp_path / "whole" / "model.safetensors")
    for trial in range(kills):
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        words = [*TRAIN, "--out", str(out)]
        pid = os.fork()
        if pid == 0:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            try:
                cli.main(words)
            finally:
                os._exit(0)
        while not (out / "log.jsonl").exists() and os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.001)
        time.sleep(rng.random() * 0.4)
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        cli.main(words)
        ended = load_file(out / "model.safetensors")
        assert all(torch.equal(ended[k], expected[k]) for k in expected), trial
