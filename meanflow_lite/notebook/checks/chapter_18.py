"""Exercises of chapter 18: patches to images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from meanflow_lite.notebook.exercises import exercise

_PATCH, _SIDE, _CHANNELS = 2, 3, 2


_TOKENS = torch.arange(2.0 * _SIDE**2 * _PATCH**2 * _CHANNELS).view(2, _SIDE**2, -1)


Unpatchify = Callable[[Tensor, int], Tensor]


def _assemble(pattern: tuple[int, ...], channels_first: bool = False) -> Unpatchify:
    """Axes (b, i, j, p, q, c) of the cut tokens, put in the order ``pattern``."""

    def unpatchify(tokens: Tensor, p: int) -> Tensor:
        b, n, _ = tokens.shape
        side = int(n**0.5)
        if channels_first:
            cut = tokens.reshape(b, side, side, -1, p, p).permute(0, 1, 2, 4, 5, 3)
        else:
            cut = tokens.reshape(b, side, side, p, p, -1)
        return cut.permute(*pattern).reshape(b, -1, side * p, side * p)

    return unpatchify


exercise(
    "18-unpatchify",
    use=lambda unpatchify: unpatchify(_TOKENS, _PATCH),
    right=_assemble((0, 5, 1, 3, 2, 4)),
    mistakes={
        "The patches are in the wrong places: token k lies in row k // side, column k % side.": (
            _assemble((0, 5, 2, 3, 1, 4))
        ),
        "Each patch is transposed: the first pixel axis of a patch is its row.": _assemble(
            (0, 5, 1, 4, 2, 3)
        ),
        "The whole image is transposed: rows and columns are exchanged, in the grid and inside.": (
            _assemble((0, 5, 2, 4, 1, 3))
        ),
        "The pixels of a token are read as a row of the image: bring each row of patches and its "
        "rows of pixels together (i, p), then (j, q), before you reshape.": _assemble(
            (0, 5, 1, 2, 3, 4)
        ),
        "The channel comes last inside a token: (p, q, c), not (c, p, q).": _assemble(
            (0, 5, 1, 3, 2, 4), channels_first=True
        ),
    },
    praise="Right: (i, p) are rows and (j, q) are columns. Ports fail here without an error.",
    hint="Cut tokens into (b, i, j, p, q, c), permute to (b, c, i, p, j, q), reshape.",
)
