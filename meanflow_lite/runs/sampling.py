"""A network with what sampling needs: ``Model.sample(labels=[3, 3], steps=1)``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meanflow_lite.fields import Conditioned, Field
from meanflow_lite.guidance import ClassifierFree
from meanflow_lite.randomness import Random
from meanflow_lite.samplers import Times, integrate, sample, uniform_times


class Model:
    """A network with what is needed to sample: shape, labels, the jumps that it knows, a decoder.

    ``net`` is a field, left on its device; ``info`` is the content of ``run.json``: settings,
    data, versions, command; for imported weights where they come from and what they recommend
    (see :mod:`~meanflow_lite.runs.folder`). ``source`` is the file that the weights are from.
    """

    def __init__(self, net: nn.Module, info: dict, source: Path | None = None) -> None:
        self.net, self.info, self.source = net, info, source
        self.device = next(net.parameters()).device
        self.num_classes: int = info["num_classes"]
        self.classes: list[str] | None = info.get("classes")
        self.shape = tuple(info["shape"])
        self._vaes: dict[str, Any] = {}

    @property
    def instant(self) -> bool:
        """Whether it knows velocities alone, so that sampling is solving an equation."""
        return self.info["domain"]["name"] == "instant"

    @property
    def recommended(self) -> dict[str, float]:
        """What the network may be told at sampling, by name, with the recommended values."""
        return self.info.get("sampling", {})

    def noise(self, indices: Sequence[int], seed: int = 0) -> Float[Tensor, " n *d"]:
        """Noise of the samples with these numbers: the same bits at any batch size."""
        random = Random(seed)
        rows = [random.normal("sample", range(i, i + 1), *self.shape) for i in indices]
        return (torch.cat(rows) * self.info.get("noise_scale", 1.0)).to(self.device)

    def noise_labels(self, indices: Sequence[int], seed: int = 0) -> Int[Tensor, " n k"] | None:
        """The integers that belong to the noise of these samples; None: the network has none."""
        config: Any = getattr(self.net, "config", None)
        if not hasattr(config, "noise_coordinates"):
            return None
        random, shape = Random(seed), (config.noise_coordinates,)
        rows = [random.uniform("noise labels", range(i, i + 1), *shape) for i in indices]
        return (torch.cat(rows) * config.noise_classes).long().to(self.device)

    def latents(
        self,
        eps: Float[Tensor, " n *d"],
        labels: Int[Tensor, " n"],
        times: Times = (1.0, 0.0),
        omega: float | None = None,
        interval: tuple[float, float] | None = None,
        noise_labels: Int[Tensor, " n k"] | None = None,
    ) -> Float[Tensor, " n *d"]:
        """Samples before any decoder.

        Args:
            eps: noise, of the network's shape and noise scale: see :meth:`noise`.
            labels: classes; ``num_classes`` for none, where the network has a null class.
            times: of the walk.
            omega: guidance scale: for networks that take it (None: the recommended one), and for
                fields of the velocity alone, where it mixes two evaluations (None: 1).
            interval: where in t guidance acts, for networks that take it.
            noise_labels: of generators that have them: see :meth:`noise_labels`; None draws them.

        Raises:
            ValueError: for labels out of range, jumps that were not trained, or guidance where it
                is part of what was trained.
        """
        self._check_labels(labels)
        field: Field = self.net  # pyright: ignore[reportAssignmentType]
        told = self._told(len(eps), omega, interval)
        if noise_labels is not None:
            told["noise_labels"] = noise_labels
        if told:
            field = Conditioned(field, told)
        elif omega not in (None, 1):
            field = ClassifierFree(field, self.num_classes, omega)
        walk = integrate if self.instant else sample
        return walk(field, eps, times, labels.to(self.device))

    def _told(
        self, rows: int, omega: float | None, interval: tuple[float, float] | None
    ) -> dict[str, Tensor]:
        """Conditions ``[B]`` of a network that takes some."""
        known = self.recommended
        if interval is not None and "t_min" not in known:
            raise ValueError("this model has no guidance interval as an input: give none")
        if omega not in (None, 1) and "omega" not in known and not self.instant:
            raise ValueError(
                "the guidance of this model is fixed by its training: sample with omega 1, or "
                "train with another --omega and --kappa"
            )
        low, high = interval or (None, None)
        if low is not None and high is not None and not 0 <= low <= high <= 1:
            raise ValueError(f"the guidance interval lies within [0, 1]: got {interval}")
        if omega is not None and not omega > 0:
            raise ValueError(f"omega is positive: got {omega}")
        given = {"omega": omega, "t_min": low, "t_max": high}
        values = {**known, **{n: v for n, v in given.items() if v is not None and n in known}}
        return {n: torch.full((rows,), float(v), device=self.device) for n, v in values.items()}

    def _check_labels(self, labels: Tensor) -> None:
        null = self.info.get("null_class", True)
        top = self.num_classes if null else self.num_classes - 1
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) <= top:
            none = f"{self.num_classes}: no label" if null else "this model needs one"
            raise ValueError(
                f"labels are 0 ... {self.num_classes - 1} ({none}): got "
                f"{int(labels.min())} ... {int(labels.max())}"
            )

    def sample(
        self,
        labels: Sequence[int],
        steps: int = 1,
        t_mid: float | None = None,
        omega: float | None = None,
        seed: int = 0,
        batch: int = 256,
        vae: str | None = None,
        interval: tuple[float, float] | None = None,
    ) -> Float[Tensor, " n c h w"]:
        """One image in [-1, 1] for each label, on the CPU; ``num_classes`` means no label.

        ``steps`` equal steps from noise to data, or two that meet at ``t_mid``. ``vae`` is the
        decoder of latents (default: the one that encoded them). ``omega`` and ``interval`` as in
        :meth:`latents`.
        """
        times = walk_times(steps, t_mid)
        images = []
        for first in range(0, len(labels), batch):
            rows = range(first, min(first + batch, len(labels)))
            y = torch.tensor([int(labels[i]) for i in rows])
            eps, told = self.noise(rows, seed), self.noise_labels(rows, seed)
            images.append(self.decode(self.latents(eps, y, times, omega, interval, told), vae))
        return torch.cat(images) if images else torch.empty(0, *self.shape)

    def decode(self, z: Float[Tensor, " n *d"], vae: str | None = None) -> Tensor:
        """Images in [-1, 1]: the samples themselves, or what the VAE makes of latents.

        Raises:
            ValueError: if the VAE of the training images is not the one that lies under its name
                now, or ``vae`` takes latents of another shape. One that is named may be another.
        """
        name = vae or self.info["vae"]
        if self.info["vae"] is None or name is None:
            return z.clamp(-1, 1).cpu()
        if name not in self._vaes:
            self._vaes[name] = self._decoder(name, named=vae is not None)
        return self._vaes[name].decode(self.unscaled(z)).cpu()

    def _decoder(self, name: str, named: bool):
        from meanflow_lite.data.vae import Vae

        vae, wanted = Vae(name, self.device), self.info.get("vae_fingerprint")
        if wanted is None or vae.fingerprint == wanted:
            return vae
        channels = vae.net.config.latent_channels  # pyright: ignore[reportAttributeAccessIssue]
        if channels != self.shape[0]:
            raise ValueError(
                f"the VAE {name!r} decodes {channels} channels, and these samples have "
                f"{self.shape[0]}: give the one that encoded the training images (--vae)"
            )
        if not named:
            raise ValueError(
                f"the VAE {name!r} has other weights than the one that encoded the training "
                f"images ({vae.fingerprint}, not {wanted}): say where that one is (--vae)"
            )
        warnings.warn(f"the VAE {name!r} is not the one that encoded the images", stacklevel=3)
        return vae

    def pipeline(self, vae: Any = None) -> Any:
        """This run as a pipeline of diffusers; ``vae`` is an ``AutoencoderKL`` for latents."""
        from meanflow_lite.runs.pipeline import to_pipeline

        return to_pipeline(self.net, self.info, vae)

    def push_to_hub(self, repository: str, private: bool = True) -> str:
        """Write this run to ``OWNER/REPOSITORY`` of the Hugging Face Hub; returns its address."""
        from meanflow_lite.weights.hub import push

        return push(self.net, self.info, repository, private)

    def unscaled(self, z: Float[Tensor, " n c h w"]) -> Float[Tensor, " n c h w"]:
        """Latents as the VAE knows them: without a scale, or with the channels' own statistics."""
        statistics = self.info.get("latents")
        if statistics is None:
            return z / self.info["latent_scale"]
        mean, std = (z.new_tensor(statistics[k])[:, None, None] for k in ("mean", "std"))
        return z * std + mean


def walk_times(steps: int, t_mid: float | None = None) -> list[float]:
    """``steps`` equal steps, or ``[1, t_mid, 0]``."""
    if t_mid is None:
        return uniform_times(steps)
    if steps != 2 or not 0 < t_mid < 1:
        raise ValueError(f"t_mid lies in (0, 1) and needs steps = 2: got {t_mid}, steps = {steps}")
    return [1.0, t_mid, 0.0]
