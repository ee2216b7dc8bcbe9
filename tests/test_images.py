"""A folder of images as people have them: turned, transparent, hidden, damaged, enormous."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from meanflow_lite.data.images import (
    MAX_ASPECT,
    BadImage,
    ImageFolder,
    read_image,
    read_picture,
    scan,
)


def picture(path, size=(20, 16), color=(200, 30, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    for name in ("a/0.png", "a/1.jpg", "b/deep/2.PNG", "b/3.webp"):
        picture(tmp_path / "images" / name)
    return tmp_path / "images"


@pytest.mark.parametrize(
    "name", [".ipynb_checkpoints", "__MACOSX", ".Trashes", ".git", "__pycache__"]
)
def test_folders_of_a_system_are_no_classes(folder, name):
    """One of them once became class 0 and moved every label up by one."""
    expected = ImageFolder.open(folder)
    picture(folder / name / "0-checkpoint.png")
    picture(folder / "a" / name / "0-checkpoint.png")
    picture(folder / "a" / "._0.png")
    found = ImageFolder.open(folder)
    assert found == expected and found.classes == ("a", "b") and found.labels == (0, 0, 1, 1)


def test_formats_that_are_not_read_are_counted(folder):
    for name in ("a/x.gif", "a/y.HEIC", "b/z.avif"):
        (folder / name).write_bytes(b"x")
    (folder / "a" / "notes.txt").write_text("x")
    found = ImageFolder.open(folder)
    assert len(found) == 4 and [p.name for p in found.unread] == ["x.gif", "y.HEIC", "z.avif"]


def test_links_are_followed_once_and_those_in_a_circle_are_named(folder, tmp_path):
    (folder / "b" / "deep2").symlink_to(folder / "b" / "deep")
    picture(tmp_path / "elsewhere" / "9.png")
    (folder / "c").symlink_to(tmp_path / "elsewhere")
    assert [p.name for p in ImageFolder.open(folder).paths].count("2.PNG") == 1
    assert ImageFolder.open(folder).classes == ("a", "b", "c")
    (folder / "b" / "up").symlink_to(folder / "b")
    assert len(ImageFolder.open(folder)) == 5
    for name, target, said in (
        ("up", folder, "back to"),
        ("top", tmp_path, "back to"),
        ("self", folder / "self", "in a circle"),
        ("lost", folder / "nothing", "leads nowhere"),
    ):
        (folder / name).symlink_to(target)
        with pytest.raises(ValueError, match=f"{name} is a link.*{said}"):
            ImageFolder.open(folder)
        (folder / name).unlink()


def test_images_without_classes_are_a_mode_that_is_asked_for(folder):
    picture(folder / "top.png")
    found = ImageFolder.open(folder, labeled=False)
    assert found.classes == ("images",) and len(found) == 5 and set(found.labels) == {0}
    assert found.names[-1] == "top.png" and found.names[2] == "b/3.webp"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_a_viewer_turns_it(orientation, tmp_path):
    """Red above blue for every orientation; left as stored where the published protocol is."""
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8, :, 0], upright[8:, :, 2] = 255, 255
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = Image.fromarray(upright)
    stored = stored.transpose(turn[orientation]) if orientation in turn else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, options in (("a.jpg", {"quality": 95}), ("a.png", {})):
        stored.save(tmp_path / name, exif=exif, **options)
        found = read_picture(tmp_path / name, 16)
        assert found.turned == (orientation > 1)
        assert found.pixels[0, :7].min() > 200 and found.pixels[2, 9:].min() > 200
        as_stored = read_picture(tmp_path / name, 16, exif=False)
        assert not as_stored.turned
        if orientation in (3, 4, 5, 6, 7, 8):
            assert as_stored.pixels[0, :7].min() < 50


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white_not_a_hidden_color(mode, tmp_path):
    """Dropping the alpha channel once showed black, or whatever color lay there."""
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, 4:] = (60, 60, 60, 255)
    image = Image.fromarray(pixels)
    if mode == "P":
        image = image.convert("RGBA").quantize(4)
    elif mode != "RGBA":
        image = image.convert("LA")
    image.save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png", 8)
    assert found.transparent and found.pixels[:, 1, 0].min() > 250
    assert abs(found.pixels[:, 1, 6].int() - 60).max() < 5
    opaque = Image.fromarray(pixels[:, 4:])
    opaque.save(tmp_path / "b.png")
    assert not read_picture(tmp_path / "b.png", 4).transparent


def bomb(path, width, height):
    """A gray PNG of any declared size in a few hundred bytes."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * min((width + 1) * height, 10**6))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ((60_000, 1), "more than 64 times"),
        ((1, 4_000), "more than 64 times"),
        ((12_000, 12_000), "more than 134,217,728"),
        ((20_000, 20_000), "exceeds limit"),  # Pillow's own
        ((2**31 - 1, 2**31 - 1), "more than 134,217,728|cannot be read"),
    ],
)
def test_sizes_are_limited_before_memory_is_taken(size, said, tmp_path):
    """One by 60,000 once took 8.8 GB, as its short side was scaled to 256."""
    path = bomb(tmp_path / "a.png", *size)
    with pytest.raises(BadImage, match=said):
        read_image(path, 256)
    assert path in scan([path])


