"""How good generated digits are: accuracy, Frechet distance, distance to the training set.

Two judges, trained separately and on the training split only: a support vector machine on pixels
tells whether a sample shows its label; a small convolutional network gives the features of the
Frechet distance. The network's weights come with the package, so that numbers compare.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from safetensors.torch import load_file, save_file
from sklearn.svm import SVC
from torch import Tensor, nn
from torch.nn import functional as F

from meanflow_lite.data.digits import NUM_CLASSES, digits
from meanflow_lite.evaluation.frechet import frechet_distance, moments
from meanflow_lite.evaluation.intervals import Interval, bootstrap_interval

WEIGHTS = "digits_features.safetensors"
DIMENSIONS = 32

Images = Float[Tensor, " n 1 8 8"]


class FeatureNetwork(nn.Module):
    """Images ``[B, 1, 8, 8]`` in [-1, 1] to logits; ``features`` are the 32 numbers before them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(256, DIMENSIONS),
            nn.SiLU(),
        )
        self.head = nn.Linear(DIMENSIONS, NUM_CLASSES)

    def features(self, x: Images) -> Float[Tensor, " n d"]:
        """The last hidden layer, ``[B, 32]``."""
        return self.body(x)

    def forward(self, x: Images) -> Float[Tensor, " n 10"]:
        """Logits of the ten classes."""
        return self.head(self.body(x))


def train_feature_network(steps: int = 600) -> FeatureNetwork:
    """Train it as the shipped weights were: seconds on one core, deterministic."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = FeatureNetwork()
    x, y = digits()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(x), (128,), generator=generator)
        noisy = x[rows] + 0.2 * torch.randn(128, 1, 8, 8, generator=generator)
        loss = F.cross_entropy(network(noisy), y[rows], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@cache
def feature_network() -> FeatureNetwork:
    """The shipped network."""
    network = FeatureNetwork()
    network.load_state_dict(load_file(str(files("meanflow_lite.evaluation").joinpath(WEIGHTS))))
    return network.eval().requires_grad_(False)


@cache
def classifier() -> SVC:
    """A support vector machine on pixels, fitted to the training split in a moment."""
    x, y = digits()
    return SVC(C=10.0, gamma=0.06).fit(x.flatten(1).numpy(), y.numpy())  # pyright: ignore


def accuracy(x: Images, y: Int[Tensor, " n"]) -> float:
    """Share of images that the classifier takes for their label."""
    return float(_hits(x, y).mean())


def _hits(x: Images, y: Tensor) -> np.ndarray:
    return classifier().predict(x.clamp(-1, 1).flatten(1).numpy()) == y.numpy()


def features(x: Images) -> Float[Tensor, " n d"]:
    """Features of images, clipped to [-1, 1]."""
    with torch.no_grad():
        return feature_network().features(x.clamp(-1, 1))


def small_features(images: UInt8[Tensor, " n c h w"]) -> Float[Tensor, " n d"]:
    """The digits' features of any images in bytes: gray, averaged down to 8x8."""
    gray = images.float().mean(1, keepdim=True) / 127.5 - 1
    return features(F.interpolate(gray, (8, 8), mode="area"))


def nearest(x: Images, reference: Float[Tensor, " k 1 8 8"]) -> Float[Tensor, " n"]:
    """Distance of each image to the nearest of ``reference``, in pixels of range [-1, 1]."""
    return torch.cdist(x.clamp(-1, 1).flatten(1), reference.flatten(1)).amin(1)


@dataclass(frozen=True)
class Report:
    """Judgement of a set of labeled images.

    ``frechet`` is the distance to the training split; ``frechet_floor`` that of the 500 held-out
    digits. ``nearest`` is the median distance to the nearest training image, ``nearest_floor`` that
    of held-out digits: a generator that copies lies well below it. ``accuracy_floor`` is the
    classifier's accuracy on held-out digits.
    """

    count: int
    accuracy: Interval
    accuracy_floor: float
    frechet: Interval
    frechet_floor: Interval
    nearest: Interval
    nearest_floor: Interval


def judge(x: Tensor, y: Tensor, resamples: int = 100) -> Report:
    """All measures of generated digits ``x`` with labels ``y``, with intervals.

    Raises:
        ValueError: if shapes are not those of digits, values are not finite, or labels are not
            whole numbers 0 ... 9 (10 for a sample without a label, which has no right answer).
    """
    if x.shape[1:] != (1, 8, 8) or len(x) != len(y):
        raise ValueError(
            f"digits are [N, 1, 8, 8] with labels [N]: got {tuple(x.shape)}, {tuple(y.shape)}"
        )
    if not torch.isfinite(x).all():
        raise ValueError("the samples hold NaN or infinite values: did training diverge?")
    if len(x) < 2:
        raise ValueError(f"intervals need at least two samples: got {len(x)}")
    if y.is_floating_point() or not 0 <= int(y.min()) <= int(y.max()) <= NUM_CLASSES:
        raise ValueError(f"labels of digits are whole numbers 0 ... 9: got {y.dtype} {y.unique()}")
    real, held = digits()[0], digits(held_out=True)
    reference = moments(features(real))

    def distance(f: np.ndarray) -> float:
        return frechet_distance(moments(torch.from_numpy(f)), reference)

    hits = _hits(x, y).astype(float)
    return Report(
        count=len(x),
        accuracy=bootstrap_interval(list(hits)),
        accuracy_floor=accuracy(*held),
        frechet=bootstrap(features(x).numpy(), distance, resamples),
        frechet_floor=bootstrap(features(held[0]).numpy(), distance, resamples),
        nearest=_median(nearest(x, real)),
        nearest_floor=_median(nearest(held[0], real)),
    )


def _median(distances: Tensor) -> Interval:
    return bootstrap_interval(distances.tolist(), np.median, resamples=500)


def bootstrap(
    rows: np.ndarray, statistic: Callable[[np.ndarray], float], resamples: int = 100
) -> Interval:
    """A statistic of ``rows`` and the basic bootstrap's 95% interval, with a fixed seed.

    Resampled rows repeat, which raises a Frechet distance by more than the spread: the interval is
    that of the resampled values, centered on the estimate.
    """
    value, rng = statistic(rows), np.random.default_rng(0)
    drawn = [statistic(rows[rng.integers(len(rows), size=len(rows))]) for _ in range(resamples)]
    low, high = np.quantile(drawn, [0.025, 0.975]) - np.mean(drawn)
    return Interval(value, value - float(high), value - float(low))


def write_weights() -> None:
    """Train the feature network and store it beside this file."""
    path = Path(str(files("meanflow_lite.evaluation").joinpath(WEIGHTS)))
    save_file(train_feature_network().state_dict(), path)
