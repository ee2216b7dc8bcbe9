"""The force of Drifting between two sets of points, and its sums over the rows of a class."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def drift(
    points: Float[Tensor, " m d"],
    generated: Float[Tensor, " n d"],
    data: Float[Tensor, " k d"],
    radius: float,
    seen: Bool[Tensor, " m nk"] | None = None,
    weight: Float[Tensor, " m nk"] | None = None,
    groups: Int[Tensor, " m"] | None = None,
    floor: float = 0.0,
) -> Float[Tensor, " m d"]:
    """V at ``points``: towards ``data``, away from ``generated``; changes sign when they swap.

    Over ``[generated, data]``: ``seen`` are the pairs that attract or repel by their distance (the
    others have the affinity ``floor``), ``weight`` multiplies affinities, 0 for pairs that do not
    count. ``groups`` ``[m]`` numbers the sets of points that share a column's softmax.
    """
    n = len(generated)
    log_k = -torch.cdist(points, torch.cat([generated, data])) / radius
    if seen is not None:
        log_k = log_k.masked_fill(~seen, -1e6)  # finite: a row may see nothing
    columns = log_k.logsumexp(0, keepdim=True) if groups is None else logsumexp_by(groups, log_k)
    k = (log_k - (log_k.logsumexp(1, keepdim=True) + columns) / 2).exp().clamp(min=floor**0.5)
    k = k if weight is None else k * weight
    away, towards = k[:, :n], k[:, n:]
    pull = towards @ data * away.sum(1, keepdim=True)
    return pull - away @ generated * towards.sum(1, keepdim=True)


def paired(y: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
    """``y`` with no label that only one row has: such rows take the label of another one.

    In the order of their labels, each second one joins the one before it, and one that is left
    over joins the smallest. So the order of the rows does not matter, nor their place.
    """
    alone = (y[:, None] == y).sum(1) == 1
    ordered, order = torch.where(alone, y, torch.iinfo(y.dtype).max).sort()
    rank = torch.empty_like(order).scatter(0, order, torch.arange(len(y), device=y.device))
    pairs = torch.where(alone & (rank % 2 == 1), ordered[(rank - 1).clamp(min=0)], y)
    left = alone & (rank == alone.sum() - 1) & (alone.sum() % 2 == 1)
    return torch.where(left, torch.where(left, y.max(), pairs).min(), pairs)


def logsumexp_by(groups: Int[Tensor, " m"], values: Float[Tensor, " m n"]) -> Float[Tensor, " m n"]:
    """``logsumexp`` over the rows of one group, in each row; ``groups`` number them below m."""
    index = groups[:, None].expand_as(values)
    top = torch.full_like(values, -math.inf).scatter_reduce(0, index, values, "amax")
    shifted = (values - top.gather(0, index)).exp()
    total = torch.zeros_like(values).scatter_add(0, index, shifted)
    return (top + total.log()).gather(0, index)
