"""A run as a pipeline of diffusers: its scheduler walks our field to the last bit.

``load(RUN).pipeline().save_pretrained(FOLDER)``, then ``FlowMapPipeline.from_pretrained(FOLDER)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_flow_map_euler_discrete import FlowMapEulerDiscreteScheduler
from torch import Tensor, nn

from meanflow_lite.domains import Domain
from meanflow_lite.networks.catalogue import make, stored
from meanflow_lite.runs.folder import network_config


class FieldModel(ModelMixin, ConfigMixin):
    """A network with what its run says, stored as diffusers stores models.

    ``network`` is the config that :func:`~meanflow_lite.networks.catalogue.stored` writes, ``run``
    the content of run.json that sampling needs.
    """

    @register_to_config
    def __init__(self, network: dict[str, Any], run: dict[str, Any]) -> None:
        super().__init__()
        self.net = make(network_config({"config": network, "shape": run["shape"]}))

    def forward(
        self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None, **cond: Tensor
    ) -> Tensor:
        """The field; shapes as in :class:`~meanflow_lite.fields.base.Field`."""
        return self.net(z, r, t, y, **cond)


class FlowMapPipeline(DiffusionPipeline):
    """Noise to samples: the walk of ``FlowMapEulerDiscreteScheduler`` along the field.

    Not here: the classifier-free mixture of velocity fields; use ``load(...).sample`` for those.
    """

    model_cpu_offload_seq = "field->vae"
    _optional_components = ["vae"]  # noqa: RUF012

    def __init__(
        self, field: FieldModel, scheduler: FlowMapEulerDiscreteScheduler, vae: Any = None
    ) -> None:
        super().__init__()
        self.register_modules(field=field, scheduler=scheduler, vae=vae)

    @torch.no_grad()
    def __call__(
        self,
        labels: Sequence[int],
        num_inference_steps: int = 1,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        omega: float | None = None,
        interval: tuple[float, float] | None = None,
        noise_labels: Tensor | None = None,
        output_type: str = "pt",
    ) -> Tensor:
        """Samples for these labels, ``[B, C, H, W]``.

        Args:
            labels: classes.
            num_inference_steps: evaluations.
            generator: of the noise, where ``latents`` are not given.
            latents: noise; its scale is the run's.
            omega: guidance scale of networks that take it; None: the recommended one.
            interval: where in t guidance acts, likewise.
            noise_labels: of generators that have them.
            output_type: ``latent`` gives what the field samples; ``pt`` images in [-1, 1], which
                for latents needs a ``vae``.

        Raises:
            ValueError: jumps that the field was not trained for; images of latents without a VAE.
        """
        run = self.field.config.run
        y = torch.tensor(list(labels), device=self.device)
        shape = (len(y), *run["shape"])
        if latents is None:
            latents = torch.randn(shape, generator=generator) * run.get("noise_scale", 1.0)
        z = torch.as_tensor(latents, device=self.device)
        told = _told(run.get("sampling", {}), z, omega, interval)
        if noise_labels is not None:
            told["noise_labels"] = noise_labels
        self.scheduler.set_timesteps(num_inference_steps, device=z.device)
        sigmas = self.scheduler.sigmas
        Domain(**run["domain"]).check([float(s) for s in sigmas])
        for k, timestep in enumerate(self.scheduler.timesteps):
            t, r = (torch.full((len(z),), float(sigmas[k + i]), device=z.device) for i in (0, 1))
            u = self.field(z, r, t, y, **told)
            following = sigmas[k + 1] * self.scheduler.config.num_train_timesteps
            z = self.scheduler.step(u, timestep, z, following, return_dict=False)[0]
        return z if output_type == "latent" else self._images(z, run)

    def _images(self, z: Tensor, run: Mapping[str, Any]) -> Tensor:
        if run.get("vae") is None:
            return z.clamp(-1, 1)
        if self.vae is None:
            raise ValueError(
                f'these are latents: pass vae=AutoencoderKL.from_pretrained("{run["vae"]}") to the '
                'pipeline, or output_type="latent"'
            )
        mean, std = (z.new_tensor(run["latents"][k])[:, None, None] for k in ("mean", "std"))
        return self.vae.decode(z * std + mean).sample.clamp(-1, 1)


def _told(
    known: Mapping[str, float], z: Tensor, omega: float | None, interval: tuple[float, float] | None
) -> dict[str, Tensor]:
    low, high = interval or (None, None)
    given = {"omega": omega, "t_min": low, "t_max": high}
    strange = sorted(name for name in given if given[name] is not None and name not in known)
    if strange:
        raise ValueError(f"this field does not take {', '.join(strange)}")
    values = {**known, **{n: v for n, v in given.items() if v is not None}}
    return {n: torch.full((len(z),), float(v), device=z.device) for n, v in values.items()}


def to_pipeline(net: nn.Module, info: Mapping[str, Any], vae: Any = None) -> FlowMapPipeline:
    """The pipeline of a run: ``net`` and ``info`` are those of a ``Model``.

    Raises:
        ValueError: a field of velocities alone, which is integrated, not jumped along.
    """
    if info["domain"]["name"] == "instant":
        raise ValueError("this field knows velocities alone: it has no jumps for a flow-map walk")
    kept = ("shape", "num_classes", "domain", "vae", "noise_scale", "sampling")
    run = {name: info[name] for name in kept if name in info}
    run["latents"] = info.get("latents") or statistics(info)
    network: Any = stored(net.config)  # pyright: ignore[reportArgumentType]
    field = FieldModel(network=network, run=run)
    field.net.load_state_dict(net.state_dict())
    return FlowMapPipeline(field.eval(), FlowMapEulerDiscreteScheduler(), vae)


def statistics(info: Mapping[str, Any]) -> dict[str, list[float]] | None:
    """Mean and deviation by channel of the latents that a run was trained on, by one factor."""
    scale = (info.get("settings") or {}).get("latent_scale")
    if scale is None:
        return None
    channels = info["shape"][0]
    return {"mean": [0.0] * channels, "std": [1 / scale] * channels}
