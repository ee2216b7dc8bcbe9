"""Checkpoints: written whole or not at all, checked when read, and free of pickled code.

A checkpoint is a folder ``step-00001000`` of safetensors files and a ``manifest.json`` with the
step, the stage, the settings, the versions and a checksum of each file. It is written under
another name in the same place, synchronized to disk and renamed, so that a process killed at any
moment leaves either a whole checkpoint or a folder that nobody reads. No random state is stored:
every draw of a step is a function of (seed, step).
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import platform
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from meanflow_lite.training.loop import Trainer

FORMAT = 1
MANIFEST = "manifest.json"
Tensors = dict[str, Tensor]


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or none that was written can be read."""


class Mismatch(ValueError):
    """The checkpoint is sound but belongs to another network or other settings."""


def save_checkpoint(
    trainer: Trainer, folder: Path | str, run: Mapping[str, object] | None = None, keep: int = 3
) -> Path:
    """Write the whole state of ``trainer`` to ``folder/step-N`` and keep the last ``keep``.

    ``run`` holds what identifies the run (preset, objective); :func:`load_checkpoint` compares
    it. Only the first of several processes writes.

    Raises:
        CheckpointError: if the disk is full or refuses; what was there before is kept.
    """
    folder = Path(folder)
    final = folder / f"step-{trainer.step:08d}"
    if trainer.rank == 0 and not final.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        partial = folder / f".partial-{final.name}-{os.getpid()}"
        try:
            _write(trainer, partial, dict(run or {}))
            os.rename(partial, final)
            _sync(folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            last = next(iter(checkpoints(folder)), None)
            raise CheckpointError(
                f"could not write the checkpoint {final}: {error}. Free space, then start again "
                f"with --resume auto; the last good checkpoint is {last or 'none'}"
            ) from error
        for old in checkpoints(folder)[max(keep, 1) :]:
            shutil.rmtree(old, ignore_errors=True)
    return final


def load_checkpoint(
    trainer: Trainer, folder: Path | str, run: Mapping[str, object] | None = None
) -> Path | None:
    """Set ``trainer`` to the newest sound checkpoint in ``folder``; None if there is none at all.

    A damaged checkpoint is reported in a warning and the one before it is taken. Training that
    continues from a checkpoint gives, on a CPU, bit for bit the weights of an uninterrupted run.

    Raises:
        CheckpointError: if there are checkpoints but all of them are damaged.
        Mismatch: if the checkpoint is of another network or of another ``run``.
    """
    found = checkpoints(folder)
    for path in found:
        try:
            manifest, parts = read_checkpoint(path)
        except CheckpointError as error:
            warnings.warn(f"{error}; trying the checkpoint before it", stacklevel=2)
            continue
        compare(manifest["run"], run or {}, path)
        _restore(trainer, manifest, parts, path)
        return path
    if found:
        raise CheckpointError(
            f"all {len(found)} checkpoints in {folder} are damaged: delete the folder to start anew"
        )
    return None


def checkpoints(folder: Path | str) -> list[Path]:
    """The whole checkpoints in ``folder``, newest first."""
    return sorted(Path(folder).glob("step-*"), reverse=True)


def read_checkpoint(path: Path | str) -> tuple[dict, dict[str, Tensors]]:
    """The manifest and the tensors of each file of one checkpoint, checked against its checksums.

    Raises:
        CheckpointError: if a file is missing, truncated or changed.
    """
    path = Path(path)
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            raise CheckpointError(
                f"checkpoint {path} has format {manifest['format']}, this version reads {FORMAT}"
            )
        parts = {}
        for name, digest in manifest["sha256"].items():
            if checksum(path / name) != digest:
                raise CheckpointError(f"checkpoint {path} is damaged: {name} was changed or cut")
            parts[Path(name).stem] = load_file(path / name)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {error!r}") from error
    return manifest, parts


def compare(stored: Mapping[str, object], wanted: Mapping[str, object], where: Path | str) -> None:
    """Raise :class:`Mismatch` naming the settings in which two runs differ."""
    wanted = json.loads(json.dumps(wanted))  # tuples read back as lists
    differ = [k for k in wanted if stored.get(k) != wanted[k]]
    if differ:
        lines = "; ".join(f"{k} is {stored.get(k)!r} there, {wanted[k]!r} here" for k in differ)
        raise Mismatch(f"{where} belongs to another run: {lines}. Use another --out, or its values")


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    from meanflow_lite import __version__

    return {
        "meanflow_lite": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _modules(trainer: Trainer) -> dict[str, nn.Module]:
    """Everything with weights, by the name of its file."""
    modules: dict[str, nn.Module] = {"net": trainer.net}
    modules |= {f"ema-{i}": average.net for i, average in enumerate(trainer.averages)}
    if trainer.target is not None:
        modules["target"] = trainer.target.net
    if isinstance(trainer.objective, nn.Module):
        modules["objective"] = trainer.objective
    if trainer.stage > 0 and isinstance(trainer.teacher, nn.Module):
        modules["teacher"] = trainer.teacher
    return modules


def _write(trainer: Trainer, folder: Path, run: dict) -> None:
    folder.mkdir()
    parts = {name: dict(module.state_dict()) for name, module in _modules(trainer).items()}
    parts["optimizer"] = {
        f"{index}.{key}": value
        for index, slots in trainer.optimizer.state_dict()["state"].items()
        for key, value in slots.items()
    }
    digests = {}
    for name, tensors in parts.items():
        path = folder / f"{name}.safetensors"
        # a buffer may be a view of another tensor, which safetensors refuses
        save_file({k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}, path)
        _sync(path)
        digests[path.name] = checksum(path)
    manifest = {
        "format": FORMAT,
        "step": trainer.step,
        "stage": trainer.stage,
        "updates": [average.updates for average in trainer.averages],
        "target_updates": trainer.target.updates if trainer.target else 0,
        "domain": asdict(trainer.objective.domain),
        "run": run,
        "config": asdict(trainer.config),
        "versions": versions(),
        "sha256": digests,
    }
    with (folder / MANIFEST).open("w") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _restore(trainer: Trainer, manifest: dict, parts: dict[str, Tensors], path: Path) -> None:
    check_shapes(trainer.net, parts["net"], path)
    trainer.step = manifest["step"]
    if manifest["stage"] != trainer.stage:
        trainer.stage = manifest["stage"]
        trainer.teacher = copy.deepcopy(trainer.net).requires_grad_(False).eval()
        trainer.start_stage()
    modules = _modules(trainer)
    missing = sorted((modules.keys() | {"optimizer"}) ^ parts.keys())
    if missing:
        raise Mismatch(f"{path} was written by another objective: they differ in {missing}")
    for name, module in modules.items():
        check_shapes(module, parts[name], path)
        module.load_state_dict(parts[name])
    state: dict[int, Tensors] = {}
    for name, value in parts["optimizer"].items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": state, "param_groups": groups})
    for average, updates in zip(trainer.averages, manifest["updates"], strict=True):
        average.updates = updates
    if trainer.target is not None:
        trainer.target.updates = manifest["target_updates"]


def check_shapes(module: nn.Module, tensors: Tensors, path: Path | str) -> None:
    """Raise :class:`Mismatch` unless ``tensors`` has the names and shapes of ``module``."""
    here = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    there = {name: tuple(value.shape) for name, value in tensors.items()}
    differ = [name for name in here | there if here.get(name) != there.get(name)]
    if differ:
        name = differ[0]
        raise Mismatch(
            f"{path} is of another network ({len(differ)} tensors differ): {name} has shape "
            f"{there.get(name, 'none')} there and {here.get(name, 'none')} here. Another preset?"
        )
