"""A published checkpoint to a run folder: weights, and all that sampling from them needs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from meanflow_lite.domains import Domain
from meanflow_lite.files import sha256, write_json, writing_folder
from meanflow_lite.files.tensors import write_tensors
from meanflow_lite.networks.catalogue import Network, make
from meanflow_lite.networks.catalogue import stored as stored_config
from meanflow_lite.networks.drift_generator import DriftGenerator
from meanflow_lite.weights import published
from meanflow_lite.weights.names import AS_PUBLISHED, Found, Sizes, recognize
from meanflow_lite.weights.reading import Stored, WeightsError, read

FORMAT = 2
RUN, WEIGHTS = "run.json", "model.safetensors"
DOMAINS = {"Drifting": Domain("one_jump"), "SiT": Domain("instant")}
#: Where PyTorch programs keep their weights beside other things; averages first.
INSIDE = ("ema_params", "ema", "model_ema", "params", "model", "state_dict")


@dataclass(frozen=True)
class Imported:
    """A network with its weights, and the content of its run.json."""

    net: Network
    info: dict[str, Any]
    notes: list[str]


def open_checkpoint(
    source: Path | str,
    ema: str | None = None,
    sizes: Sizes = AS_PUBLISHED,
    new_labels: int | None = None,
    called: str | None = None,
) -> Imported:
    """Read a checkpoint of iMF, pMF, MeanFlow, Drifting or SiT.

    Args:
        source: file, zip or folder.
        ema: which average, where there are several.
        sizes: what the leaves cannot tell.
        new_labels: number of classes of a new, untrained label table, for fine-tuning.
        called: where it comes from, if not from ``source``.

    Raises:
        WeightsError: damaged, of an unknown kind, not fitting, or several averages and no choice.
        ImportError: the format needs a package of the extra ``weights``.
    """
    stored = read(source)
    leaves, average, notes = choose_average(stored, ema, sizes)
    found = recognize(leaves, stored.beside, sizes)
    net = found.net if new_labels is None else relabelled(found.net, new_labels)
    if new_labels is not None:
        notes.append(f"a new label table of {new_labels} classes, untrained: fine-tune it")
    half = sorted({str(v.dtype)[6:] for v in leaves.values() if v.dtype.itemsize == 2})
    if half:
        notes.append(f"stored in {' and '.join(half)}, kept in float32")
    about = {
        "source": called or str(source),
        "format": stored.format,
        "sha256": digest(Path(source)),
        "family": found.family,
        "average": average,
        "licence": published.LICENCES[found.family],
        "repository": published.REPOSITORIES[found.family],
    }
    return Imported(net, describe(net, found, about), [*notes, *found.notes])


def choose_average(
    stored: Stored, ema: str | None, sizes: Sizes
) -> tuple[Mapping[str, Tensor], str | None, list[str]]:
    """The averaged weights, their name, and what a person should know."""
    leaves, notes = stored.leaves, []
    which = next((k for k in INSIDE if any(n.startswith(k + "/") for n in leaves)), None)
    if which is not None:
        leaves = {
            n.removeprefix(which + "/"): v for n, v in leaves.items() if n.startswith(which + "/")
        }
        if which in ("params", "model", "state_dict") and stored.format != "safetensors":
            notes.append(f"it holds no averaged weights: `{which}` is taken")
    names = _averages(leaves)
    if not names:
        if ema is not None and ema != which:
            raise WeightsError(f"--ema {ema}: the checkpoint has one set of weights, {which}")
        return leaves, which, notes
    chosen = ema or (names[0] if len(names) == 1 else _recommended(leaves, names, sizes))
    if chosen not in names:
        raise WeightsError(f"--ema {chosen} is not among its averages: {', '.join(names)}")
    leaves = {
        n.removeprefix(chosen + "/"): v for n, v in leaves.items() if n.startswith(chosen + "/")
    }
    return leaves, chosen, notes


def _averages(leaves: Mapping[str, Tensor]) -> list[str]:
    """Names of averages: numbers that stand in front of every leaf."""
    heads = {name.split("/")[0] for name in leaves}
    numbers = all(head.replace(".", "").replace("_", "").isdigit() for head in heads)
    return sorted(heads) if heads and numbers else []


def _recommended(leaves: Mapping[str, Tensor], names: list[str], sizes: Sizes) -> str:
    """The published choice for a network of these sizes."""
    first = {
        n.removeprefix(names[0] + "/"): v for n, v in leaves.items() if n.startswith(names[0] + "/")
    }
    found = recognize(first, None, sizes)
    known = published.of_network(found.name, found.family)
    if known is None or known.average not in names:
        raise WeightsError(
            f"the checkpoint holds the averages {', '.join(names)}, and none is recommended for "
            f"its size: choose with --ema {names[-1]}"
        )
    return known.average


def relabelled(net: Network, classes: int) -> Network:
    """The same network with a new label table for so many classes; the rest is kept."""
    if classes < 1:
        raise WeightsError(f"--new-labels is a number of classes, at least 1: got {classes}")
    new = make(replace(net.config, num_classes=classes))  # pyright: ignore[reportArgumentType]
    fresh, old = new.state_dict(), net.state_dict()
    table = next(n for n in fresh if n in ("labels.weight", "conditioning.labels.weight"))
    new.load_state_dict({**old, table: fresh[table]})
    return new


def describe(net: Network, found: Found, about: Mapping[str, Any]) -> dict[str, Any]:
    """The content of run.json: what a checkpoint of a training run has, and where it comes from."""
    config = net.config
    latent = config.channels == 4
    statistics = None
    if found.family == "iMF" and latent:
        statistics = {"mean": list(published.IMF_MEAN), "std": list(published.IMF_STD)}
    elif latent:
        statistics = {"mean": [0.0] * 4, "std": [1 / published.LATENT_SCALE] * 4}
    known = published.of_network(found.name, found.family)
    return {
        "format": FORMAT,
        "identity": str(about["sha256"])[:16],
        "imported": {**about, "name": found.name, "published_fid": known and known.fid},
        "config": stored_config(config),
        "num_classes": config.num_classes,
        "null_class": not isinstance(net, DriftGenerator),
        "shape": [config.channels, config.image_size, config.image_size],
        "vae": published.VAE if latent else None,
        "latents": statistics,
        "noise_scale": getattr(config, "noise_scale", 1.0),
        "sampling": {
            name: getattr(config, name)
            for name in ("omega", "t_min", "t_max")
            if hasattr(config, name)
        },
        "domain": asdict(DOMAINS.get(found.family, Domain("any"))),
    }


def write_run(imported: Imported, out: Path | str) -> None:
    """Write a run folder, whole or not at all.

    Raises:
        WeightsError: ``out`` exists and is not empty.
        OSError: the disk refuses.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WeightsError(f"--out {out} exists and is not an empty folder: give another name")
    out.parent.mkdir(parents=True, exist_ok=True)
    with writing_folder(out) as folder:
        write_files(folder, imported.net, imported.info)


