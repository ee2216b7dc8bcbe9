r"""Autoencoders of diffusers: images to the mean and deviation of latents, and back."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from meanflow_lite.data.digits import to_uint8

#: The factor of Stable Diffusion's VAE, whose latents then have a deviation of about one.
SCALE = 0.18215
#: Images that are encoded or decoded at once: one of 256 pixels takes 0.2 GiB while it is decoded.
CHUNK = 16
#: Classes of diffusers that are known to work; the class is named in a folder's config.json.
KINDS = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC")


class Vae:
    """An autoencoder of diffusers, by hub id or local folder, or by the id of a whole pipeline.

    ``scale`` is the factor that its latents are trained with; a shift, or statistics per channel,
    that its configuration names are taken off by :meth:`encode` and put back by :meth:`decode`.
    ``factor`` is how many pixels a latent is wide. Weights are read from safetensors only, which
    hold no code. ``fingerprint`` is what it must be, if that is known.

    Raises:
        ValueError: if it cannot be loaded, is of another kind, or has another fingerprint.
    """

    scale = SCALE
    factor = 8

    def __init__(
        self, name: str, device: torch.device | str = "cpu", fingerprint: str | None = None
    ) -> None:
        self.name, self.device = resolved(name), device
        net, config = _loaded(self.name)
        self.scale = float(config.get("scaling_factor") or 1.0)
        self.factor = 2 ** (len(_blocks(config)) - 1)
        self._shift, self._spread = _per_channel(config)
        self.net = net.to(device).eval().requires_grad_(False)
        if fingerprint is not None and fingerprint != self.fingerprint:
            raise ValueError(
                f"the VAE {name!r} is not the one that made these latents: its fingerprint is "
                f"{self.fingerprint}, theirs {fingerprint}. Give that one with --vae"
            )

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of all weights: it tells two VAEs of one name apart."""
        digest = hashlib.sha256(f"{self._shift} {self._spread}".encode())
        for name, value in sorted(self.net.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def encode(self, images: Float[Tensor, " b 3 h w"]) -> Float[Tensor, " b c h2 w2"]:
        """Mean and standard deviation of the latents, one behind the other in the channels."""
        return torch.cat([self._encode(x.to(self.device)).float().cpu() for x in chunks(images)])

    @torch.no_grad()
    def decode(self, z: Float[Tensor, " b c h w"]) -> Float[Tensor, " b 3 h2 w2"]:
        """Images in [-1, 1], on the CPU, from latents that carry no scale."""
        return torch.cat([self._decode(rows).cpu() for rows in chunks(z)])

    @torch.no_grad()
    def decode_bytes(self, z: Float[Tensor, " b c h w"]) -> UInt8[Tensor, " b 3 h2 w2"]:
        """The same in bytes: a quarter of the memory."""
        return torch.cat([to_uint8(self._decode(rows)).cpu() for rows in chunks(z)])

    def _encode(self, images: Tensor) -> Tensor:
        made: Any = self.net.encode(images)
        if hasattr(made, "latent_dist"):
            mean, deviation = made.latent_dist.mean, made.latent_dist.std
        else:  # an autoencoder that has no noise
            mean = made.latents if hasattr(made, "latents") else made.latent
            deviation = torch.zeros_like(mean)
        shift, spread = (x.to(mean) for x in (self._shift, self._spread))
        return torch.cat([(mean - shift) / spread, deviation / spread], 1)

    def _decode(self, z: Tensor) -> Tensor:
        z = z.to(self.device)
        made: Any = self.net.decode(z * self._spread.to(z) + self._shift.to(z))
        return made.sample.float().clamp(-1, 1)


def chunks(rows: Tensor) -> Iterator[Tensor]:
    """At most ``CHUNK`` rows at a time; one empty chunk of no rows."""
    return iter(rows.split(CHUNK))


def resolved(name: str) -> str:
    """The absolute path of a local folder; a hub id as it is."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _loaded(name: str) -> tuple[Any, dict[str, Any]]:
    import diffusers

    if not Path(name).is_dir():
        if Path(name).is_absolute() or name.startswith("."):
            raise ValueError(f"cannot load the VAE {name!r}: there is no such folder")
        print(
            f"the VAE {name} comes from the Hugging Face hub, or from what it stored here before",
            file=sys.stderr,
        )
    try:
        config, place = _config(name)
        kind = config.get("_class_name")
        if kind not in KINDS:
            raise ValueError(f"it is a {kind}, not one of {', '.join(KINDS)}")
        net = getattr(diffusers, kind).from_pretrained(
            name, low_cpu_mem_usage=False, use_safetensors=True, **place
        )
    except Exception as error:  # damaged weights or configurations raise many types
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"cannot load the VAE {name!r}: give a local folder with safetensors or a hub id such "
            f"as stabilityai/sd-vae-ft-mse ({said})"
        ) from error
    return net, config


def _config(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration of a VAE, or of the one in a pipeline; and where it is, as options."""
    from diffusers import AutoencoderKL  # pyright: ignore[reportPrivateImportUsage]

    load: Any = AutoencoderKL.load_config
    inside: dict[str, Any] = {"subfolder": "vae"}
    if (Path(name) / "vae" / "config.json").is_file():
        return load(name, **inside), inside
    try:
        return load(name), {}
    except OSError:
        if Path(name).is_dir():
            raise
        return load(name, **inside), inside


def _blocks(config: dict[str, Any]) -> list[Any]:
    """One entry for each halving, and one more."""
    return config.get("block_out_channels") or config.get("encoder_block_out_channels") or [0] * 4


def _per_channel(config: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Shift and spread of latents, ``[1, C or 1, 1, 1]``, as the configuration has them."""
    shift, spread = config.get("latents_mean"), config.get("latents_std")
    if shift is None or spread is None:
        shift, spread = [float(config.get("shift_factor") or 0.0)], [1.0]
    return tuple(torch.tensor(x).view(1, -1, 1, 1).float() for x in (shift, spread))  # pyright: ignore
