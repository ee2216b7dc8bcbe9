"""What a run trains on: the digits of scikit-learn, or a latent cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from meanflow_lite.data.batches import Batches, FromTensors
from meanflow_lite.data.digits import NUM_CLASSES, digits

DIGITS = "digits"


@dataclass(frozen=True)
class Data:
    """Batches and what a network has to know of them; ``vae`` decodes, if there is one.

    ``content`` names the data wherever it lies: a run goes on if its cache has moved.
    """

    batches: Batches
    content: str
    images: int
    num_classes: int
    shape: tuple[int, ...]
    vae: str | None = None
    vae_fingerprint: str | None = None
    classes: tuple[str, ...] | None = None


def open_data(name: str, latent_scale: float) -> Data:
    """``digits``, or the folder of a latent cache.

    Raises:
        ValueError: if there is no such cache, it is damaged or incomplete, or its VAE has another
            factor on latents.
    """
    if name == DIGITS:
        x, y = digits()
        return Data(FromTensors(x, y), DIGITS, len(x), NUM_CLASSES, tuple(x.shape[1:]))
    from meanflow_lite.data.latents import LatentCache

    if not Path(name).is_dir():
        raise ValueError(
            f"--data is {name!r}: there is no such folder. Write a latent cache with "
            "`meanflow-lite encode IMAGES --out LATENTS`, or use --data digits"
        )
    cache = LatentCache(name, latent_scale)
    if abs(cache.vae_scale / latent_scale - 1) > 1e-3:
        raise ValueError(
            f"--latent-scale is {latent_scale}, but the VAE of {name} names {cache.vae_scale}: "
            f"give --latent-scale {cache.vae_scale}"
        )
    return Data(
        cache,
        cache.content,
        len(cache),
        cache.num_classes,
        cache.shape,
        cache.vae,
        cache.vae_fingerprint,
        cache.classes,
    )
