"""``meanflow-lite sample``: images from a trained run."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from meanflow_lite.data.digits import to_uint8
from meanflow_lite.data.image_sets import NOTE_FORMAT
from meanflow_lite.data.listing import SUFFIXES
from meanflow_lite.files import locked
from meanflow_lite.runs.identity import weights_digest
from meanflow_lite.runs.model import Model, load
from meanflow_lite.runs.processes import joined, place, told, wait
from meanflow_lite.runs.samples import (
    Target,
    choose_labels,
    in_batches,
    protocol,
)
from meanflow_lite.runs.sampling import walk_times


@dataclass(frozen=True)
class Sample:
    """Sample images. Without any argument: digits, from the model that comes with the package.

    Noise depends on the seed and a sample's number alone: the batch size and the number of
    processes (torchrun) change nothing. Interrupted, the same command goes on where it stopped;
    samples of an earlier command stay until the new ones are whole.

    Attributes:
        model: folder of a run, or `digits`.
        out: folder, or a file name that ends in .npz (arr_0 as ADM writes it, and labels).
        count: number of samples.
        labels: `random`, `balanced`, or classes such as 3,3,7 that are repeated in turn; by name
            where the run stores names, or has ImageNet's classes: "golden retriever,otter".
        steps: evaluations from noise to data (`flow_matching` models: Euler steps).
        t_mid: where two steps meet; None: at 0.5.
        omega: guidance at sampling, for `flow_matching` models and for those that take it as an
            input (improved and pixel MeanFlow, Drifting); others were trained with theirs. None:
            the recommended one, or none.
        interval: where in t it acts, for models that take it as an input, such as 0.4 0.65.
        checkpoint: step of a checkpoint that is still there; None: the end of the run.
        average: rate of one of the run's moving averages, or `net`; None: the first average.
        seed: of noise and random labels.
        batch: samples at once.
        vae: decoder of latents; None: the one that encoded the training images.
        device: `cpu`, `cuda`, or `auto`: a GPU where there is one.
    """

    model: Path = Path("digits")
    out: Path = Path("samples")
    count: int = 100
    labels: str = "balanced"
    steps: int = 1
    t_mid: float | None = None
    omega: float | None = None
    interval: tuple[float, float] | None = None
    checkpoint: int | None = None
    average: str | None = None
    seed: int = 0
    batch: int = 256
    vae: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.count < 1 or self.batch < 1:
            raise ValueError(f"count and batch are at least 1: got {self.count}, {self.batch}")
        if self.out.suffix != ".npz" and self.out.is_file():
            raise ValueError(
                f"--out {self.out} is a file: give a folder, or a name that ends in .npz"
            )
        if self.out.suffix.lower() in SUFFIXES:
            raise ValueError(
                f"--out {self.out}: samples go into a folder, or into a file that ends in .npz"
            )

    def run(self) -> None:
        """Write the samples of this process; the first process puts them into their place."""
        with joined(self.device) as device, ExitStack() as held:
            model = load(self.model, device, self.checkpoint, self.average)
            labels = choose_labels(
                self.labels, self.count, model.num_classes, self.seed, model.classes
            )
            self._made(model, labels, [0])  # refuses what cannot be, before anything is touched
            part, parts = place()
            target = Target(self.out, self._about(model, labels))
            if part == 0:
                target.folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(target.folder))
            missing = told(target.begin() if part == 0 else [])
            total = sum(map(len, missing[part::parts]))
            with tqdm(total=total, unit="image", disable=part > 0, file=sys.stderr) as bar:
                for units in in_batches(missing[part::parts], self.batch):
                    rows = [row for unit in units for row in unit]
                    images = self._made(model, labels, rows)
                    for unit, first in zip(units, starts(units), strict=True):
                        target.write(unit, images[first : first + len(unit)])
                    bar.update(len(rows))
            wait()
            if part == 0:
                target.finish()
                print(f"{self.count} samples in {self.out}", file=sys.stderr)

    def _made(self, model: Model, labels: torch.Tensor, rows: list[int]) -> np.ndarray:
        """The samples with these numbers in bytes ``[N, H, W, C]``."""
        z = model.latents(
            model.noise(rows, self.seed),
            labels[rows],
            walk_times(self.steps, self.t_mid),
            self.omega,
            self.interval,
            model.noise_labels(rows, self.seed),
        )
        return to_uint8(model.decode(z, self.vae)).permute(0, 2, 3, 1).numpy()

    def _about(self, model: Model, labels: torch.Tensor) -> dict:
        info = model.info
        about = {
            "format": NOTE_FORMAT,
            "model": str(self.model),
            "weights": weights_digest(model.net),
            "label_protocol": protocol(self.labels),
            "count": self.count,
            "steps": self.steps,
            "t_mid": self.t_mid,
            "omega": self.omega or info.get("sampling", {}).get("omega", 1.0),
            "interval": self.interval,
            "seed": self.seed,
            "vae": self.vae or info.get("vae"),
            "labels": labels.tolist(),
            "settings": info.get("settings"),
            "imported": info.get("imported"),
        }
        return json.loads(json.dumps(about))  # as it is read back: lists for tuples


def starts(units: list[range]) -> list[int]:
    """Where each unit begins in the rows of all."""
    return [0, *accumulate(map(len, units))][:-1]
