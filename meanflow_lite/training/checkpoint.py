"""Checkpoints: written whole or not at all, checked when read, and free of pickled code.

A checkpoint is a folder ``step-00001000`` of safetensors files and a ``manifest.json`` with the
step, the stage, what identifies the run, the settings, the versions and the checksum of each file.
It is written under another name in the same place and renamed, so that a process killed at any
moment leaves either a whole checkpoint or a folder that nobody reads. No random state is stored:
every draw of a step is a function of (seed, step). A damaged checkpoint is renamed
``damaged-step-00001000`` once a sound one was found; nothing damaged is removed or counted.
"""

from __future__ import annotations

import copy
import json
import math
import platform
import re
import shutil
import warnings
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from meanflow_lite.files import (
    Damage,
    clear_partials,
    naming,
    read_json,
    set_aside,
    write_json,
    writing_folder,
)
from meanflow_lite.files.tensors import read_tensors, write_tensors
from meanflow_lite.training.loop import Diverged, Trainer

FORMAT = 2
MANIFEST = "manifest.json"
SCHEMA: dict[str, Any] = {
    "step": int,
    "stage": int,
    "updates": list[int],
    "target_updates": int,
    "domain": dict,
    "run": dict,
    "config": dict,
    "checksums": dict[str, str],
    "milestone": bool,
}
Tensors = dict[str, Tensor]
_FOLDER = re.compile(r"step-\d{8,}")
_FILE = re.compile(r"[a-z]+(-\d+)?\.safetensors")


class CheckpointError(RuntimeError):
    """No checkpoint that was written can be read."""


class NotWritten(OSError):
    """A checkpoint could not be written; what was there before is as it was."""

    def __str__(self) -> str:
        """As it was made, without the decoration of an ``OSError``."""
        return str(self.args[1])


class Mismatch(ValueError):
    """The checkpoint is sound but belongs to another network or another run."""


@dataclass(frozen=True)
class State:
    """The whole state of a run at one step: what a checkpoint has, apart from its checksums."""

    manifest: dict[str, Any]
    parts: dict[str, Tensors]

    @property
    def step(self) -> int:
        """Steps that were made."""
        return self.manifest["step"]


def state_of(trainer: Trainer, run: Mapping[str, object] | None = None) -> State:
    """The state as it is: its tensors are those that training goes on to change."""
    parts = {name: dict(module.state_dict()) for name, module in _modules(trainer).items()}
    parts["optimizer"] = {
        f"{index}.{key}": value
        for index, slots in trainer.optimizer.state_dict()["state"].items()
        for key, value in slots.items()
    }
    manifest = {
        "format": FORMAT,
        "step": trainer.step,
        "stage": trainer.stage,
        "updates": [average.updates for average in trainer.averages],
        "target_updates": trainer.target.updates if trainer.target else 0,
        "domain": asdict(trainer.objective.domain),
        "run": json.loads(json.dumps(run or {})),
        "config": asdict(trainer.config),
        "versions": versions(),
    }
    return State(manifest, parts)


def save_checkpoint(
    trainer: Trainer,
    folder: Path | str,
    run: Mapping[str, object] | None = None,
    keep: int = 3,
    milestone: bool = False,
) -> Path:
    """Write the whole state of ``trainer`` to ``folder/step-N`` and keep the last ``keep``.

    ``run`` holds what identifies the run; :func:`load_checkpoint` compares it. Milestones are
    kept besides. Only the first of several processes writes.

    Raises:
        NotWritten: if the disk is full or refuses.
        Diverged: if a number in it is not finite.
    """
    if trainer.rank == 0:
        write_state(state_of(trainer, run), Path(folder), keep, milestone)
    return Path(folder) / _name(trainer.step)


