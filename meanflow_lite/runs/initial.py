"""The weights that a run starts from: a SiT checkpoint, or another run."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meanflow_lite.files.read import plain
from meanflow_lite.files.tensors import read_tensors
from meanflow_lite.networks.dit import DiT, DiTConfig
from meanflow_lite.networks.sit import from_sit
from meanflow_lite.runs.model import load
from meanflow_lite.training.checkpoint import check_shapes

#: Where published files keep their weights, the moving average first; and what wrappers put before
#: the names.
INSIDE = ("ema", "model_ema", "ema_model", "model", "state_dict")
PREFIXES = ("module.", "_orig_mod.", "model_ema.", "ema_model.", "model.")


def initial_network(path: Path, config: DiTConfig) -> DiT:
    """A network of these sizes with the weights of ``path``, in float32.

    Raises:
        ValueError: if it is neither a checkpoint nor a run, or of another network.
        Damage, OSError: if it cannot be read.
    """
    if not path.is_dir():
        return from_sit(read_weights(path), config)
    net = DiT(config)
    tensors = {k: v.float() for k, v in load(path).net.state_dict().items()}
    check_shapes(net, tensors, path)
    net.load_state_dict(tensors)
    return net


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a published checkpoint, its moving average if it has one. Runs no code.

    Prefixes of wrappers (``module.``, ``_orig_mod.``) are taken off, and all is float32: a network
    whose parameters are bfloat16 does not move at the usual learning rates.
    """
    if not path.exists():
        raise ValueError(f"--init-from {path}: there is no such file or run folder")
    if path.suffix == ".safetensors":
        stored: Any = read_tensors(path, sealed=False)[0]
    else:
        stored = _unpickled(path)
    for key in INSIDE:
        if isinstance(stored, Mapping) and isinstance(stored.get(key), Mapping):
            stored = stored[key]
    if not isinstance(stored, Mapping) or not stored or not _all_tensors(stored):
        raise ValueError(f"{path} holds no weights: names and tensors, or `ema` or `model` of them")
    bare = {_without_prefixes(str(name)): value for name, value in stored.items()}
    return {k: v.float() if v.is_floating_point() else v for k, v in bare.items()}


def _unpickled(path: Path) -> object:
    with plain(path):  # a pipe would be waited for
        pass
    # SiT stores its command line beside the weights: names and values, no code
    torch.serialization.add_safe_globals([argparse.Namespace])
    wrong = (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except wrong as error:
        raise ValueError(
            f"{path} is damaged, or holds more than tensors, which is refused because loading it "
            "would run its code: convert it to safetensors where you trust it"
        ) from error


def _all_tensors(stored: Mapping) -> bool:
    return all(torch.is_tensor(value) for value in stored.values())


def _without_prefixes(name: str) -> str:
    while prefix := next((p for p in PREFIXES if name.startswith(p)), None):
        name = name.removeprefix(prefix)
    return name
