"""Files are whole or not there; what is wrong is said by kind; one writer a folder."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from meanflow_lite import files
from meanflow_lite.files import Damage, Locked, OtherVersion, locks
from meanflow_lite.files.tensors import read_tensors, tensor_shapes, write_tensors
from meanflow_lite.files.write import partial_name

VALUES = {
    "w": torch.randn(3, 5),
    "half": torch.randn(7).bfloat16(),
    "flags": torch.tensor([True, False, True]),
    "step": torch.tensor(3),
    "none": torch.empty(0, 4, dtype=torch.float64),
    "view": torch.arange(12).reshape(3, 4).T,
}


def test_tensors_are_what_safetensors_reads_and_say_what_they_are(tmp_path):
    path = tmp_path / "x.safetensors"
    seal = write_tensors(path, VALUES, {"step": "7"})
    theirs, (ours, metadata) = load_file(path), read_tensors(path, seal)
    for name, value in VALUES.items():
        assert torch.equal(theirs[name], value) and torch.equal(ours[name], value), name
        assert theirs[name].dtype == value.dtype
    with safe_open(path, "pt") as stored:
        assert stored.metadata() == {"step": "7", "checksum": seal}
    assert metadata == {"step": "7"}
    assert tensor_shapes(path) == {k: tuple(v.shape) for k, v in VALUES.items()}
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_every_flipped_bit_and_every_cut_of_a_file_is_found(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"w": torch.arange(20.0)}, {"step": "7"})
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(Damage):
            read_tensors(path)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(Damage):
            read_tensors(path)
    path.write_bytes(whole)
    with pytest.raises(Damage, match="not the file that its manifest describes"):
        read_tensors(path, "0" * 64)


def test_files_of_other_programs_are_read_when_that_is_asked_for(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "x.safetensors")
    assert read_tensors(tmp_path / "x.safetensors", sealed=False)[0]["w"].sum() == 2
    with pytest.raises(Damage, match="checksum is missing"):
        read_tensors(tmp_path / "x.safetensors")


def test_every_flipped_bit_of_a_json_is_found_or_changes_nothing(tmp_path):
    path, value = tmp_path / "x.json", {"format": 2, "lr": 0.25, "names": ["a", "ü"]}
    files.write_json(path, value)
    schema, whole = {"lr": float, "names": list[str]}, path.read_bytes()
    assert files.read_json(path, schema, 2) == value
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert files.read_json(path, schema, 2) == value
        except (Damage, OtherVersion) as error:
            assert str(path) in str(error)
    for length in range(0, len(whole) - 2):
        path.write_bytes(whole[:length])
        with pytest.raises(Damage):
            files.read_json(path, schema, 2)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is damaged: it is not JSON"),
        (b"\xff\xfe", "is damaged: it is not JSON"),
        (b"[" * 100_000, "is damaged: it is not JSON"),
        (b"[]", r"is damaged: it holds \[\], not a JSON object"),
        (b"null", "is damaged: it holds None, not a JSON object"),
        (b"{}", "has format None, of another program or version"),
        (b'{"format": 2}', "is damaged: its checksum is missing"),
        (b'{"format": 3, "versions": {"meanflow_lite": "9.9"}}', "format 3, of meanflow_lite 9.9"),
    ],
)
def test_what_is_wrong_with_a_json_is_said_by_kind(tmp_path, content, said):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises((Damage, OtherVersion), match=said):
        files.read_json(tmp_path / "x.json", {}, 2)


@pytest.mark.parametrize(
    ("value", "kind", "right"),
    [
        (1, int, True),
        (True, int, False),
        (1, float, True),
        (1, bool, False),
        (None, int | None, True),
        ("1", int | None, False),
        ([1, 2], list[int], True),
        ([1, "2"], list[int], False),
        ({"a": "b"}, dict[str, str], True),
        ({"a": 1}, dict[str, str], False),
    ],
)
def test_a_schema_knows_kinds(value, kind, right):
    assert files.fits(value, kind) is right


def test_what_is_no_file_is_damage_and_what_cannot_be_read_is_not(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("pipe", "folder"):
        with pytest.raises(Damage, match="not a file"):
            files.read_bytes(tmp_path / name)
    with pytest.raises(Damage, match="not a file"):
        files.sha256("/dev/zero")
    with pytest.raises(OSError, match="loop") as loop:
        files.read_json(tmp_path / "loop", {})
    assert loop.value.errno == errno.ELOOP
    with pytest.raises(FileNotFoundError, match="gone"):
        read_tensors(tmp_path / "gone")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize("operation", ["open", "write", "fsync", "replace"])
def test_a_refusing_disk_is_named_and_leaves_the_old_file(tmp_path, monkeypatch, operation, code):
    path = tmp_path / "x"
    files.write_bytes(path, b"old")

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    if operation == "open":
        monkeypatch.setattr("builtins.open", refuse)
    elif operation == "write":
        monkeypatch.setattr("meanflow_lite.files.write._Writer.__init__", refuse)
    else:
        monkeypatch.setattr(f"meanflow_lite.files.write.os.{operation}", refuse)
    with pytest.raises(OSError, match=str(path)) as caught:
        files.write_bytes(path, b"new")
    monkeypatch.undo()
    assert caught.value.errno == code
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_disk_that_cannot_synchronize_is_written_to(tmp_path, monkeypatch):
    """Some network mounts refuse to synchronize; Windows has no handle of a folder."""

    def refuse(_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("meanflow_lite.files.write.os.fsync", refuse)
    files.write_bytes(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_have_the_mode_that_the_umask_wants(tmp_path, umask):
    before = os.umask(umask)
    try:
        files.write_json(tmp_path / "a", {})
        write_tensors(tmp_path / "b", {"w": torch.ones(1)})
        with files.writing(tmp_path / "c") as file:
            np.savez(file, x=np.ones(2))
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o666 & ~umask}
    assert files.read_npz(tmp_path / "c", ["x"])["x"].sum() == 2


def test_an_npz_is_whole_or_damaged(tmp_path):
    path = tmp_path / "x.npz"
    with files.writing(path) as file:
        np.savez(file, mu=np.arange(300.0))
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(Damage):
            files.read_npz(path)
    path.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    with pytest.raises(Damage):
        files.read_npz(path)
    path.write_bytes(whole)
    with pytest.raises(Damage, match="not sigma"):
        files.read_npz(path, ["mu", "sigma"])
    np.savez(path, x=np.array([{}], object))
    with pytest.raises(Damage, match="plain arrays"):
        files.read_npz(path)


def test_what_is_set_aside_is_kept_each_time(tmp_path):
    for n in range(3):
        (tmp_path / "step").mkdir()
        (tmp_path / "step" / "x").write_text(str(n))
        files.set_aside(tmp_path / "step")
    names = {p.name: (p / "x").read_text() for p in tmp_path.iterdir()}
    assert names == {"damaged-step": "0", "damaged-step.2": "1", "damaged-step.3": "2"}


HOLDER = """
import sys, time
from meanflow_lite.files import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(folder: Path, seconds: float = 60.0) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLDER, str(folder), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_writer_is_refused_until_the_first_has_died(tmp_path):
    process = hold(tmp_path)
    theirs = tmp_path / f".x.{files.write.owner()[0]}-{process.pid}.partial"
    theirs.write_text("half")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    said = f"process {process.pid} on .*Nothing was changed"
    with pytest.raises(Locked, match=said), files.locked(tmp_path):
        raise AssertionError
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    process.kill()
    process.wait()
    with files.locked(tmp_path):  # the dead hold nothing, and what they left half written goes
        assert [p.name for p in tmp_path.iterdir()] == [".lock"]
        with pytest.raises(Locked), files.locked(tmp_path):
            raise AssertionError
    with files.locked(tmp_path):
        pass


