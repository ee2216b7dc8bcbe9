"""Images to files: grids, PNG and npz."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from meanflow_lite.data.digits import to_uint8


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
