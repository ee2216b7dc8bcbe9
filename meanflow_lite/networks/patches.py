"""Images as patches, and what every network for images checks at its entry."""

from collections.abc import Mapping

from torch import Tensor


def patchify(z: Tensor, patch: int) -> Tensor:
    """[B, C, H, W] to [B, N, p * p * C]: entries of a patch in the order row, column, channel."""
    grid = z.unflatten(2, (-1, patch)).unflatten(4, (-1, patch))  # b c i p j q
    return grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, patch: int) -> Tensor:
    """The inverse of `patchify`, for square images."""
    side = round(patches.shape[1] ** 0.5)
    grid = patches.unflatten(1, (side, side)).unflatten(-1, (patch, patch, -1))  # b i j p q c
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def check_rows(z: Tensor, shape: tuple[int, ...], rows: Mapping[str, Tensor | None]) -> None:
    """Raise `ValueError` unless `z` is ``[B, *shape]`` and each of `rows` that is there is [B]."""
    if z.shape[1:] != shape:
        raise ValueError(f"z must be [B, {', '.join(map(str, shape))}], got {tuple(z.shape)}")
    for name, value in rows.items():
        if value is not None and value.shape != z.shape[:1]:
            raise ValueError(f"{name} must be [B] with B = {len(z)}, got {tuple(value.shape)}")


def check_conditions(known: tuple[str, ...], given: Mapping[str, Tensor]) -> None:
    """Raise `ValueError` for a condition that the network does not take."""
    if not given.keys() <= set(known):
        raise ValueError(f"this network takes the conditions {known}, got {tuple(sorted(given))}")
