r"""Frechet distance :math:`|\mu_1-\mu_2|^2 + \mathrm{tr}(S_1 + S_2 - 2(S_1 S_2)^{1/2})`.

Of the features of two sets of images (Heusel et al. 2017), with moments in float64. The features
are any network's; Inception's come through torch-fidelity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Features = Callable[[Tensor], Float[Tensor, " b d"]]


@dataclass(frozen=True)
class Moments:
    """Mean ``[d]`` and covariance ``[d, d]`` of features in float64, and how many they are of."""

    mean: np.ndarray
    covariance: np.ndarray
    count: int | None = None


def moments(features: Float[Tensor, " n d"]) -> Moments:
    """Moments of rows of features.

    Raises:
        ValueError: with fewer than two rows, or features that are not finite.
    """
    return accumulate([features])


def accumulate(batches: Iterable[Float[Tensor, " _ d"]]) -> Moments:
    """Moments of features that come in batches, without keeping them.

    Raises:
        ValueError: with fewer than two rows, or features that are not finite.
    """
    count, total, outer, origin = 0, np.zeros(1), np.zeros((1, 1)), np.zeros(1)
    for batch in batches:
        f = batch.detach().double().cpu().numpy()
        if not count:
            origin = f.mean(0)  # sums of squares far from zero would lose digits
        count, total, outer = count + len(f), total + (f - origin).sum(0), outer + _outer(f, origin)
    if count < 2:
        raise ValueError(f"a covariance needs at least two images: got {count}")
    mean = total / count
    covariance = (outer - count * np.outer(mean, mean)) / (count - 1)
    if not np.isfinite(covariance).all():
        raise ValueError("the features hold NaN or infinite values: look at the images first")
    return Moments(origin + mean, covariance, count)


def _outer(f: np.ndarray, origin: np.ndarray) -> np.ndarray:
    centered = f - origin
    return centered.T @ centered


def frechet_distance(a: Moments, b: Moments) -> float:
    """The distance of two sets of moments, by torch-fidelity's formula.

    Raises:
        ValueError: if the features have different dimensions.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"the features differ in dimension: {a.mean.shape[0]} and {b.mean.shape[0]}; "
            "statistics belong to one feature network"
        )
    metric = torch_fidelity().metric_fid
    first, second = ({"mu": m.mean, "sigma": m.covariance} for m in (a, b))
    return metric.fid_statistics_to_metric(first, second, False)[metric.KEY_METRIC_FID]


def inception(weights: Path | str | None = None, device: str = "cpu") -> Features:
    """Inception's 2,048 features of RGB bytes ``[B, 3, H, W]``, from torch-fidelity.

    ``weights`` is a local file of torch-fidelity's weights; without it they are downloaded once.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = None if weights is None else str(weights)
    network = FeatureExtractorInceptionV3("inception", ["2048"], path).to(device)

    def features(images: Tensor) -> Tensor:
        if images.dtype != torch.uint8 or images.shape[1] != 3:
            raise ValueError(
                f"Inception takes RGB bytes [B, 3, H, W]: got {images.dtype} {tuple(images.shape)}"
            )
        with torch.no_grad():
            return network(images.to(device))[0]

    return features


def read_statistics(path: Path | str) -> Moments:
    """Moments from an npz with ``mu`` and ``sigma``, as ADM's reference files have them."""
    with np.load(path, allow_pickle=False) as stored:
        if not {"mu", "sigma"} <= set(stored.files):
            raise ValueError(f"{path} holds {stored.files}: reference statistics are mu and sigma")
        count = int(stored["count"]) if "count" in stored.files else None
        return Moments(stored["mu"].astype(float), stored["sigma"].astype(float), count)


def write_statistics(m: Moments, path: Path | str) -> None:
    """Store moments so that :func:`read_statistics` and torch-fidelity users can read them."""
    np.savez(path, mu=m.mean, sigma=m.covariance, count=np.array(m.count or 0))


def torch_fidelity():
    """The torch-fidelity package, or an error that says how to get it."""
    try:
        import torch_fidelity.metric_fid
    except ImportError as error:
        raise ImportError(
            "the Frechet distance needs torch-fidelity: pip install torch-fidelity"
        ) from error
    return torch_fidelity
