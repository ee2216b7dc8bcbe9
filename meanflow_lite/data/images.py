"""A folder of images, one subfolder a class, cropped as ADM does."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from meanflow_lite.data.listing import folders, pictures
from meanflow_lite.files import Damage
from meanflow_lite.files.read import plain

#: Modes that convert to RGB faithfully.
MODES = {"RGB", "RGBA", "L", "LA", "P", "PA", "1", "CMYK", "YCbCr"}
#: Larger images are refused before they are decoded; eight threads hold one each.
MAX_PIXELS = 2**27
#: How many times as long as wide an image may be: its short side is what gets scaled.
MAX_ASPECT = 64
#: Side of the largest crop.
MAX_SIDE = 8192
ORIENTATION = 0x0112


class BadImage(ValueError):
    """An image that cannot be used; the message has its path."""


@dataclass(frozen=True)
class ImageFolder:
    """The images below ``root``: sorted paths, and labels by the sorted names of the subfolders.

    Names that begin with a dot or two underscores are no classes and no images; ``unread`` are
    pictures in formats that are not read.
    """

    root: Path
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    unread: tuple[Path, ...] = ()

    @classmethod
    def open(
        cls, root: Path | str, num_classes: int | None = None, labeled: bool = True
    ) -> ImageFolder:
        """List the images; without ``labeled`` all images below ``root`` are of one class.

        Raises:
            ValueError: if there is no such folder, no subfolder, a class without images, not
                ``num_classes`` classes, or a link that leads nowhere or back.
        """
        root = Path(root)
        if not root.is_dir():
            raise ValueError(f"there is no image folder {root}")
        classes = tuple(folders(root)) if labeled else ("images",)
        if not classes:
            raise ValueError(
                f"{root} has no subfolders: images are expected as {root}/CLASS/NAME.jpg. For "
                "images without classes add --labeled False"
            )
        if num_classes is not None and len(classes) != num_classes:
            raise ValueError(
                f"{root} has {len(classes)} class folders, not {num_classes}: a folder is missing "
                "or too many (labels are their positions in alphabetical order)"
            )
        paths, labels, unread = [], [], []
        for label, name in enumerate(classes):
            place = root / name if labeled else root
            found, left = pictures(place)
            if not found:
                raise ValueError(f"class folder {place} holds no images: fill it, or move it away")
            paths += found
            labels += [label] * len(found)
            unread += left
        return cls(root, classes, tuple(paths), tuple(labels), tuple(unread))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Their paths below ``root``, written with slashes."""
        return tuple(path.relative_to(self.root).as_posix() for path in self.paths)

    def picture(self, row: int, size: int, exif: bool = True) -> Picture:
        """One image, cropped; see :func:`read_picture`."""
        return read_picture(self.paths[row], size, exif)


class Picture(NamedTuple):
    """Pixels of an image, and what was done to show them as a viewer does."""

    pixels: UInt8[Tensor, " 3 s s"]
    turned: bool
    transparent: bool


def read_image(path: Path, size: int, exif: bool = True) -> UInt8[Tensor, " 3 s s"]:
    """The center crop of an image as bytes ``[3, size, size]``; see :func:`read_picture`."""
    return read_picture(path, size, exif).pixels


def read_picture(path: Path, size: int, exif: bool = True) -> Picture:
    """The center crop of an image as bytes ``[3, size, size]``, as a viewer shows it.

    ``exif``: turn it by its EXIF orientation, as cameras expect; the published preparations of
    ImageNet do not. Transparent pixels are laid on white.

    Raises:
        BadImage: if the file is damaged, its mode has no faithful conversion to RGB, or it is
            larger or longer than the limits ``MAX_PIXELS`` and ``MAX_ASPECT``.
    """
    if not 1 <= size <= MAX_SIDE:
        raise ValueError(f"the side of a crop is 1 ... {MAX_SIDE} pixels: got {size}")
    with opened(path) as image:
        if size * size * max(image.size) > MAX_PIXELS * min(image.size):
            raise BadImage(f"its short side scaled to {size} makes more than {MAX_PIXELS:,} pixels")
        turned = exif and image.getexif().get(ORIENTATION, 1) in range(2, 9)
        upright = ImageOps.exif_transpose(image) if turned else image
        clear = transparent(upright)
        pixels = np.array(center_crop(to_rgb(upright), size))
    return Picture(torch.from_numpy(pixels).permute(2, 0, 1), turned, clear)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image whose header has passed the limits; whatever fails inside is a :class:`BadImage`.

    An ``OSError`` of the file system (permission, input and output) is passed on as it is.
    """
    try:
        with plain(path) as file:
            yield from _opened(path, file)
    except Damage as error:
        raise BadImage(f"{path}: {error.what}") from error
    except FileNotFoundError as error:
        raise BadImage(f"{path} is missing, or a link that leads nowhere") from error


def _opened(path: Path, file: IO[bytes]) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; the limit on sizes is our own
            with Image.open(file) as image:
                check_header(image)
                yield image
    except BadImage as error:
        raise BadImage(f"{path}: {error}") from error
    except Exception as error:  # Pillow raises many types for damaged files
        if isinstance(error, OSError) and error.errno is not None:
            raise
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise BadImage(f"{path}: cannot be read ({said})") from error


def check_header(image: Image.Image) -> None:
    """Raise ``BadImage`` for a mode or a size that will not be decoded."""
    if image.mode not in MODES:
        raise BadImage(f"mode {image.mode} has no faithful conversion to RGB; convert it yourself")
    wide, high = image.size
    if wide * high > MAX_PIXELS:
        raise BadImage(f"{wide} x {high} pixels are more than {MAX_PIXELS:,}: scale it down first")
    if max(wide, high) > MAX_ASPECT * min(wide, high):
        raise BadImage(
            f"{wide} x {high} pixels: one side is more than {MAX_ASPECT} times the other, and the "
            "short one is scaled to the size"
        )


def transparent(image: Image.Image) -> bool:
    """Whether an image has any pixel that is not opaque."""
    if image.mode in ("RGBA", "LA", "PA"):
        return image.getchannel("A").getextrema() != (255, 255)
    return "transparency" in image.info


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in RGB, transparent pixels on white.

    Raises:
        BadImage: for a mode without a faithful conversion.
    """
    if image.mode not in MODES:
        raise BadImage(f"mode {image.mode} has no faithful conversion to RGB; convert it yourself")
    if not transparent(image):
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Halve by boxes while twice too large, resize the short side to ``size``, cut the center.

    Source: guided-diffusion of Dhariwal & Nichol 2021, as DiT and MeanFlow prepare ImageNet.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    wide, high = round(image.width * scale), round(image.height * scale)
    image = image.resize((wide, high), Image.Resampling.BICUBIC)
    left, top = (wide - size) // 2, (high - size) // 2
    return image.crop((left, top, left + size, top + size))


def scan(paths: list[Path], threads: int = 8) -> dict[Path, str]:
    """What is wrong with each image that cannot be used, found before the long work begins.

    Headers of all; only images that do not end as their format ends are decoded. Damage in the
    middle of a file shows when it is read.
    """
    with ThreadPoolExecutor(threads) as pool:
        found = zip(paths, pool.map(_problem, paths), strict=True)
        return {path: problem for path, problem in found if problem}


def _problem(path: Path) -> str | None:
    try:
        with opened(path) as image:
            if not _ends_well(path, image.format):
                image.load()
    except BadImage as error:
        return str(error)
    return None


#: What whole files of these formats have in their last bytes.
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}


def _ends_well(path: Path, kind: str | None) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 64))
        return kind in _ENDS and _ENDS[kind] in file.read()
