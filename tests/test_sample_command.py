"""Sampling goes on where it was, and earlier samples stay until the new ones are whole."""

import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from test_fid import refusal, run

from meanflow_lite.files import read_json
from meanflow_lite.runs import load
from meanflow_lite.runs.samples import Target, in_batches


def pngs(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("0*.png")}


@pytest.mark.parametrize("out", ["s", "s.npz"])
def test_nothing_is_lost_by_a_command_that_is_refused(out, tmp_path, capsys):
    place = tmp_path / out
    run("sample", "--out", place, "--count", 5)
    before = place.read_bytes() if place.is_file() else pngs(place)
    for wrong in (["--omega", "2"], ["--labels", "11"], ["--steps", "0"], ["--t-mid", "0.5"]):
        refusal(capsys, "sample", "--out", place, "--count", 3, *wrong)
    assert before == (place.read_bytes() if place.is_file() else pngs(place))


def kill_after(files: int, *arguments) -> int:
    """The command in a process of its own, killed when it has written so many files."""
    pid = os.fork()
    if pid == 0:
        from meanflow_lite.runs import samples

        original = samples.write_bytes

        def counted(path, content, durable=True, seen=[0]):  # noqa: B006
            seen[0] += 1
            if seen[0] > files:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(path, content, durable)

        samples.write_bytes = counted
        run(*arguments)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("out", ["s", "s.npz"])
def test_a_killed_sampling_goes_on_and_is_not_judged_before(out, tmp_path, capsys):
    place, whole = tmp_path / out, tmp_path / f"whole-{out}"
    run("sample", "--out", whole, "--count", 150, "--seed", 3)
    same = ["sample", "--out", place, "--count", 150, "--seed", 3]
    assert kill_after(1, *same, "--batch", 64) == -signal.SIGKILL
    if out == "s":
        assert "has not ended" in refusal(capsys, "fid", "--samples", place)
    else:
        assert not place.exists()
    run(*same)
    printed = capsys.readouterr().err
    assert f"/{149 if out == 's' else 86}" in printed  # what was there is not made again
    if out == "s":
        # a batch of another size rounds the last bits otherwise: a step of a byte at most
        assert pngs(place).keys() == pngs(whole).keys() and not (place / ".new").exists()
        run("fid", "--samples", place)
    else:
        with np.load(place) as a, np.load(whole) as b:
            assert abs(a["arr_0"].astype(int) - b["arr_0"]).max() <= 1
        assert not place.with_suffix(".parts").exists()


def test_killed_while_samples_take_their_place(tmp_path, monkeypatch):
    """Earlier samples of another count are gone, all new ones come."""
    run("sample", "--out", tmp_path, "--count", 9)
    run("sample", "--out", tmp_path / "b", "--count", 6, "--seed", 1)
    original, moves = Path.replace, []

    def replace(self, target):
        moves.append(target)
        if len(moves) == 3:
            raise KeyboardInterrupt
        return original(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(SystemExit):
        run("sample", "--out", tmp_path, "--count", 6, "--seed", 1)
    monkeypatch.undo()
    assert read_json(tmp_path / "samples.json", {})["complete"] is False
    run("sample", "--out", tmp_path, "--count", 6, "--seed", 1)
    assert pngs(tmp_path) == pngs(tmp_path / "b")
    assert read_json(tmp_path / "samples.json", {})["complete"] is True


def test_samples_that_are_there_are_not_made_again(tmp_path, capsys):
    run("sample", "--out", tmp_path, "--count", 5)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*")}
    run("sample", "--out", tmp_path, "--count", 5)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("0*.png")} == {
        p: t for p, t in times.items() if p.name.startswith("0")
    }
    (tmp_path / "000002.png").unlink()
    run("sample", "--out", tmp_path, "--count", 5)
    assert len(pngs(tmp_path)) == 5


def test_foreign_files_in_the_parts_of_an_npz_do_not_end_it(tmp_path):
    (tmp_path / "s.parts").mkdir()
    np.save(tmp_path / "s.parts" / "1.npy", np.zeros(3))
    (tmp_path / "s.parts" / ".DS_Store").touch()
    run("sample", "--out", tmp_path / "s.npz", "--count", 70)
    with np.load(tmp_path / "s.npz") as stored:
        assert stored["arr_0"].shape == (70, 8, 8, 1) and len(stored["labels"]) == 70


def test_pieces_are_batched_and_all_are_there():
    target = Target(Path("s.npz"), {"count": 150})
    assert [*map(len, target.units())] == [64, 64, 22]
    assert [[len(u) for u in g] for g in in_batches(target.units(), 128)] == [[64, 64], [22]]
    assert [[len(u) for u in g] for g in in_batches(target.units(), 5)] == [[64], [64], [22]]


def test_noise_of_two_samples_is_never_the_same():
    """By 32 bits of a seed, seed 0 once gave samples 56154 and 149408 the same noise."""
    model = load("digits")
    first, second = model.noise([56154], 0), model.noise([149408], 0)
    assert not torch.equal(first, second)
    assert not torch.equal(model.noise([3], 0), model.noise([3], 2**32))
    with pytest.raises(ValueError, match=re.escape("[0, 2**64)")):
        model.noise([0], 2**64)
    with pytest.raises(ValueError, match=re.escape("[0, 2**64)")):
        model.noise([0], -1)


def test_a_name_of_a_picture_is_no_folder(capsys, tmp_path):
    with pytest.raises(SystemExit):
        run("sample", "--out", tmp_path / "s.png")
