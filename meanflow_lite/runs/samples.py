"""Samples of a run: which labels they have, and the folder that they lie in."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from meanflow_lite.data.batches import seeded


def remove_samples(folder: Path) -> None:
    """Delete what an earlier sample command wrote here: fid would count its images too."""
    note = folder / "samples.json"
    if note.exists():
        for path in folder.glob("[0-9]" * 6 + ".png"):
            path.unlink()
        note.unlink()


def load_grid(folder: Path, count: int) -> torch.Tensor:
    """The first samples as images in [-1, 1]."""
    from PIL import Image

    arrays = [np.asarray(Image.open(folder / f"{i:06d}.png")) for i in range(count)]
    stacked = torch.from_numpy(np.stack(arrays))
    stacked = stacked[:, None] if stacked.ndim == 3 else stacked.permute(0, 3, 1, 2)
    return stacked.float() / 127.5 - 1


def choose_labels(rule: str, count: int, num_classes: int, seed: int) -> torch.Tensor:
    """Labels ``[count]``: ``random`` (uniform), ``balanced`` (in turn), or a list in turn.

    Raises:
        ValueError: for anything else, or classes out of range.
    """
    if rule == "random":
        return torch.randint(num_classes, (count,), generator=seeded(seed, 5))
    if rule == "balanced":
        return torch.arange(count) % num_classes
    try:
        given = torch.tensor([int(part) for part in rule.split(",")])
    except ValueError as error:
        raise ValueError(
            f"--labels is random, balanced or a list such as 3,3,7: got {rule!r}"
        ) from error
    if given.min() < 0 or given.max() > num_classes:
        raise ValueError(
            f"--labels must be 0 ... {num_classes - 1}, or {num_classes} for none: got {rule}"
        )
    return given[torch.arange(count) % len(given)]


def protocol(rule: str) -> Literal["random", "balanced", "given"]:
    """The name of a label rule, as it belongs beside an FID."""
    return rule if rule in ("random", "balanced") else "given"  # pyright: ignore
