"""A folder of images, one subfolder a class, cropped as ADM does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
#: Modes that convert to RGB without a loss that nobody sees (an alpha channel is dropped).
MODES = {"RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr"}


class BadImage(ValueError):
    """An image that cannot be used; the message has its path."""


@dataclass(frozen=True)
class ImageFolder:
    """The images below ``root``: sorted paths, and labels by the sorted names of the subfolders."""

    root: Path
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]

    @classmethod
    def open(cls, root: Path | str, num_classes: int | None = None) -> ImageFolder:
        """List the images.

        Raises:
            ValueError: if there is no such folder, no subfolder, a class without images, or not
                ``num_classes`` classes.
        """
        root = Path(root)
        if not root.is_dir():
            raise ValueError(f"there is no image folder {root}")
        classes = tuple(sorted(p.name for p in root.iterdir() if p.is_dir()))
        if not classes:
            raise ValueError(
                f"{root} has no subfolders: images are expected as {root}/CLASS/NAME.jpg"
            )
        if num_classes is not None and len(classes) != num_classes:
            raise ValueError(
                f"{root} has {len(classes)} class folders, not {num_classes}: a folder is missing "
                "or too many (labels are their positions in alphabetical order)"
            )
        paths, labels = [], []
        for label, name in enumerate(classes):
            found = sorted(p for p in (root / name).rglob("*") if p.suffix.lower() in SUFFIXES)
            if not found:
                raise ValueError(f"class folder {root / name} holds no images: remove or fill it")
            paths += found
            labels += [label] * len(found)
        return cls(root, classes, tuple(paths), tuple(labels))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)


def read_image(path: Path, size: int) -> UInt8[Tensor, " 3 s s"]:
    """The center crop of an image as bytes ``[3, size, size]``.

    Raises:
        BadImage: if the file is damaged or its mode has no faithful conversion to RGB.
    """
    try:
        with Image.open(path) as image:
            pixels = center_crop(to_rgb(image), size)
            return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
    except BadImage as error:
        raise BadImage(f"{path}: {error}") from error
    except Exception as error:  # Pillow raises many types for damaged files
        raise BadImage(f"{path}: cannot be read ({error})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in RGB; raises ``BadImage`` for a mode without a faithful conversion."""
    if image.mode not in MODES:
        raise BadImage(f"mode {image.mode} has no faithful conversion to RGB; convert it yourself")
    return image.convert("RGB")


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
