"""Readers for what chapters cite: published numbers and results of the benchmarks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml


@dataclass(frozen=True)
class Published:
    """A number that somebody else published, with everything needed to compare it fairly.

    ``trust`` is "first hand" (read in the paper or repository), "second hand" (read in several
    transcriptions that agree) or "abstract". ``labels`` is the protocol of the class labels.
    A condition that was not found is "not stated here".
    """

    key: str
    value: float
    what: str
    source: str
    trust: str
    nfe: str = ""
    guidance: str = ""
    epochs: str = ""
    labels: str = ""
    tokenizer: str = ""
    batch: str = ""
    note: str = ""

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else f"{self.value:g}"


@cache
def _tables() -> dict[str, Any]:
    text = resources.files("meanflow_lite.notebook").joinpath("published.yml").read_text("utf-8")
    return yaml.safe_load(text)


@cache
def all_published() -> dict[str, Published]:
    """Every published number by key, in the order of the file."""
    rows = _tables()["numbers"].items()
    return {key: Published(key=key, **{**row, "value": float(row["value"])}) for key, row in rows}


def published(key: str) -> Published:
    """One published number; ``f"{published('meanflow-xl2'):.2f}"`` prints its value."""
    table = all_published()
    if key not in table:
        near = [k for k in table if any(part in k for part in key.split("-"))][:12]
        raise KeyError(
            f"published.yml has no key {key!r}; similar keys: {near or sorted(table)[:12]}"
        )
    return table[key]


def settings(preset: str) -> dict[str, Any]:
    """The published training settings of ``preset`` ("B/4", ..., "XL/2+", "CIFAR-10")."""
    table = _tables()["settings"]
    if preset not in table:
        raise KeyError(f"published.yml has no settings for {preset!r}; it has {sorted(table)}")
    return dict(table[preset])


def results(name: str) -> dict[str, Any]:
    """The result ``meanflow_lite/results/NAME.json``; its ``command`` says how to redo it."""
    folder = resources.files("meanflow_lite").joinpath("results")
    path = folder.joinpath(f"{name}.json")
    if not path.is_file():
        known = sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".json"))
        raise KeyError(f"no result is called {name!r}; there are {known}")
    return json.loads(path.read_text("utf-8"))


def runs(name: str, **cell: Any) -> list[dict[str, Any]]:
    """The runs of a result whose ``cell`` has these values: ``runs("ablations", toy="ring")``.

    Raises:
        KeyError: if no run fits, with the settings that there are.
    """
    every = results(name)["cells"]
    found = [run for run in every if cell.items() <= run["cell"].items()]
    if not found:
        known = {key: sorted({str(run["cell"][key]) for run in every}) for key in cell}
        raise KeyError(f"no run of {name!r} fits {cell}; there are {known}")
    return found