def test_partial_files_of_the_living_stay(tmp_path):
    host = files.write.owner()[0]
    mine, other = partial_name(tmp_path / "a"), tmp_path / ".a.elsewhere-1.partial"
    living, foreign = tmp_path / f".a.{host}-{os.getppid()}.partial", tmp_path / ".a.partial"
    for path in (mine, other, living, foreign):
        path.write_text("half")
    assert files.clear_partials(tmp_path) == [mine]  # before this process writes anything
    assert files.clear_partials(tmp_path, patience=-1.0) == [other]
    assert {p.name for p in tmp_path.iterdir()} == {living.name, foreign.name}


@pytest.mark.parametrize("lives", [True, False])
def test_a_writer_on_another_host_is_known_by_its_beat(tmp_path, monkeypatch, lives):
    """Where the system's lock does not reach: its file's time moves, or it does not."""
    lock = tmp_path / ".lock"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "command": "train"}))
    monkeypatch.setattr(locks, "PATIENCE", 0.3)
    if lives:
        real = time.sleep

        def beat(seconds):
            os.utime(lock, ns=(1, 1))
            real(seconds)

        monkeypatch.setattr(locks.time, "sleep", beat)
        with pytest.raises(Locked, match="process 1 on elsewhere"), files.locked(tmp_path):
            raise AssertionError
        assert json.loads(lock.read_text())["host"] == "elsewhere"
    else:
        with files.locked(tmp_path):
            assert json.loads(lock.read_text())["pid"] == os.getpid()
        assert lock.read_text() == ""
