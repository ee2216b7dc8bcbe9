"""``meanflow-lite fid``: the Frechet distance of samples to a reference."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from meanflow_lite.data.digits import digits
from meanflow_lite.evaluation import digits as judges
from meanflow_lite.evaluation.frechet import (
    Features,
    Moments,
    accumulate,
    frechet_distance,
    inception,
    read_statistics,
    write_statistics,
)
from meanflow_lite.runs.images import read_images
from meanflow_lite.runs.processes import joined


@dataclass(frozen=True)
class Fid:
    """Compare samples with a reference. Without any argument: digits in samples/, no download.

    Published ImageNet numbers: 50,000 samples, `--features inception` and ADM's statistics,
    `--reference VIRTUAL_imagenet256_labeled.npz`. Write down the label protocol beside the number:
    balanced labels alone lower an FID by up to a tenth.

    Attributes:
        samples: folder of PNGs or an npz, from the sample command or elsewhere.
        reference: `digits` (the training split), an npz of statistics (mu, sigma), a folder of
            images, or an npz of images.
        crop: side of ADM's center crop for the images of a reference folder, such as 256 for
            photographs; None: as they are.
        features: `digits`: a small network on 8x8 gray, for digits and for checks of a pipeline;
            `inception`: what papers report.
        inception_weights: file of torch-fidelity's Inception weights; None: downloaded once.
        save_statistics: write the statistics of the samples to this npz, to serve as a reference.
        batch: images at once.
        device: `cpu`, `cuda`, or `auto`: a GPU where there is one.
    """

    samples: Path = Path("samples")
    reference: str = "digits"
    crop: int | None = None
    features: Literal["digits", "inception"] = "digits"
    inception_weights: Path | None = None
    save_statistics: Path | None = None
    batch: int = 64
    device: str = "auto"

    def run(self) -> None:
        """Print the distance, what it is of, and the protocol."""
        if self.batch < 1:
            raise ValueError(f"--batch must be at least 1: got {self.batch}")
        if self.crop is not None and not Path(self.reference).is_dir():
            raise ValueError(
                f"--crop cuts the images of a folder, but --reference is {self.reference!r}"
            )
        if not self.samples.exists():
            raise ValueError(
                f"--samples {self.samples}: there is no such folder or file. Write it with "
                "`meanflow-lite sample`"
            )
        with joined(self.device) as device:
            about = describe(self.samples)
            network = self._features(str(device))
            mine = accumulate(map(network, read_images(self.samples, self.batch)))
            labels = about.get("labels")
            if labels is not None and len(labels) != mine.count:
                raise ValueError(
                    f"{self.samples} holds {mine.count} images but describes {len(labels)}: sample "
                    "again, into an empty folder"
                )
            if self.save_statistics:
                write_statistics(mine, self.save_statistics)
            other = self._reference(network)
            print(f"frechet distance  {frechet_distance(mine, other):.4f}")
            print(f"features          {self.features}, {len(mine.mean)} dimensions")
            print(f"samples           {mine.count} in {self.samples}")
            print(
                f"reference         {self.reference} ({other.count or 'unknown number of'} images)"
            )
            print(f"label protocol    {about.get('label_protocol', 'unknown')}")
            print(f"evaluations       {about.get('steps', 'unknown')}")
            if self.features == "digits" and labels is not None:
                images = torch.cat([*read_images(self.samples, self.batch)])
                if images.shape[1:] == (1, 8, 8):
                    self._judge(images, torch.tensor(labels))

    def _judge(self, images: Tensor, labels: Tensor) -> None:
        report = judges.judge(images.float() / 127.5 - 1, labels)
        low, high = report.accuracy.low, report.accuracy.high
        print(
            f"label accuracy    {report.accuracy.center:.4f} [{low:.4f}, {high:.4f}], "
            f"held-out digits {report.accuracy_floor:.4f}"
        )
        low, high = report.frechet.low, report.frechet.high
        print(
            f"interval          [{low:.4f}, {high:.4f}], {len(digits(True)[0])} held-out digits "
            f"{report.frechet_floor.center:.4f}"
        )
        print(
            f"nearest neighbor  {report.nearest.center:.3f} in the training split, held-out "
            f"digits {report.nearest_floor.center:.3f}"
        )

    def _features(self, device: str) -> Features:
        if self.features == "inception":
            try:
                return inception(self.inception_weights, device)
            except OSError as error:
                raise ValueError(
                    f"cannot load Inception's weights ({error}): where there is no network, fetch "
                    "weights-inception-2015-12-05-6726825d.pth from torch-fidelity's release "
                    "v0.2.0 elsewhere, and give --inception-weights FILE"
                ) from error
        return small_features

    def _reference(self, network: Features) -> Moments:
        if self.reference == "digits":
            if self.features != "digits":
                raise ValueError("--reference digits needs --features digits")
            x = digits()[0]
            return accumulate([judges.features(x)])
        path = Path(self.reference)
        if path.suffix == ".npz" and path.exists():
            with np.load(path, allow_pickle=False) as stored:
                if "mu" in stored.files:
                    return read_statistics(path)
        return accumulate(map(network, read_images(path, self.batch, self.crop)))


def small_features(images: Tensor) -> Tensor:
    """The digits' features of any bytes ``[B, C, H, W]``: gray, averaged down to 8x8."""
    gray = images.float().mean(1, keepdim=True) / 127.5 - 1
    return judges.features(F.interpolate(gray, (8, 8), mode="area"))


def describe(path: Path) -> dict:
    """What the sample command noted about its samples, if it wrote them."""
    if path.suffix == ".npz" and path.exists():
        with np.load(path, allow_pickle=False) as stored:
            return json.loads(str(stored["about"])) if "about" in stored.files else {}
    note = path / "samples.json"
    return json.loads(note.read_text()) if note.exists() else {}
