"""Images to files: grids, PNG and npz."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from meanflow_lite.data.digits import to_uint8
from meanflow_lite.data.images import SUFFIXES, BadImage, read_image, to_rgb


def grid(images: Tensor, columns: int, gap: int = 2) -> Tensor:
    """Images ``[N, C, H, W]`` in [-1, 1] as bytes in one picture ``[H', W', C]``."""
    bytes_ = to_uint8(images).permute(0, 2, 3, 1)
    n, height, width, channels = bytes_.shape
    rows = -(-n // columns)
    sheet = bytes_.new_full(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255
    )
    for i, image in enumerate(bytes_):
        top = gap + i // columns * (height + gap)
        left = gap + i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def save_grid(images: Tensor, path: Path, columns: int) -> None:
    """Write :func:`grid` as PNG; small images are enlarged so that a person sees them."""
    picture = as_picture(grid(images, columns).numpy())
    scale = max(1, 256 // (8 * images.shape[-1])) * 2 if images.shape[-1] < 64 else 1
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (picture.width * scale, picture.height * scale)
    picture.resize(size, Image.Resampling.NEAREST).save(path)


def as_picture(pixels: np.ndarray) -> Image.Image:
    """Bytes ``[H, W, C]`` with one or three channels as a PIL image; two are shown as gray."""
    if pixels.shape[-1] == 3:
        return Image.fromarray(pixels)
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0]))


def read_images(path: Path, batch: int, crop: int | None = None) -> Iterator[Tensor]:
    """Bytes ``[B, C, H, W]`` of an npz with ``arr_0`` ``[N, H, W, C]`` or of a folder of images.

    ``crop`` is the side of a center crop; None: images as they are.

    Raises:
        ValueError: if there are none, one is damaged, or their sizes differ.
    """
    if path.suffix == ".npz" and path.exists():
        with np.load(path, allow_pickle=False) as stored:
            yield from torch.from_numpy(stored["arr_0"]).permute(0, 3, 1, 2).split(batch)
        return
    names = sorted(n for n in path.rglob("*") if n.suffix.lower() in SUFFIXES)
    names = [name for name in names if name.name != "grid.png"]
    if not names:
        raise ValueError(f"{path} is neither an npz nor a folder with images")
    shape = None
    for first in range(0, len(names), batch):
        chunk = {name: _pixels(name, crop) for name in names[first : first + batch]}
        for name, pixels in chunk.items():
            shape = shape or pixels.shape
            if pixels.shape != shape:
                raise ValueError(
                    f"the images in {path} differ in size: {tuple(shape)} and, {name.name}, "
                    f"{tuple(pixels.shape)}"
                )
        yield torch.stack([*chunk.values()])


def _pixels(path: Path, crop: int | None) -> Tensor:
    """Bytes ``[C, H, W]`` of one image, gray or RGB."""
    if crop is not None:
        return read_image(path, crop)
    try:
        with Image.open(path) as image:
            pixels = np.array(image if image.mode == "L" else to_rgb(image))
    except OSError as error:
        raise BadImage(f"{path}: cannot be read ({error})") from error
    except BadImage as error:
        raise BadImage(f"{path}: {error}") from error
    whole = torch.from_numpy(pixels)
    return whole[None] if whole.ndim == 2 else whole.permute(2, 0, 1)
