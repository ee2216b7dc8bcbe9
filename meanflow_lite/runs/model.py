"""A trained run, ready to sample from: ``load(folder).sample(labels=[3, 3], steps=1)``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from meanflow_lite.fields import Field
from meanflow_lite.guidance import ClassifierFree
from meanflow_lite.objectives import Domain, trained
from meanflow_lite.randomness import Random
from meanflow_lite.runs.settings import Settings
from meanflow_lite.samplers import Times, integrate, sample, uniform_times
from meanflow_lite.training import CheckpointError, checkpoints, read_checkpoint
from meanflow_lite.training.checkpoint import check_shapes

RUN, WEIGHTS = "run.json", "model.safetensors"


class Model:
    """A network with what is needed to sample: shape, labels, the jumps that it knows, a decoder.

    ``net`` is a field, left on its device; ``info`` is the content of ``run.json``: settings,
    data, versions, command.
    """

    def __init__(self, net: nn.Module, info: dict) -> None:
        self.net, self.info, self.device = net, info, next(net.parameters()).device
        self.num_classes: int = info["num_classes"]
        self.shape = tuple(info["shape"])
        self._vae = None

    def noise(self, indices: Sequence[int], seed: int = 0) -> Float[Tensor, " n *d"]:
        """Noise of the samples with these numbers: the same bits at any batch size."""
        random = Random(seed)
        rows = [random.normal("sample", range(i, i + 1), *self.shape) for i in indices]
        return torch.cat(rows).to(self.device)

    def latents(
        self,
        eps: Float[Tensor, " n *d"],
        labels: Int[Tensor, " n"],
        times: Times = (1.0, 0.0),
        omega: float = 1.0,
    ) -> Float[Tensor, " n *d"]:
        """Samples before any decoder. ``omega`` guides fields of the velocity alone.

        Raises:
            ValueError: for labels out of range, jumps that were not trained, or ``omega`` where
                guidance is part of what was trained.
        """
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) <= self.num_classes:
            raise ValueError(
                f"labels are 0 ... {self.num_classes - 1} ({self.num_classes}: no label): got "
                f"{int(labels.min())} ... {int(labels.max())}"
            )
        instant = self.info["domain"]["name"] == "instant"
        field: Field = self.net  # pyright: ignore[reportAssignmentType]
        if omega != 1:
            if not instant:
                raise ValueError(
                    "the guidance of this model is fixed by its training: sample with omega 1, or "
                    "train with another --omega and --kappa"
                )
            field = ClassifierFree(field, self.num_classes, omega)
        walk = integrate if instant else sample
        return walk(field, eps, times, labels.to(self.device))

    def sample(
        self,
        labels: Sequence[int],
        steps: int = 1,
        t_mid: float | None = None,
        omega: float = 1.0,
        seed: int = 0,
        batch: int = 256,
        vae: str | None = None,
    ) -> Float[Tensor, " n c h w"]:
        """One image in [-1, 1] for each label, on the CPU; ``num_classes`` means no label.

        ``steps`` equal steps from noise to data, or two that meet at ``t_mid``. ``vae`` is the
        decoder of latents (default: the one that encoded them).
        """
        times = walk_times(steps, t_mid)
        images = []
        for first in range(0, len(labels), batch):
            rows = range(first, min(first + batch, len(labels)))
            y = torch.tensor([int(labels[i]) for i in rows])
            images.append(self.decode(self.latents(self.noise(rows, seed), y, times, omega), vae))
        return torch.cat(images) if images else torch.empty(0, *self.shape)

    def decode(self, z: Float[Tensor, " n *d"], vae: str | None = None) -> Tensor:
        """Images in [-1, 1]: the samples themselves, or what the VAE makes of latents."""
        name = vae or self.info["vae"]
        if name is None:
            return z.clamp(-1, 1).cpu()
        if self._vae is None:
            from meanflow_lite.data.latents import Vae

            self._vae = Vae(name, self.device)
        return self._vae.decode(z / self.info["settings"]["latent_scale"]).cpu()


def walk_times(steps: int, t_mid: float | None = None) -> list[float]:
    """``steps`` equal steps, or ``[1, t_mid, 0]``."""
    if t_mid is None:
        return uniform_times(steps)
    if steps != 2 or not 0 < t_mid < 1:
        raise ValueError(f"t_mid lies in (0, 1) and needs steps = 2: got {t_mid}, steps = {steps}")
    return [1.0, t_mid, 0.0]


def load(folder: Path | str, device: torch.device | str = "cpu") -> Model:
    """The model of a run: its final weights, or the average in its newest checkpoint.

    ``digits`` is the model that comes with the package.

    Raises:
        ValueError: if the folder holds no run.
        CheckpointError: if its weights are damaged.
    """
    folder = _locate(folder)
    try:
        info = json.loads((folder / RUN).read_text())
    except ValueError as error:
        raise CheckpointError(f"{folder / RUN} is damaged ({error}): train again") from error
    net = Settings(**_known(info["settings"])).make_network(info["num_classes"])
    tensors, source = _weights(folder)
    check_shapes(net, tensors, source)
    net.load_state_dict(tensors)
    net.requires_grad_(False).eval()
    return Model(trained(net.to(device), Domain(**info["domain"])), info)


def _locate(folder: Path | str) -> Path:
    path = Path(folder)
    if not (path / RUN).exists() and str(folder) == "digits":
        path = Path(str(files("meanflow_lite"))) / "results" / "digits"
    if not (path / RUN).exists():
        raise ValueError(
            f"{path} is not the folder of a run (it has no {RUN}): give the --out of a "
            "`meanflow-lite train`, or `digits` for the model that comes with the package"
        )
    return path


def _weights(folder: Path) -> tuple[dict[str, Tensor], Path]:
    final = folder / WEIGHTS
    try:
        if final.exists():
            return load_file(final), final
    except SafetensorError as error:
        raise CheckpointError(
            f"{final} is damaged ({error}): delete it, then the newest checkpoint is taken"
        ) from error
    damaged: list[str] = []
    for path in checkpoints(folder / "checkpoints"):
        try:
            return read_checkpoint(path)[1]["ema-0"], path
        except CheckpointError as error:
            damaged.append(str(error))
    raise CheckpointError("; ".join(damaged) or f"{folder} has no checkpoint yet: train longer")


def _known(stored: dict) -> dict:
    """Settings as they were stored; JSON has turned tuples into lists."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}


def write_info(folder: Path, info: dict) -> None:
    """Write ``run.json`` whole or not at all."""
    partial = folder / f".{RUN}.partial"
    partial.write_text(json.dumps(info, indent=1) + "\n")
    partial.replace(folder / RUN)


def write_weights(folder: Path, net: nn.Module) -> None:
    """Write the final weights whole or not at all."""
    partial = folder / f".{WEIGHTS}.partial"
    save_file({k: v.cpu().contiguous() for k, v in net.state_dict().items()}, partial)
    partial.replace(folder / WEIGHTS)
