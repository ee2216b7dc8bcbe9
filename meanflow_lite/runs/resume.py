"""Going on: what a folder already holds, which settings may differ, and what is written down."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meanflow_lite.files import Damage, clear_partials, locked, naming, set_aside
from meanflow_lite.files.tensors import read_tensors
from meanflow_lite.runs.folder import CHECKPOINTS, RUN, WEIGHTS, read_info
from meanflow_lite.runs.identity import FREE, as_options, differences
from meanflow_lite.runs.processes import place
from meanflow_lite.runs.settings import Settings
from meanflow_lite.training import CheckpointError, checkpoints
from meanflow_lite.training.checkpoint import read_manifest


@contextmanager
def holding(out: Path) -> Iterator[None]:
    """Make the run folder and hold it: the first process does, for the others too."""
    if place()[0] > 0:
        yield
        return
    with naming(out):
        out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        clear_partials(out / CHECKPOINTS)
        yield


def earlier(run: Path, aside: bool) -> dict[str, Any] | None:
    """What ``run.json`` in a folder says; None if there is none, or only a damaged one.

    A damaged one is renamed if ``aside``: the checkpoints have all that a run needs to go on.
    """
    try:
        return read_info(run)
    except FileNotFoundError:
        return None
    except Damage as error:
        print(error, file=sys.stderr)
        if aside:
            print(f"it is now {set_aside(run / RUN).name}", file=sys.stderr)
        return None


def refuse_finished(out: Path) -> None:
    """Raise ``ValueError`` for a folder with final weights and nothing to go on from."""
    if (out / WEIGHTS).exists():
        raise ValueError(
            f"{out} holds the weights of a run and no checkpoint to go on from: use another --out "
            f"(and --init-from {out} to start from these weights)"
        )


def is_complete(out: Path, identity: str, steps: int) -> bool:
    """Whether the final weights of this run, at its last step, are there and sound."""
    try:
        about = read_tensors(out / WEIGHTS)[1]
    except (Damage, FileNotFoundError):
        return False
    return about.get("identity") == identity and about.get("step") == str(steps)


def branch_point(given: str, out: Path) -> Path:
    """The checkpoint that ``--resume PATH`` means: a checkpoint, or the newest one of a run.

    Raises:
        ValueError: if there is none, or if it is one of ``out`` itself.
    """
    path = Path(given)
    found = [path, *checkpoints(path / CHECKPOINTS)]
    chosen = next((p for p in found if (p / "manifest.json").exists()), None)
    if chosen is None:
        raise ValueError(
            f"--resume is auto, never, a checkpoint such as {out}/{CHECKPOINTS}/step-00001000, or "
            f"the folder of a run that has one: got {given!r}"
        )
    if out.resolve() in chosen.resolve().parents:
        raise ValueError(
            f"--resume {given} with --out {out}: what came after that step would be overwritten. "
            "Give another --out to go on from there, or leave --resume out to go on from the newest"
        )
    return chosen


def stored_settings(info: Mapping[str, Any] | None, checkpoint: Path | None) -> dict[str, Any]:
    """The settings that a state was trained with; of a checkpoint if ``run.json`` is gone."""
    if info is not None:
        return dict(info["settings"])
    try:
        return dict(read_manifest(checkpoint)["config"]) if checkpoint else {}
    except CheckpointError:
        return {}


def agreed_changes(
    stored: Mapping[str, Any], settings: Settings, named: Mapping[str, Any], where: Path
) -> dict[str, list[Any]]:
    """What has changed, ``{name: [before, now]}``, all of it named or without an effect.

    Raises:
        ValueError: for a setting that differs and is not named; with the option that names it.
    """
    found = differences(stored, settings)
    said = set(named) | set(FREE) | ({"steps"} if "epochs" in named else set())
    silent = {name: pair for name, pair in found.items() if name not in said}
    if silent:
        lines = ", ".join(
            f"{n} is {there} there, {here} here" for n, (there, here) in silent.items()
        )
        option = as_options({**named, **{name: here for name, (_, here) in silent.items()}})
        raise ValueError(
            f"{where} goes on with its own settings unless a change is named ({lines}): give its "
            f"values, or {option}"
        )
    return {name: [there, here] for name, (there, here) in found.items()}


def command(arguments: list[str] | None = None) -> str:
    """This command as a person types it."""
    many = "WORLD_SIZE" in os.environ
    program = ["torchrun", "...", "-m", "meanflow_lite"] if many else ["meanflow-lite"]
    return shlex.join([*program, *(sys.argv[1:] if arguments is None else arguments)])


def way_on(out: Path, settings: Settings, named: Mapping[str, Any]) -> str:
    """What to do after a divergence: the last sound step, and the command that goes on there."""
    arguments = _without_changes(sys.argv[1:])
    changes = {**named, "lr": settings.lr / 2, "clip": settings.clip or 1.0}
    last = next(iter(checkpoints(out / CHECKPOINTS)), None)
    if last is None:
        return (
            "No checkpoint was written yet. To start anew with other settings: "
            f"{command(arguments)} {as_options(changes)}"
        )
    return (
        f"The last sound state is {last}. To go on there with other settings: "
        f"{command(arguments)} {as_options(changes)} (skip_nonfinite=10 leaves out up to ten such "
        "steps in a row; --resume CHECKPOINT --out NEW starts at an earlier one)"
    )


def _without_changes(arguments: list[str]) -> list[str]:
    kept, inside = [], False
    for argument in arguments:
        inside = argument == "--change" or (inside and not argument.startswith("--"))
        if not inside:
            kept.append(argument)
    return kept
