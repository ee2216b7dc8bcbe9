"""Every kind of file, damaged in every way, read by every command; book/damage.md says the rest.

No traceback, no lost work, no advice to delete; and where damage is not seen, the page says so.
"""

import builtins
import errno
import hashlib
import io
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_latents import FakeVae

from meanflow_lite import cli
from meanflow_lite.data.digits import digits, to_uint8
from meanflow_lite.evaluation.digits import small_features
from meanflow_lite.evaluation.frechet import accumulate, write_statistics
from meanflow_lite.files.write import digest_of
from meanflow_lite.networks.dit import DiTConfig
from meanflow_lite.networks.presets import PRESETS as NETWORKS

PAGE = Path(__file__).resolve().parent.parent / "book" / "damage.md"
TINY = ["--batch", "8", "--device", "cpu", "--grid-every", "0", "--steps", "1"]


@dataclass(frozen=True)
class Kind:
    """A kind of file: one of them, and the commands that read it.

    ``files``: another one, for some commands; ``goes_on``: commands that do without it, and say so.
    """

    path: str
    commands: dict[str, list[str]]
    files: dict[str, str] = field(default_factory=dict)
    goes_on: tuple[str, ...] = ()


IMAGES = ["encode", "images", "--out", "cache", "--size", "16", "--shard", "4"]
TRAIN = ["train", "--data", "cache", "--network", "damage", "--out", "new", *TINY]
SAMPLE = ["sample", "--out", "new", "--count", "4"]
FID = ["fid", "--few", "True"]
RUN = ["train", "--network", "digits-XS", *TINY[2:4], "--grid-every", "0", "--batch", "16"]
RUN += ["--steps", "3", "--save-every", "1", "--out"]
STEP = "half/checkpoints/step-00000003"
RESUME = {"train": [*RUN, "half"], "sample": [*SAMPLE, "--model", "half"]}
ON = {"goes_on": ("train", "sample")}
KINDS = {
    "run.json": Kind("bare/run.json", {"sample": [*SAMPLE, "--model", "bare"]}),
    "model.safetensors": Kind("bare/model.safetensors", {"sample": [*SAMPLE, "--model", "bare"]}),
    "manifest.json of a checkpoint": Kind(f"{STEP}/manifest.json", RESUME, **ON),
    "tensors of a checkpoint": Kind(f"{STEP}/ema-0.safetensors", RESUME, **ON),
    "an image": Kind(
        "images/cat/3.png",
        {
            "encode": ["encode", "images", "--out", "other", "--size", "16"],
            "fid": [*FID, "--samples", "samples.npz", "--reference", "plain", "--crop", "8"],
        },
        {"fid": "plain/3.png"},
    ),
    "manifest.json of a cache": Kind(
        "cache/manifest.json", {"train": TRAIN, "verify": ["verify", "cache"]}
    ),
    "shard-NNNNN.json": Kind(
        "cache/shard-00001.json", {"train": TRAIN, "verify": ["verify", "cache"]}
    ),
    "shard-NNNNN.npy": Kind(
        "cache/shard-00001.npy",
        {"train": TRAIN, "verify": ["verify", "cache"]},
    ),
    "samples.json": Kind("png/samples.json", {"fid": [*FID, "--samples", "png"]}),
    "samples in an npz": Kind("samples.npz", {"fid": [*FID, "--samples", "samples.npz"]}),
    "statistics in an npz": Kind(
        "statistics.npz",
        {"fid": [*FID, "--samples", "samples.npz", "--reference", "statistics.npz"]},
    ),
    "weights of Inception": Kind(
        "inception.pth",
        {
            "fid": [*FID, "--samples", "color.npz", "--reference", "color.npz"]
            + ["--features", "inception", "--inception-weights", "inception.pth"]
        },
    ),
}


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def renewed(path: Path) -> None:
    """The same in the format of another version, whole."""
    value = {k: v for k, v in json.loads(path.read_text()).items() if k != "checksum"}
    value["format"] = 99
    path.write_text(json.dumps({**value, "checksum": digest_of(value)}))


def instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Something else under the name of the file."""

    def put(path: Path) -> None:
        path.unlink()
        make(path)

    return put


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flip": flipped,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "foreign": lambda path: path.write_text('{"name": "of another program"}'),
    "folder": instead(lambda path: path.mkdir()),
    "pipe": instead(os.mkfifo),
    "loop": instead(lambda path: path.symlink_to(path)),
    "missing": lambda path: path.unlink(),
    "version": renewed,
    "denied": lambda path: None,
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder with one of everything."""
    root = tmp_path_factory.mktemp("sound")
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / "images" / name).mkdir(parents=True)
        for i in range(5):
            pixels = rng.integers(256, size=(20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / name / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        equip(patch, root)
        run(*IMAGES)
        for name in ("half", "bare"):  # one that was stopped, one that came without checkpoints
            run(*RUN, name)
        (root / "half" / "model.safetensors").unlink()
        shutil.rmtree(root / "bare" / "checkpoints")
        images = to_uint8(digits(held_out=True)[0][:40])
        np.savez(root / "samples.npz", arr_0=images.permute(0, 2, 3, 1).numpy())
        run("sample", "--out", "png", "--count", "40")
        (root / "plain").mkdir()
        for i in range(5):
            Image.fromarray(pixels).save(root / "plain" / f"{i}.png")
        write_statistics(accumulate([small_features(images)]), root / "statistics.npz")
        np.savez(root / "color.npz", arr_0=rng.integers(256, size=(4, 8, 8, 3), dtype=np.uint8))
        (root / "inception.pth").write_bytes(b"PK" + bytes(rng.integers(256, size=999)))
    return root


def equip(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.chdir(folder)
    patch.setattr("meanflow_lite.cli.encode.Vae", lambda name, device, fingerprint=None: FakeVae())
    config = DiTConfig(image_size=2, patch_size=1, width=16, depth=1, heads=2, num_classes=2)
    patch.setitem(NETWORKS, "damage", config)


def run(*arguments: str) -> None:
    cli.main([*arguments])


def exit_code(*arguments: str) -> int:
    try:
        run(*arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def content(folder: Path) -> dict[str, str]:
    """What plain files hold, those of locks left out."""
    files = (p for p in sorted(folder.rglob("*")) if not p.is_symlink() and p.is_file())
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
        if p.name != ".lock"
    }


def deny(patch: pytest.MonkeyPatch, path: Path) -> None:
    """Opening it fails, as for a user who may not; tests may run as one who may all."""
    original = builtins.open

    def refuse(file, *arguments, **options):
        if isinstance(file, str | os.PathLike) and Path(file).absolute() == path.absolute():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return original(file, *arguments, **options)

    patch.setattr(builtins, "open", refuse)
    patch.setattr(io, "open", refuse)


CASES = [
    (name, command, damage)
    for name, kind in KINDS.items()
    for command in kind.commands
    for damage in DAMAGE
    if not (damage == "version" and not kind.path.endswith("json"))
    and not (name == "weights of Inception" and damage in ("flip", "cut"))
]


#: What is read without the file, and is right so.
HARMLESS = {
    ("an image", "encode", "folder"),  # the list of images is another one
    ("an image", "encode", "missing"),
    ("an image", "fid", "folder"),
    ("an image", "fid", "missing"),
    ("shard-NNNNN.npy", "train", "flip"),  # as the page says
    ("samples.json", "fid", "missing"),
}
PLACES = {
    "folder": "a folder",
    "pipe": "a pipe",
    "loop": "a link in a circle",
    "denied": "a file that you may not read",
    "version": "JSON of another version or program",
}


def table(name: str) -> dict[str, list[str]]:
    """A list-table of the page: the rows by their first cell, spaces collapsed."""
    body = PAGE.read_text("utf-8").split(f":name: {name}")[1].split("```")[0]
    rows = [re.split(r"\n  - ", row) for row in body.split("\n* - ")[1:]]
    cells = [[" ".join(cell.split()) for cell in row] for row in rows]
    return {row[0]: row[1:] for row in cells[1:]}


@pytest.mark.parametrize(("name", "command", "damage"), CASES)
def test_damage(name, command, damage, sound, tmp_path, monkeypatch, capsys):
    place = tmp_path / "copy"
    shutil.copytree(sound, place)
    equip(monkeypatch, place)
    path = place / KINDS[name].files.get(command, KINDS[name].path)
    DAMAGE[damage](path)
    before = content(place)
    if damage == "denied":
        deny(monkeypatch, path)
    capsys.readouterr()
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        code = exit_code(*KINDS[name].commands[command])
    monkeypatch.undo()
    printed = "".join(capsys.readouterr()) + "".join(str(w.message) for w in noted)
    after = {*content(place).values()}  # a damaged file may have been set aside
    goes_on = command in KINDS[name].goes_on
    kept = {k: v for k, v in before.items() if not goes_on or "checkpoints" in k}
    assert not {*kept.values()} - after
    assert not re.search(r"Traceback|\b(delete|remove|pickle|unsafe)", printed)
    if (name, command, damage) in HARMLESS:
        assert code == 0
        return
    assert code in (0, 1, 2)[not goes_on :], printed
    assert printed.count("error:") == (code == 2), printed
    if damage in ("version", "foreign") and path.suffix == ".json":
        assert code == 2 or command == "verify"
        assert table("damage-place")[PLACES["version"]][0] in printed, printed
        return
    assert damage == "missing" or (path.parent if goes_on else path).stem in printed, printed
    if damage in PLACES and code:
        assert table("damage-place")[PLACES[damage]][0] in printed, printed
    elif damage != "missing":
        assert table("damage-content")[name][1] in printed, printed


def test_the_page_lists_every_kind_and_every_command():
    rows = table("damage-content")
    assert {name: row[0].split(", ") for name, row in rows.items()} == {
        name: [*kind.commands] for name, kind in KINDS.items()
    }
    assert set(table("damage-place")) == set(PLACES.values())


REPAIRED = [
    (path, damage)
    for path in ("manifest.json", "shard-00001.json", "shard-00001.npy")
    for damage in ("flip", "cut", "empty", "folder", "pipe", "missing")
    if (path, damage) not in {("shard-00001.npy", d) for d in ("flip", "cut", "empty")}
]


@pytest.mark.parametrize(("path", "damage"), REPAIRED)
def test_the_same_encode_again_mends_a_cache(path, damage, sound, tmp_path, monkeypatch, capsys):
    """What was damaged is replaced or set aside; the other shards are not written again."""
    place = tmp_path / "copy"
    shutil.copytree(sound, place)
    equip(monkeypatch, place)
    others = {p: p.stat().st_mtime_ns for p in (place / "cache").glob("shard-0000[02]*")}
    DAMAGE[damage](place / "cache" / path)
    run(*IMAGES)
    run("verify", "cache")
    assert "3 of 3 shards are sound" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in others} == others


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "folder", "pipe", "missing"])
def test_verify_mends_the_latents_when_it_is_asked_to(damage, sound, tmp_path, monkeypatch, capsys):
    place = tmp_path / "copy"
    shutil.copytree(sound, place)
    equip(monkeypatch, place)
    DAMAGE[damage](place / "cache" / "shard-00001.npy")
    (place / "images").rename(place / "moved")
    before = content(place)
    with pytest.raises(SystemExit):  # the images are not where they were: nothing changes
        run("verify", "cache", "--repair", "True", "--images", "images")
    assert content(place) == before
    run("verify", "cache", "--repair", "True", "--images", "moved")
    run("verify", "cache")
    assert "3 of 3 shards are sound" in capsys.readouterr().out
