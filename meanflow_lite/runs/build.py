"""From settings and data to a trainer, and to what ``run.json`` says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from meanflow_lite.networks.catalogue import stored
from meanflow_lite.networks.dit import DiT, DiTConfig
from meanflow_lite.networks.presets import PRESETS as NETWORKS
from meanflow_lite.runs.data import Data
from meanflow_lite.runs.identity import identity, short
from meanflow_lite.runs.initial import initial_network
from meanflow_lite.runs.settings import Settings
from meanflow_lite.training import Trainer
from meanflow_lite.training.checkpoint import versions


@dataclass(frozen=True)
class Plan:
    """What is trained, before anything of it is built."""

    settings: Settings
    data: Data
    teacher: nn.Module | None
    config: DiTConfig

    @classmethod
    def of(cls, settings: Settings, data: Data, teacher: nn.Module | None, name: str) -> Plan:
        """Sizes that fit the data; raises ``ValueError`` if those of the network cannot."""
        return cls(settings, data, teacher, _sizes(settings, data, name))

    @property
    def meaning(self) -> dict[str, Any]:
        """What the weights mean."""
        record = stored(self.config)
        content, classes = self.data.content, self.data.num_classes
        return identity(self.settings, record, content, classes, self.teacher)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.settings.count_steps(self.data.images)

    def trainer(self, device: torch.device, init_from: Path | None) -> Trainer:
        """A trainer at step 0, from weights of others if there are some."""
        torch.manual_seed(self.settings.seed)  # the initial weights
        net = initial_network(init_from, self.config) if init_from else DiT(self.config)
        objective = self.settings.make_objective(self.data.num_classes)
        if isinstance(objective, nn.Module):
            objective.to(device)
        config = self.settings.train_config(self.data.images)
        return Trainer(net.to(device), objective, self.data.batches, config, self.teacher)

    def info(
        self, trainer: Trainer, changes: Sequence[Mapping[str, Any]], **about: Any
    ) -> dict[str, Any]:
        """The content of ``run.json``; ``about`` is for people: preset, data, command."""
        data = self.data
        return {
            "config": stored(self.config),
            "domain": asdict(trainer.objective.domain),
            "num_classes": data.num_classes,
            "classes": None if data.classes is None else list(data.classes),
            "shape": list(data.shape),
            "vae": data.vae,
            "vae_fingerprint": data.vae_fingerprint,
            "latent_scale": self.settings.latent_scale if data.vae is not None else 1.0,
            "identity": short(self.meaning),
            "settings": asdict(self.settings),
            "steps": self.steps,
            "images": data.images,
            "content": data.content,
            "changes": list(changes),
            "processes": trainer.world,
            "versions": versions(),
            **about,
        }


def _sizes(settings: Settings, data: Data, name: str) -> DiTConfig:
    """The preset's width and depth; of latents also another side or number of channels."""
    preset = NETWORKS[settings.network]
    shape = (preset.channels, preset.image_size, preset.image_size)
    square = len(data.shape) == 3 and data.shape[1] == data.shape[2]
    fits = data.shape == shape or (
        data.vae is not None and square and data.shape[1] % preset.patch_size == 0
    )
    if not fits:
        raise ValueError(
            f"--data {name} is {data.shape} an image but --network {settings.network} takes "
            f"{shape}: choose another --network or --preset, or other --data (latents come from "
            "`meanflow-lite encode`)"
        )
    return settings.network_config(data.num_classes, data.shape)
