r"""Frechet distance :math:`|\mu_1-\mu_2|^2 + \mathrm{tr}(S_1 + S_2 - 2(S_1 S_2)^{1/2})`.

Of the features of two sets of images (Heusel et al. 2017), with moments in float64. The features
are any network's; :mod:`~meanflow_lite.evaluation.inception` has those that papers report.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from meanflow_lite.files import Damage, read_npz, writing


@dataclass(frozen=True)
class Moments:
    """Mean ``[d]`` and covariance ``[d, d]`` of features in float64, and how many they are of.

    Raises:
        ValueError: if they are no moments: other shapes, values that are not finite, a covariance
            that is not symmetric or has a negative variance.
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int | None = None

    def __post_init__(self) -> None:
        mean, covariance = self.mean, self.covariance
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(
                f"moments are a mean [d] and a covariance [d, d]: got {mean.shape} and "
                f"{covariance.shape}"
            )
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise ValueError("the moments hold NaN or infinite values")
        largest = float(np.abs(covariance).max(initial=0))
        if np.abs(covariance - covariance.T).max(initial=0) > 1e-6 * largest:
            raise ValueError("the covariance is not symmetric")
        if np.diag(covariance).min(initial=0) < -1e-6 * largest:
            raise ValueError("the covariance has a negative variance on its diagonal")


@dataclass(frozen=True)
class Sums:
    """Count, mean ``[d]`` and sum of squares about the mean ``[d, d]`` of some rows of features.

    They add up exactly, over batches and over processes (Chan, Golub & LeVeque 1979), and keep
    their digits far from zero, where sums of plain squares lose them.
    """

    count: int
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, features: Float[Tensor, " n d"]) -> Sums:
        """Those of one batch, in float64; raises ``ValueError`` if it is not finite."""
        f = features.detach().double().cpu().numpy()
        if f.ndim != 2 or not np.isfinite(f).all():
            raise ValueError(
                f"features are finite rows [n, d]: got shape {f.shape}"
                + ("" if np.isfinite(f).all() else " with NaN or infinite values")
            )
        mean = f.mean(0) if len(f) else np.zeros(f.shape[1])
        return cls(len(f), mean, (f - mean).T @ (f - mean))

    def __add__(self, other: Sums) -> Sums:
        """The sums of the rows of both."""
        count = self.count + other.count
        if not count:
            return self
        apart = other.mean - self.mean
        share = other.count / count
        squares = (
            self.squares + other.squares + (self.count * share) * np.multiply.outer(apart, apart)
        )
        return Sums(count, self.mean + share * apart, squares)

    def moments(self) -> Moments:
        """Mean and unbiased covariance; raises ``ValueError`` with fewer than two rows."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least two images: got {self.count}")
        return Moments(self.mean, self.squares / (self.count - 1), self.count)


def moments(features: Float[Tensor, " n d"]) -> Moments:
    """Moments of rows of features.

    Raises:
        ValueError: with fewer than two rows, or features that are not finite.
    """
    return Sums.of(features).moments()


def accumulate(batches: Iterable[Float[Tensor, " _ d"]]) -> Moments:
    """Moments of features that come in batches, without keeping them.

    Raises:
        ValueError: with fewer than two rows, or features that are not finite.
    """
    return add(map(Sums.of, batches)).moments()


def add(parts: Iterable[Sums]) -> Sums:
    """The sums of all rows; of none, if there are no parts."""
    return reduce(Sums.__add__, parts, Sums(0, np.zeros(()), np.zeros(())))


def frechet_distance(a: Moments, b: Moments) -> float:
    """The distance of two sets of moments, by torch-fidelity's formula.

    Raises:
        ValueError: if the features have different dimensions, or the distance is not finite.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"the features differ in dimension: {a.mean.shape[0]} and {b.mean.shape[0]}; "
            "statistics belong to one feature network"
        )
    metric = torch_fidelity().metric_fid
    first, second = ({"mu": m.mean, "sigma": m.covariance} for m in (a, b))
    value = metric.fid_statistics_to_metric(first, second, False)[metric.KEY_METRIC_FID]
    if not np.isfinite(value):
        raise ValueError(f"the Frechet distance is {value}: are both covariances sound?")
    return value


def read_statistics(path: Path | str) -> Moments:
    """Moments from an npz with ``mu`` and ``sigma``, as ADM's reference files have them.

    Raises:
        ValueError: if the file is damaged, or holds no moments; a covariance must be symmetric
            and have no negative eigenvalue.
    """
    try:
        stored = read_npz(path, ("mu", "sigma"))
        mean, covariance = (np.asarray(stored[k], dtype=float) for k in ("mu", "sigma"))
        count = int(stored["count"]) if "count" in stored else None
        found = Moments(mean, covariance, count)
        lowest, highest = np.linalg.eigvalsh(covariance)[[0, -1]]
        if lowest < -1e-4 * max(highest, 1e-12):
            raise ValueError(f"its covariance has the negative eigenvalue {lowest:.3g}")
        return found
    except (ValueError, TypeError) as error:
        said = error.what if isinstance(error, Damage) else error
        raise ValueError(
            f"{path} does not hold reference statistics, which are an npz of mu [d] and sigma "
            f"[d, d] ({said})"
        ) from error


def write_statistics(m: Moments, path: Path | str) -> Path:
    """Store moments so that :func:`read_statistics` and torch-fidelity users can read them.

    Returns the file's path: ``.npz`` is added to a name that does not end so, as numpy does.
    """
    path = Path(path)
    path = path if path.suffix == ".npz" else path.with_name(path.name + ".npz")
    fields = {"mu": m.mean, "sigma": m.covariance}
    if m.count is not None:
        fields["count"] = np.array(m.count)
    with writing(path) as file:
        np.savez(file, **fields)  # pyright: ignore[reportArgumentType]
    return path


def torch_fidelity():
    """The torch-fidelity package, or an error that says how to get it."""
    try:
        import torch_fidelity.metric_fid
    except ImportError as error:
        raise ImportError(
            "the Frechet distance needs torch-fidelity: pip install torch-fidelity"
        ) from error
    return torch_fidelity
