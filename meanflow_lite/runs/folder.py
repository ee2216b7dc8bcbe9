"""A run folder: what is in it, and how it is written and read.

A run folder explains itself: it can be moved, copied and sampled from without the data, the cache
or the machine that made it::

    run.json              what the run is (below); written first
    model.safetensors     the first moving average at the last step; written last
    checkpoints/          step-00001000/ with the whole state (training/checkpoint.py)
    log.jsonl  tensorboard/  grids/       for people

``run.json`` is a JSON object with its own checksum and these keys, of which those from
``classes`` on may be left out; more are allowed:

====================  ===========================================================================
``format``            2
``config``            ``{"kind": "DiTConfig", ...}``: of the network, by networks/catalogue.py
``domain``            ``{"name": "any", "levels": 0, ...}``: the jumps that were trained
``num_classes``       labels are 0 ... num_classes - 1; num_classes means no label
``shape``             of one sample before any decoder, ``[C, H, W]``
``vae``               folder or hub id of the decoder of latents, or null for pixels
``identity``          a short hash of what the weights mean (runs/identity.py); model.safetensors
                      carries the same one
``classes``           names of the classes, or null
``vae_fingerprint``   of its weights, or null if it is not known
``latent_scale``      latents were multiplied by it; 1 for pixels
``settings``          the training settings (runs/settings.py), ``{}`` for weights of others
``latents``           ``{"mean", "std"}`` of each channel, instead of ``latent_scale``
``sampling``          what the network may be told at sampling, with recommended values
``noise_scale``       factor on the noise; ``null_class``: whether a null label was trained
``imported``          where weights of others come from
``steps``             optimizer steps of the whole run
``data``, ``images``  what it was trained on, as typed, and how many
``changes``           settings that were changed on the way: ``{"step", "changed", "command"}``
``command``           for people, as are ``processes``, ``versions`` and ``preset``
====================  ===========================================================================

``model.safetensors`` carries ``identity``, ``step`` and ``rate`` (of the moving average) in its
metadata, and its checksum. Weights that come from elsewhere are put into such a folder by
:func:`write_info` and :func:`write_weights`; the identity may be any string that both share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from meanflow_lite.domains import Domain
from meanflow_lite.files import Damage, OtherVersion, fits, read_json, write_json
from meanflow_lite.files.read import short
from meanflow_lite.files.tensors import write_tensors
from meanflow_lite.networks.catalogue import Config
from meanflow_lite.networks.dit import DiTConfig
from meanflow_lite.networks.drift_generator import DriftConfig
from meanflow_lite.networks.in_context import InContextConfig

FORMAT = 2
RUN, WEIGHTS, CHECKPOINTS = "run.json", "model.safetensors", "checkpoints"
SCHEMA: dict[str, Any] = {
    "config": dict,
    "domain": dict,
    "num_classes": int,
    "shape": list[int],
    "vae": str | None,
    "identity": str,
}
#: What may be left out, and what it is then: weights of others have no settings.
DEFAULTS: dict[str, Any] = {
    "classes": None,
    "vae_fingerprint": None,
    "latent_scale": 1.0,
    "settings": {},
    "steps": 0,
    "changes": [],
}
_KINDS: dict[str, Any] = {
    "classes": list[str] | None,
    "vae_fingerprint": str | None,
    "latent_scale": float,
    "settings": dict,
    "steps": int,
    "changes": list[dict],
}
_CONFIGS = {kind.__name__: kind for kind in (DiTConfig, InContextConfig, DriftConfig)}


def write_info(folder: Path, info: Mapping[str, Any]) -> None:
    """Write ``run.json`` whole or not at all; raises ``ValueError`` if a key is missing."""
    missing = sorted(SCHEMA.keys() - info.keys())
    if missing:
        raise ValueError(f"{RUN} needs {', '.join(missing)}")
    write_json(folder / RUN, {"format": FORMAT, **info})


def read_info(folder: Path) -> dict[str, Any]:
    """The content of ``run.json``.

    Raises:
        Damage: if it was cut or changed, or does not describe a network.
        OtherVersion: if another version wrote it.
        OSError: if it cannot be read, or is not there.
    """
    info = {**DEFAULTS, **read_json(folder / RUN, SCHEMA, FORMAT)}
    for key, kind in _KINDS.items():
        if not fits(info[key], kind):
            raise Damage(folder / RUN, f"{key!r} cannot be {short(info[key])}")
    network_config(info, folder / RUN)
    read_domain(info, folder / RUN)
    return info


def network_config(info: Mapping[str, Any], path: Path | str = RUN) -> Config:
    """The config of a run's network.

    Raises:
        Damage: if its values do not fit together, or not to the shape of the samples.
        OtherVersion: if this version knows no such network, or none of its settings.
    """
    record = dict(info["config"])
    name = record.pop("kind", None)
    kind = _CONFIGS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise OtherVersion(f"{path}: this version of meanflow_lite knows no network {name!r}")
    unknown = sorted(record.keys() - {f.name for f in fields(kind)})
    if unknown:
        raise OtherVersion(f"{path}: this version's {name} knows no {', '.join(unknown)}")
    try:
        listed = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
        config = kind(**listed)  # pyright: ignore[reportArgumentType]
        sides = [config.channels, config.image_size, config.image_size]
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise Damage(path, f"its network cannot be ({error})") from error
    if sides != list(info["shape"]):
        raise Damage(path, f"its network makes {sides}, not the shape {info['shape']}")
    return config


def read_domain(info: Mapping[str, Any], path: Path | str = RUN) -> Domain:
    """The domain of a run's field; raises :class:`OtherVersion` if it is none that is known."""
    try:
        return Domain(**info["domain"])
    except (TypeError, ValueError) as error:
        raise OtherVersion(f"{path}: this version of meanflow_lite cannot use {error}") from error


def write_weights(folder: Path, net: nn.Module, identity: str, step: int, rate: float) -> None:
    """Write ``model.safetensors`` whole or not at all.

    Raises:
        FloatingPointError: if a weight is not finite; nothing is written then.
        OSError: if the disk refuses.
    """
    state = net.state_dict()
    bad = [k for k, v in state.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if bad:
        raise FloatingPointError(f"the weights are not finite ({bad[0]} and {len(bad) - 1} more)")
    about = {"identity": identity, "step": str(step), "rate": repr(rate), "format": str(FORMAT)}
    write_tensors(folder / WEIGHTS, state, about)
