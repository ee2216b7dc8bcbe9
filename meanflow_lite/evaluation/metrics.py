r"""What is reported beside a Frechet distance: Inception score, kernel distance, precision, recall.

All through torch-fidelity, on features of :mod:`~meanflow_lite.evaluation.inception` (or any
network's, for the last three). Each takes features, so that one pass over the images serves all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from meanflow_lite.evaluation.frechet import Moments, Sums, add

#: Of the published protocols: splits of an Inception score, subsets of a kernel distance and
#: images in each, neighbors of precision and recall.
SPLITS, SUBSETS, SUBSET, NEIGHBORS = 10, 100, 1_000, 3

Features = Callable[[Tensor], Float[Tensor, " b d"]]


class Spread(NamedTuple):
    """A mean and its standard deviation over splits or subsets."""

    mean: float
    deviation: float


def inception_score(logits: Float[Tensor, " n c"], splits: int = SPLITS) -> Spread:
    r""":math:`\exp E\,\mathrm{KL}(p(y\mid x)\,\|\,p(y))` (Salimans et al. 2016), mean over splits.

    Raises:
        ValueError: with fewer images than splits.
    """
    from torch_fidelity.metric_isc import isc_features_to_metric

    if len(logits) < splits:
        raise ValueError(f"an Inception score of {splits} splits needs that many images")
    found = isc_features_to_metric(logits, splits)
    return Spread(found["inception_score_mean"], found["inception_score_std"])


def kernel_distance(
    a: Float[Tensor, " n d"], b: Float[Tensor, " m d"], subsets: int = SUBSETS, size: int = SUBSET
) -> Spread:
    r"""Squared MMD with the kernel :math:`(x\cdot y/d + 1)^3` (Binkowski et al. 2018).

    The unbiased estimate, so it may be negative; mean over ``subsets`` of ``size`` images (all of
    the smaller set, if there are fewer).
    """
    from torch_fidelity.metric_kid import kid_features_to_metric

    size = min(size, len(a), len(b))
    if size < 2:
        raise ValueError(f"a kernel distance needs at least two images a set: got {size}")
    found = kid_features_to_metric(
        a, b, kid_subsets=subsets, kid_subset_size=size, rng_seed=2020, verbose=False
    )
    return Spread(found["kernel_inception_distance_mean"], found["kernel_inception_distance_std"])


class Coverage(NamedTuple):
    """Share of samples near the data, and share of data near the samples."""

    precision: float
    recall: float


def precision_recall(
    samples: Float[Tensor, " n d"], real: Float[Tensor, " m d"], neighbors: int = NEIGHBORS
) -> Coverage:
    """Shares inside the balls to the k-th neighbor of the other set (Kynkaanniemi et al. 2019).

    Raises:
        ValueError: with no more images in a set than ``neighbors``.
    """
    from torch_fidelity.metric_prc import calculate_precision_recall_part

    if min(len(samples), len(real)) <= neighbors:
        raise ValueError(f"{neighbors} neighbors need more images than that in each set")
    precision, recall = calculate_precision_recall_part(samples, real, neighbors, 2_000)
    return Coverage(precision, recall)


@dataclass(frozen=True)
class Seen:
    """What a network made of images: sums, and the rows themselves where they were kept."""

    sums: Sums
    rows: list[Tensor]
    logits: list[Tensor]

    def moments(self) -> Moments:
        """Mean and covariance of the features."""
        return self.sums.moments()

    def features(self) -> Float[Tensor, " n d"]:
        """All features that were kept, in the order of the images."""
        return torch.cat(self.rows)


def look(network: Features, images: Iterable[Tensor], keep: bool, logits: bool = False) -> Seen:
    """Run a network over batches of images; ``keep`` the rows, and Inception's ``logits``."""
    seen = Seen(add([]), [], [])
    for batch in images:
        made = network.with_logits(batch) if logits else (network(batch), None)  # pyright: ignore
        seen = Seen(seen.sums + Sums.of(made[0]), seen.rows, seen.logits)
        if keep:
            seen.rows.append(made[0].float().cpu())
        if made[1] is not None:
            seen.logits.append(made[1].float().cpu())
    return seen


def together(parts: list[Seen]) -> Seen:
    """What several processes saw, each every n-th batch, in the order of one process."""

    def in_turn(lists: list[list[Tensor]]) -> list[Tensor]:
        return [t for t in chain(*zip_longest(*lists)) if t is not None]

    return Seen(
        add(part.sums for part in parts),
        in_turn([part.rows for part in parts]),
        in_turn([part.logits for part in parts]),
    )