def write_files(folder: Path, net: nn.Module, info: Mapping[str, Any]) -> None:
    """The two files of a run: the format is that of runs/folder.py, which stands above."""
    about = {"identity": info["identity"], "step": "0", "rate": "1.0", "format": str(FORMAT)}
    write_tensors(folder / WEIGHTS, net.state_dict(), about)
    write_json(folder / RUN, {**info, "format": FORMAT})


def digest(path: Path) -> str:
    """SHA-256 of a file; of a folder, of the names and hashes of all files in it."""
    if path.is_file():
        return sha256(path)
    whole = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        whole.update(f"{file.relative_to(path)} {sha256(file)}\n".encode())
    return whole.hexdigest()


def with_velocity_head(net: Network) -> Network:
    """An in-context transformer without a velocity head, with one that is a copy of u's.

    Raises:
        ValueError: other networks, and those that have one.
    """
    config = net.config
    if getattr(config, "velocity_head", True):
        raise ValueError("this network has a velocity head, or can have none")
    new = make(replace(config, velocity_head=True))  # pyright: ignore
    old = net.state_dict()
    copied = {
        "v" + name[1:]: value
        for name, value in old.items()
        if name.startswith(("u_blocks.", "u_layer."))
    }
    new.load_state_dict({**old, **copied})
    return new


def count(net: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in net.parameters() if isinstance(p, torch.Tensor))
