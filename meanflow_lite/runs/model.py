"""A trained run, ready to sample from: ``load(folder).sample(labels=[3, 3], steps=1)``."""

from __future__ import annotations

import warnings
from importlib.resources import files
from pathlib import Path

import torch

from meanflow_lite.domains import trained
from meanflow_lite.files import Damage
from meanflow_lite.files.tensors import read_tensors, tensor_shapes
from meanflow_lite.networks.catalogue import Config, make
from meanflow_lite.runs.folder import (
    CHECKPOINTS,
    RUN,
    WEIGHTS,
    network_config,
    read_domain,
    read_info,
)
from meanflow_lite.runs.identity import short
from meanflow_lite.runs.sampling import Model
from meanflow_lite.training import CheckpointError, checkpoints, read_checkpoint
from meanflow_lite.training.checkpoint import Tensors, check_shapes, read_manifest
from meanflow_lite.weights.hub import run_folder


def load(
    folder: Path | str,
    device: torch.device | str = "cpu",
    step: int | None = None,
    average: float | str | None = None,
) -> Model:
    """The model of a run: its final weights, or the average in its newest checkpoint.

    ``digits`` is the model that comes with the package; a published name such as ``imf-b2`` is
    fetched and imported at its first use; ``hf:OWNER/REPOSITORY`` is a run on the Hub. ``step``
    takes the checkpoint of that step; ``average`` the moving average of that rate, or ``"net"``
    the weights themselves, of the newest checkpoint if no step is said.

    Raises:
        ValueError: if the folder holds no run, or not that step or average.
        Damage, CheckpointError: if no weights of it are sound.
        OtherVersion: if another version of the library wrote it.
        OSError: if a file cannot be read.
    """
    folder = _locate(folder)
    info = read_info(folder)
    config = network_config(info, folder / RUN)
    if config.num_classes not in (info["num_classes"], None):
        raise Damage(folder / RUN, "num_classes is not that of the network")
    tensors, source = _weights(folder, info, config, step, average)
    net = make(config)
    check_shapes(net, tensors, source)
    net.load_state_dict(tensors)
    net.requires_grad_(False).eval()
    return Model(trained(net.to(device), read_domain(info)), info, source)


def _locate(folder: Path | str) -> Path:
    path = Path(folder)
    if not (path / RUN).exists() and str(folder) == "digits":
        path = Path(str(files("meanflow_lite"))) / "results" / "digits"
    if not path.exists():
        path = run_folder(str(folder)) or path
    if not path.is_dir() or RUN not in {p.name for p in path.iterdir()}:
        raise ValueError(
            f"{path} is not the folder of a run (it has no {RUN}): give the --out of a "
            "`meanflow-lite train` or `import`, `digits` for the model that comes with the "
            "package, a published name such as imf-b2, or hf:OWNER/REPOSITORY"
        )
    return path


def _weights(
    folder: Path, info: dict, config: Config, step: int | None, average: float | str | None
) -> tuple[Tensors, Path]:
    found = checkpoints(folder / CHECKPOINTS)
    if step is None and average is None:
        final = _final(folder, info, config, bool(found))
        if final is not None and (not found or final[1] >= int(found[0].name[5:])):
            return final[0], folder / WEIGHTS
    elif step is not None:
        steps = [int(path.name[5:]) for path in found]
        found = [path for path, n in zip(found, steps, strict=True) if n == step]
        if not found:
            raise ValueError(
                f"{folder} has no checkpoint of step {step}; it has those of {steps or 'none'}"
            )
    wrong: list[str] = []
    for path in found:
        try:
            tensors = _averaged(path, info, config, average)
        except (CheckpointError, Damage) as error:
            wrong.append(str(error))
            continue
        if wrong:
            warnings.warn(f"{'; '.join(wrong)}; {path} is taken instead", stacklevel=3)
        return tensors, path
    raise CheckpointError("; ".join(wrong) or f"{folder} has no checkpoint yet: train longer")


def _final(folder: Path, info: dict, config: Config, others: bool) -> tuple[Tensors, int] | None:
    """The final weights and their step; None if there are none, or checkpoints stand in."""
    path = folder / WEIGHTS
    try:
        _refuse_other_sizes(path, config)
        tensors, about = read_tensors(path)
        if about.get("identity") != info["identity"]:
            raise Damage(path, f"it is of another run than {folder / RUN}")
        return tensors, int(about.get("step", "0"))
    except FileNotFoundError:
        return None
    except Damage as error:
        if not others:
            raise
        warnings.warn(f"{error}; the newest checkpoint is taken instead", stacklevel=4)
        return None


def _averaged(path: Path, info: dict, config: Config, average: float | str | None) -> Tensors:
    manifest = read_manifest(path)
    if short(manifest["run"]) != info["identity"]:
        raise CheckpointError(f"checkpoint {path} is of another run than its {RUN}")
    part = _part(average, manifest["config"].get("ema", []))
    _refuse_other_sizes(path / f"{part}.safetensors", config)
    return read_checkpoint(path, only=[part]).parts[part]


def _part(average: float | str | None, rates: list[float]) -> str:
    if average is None:
        return "ema-0"
    if average == "net":
        return "net"
    try:
        return f"ema-{rates.index(float(average))}"
    except ValueError:
        said = ", ".join(map(str, rates))
        raise ValueError(
            f"there is no average {average!r}: this run has those of the rates {said}, and `net`"
        ) from None


def _refuse_other_sizes(path: Path, config: Config) -> None:
    """Compare sizes with the header of the file: a wrong run.json shall not take memory."""
    if not path.exists():
        return
    there = tensor_shapes(path)
    if config.depth > len(there):
        raise Damage(path, f"it has {len(there)} tensors, too few for {config.depth} blocks")
    with torch.device("meta"):
        here = {name: tuple(value.shape) for name, value in make(config).state_dict().items()}
    differ = sorted(name for name in here | there if here.get(name) != there.get(name))
    if differ:
        name = differ[0]
        raise Damage(
            path,
            f"{len(differ)} tensors are not those of its network: {name} is {there.get(name)}, "
            f"not {here.get(name)}",
        )