def write_state(state: State, folder: Path, keep: int, milestone: bool = False) -> None:
    """Write a state, unless it is there and sound; then remove the oldest."""
    _refuse_what_is_not_finite(state)
    final = folder / _name(state.step)
    try:
        with naming(folder):
            folder.mkdir(parents=True, exist_ok=True)
        clear_partials(folder)
        if final.exists() and not _sound(final):
            set_aside(final)
        if not final.exists():
            _write(state, final, milestone)
    except OSError as error:
        last = next(iter(checkpoints(folder)), None)
        raise NotWritten(
            error.errno,
            f"could not write the checkpoint {final}: {error}; the last good one is "
            f"{last.name if last else 'none'}",
        ) from error
    passing = [path for path in checkpoints(folder) if not _is_milestone(path)]
    for old in passing[max(keep, 1) :]:
        shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(
    trainer: Trainer, folder: Path | str, run: Mapping[str, object] | None = None
) -> Path | None:
    """Set ``trainer`` to the newest sound checkpoint in ``folder``; None if there is none at all.

    A damaged checkpoint is reported in a warning, renamed, and the one before it is taken.
    Training that continues from a checkpoint gives, on a CPU, bit for bit the weights of an
    uninterrupted run.

    Raises:
        CheckpointError: if there are checkpoints but all of them are damaged; they are left as
            they are.
        Mismatch: if the checkpoint is of another network or of another ``run``.
        OSError: if one cannot be read for a reason that is not its content.
    """
    damaged: list[CheckpointError] = []
    found = checkpoints(folder)
    for path in found:
        try:
            state = read_checkpoint(path)
        except CheckpointError as error:
            damaged.append(error)
            continue
        restore(trainer, state, run, path)
        for error, bad in zip(damaged, found, strict=False):
            aside = set_aside(bad)
            warnings.warn(f"{error}; it is now {aside.name}, {path.name} is taken", stacklevel=2)
        return path
    if found:
        raise CheckpointError(
            f"none of the {len(found)} checkpoints in {folder} is sound: {damaged[0]}. They are "
            "left as they are; to start anew, use another --out"
        )
    return None


def checkpoints(folder: Path | str) -> list[Path]:
    """The whole checkpoints in ``folder``, newest first."""
    found = [path for path in Path(folder).glob("step-*") if _FOLDER.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)


