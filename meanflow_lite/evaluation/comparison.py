"""Samples against a reference: which features fit, what is compared, and how far apart they are."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from meanflow_lite.data.digits import digits
from meanflow_lite.data.image_sets import ImageSet
from meanflow_lite.evaluation import digits as judges
from meanflow_lite.evaluation.frechet import Moments, frechet_distance, moments, read_statistics
from meanflow_lite.evaluation.intervals import Interval
from meanflow_lite.files.read import plain

DIGITS = "digits"


@dataclass(frozen=True)
class Reference:
    """What samples are compared with: images, or only the moments of their features."""

    name: str
    images: ImageSet | None = None
    moments: Moments | None = None

    @classmethod
    def open(cls, name: str, crop: int | None, exif: bool, skip_bad: bool) -> Reference:
        """``digits``, an npz with statistics or images (or both, as ADM's), or a folder of images.

        Raises:
            ValueError: if it is none of these, or damaged.
        """
        path = Path(name)
        if name == DIGITS:
            return cls(name, moments=moments(judges.features(digits()[0])))
        if path.is_dir():
            return cls(name, ImageSet.open(path, crop, exif, skip_bad))
        if path.suffix != ".npz" or not os.path.lexists(path):
            raise ValueError(
                f"--reference {name} is neither `digits`, nor a folder of images, nor an npz"
            )
        if crop is not None:
            raise ValueError(f"--crop cuts the images of a folder, but --reference is {name!r}")
        holds = _arrays(path)
        statistics = read_statistics(path) if "mu" in holds or "arr_0" not in holds else None
        return cls(name, ImageSet.open(path) if "arr_0" in holds else None, statistics)

    def count(self) -> int | None:
        """Number of images of the moments, if it is known."""
        if self.moments is not None:
            return self.moments.count
        return self.images.count if self.images else None


def choose_features(wanted: str, shape: tuple[int, int, int], reference: Reference) -> str:
    """The name of the features: those asked for, or by the size of the images where that is clear.

    Raises:
        ValueError: if the choice is the user's, or the reference has no such features.
    """
    if wanted == "auto":
        if shape != (1, 8, 8):
            raise ValueError(
                f"images of {shape[2]} x {shape[1]} pixels and {shape[0]} channels: choose "
                "--features inception, which is what papers report, or --features digits, a small "
                "network on 8x8 gray that only checks a pipeline"
            )
        wanted = DIGITS
    if reference.name == DIGITS and (wanted != DIGITS or shape != (1, 8, 8)):
        raise ValueError(
            "--reference digits is the training split of 8x8 gray digits, and needs --features "
            f"digits: the samples are {shape[2]} x {shape[1]} pixels with {shape[0]} channels and "
            f"the features {wanted}. Give --reference FOLDER or FILE.npz"
        )
    return wanted


def agree(samples: ImageSet, reference: Reference) -> None:
    """Refuse to compare images of different sizes."""
    other = reference.images
    if other is None or other.shape[1:] == samples.shape[1:]:
        return
    cut = f": add --crop {samples.shape[1]}" if other.files else ""
    raise ValueError(
        f"the samples have {samples.shape[2]} x {samples.shape[1]} pixels and the images of "
        f"{reference.name} {other.shape[2]} x {other.shape[1]}{cut}"
    )


def enough(count: int | None, dimensions: int, what: str) -> None:
    """Refuse a covariance of fewer images than it has dimensions.

    Raises:
        ValueError: it would have no full rank, and the distance would tell the number of images.
    """
    if count is not None and count <= dimensions:
        raise ValueError(
            f"{count} images of {what} are too few for features of {dimensions} dimensions: their "
            f"covariance has no full rank. Take more than {dimensions}, better ten times as many; "
            "--few True prints the number all the same"
        )


def interval(rows: Tensor, reference: Moments, resamples: int = 100) -> Interval:
    """The distance of features to the reference, and its bootstrap interval over the samples."""

    def distance(f: np.ndarray) -> float:
        return frechet_distance(moments(torch.from_numpy(f)), reference)

    found = judges.bootstrap(rows.numpy(), distance, resamples)
    return found._replace(low=max(0.0, found.low))


def _arrays(path: Path) -> set[str]:
    with plain(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return {name.removesuffix(".npy") for name in archive.namelist()}
        except (zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{path} is damaged, or not an npz ({error})") from error