def test_a_long_image_within_the_limit_is_used(tmp_path):
    path = picture(tmp_path / "a.png", (4 * MAX_ASPECT, 4))
    assert read_image(path, 8).shape == (3, 8, 8)
    with pytest.raises(BadImage, match="its short side scaled to 4096"):
        read_image(path, 4096)
    for side in (0, -1, 100_000):
        with pytest.raises(ValueError, match="side of a crop is 1"):
            read_image(path, side)


def test_a_scan_finds_every_bad_image_and_no_good_one(folder, tmp_path):
    good = [*ImageFolder.open(folder).paths]
    odd = picture(folder / "a" / "trailing.jpg")
    odd.write_bytes(odd.read_bytes() + b"\0" * 100)  # cameras append; viewers do not mind
    bad = {}
    for name, content in (
        ("cut.jpg", good[1].read_bytes()[:-40]),
        ("cut.png", good[0].read_bytes()[:-30]),
        ("cut.webp", (folder / "b" / "3.webp").read_bytes()[:-20]),
        ("empty.png", b""),
        ("text.jpg", b"<html>"),
    ):
        bad[folder / "a" / name] = content
    for path, content in bad.items():
        path.write_bytes(content)
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(folder / "a" / "deep.png")
    os.mkfifo(folder / "a" / "pipe.png")
    (folder / "a" / "nowhere.png").symlink_to(tmp_path / "nothing.png")
    found = scan([*ImageFolder.open(folder).paths])
    expected = {*bad, folder / "a" / "deep.png", folder / "a" / "pipe.png"}
    assert {*found} == expected | {folder / "a" / "nowhere.png"}
    assert all(str(path) in said and "\n" not in said for path, said in found.items())


def test_any_damage_of_a_file_is_one_kind_of_error(tmp_path):
    """Two thousand bytes changed at random in five formats: an image, or BadImage."""
    rng = np.random.default_rng(0)
    pixels = Image.fromarray(rng.integers(256, size=(24, 24, 3), dtype=np.uint8))
    for name in ("a.png", "a.jpg", "a.webp", "a.bmp", "a.tif"):
        path = tmp_path / name
        pixels.save(path)
        good = path.read_bytes()
        for _ in range(60):
            content = bytearray(good)
            for place in rng.integers(len(good), size=4):
                content[place] = rng.integers(256)
            path.write_bytes(content)
            try:
                assert read_image(path, 16).shape == (3, 16, 16)
            except BadImage as error:
                assert str(path) in str(error)
