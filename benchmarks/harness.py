"""What all benchmarks share: independent cells, run in worker processes, kept as they finish.

A cell is a dictionary of settings; its result is a dictionary. Finished cells are kept in a
JSON-lines file beside the output, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

Cell = dict
RESULTS = Path(__file__).parents[1] / "meanflow_lite" / "results"


def environment() -> dict:
    """Command, versions and machine of this run."""
    return {
        "command": "python " + " ".join(shlex.quote(a) for a in sys.argv),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{os.cpu_count()} x {_processor()}",
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _key(cell: Cell) -> str:
    return json.dumps(cell, sort_keys=True)


def finished_lines(kept: Path) -> dict[str, dict]:
    """Results that an earlier run left, by their cell; a line that was cut off is not there."""
    done: dict[str, dict] = {}
    if kept.exists():
        for line in kept.read_text().split("\n")[:-1]:
            record = json.loads(line)
            done[_key(record["cell"])] = record
    return done


def finish_cells(
    cells: Iterable[Cell], run: Callable[[Cell], dict], kept: Path, workers: int
) -> list[dict]:
    """Run each cell once in ``workers`` one-thread processes; results in the order of the cells.

    Each result is appended to ``kept``, one line, as soon as it is there: a run that was stopped
    goes on. Lines are known by the settings of their cell alone: delete the file to start afresh.
    """
    cells = list(cells)
    done = finished_lines(kept)
    todo = [cell for cell in cells if _key(cell) not in done]
    print(f"{len(cells)} cells, {len(cells) - len(todo)} finished before", flush=True)
    if todo:
        kept.parent.mkdir(parents=True, exist_ok=True)
        _trim(kept)
    began = time.time()
    context = multiprocessing.get_context("spawn")
    os.environ["OMP_NUM_THREADS"] = "1"
    with context.Pool(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        jobs = pool.imap_unordered(_Job(run), todo)
        for n, record in enumerate(jobs, 1):
            done[_key(record["cell"])] = record
            with kept.open("a") as file:
                file.write(json.dumps(record) + "\n")
            left = (time.time() - began) / n * (len(todo) - n)
            print(f"{n}/{len(todo)}, {left / 60:.1f} minutes left: {record['cell']}", flush=True)
    return [done[_key(cell)] for cell in cells]


def _trim(kept: Path) -> None:
    """Cut a last line that has no end, so that the next one does not continue it."""
    if kept.exists() and not kept.read_text().endswith("\n"):
        whole = kept.read_text().rpartition("\n")
        kept.write_text(whole[0] + whole[1])


def run_cells(
    cells: Iterable[Cell], run: Callable[[Cell], dict], output: Path, workers: int
) -> list[dict]:
    """:func:`finish_cells` beside ``output``, which is written when all are done."""
    kept = output.with_suffix(".cells")
    results = finish_cells(cells, run, kept, workers)
    write(output, {"environment": environment(), "cells": results})
    kept.unlink(missing_ok=True)
    return results


class _Job:
    def __init__(self, run: Callable[[Cell], dict]) -> None:
        self.run = run

    def __call__(self, cell: Cell) -> dict:
        began = time.time()
        return {"cell": cell, **self.run(cell), "seconds": round(time.time() - began, 2)}


def rounded(value: object, digits: int = 5) -> object:
    """Floats in a nested structure, cut to significant digits, so that files stay small."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {k: rounded(v, digits) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v, digits) for v in value]
    return value


def write(output: Path, result: dict) -> None:
    """Write ``result`` as JSON, whole or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_suffix(".tmp")
    partial.write_text(json.dumps(rounded(result), indent=1) + "\n")
    partial.replace(output)
    print(f"wrote {output.name}", flush=True)
