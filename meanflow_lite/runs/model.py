"""A trained run, ready to sample from: ``load(folder).sample(labels=[3, 3], steps=1)``."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from meanflow_lite.networks.catalogue import from_stored
from meanflow_lite.objectives import Domain, trained
from meanflow_lite.runs.sampling import Model
from meanflow_lite.runs.settings import Settings
from meanflow_lite.training import CheckpointError, checkpoints, read_checkpoint
from meanflow_lite.training.checkpoint import check_shapes

RUN, WEIGHTS = "run.json", "model.safetensors"


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
    net = _network(info)
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


def _network(info: dict) -> nn.Module:
    """Of the stored config where weights were imported, else of the settings of the training."""
    if "config" in info:
        return from_stored(info["config"])
    return Settings(**_known(info["settings"])).make_network(info["num_classes"])


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