def read_manifest(path: Path | str) -> dict[str, Any]:
    """The manifest of one checkpoint.

    Raises:
        CheckpointError: if it is missing, cut or changed.
        OtherVersion, OSError: as :func:`meanflow_lite.files.read.read_json`.
    """
    try:
        manifest = read_json(Path(path) / MANIFEST, SCHEMA, FORMAT)
    except (Damage, FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {error}") from error
    names = manifest["checksums"].keys()
    if not all(map(_FILE.fullmatch, names)):
        raise CheckpointError(f"checkpoint {path} is damaged: its files are named {[*names]}")
    return manifest


def read_checkpoint(path: Path | str, only: Collection[str] | None = None) -> State:
    """One checkpoint, checked against its checksums; ``only`` these parts, such as ``ema-0``.

    Raises:
        CheckpointError: if a file is missing, truncated or changed, or there is no such part.
        OtherVersion, OSError: as :func:`meanflow_lite.files.read.read_json`.
    """
    path, parts = Path(path), {}
    manifest = read_manifest(path)
    there = {Path(name).stem: name for name in manifest["checksums"]}
    wanted = there.keys() if only is None else only
    for part in wanted:
        if part not in there:
            raise CheckpointError(f"checkpoint {path} has no {part}, but {', '.join(there)}")
        name = there[part]
        try:
            parts[part] = read_tensors(path / name, manifest["checksums"][name])[0]
        except (Damage, FileNotFoundError) as error:
            raise CheckpointError(f"checkpoint {path} is damaged: {error}") from error
    return State(manifest, parts)


def restore(
    trainer: Trainer, state: State, run: Mapping[str, object] | None, path: Path | str
) -> None:
    """Set ``trainer`` to a state; raises :class:`Mismatch` if it is of another run."""
    compare(state.manifest["run"], run or {}, path)
    manifest, parts = state.manifest, dict(state.parts)
    parts |= _averages(trainer, manifest, parts)
    check_shapes(trainer.net, parts["net"], path)
    trainer.step = manifest["step"]
    if manifest["stage"] != trainer.stage:
        trainer.stage = manifest["stage"]
        trainer.teacher = copy.deepcopy(trainer.net).requires_grad_(False).eval()
        trainer.start_stage()
    modules = _modules(trainer)
    differ = (modules.keys() | {"optimizer"}) ^ parts.keys()
    differ = sorted(name for name in differ if not name.startswith("ema-"))
    if differ:
        raise Mismatch(f"{path} was written by another objective: they differ in {differ}")
    for name, module in modules.items():
        check_shapes(module, parts[name], path)
        module.load_state_dict(parts[name])
    slots: dict[int, Tensors] = {}
    for name, value in parts["optimizer"].items():
        index, key = name.split(".", 1)
        slots.setdefault(int(index), {})[key] = value
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": slots, "param_groups": groups})
    stored = manifest["config"]["ema"]
    for average in trainer.averages:
        average.updates = manifest["updates"][_nearest(average.rate, stored)]
    if trainer.target is not None:
        trainer.target.updates = manifest["target_updates"]


def compare(stored: Mapping[str, Any], wanted: Mapping[str, Any], where: Path | str) -> None:
    """Raise :class:`Mismatch` naming the settings in which two runs differ."""
    wanted = json.loads(json.dumps(wanted))  # tuples read back as lists
    lines = []
    for key in wanted:
        there, here = stored.get(key), wanted[key]
        if isinstance(there, dict) and isinstance(here, dict):
            names = [k for k in {**there, **here} if there.get(k) != here.get(k)]
            lines += [f"{k} is {there.get(k)!r} there, {here.get(k)!r} here" for k in names]
        elif there != here:
            lines.append(f"{key} is {there!r} there, {here!r} here")
    if lines:
        said = "; ".join(lines)
        raise Mismatch(f"{where} belongs to another run: {said}. Use another --out, or its values")


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    from meanflow_lite import __version__

    return {
        "meanflow_lite": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _name(step: int) -> str:
    return f"step-{step:08d}"


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


def _write(state: State, final: Path, milestone: bool) -> None:
    with writing_folder(final) as folder:
        checksums = {}
        for name, tensors in state.parts.items():
            file = f"{name}.safetensors"
            checksums[file] = write_tensors(folder / file, tensors)
        about = {"milestone": milestone, "checksums": checksums}
        write_json(folder / MANIFEST, {**state.manifest, **about})


def _refuse_what_is_not_finite(state: State) -> None:
    for part, tensors in state.parts.items():
        for name, value in tensors.items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise Diverged(
                    f"{part} holds numbers that are not finite ({name}) after step {state.step}: "
                    "no checkpoint of it was written"
                )


def _sound(path: Path) -> bool:
    try:
        read_checkpoint(path)
    except CheckpointError:
        return False
    return True


def _is_milestone(path: Path) -> bool:
    try:
        return read_manifest(path)["milestone"]
    except (CheckpointError, ValueError, OSError):
        return True  # what cannot be read now is not removed


def _nearest(rate: float, stored: list[float]) -> int:
    """The stored average of this rate, or of the nearest half-life."""
    return min(range(len(stored)), key=lambda i: abs(math.log((1 - rate) / (1 - stored[i]))))


def _averages(trainer: Trainer, manifest: dict, parts: dict[str, Tensors]) -> dict[str, Tensors]:
    """Each average of the run from the stored one of its rate: rates may have changed."""
    stored = manifest["config"]["ema"]
    rates = trainer.config.ema
    return {f"ema-{i}": parts[f"ema-{_nearest(r, stored)}"] for i, r in enumerate(rates)}


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
