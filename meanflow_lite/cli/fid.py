"""``meanflow-lite fid``: the Frechet distance of samples to a reference, and its companions."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from meanflow_lite.data.digits import digits
from meanflow_lite.data.image_sets import ImageSet
from meanflow_lite.evaluation import digits as judges
from meanflow_lite.evaluation.comparison import (
    DIGITS,
    Reference,
    agree,
    choose_features,
    enough,
    interval,
)
from meanflow_lite.evaluation.digits import small_features
from meanflow_lite.evaluation.frechet import Moments, frechet_distance, write_statistics
from meanflow_lite.evaluation.inception import FILE, Inception
from meanflow_lite.evaluation.metrics import (
    NEIGHBORS,
    SPLITS,
    SUBSET,
    SUBSETS,
    Features,
    Seen,
    inception_score,
    kernel_distance,
    look,
    precision_recall,
    together,
)
from meanflow_lite.runs.processes import gather, joined, place

__all__ = ["Fid", "small_features"]


@dataclass(frozen=True)
class Fid:
    """Compare samples with a reference. Without any argument: digits in samples/, no download.

    Published ImageNet numbers: 50,000 samples, `--features inception` and ADM's statistics,
    `--reference VIRTUAL_imagenet256_labeled.npz`. Write down the label protocol beside the number:
    balanced labels alone lower an FID by up to a tenth. Runs under torchrun too.

    Attributes:
        samples: folder of PNGs or an npz, from the sample command or elsewhere.
        reference: `digits` (the training split), an npz of statistics (mu, sigma), a folder of
            images, or an npz of images.
        crop: side of ADM's center crop for the images of a reference folder, such as 256 for
            photographs; None: as they are.
        exif: turn the images of a cropped reference folder as their cameras say.
        skip_bad: leave images of the reference folder out that cannot be read.
        features: `inception`: what papers report; `digits`: a small network on 8x8 gray, for digits
            and for checks of a pipeline; `auto`: `digits` for 8x8 gray, otherwise you are asked.
        also: `is` (Inception score), `kid` (kernel distance), `pr` (precision and recall); the last
            two need a reference of images.
        few: print a distance of fewer images than the features have dimensions.
        inception_weights: file of torch-fidelity's Inception weights; None: downloaded once.
        save_statistics: write the statistics of the samples to this npz, to serve as a reference.
        batch: images at once.
        device: `cpu`, `cuda`, or `auto`: a GPU where there is one.
    """

    samples: Path = Path("samples")
    reference: str = DIGITS
    crop: int | None = None
    exif: bool = True
    skip_bad: bool = False
    features: Literal["auto", "digits", "inception"] = "auto"
    also: tuple[Literal["is", "kid", "pr"], ...] = ()
    few: bool = False
    inception_weights: Path | None = None
    save_statistics: Path | None = None
    batch: int = 64
    device: str = "auto"

    def run(self) -> None:
        """Print the distance, what it is of, and the protocol; in many processes, the first."""
        if self.batch < 1:
            raise ValueError(f"--batch must be at least 1: got {self.batch}")
        if self.crop is not None and not Path(self.reference).is_dir():
            raise ValueError(
                f"--crop cuts the images of a folder, but --reference is {self.reference!r}"
            )
        if not os.path.lexists(self.samples):
            raise ValueError(
                f"--samples {self.samples}: there is no such folder or file. Write it with "
                "`meanflow-lite sample`"
            )
        samples = ImageSet.open(self.samples)
        reference = Reference.open(self.reference, self.crop, self.exif, self.skip_bad)
        features = choose_features(self.features, samples.shape, reference)
        self._check(samples, reference, features)
        with joined(self.device) as device:
            network = self._network(features, str(device))
            small = features == DIGITS
            mine = self._look(network, samples, small or bool({"kid", "pr"} & {*self.also}))
            theirs = self._look_at(reference, network)
            if mine is None or (reference.moments is None and theirs is None):
                return  # another process prints
            other = reference.moments or theirs.moments()  # pyright: ignore
            self._report(samples, mine, reference, other, features, network)
            for line in self._companions(mine, theirs):
                print(line)
            if small:
                self._judge(samples, mine, other)
            if self.save_statistics:
                print(f"statistics        {write_statistics(mine.moments(), self.save_statistics)}")

    def _check(self, samples: ImageSet, reference: Reference, features: str) -> None:
        agree(samples, reference)
        dimensions = judges.DIMENSIONS if features == DIGITS else 2048
        if not self.few:
            enough(samples.count, dimensions, str(self.samples))
            enough(reference.count(), dimensions, self.reference)
        if "is" in self.also and features != "inception":
            raise ValueError("--also is needs --features inception")
        if {"kid", "pr"} & {*self.also} and reference.images is None:
            raise ValueError(
                "--also kid and pr compare image by image, but --reference "
                f"{self.reference} holds statistics only: give a folder or an npz of images"
            )
        if self.save_statistics and not self.save_statistics.absolute().parent.is_dir():
            raise ValueError(f"--save-statistics {self.save_statistics}: there is no such folder")

    def _network(self, features: str, device: str) -> Features:
        if features == DIGITS:
            return small_features
        try:
            return Inception(self.inception_weights, device)
        except OSError as error:
            if self.inception_weights is not None:
                raise
            raise ValueError(
                f"cannot load Inception's weights ({error}): where there is no network, fetch "
                f"{FILE} from torch-fidelity's release v0.2.0 elsewhere, and give "
                "--inception-weights FILE"
            ) from error

    def _look(self, network: Features, images: ImageSet, keep: bool) -> Seen | None:
        """What all processes saw, in the first; None in the others."""
        part, parts = place()
        logits = "is" in self.also
        found = gather(look(network, images.batches(self.batch, part, parts), keep, logits))
        return together(found) if found else None

    def _look_at(self, reference: Reference, network: Features) -> Seen | None:
        keep = bool({"kid", "pr"} & {*self.also})
        if reference.images is None or (reference.moments is not None and not keep):
            return None
        return self._look(network, reference.images, keep)

    def _report(
        self,
        samples: ImageSet,
        mine: Seen,
        reference: Reference,
        other: Moments,
        features: str,
        network: Features,
    ) -> None:
        about = samples.about
        weights = f", weights {network.digest}" if isinstance(network, Inception) else ""
        distance = round(frechet_distance(mine.moments(), other), 4) + 0.0  # no -0.0
        print(f"frechet distance  {distance:.4f}")
        print(f"features          {features}, {len(other.mean)} dimensions{weights}")
        print(f"samples           {samples.count} in {samples.path} ({samples.kinds()})")
        print(f"reference         {reference.name} ({other.count or 'unknown number of'} images)")
        if reference.images is not None and reference.images.left_out:
            print(f"left out          {len(reference.images.left_out)} images of the reference")
        print(f"label protocol    {about.get('label_protocol', 'unknown')}")
        print(f"evaluations       {about.get('steps', 'unknown')}")
        if samples.kinds() not in ("png", "npz"):
            print("note              lossy files: their losses are part of the distance")

    def _companions(self, mine: Seen, theirs: Seen | None) -> list[str]:
        lines = []
        if "is" in self.also:
            score = inception_score(torch.cat(mine.logits))
            lines.append(
                f"inception score   {score.mean:.3f} +- {score.deviation:.3f} ({SPLITS} splits)"
            )
        if "kid" in self.also and theirs:
            kid = kernel_distance(mine.features(), theirs.features())
            size = min(SUBSET, mine.sums.count, theirs.sums.count)
            lines.append(
                f"kernel distance   {kid.mean:.6f} +- {kid.deviation:.6f} ({SUBSETS} subsets of "
                f"{size})"
            )
        if "pr" in self.also and theirs:
            found = precision_recall(mine.features(), theirs.features())
            lines.append(
                f"precision         {found.precision:.4f}, recall {found.recall:.4f} ({NEIGHBORS} "
                f"neighbors, {theirs.sums.count} images of the reference)"
            )
        return lines

    def _judge(self, samples: ImageSet, mine: Seen, other: Moments) -> None:
        rows, labels = mine.features(), samples.about.get("labels")
        low, high = interval(rows, other)[1:]
        if samples.shape != (1, 8, 8):
            print(f"interval          [{low:.4f}, {high:.4f}]")
            return
        floor = interval(judges.features(digits(True)[0]), other, 2).center
        print(
            f"interval          [{low:.4f}, {high:.4f}], {len(digits(True)[0])} held-out digits "
            f"{floor:.4f}"
        )
        if labels is None:
            return
        images = torch.cat([*samples.batches(self.batch)]).float() / 127.5 - 1
        report = judges.judge(images, torch.tensor(labels), resamples=2)
        low, high = report.accuracy.low, report.accuracy.high
        print(
            f"label accuracy    {report.accuracy.center:.4f} [{low:.4f}, {high:.4f}], "
            f"held-out digits {report.accuracy_floor:.4f}"
        )
        print(
            f"nearest neighbor  {report.nearest.center:.3f} in the training split, held-out "
            f"digits {report.nearest_floor.center:.3f}"
        )
