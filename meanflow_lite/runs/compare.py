"""Rows of samples of several models in one picture, with what each took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from meanflow_lite.data.digits import to_uint8

#: Side of a sample in the picture, its margin, and the height of a row's text, in pixels.
SIDE, GAP, TEXT = 160, 4, 44


@dataclass(frozen=True)
class Row:
    """One model: its images ``[N, C, H, W]`` in [-1, 1] and what is said at the row.

    ``seconds`` are those of the clock, an image, without any decoder.
    """

    name: str
    images: Tensor
    evaluations: int
    seconds: float
    parameters: int
    shape: tuple[int, ...]
    seed: int
    noise_scale: float
    guidance: Mapping[str, float]

    @property
    def noise(self) -> str:
        """Which noise it was: rows that say the same had the same numbers."""
        scale = "" if self.noise_scale == 1 else f" x {self.noise_scale:g}"
        return f"noise of seed {self.seed}, {'x'.join(map(str, self.shape))}{scale}"

    @property
    def said(self) -> tuple[str, str]:
        """Two lines of text at the row."""
        plural = "s" if self.evaluations > 1 else ""
        first = (
            f"{self.name}: {self.evaluations} evaluation{plural}, {self.seconds:.3g} s an image, "
        )
        told = ", ".join(f"{name} {value:g}" for name, value in self.guidance.items())
        return first + f"{self.parameters / 1e6:.2f} M parameters", "; ".join(
            part for part in (self.noise, told) if part
        )


def draw_rows(rows: Sequence[Row]) -> Image.Image:
    """One row a model, text above its samples."""
    columns = max(len(row.images) for row in rows)
    width = max(columns * (SIDE + GAP) + GAP, 720)
    sheet = Image.new("RGB", (width, len(rows) * (SIDE + GAP + TEXT) + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for i, row in enumerate(rows):
        top = i * (SIDE + GAP + TEXT) + GAP
        for k, line in enumerate(row.said):
            pen.text((GAP, top + 19 * k), line, fill="black" if k == 0 else "#555555", font=font)
        for k, image in enumerate(row.images):
            sheet.paste(picture(image), (GAP + k * (SIDE + GAP), top + TEXT))
    return sheet


def picture(image: Tensor) -> Image.Image:
    """One sample ``[C, H, W]`` as a square of ``SIDE`` pixels; other than 3 channels as gray."""
    if image.shape[0] != 3:
        image = image[:1].expand(3, -1, -1)
    small = image.shape[-1] < SIDE
    mode = "nearest" if small else "area"
    sized = F.interpolate(image[None], (SIDE, SIDE), mode=mode)
    pixels = to_uint8(sized.clamp(-1, 1))[0].permute(1, 2, 0)
    return Image.fromarray(torch.as_tensor(pixels).numpy())


def table(rows: Sequence[Row]) -> str:
    """The numbers of the rows, one line a model."""
    head = f"{'model':<24}{'evaluations':>12}{'s an image':>12}{'M parameters':>14}  noise"
    lines = [
        f"{row.name:<24}{row.evaluations:>12}{row.seconds:>12.3g}{row.parameters / 1e6:>14.2f}  "
        f"{row.noise}"
        for row in rows
    ]
    return "\n".join([head, *lines])
