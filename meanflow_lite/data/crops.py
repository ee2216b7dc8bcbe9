"""Real color images without a download: crops of scikit-learn's photographs, and a small VAE."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch.nn import functional as F

from meanflow_lite.data.images import ImageFolder, read_image

PHOTOGRAPHS = ("china.jpg", "flower.jpg")


def write_crops(folder: Path | str, count: int = 200, size: int = 256, seed: int = 0) -> Path:
    """``count`` random square crops of each photograph, as an image folder of two classes.

    Crops are between ``size`` and the photograph's height wide, some mirrored.
    """
    folder, rng = Path(folder), np.random.default_rng(seed)
    for name in PHOTOGRAPHS:
        photograph = Image.fromarray(load_sample_image(name))
        place = folder / name.removesuffix(".jpg")
        place.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            side = int(rng.integers(size, photograph.height + 1))
            left = int(rng.integers(photograph.width - side + 1))
            top = int(rng.integers(photograph.height - side + 1))
            crop = photograph.crop((left, top, left + side, top + side)).resize((size, size))
            if rng.random() < 0.5:
                crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            crop.save(place / f"{i:04d}.png")
    return folder


def write_small_vae(
    folder: Path | str, images: ImageFolder, size: int = 64, steps: int = 100, width: int = 16
) -> Path:
    """Train a small ``AutoencoderKL`` (factor 8, four channels) on ``images`` and save it.

    It stands in for the published VAE where there is no network to fetch that one.
    """
    from diffusers import AutoencoderKL  # pyright: ignore[reportPrivateImportUsage]

    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(
            block_out_channels=(width, 2 * width, 2 * width, 2 * width),  # pyright: ignore
            down_block_types=("DownEncoderBlock2D",) * 4,  # pyright: ignore
            up_block_types=("UpDecoderBlock2D",) * 4,  # pyright: ignore
            latent_channels=4,
            norm_num_groups=8,
            sample_size=size,
        )
    optimizer = torch.optim.Adam(vae.parameters(), 2e-3)
    for _ in range(steps):
        rows = torch.randint(len(images), (8,), generator=generator)
        x = torch.stack([read_image(images.paths[int(i)], size) for i in rows]).float() / 127.5 - 1
        latent = vae.encode(x).latent_dist  # pyright: ignore
        z = latent.mean + latent.std * torch.randn(latent.mean.shape, generator=generator)
        decoded = vae.decode(z).sample  # pyright: ignore
        loss = F.mse_loss(decoded, x) + 1e-5 * latent.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    vae.save_pretrained(str(folder))
    return Path(folder)
