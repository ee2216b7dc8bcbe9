"""``meanflow-lite sample``: images from a trained run."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from meanflow_lite.data.digits import to_uint8
from meanflow_lite.runs.images import as_picture, save_grid
from meanflow_lite.runs.model import load
from meanflow_lite.runs.processes import joined, place, wait
from meanflow_lite.runs.samples import choose_labels, load_grid, protocol, remove_samples
from meanflow_lite.runs.sampling import walk_times


@dataclass(frozen=True)
class Sample:
    """Sample images. Without any argument: digits, from the model that comes with the package.

    Noise depends on the seed and a sample's number alone: the batch size and the number of
    processes (torchrun) change nothing.

    Attributes:
        model: folder of a run, or `digits`.
        out: folder, or a file name that ends in .npz (arr_0 as ADM writes it, and labels).
        count: number of samples.
        labels: `random`, `balanced`, or classes such as 3,3,7 that are repeated in turn.
        steps: evaluations from noise to data (`flow_matching` models: Euler steps).
        t_mid: where two steps meet; None: at 0.5.
        omega: guidance at sampling, for `flow_matching` models and for those that take it as an
            input (improved and pixel MeanFlow, Drifting); others were trained with theirs. None:
            the recommended one, or none.
        interval: where in t it acts, for models that take it as an input, such as 0.4 0.65.
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

    def run(self) -> None:
        """Write the samples of this process; the first process adds a grid and a description."""
        with joined(self.device) as device:
            model = load(self.model, device)
            labels = choose_labels(self.labels, self.count, model.num_classes, self.seed)
            times = walk_times(self.steps, self.t_mid)
            part, parts = place()
            mine = list(range(part, self.count, parts))
            packed = self.out.suffix == ".npz"
            folder = self.out.with_suffix(".parts") if packed else self.out
            if part == 0:
                folder.mkdir(parents=True, exist_ok=True)
                remove_samples(folder)
            wait()
            pixels: list[np.ndarray] = []
            bar = tqdm(total=len(mine), unit="image", disable=part > 0, file=sys.stderr)
            for first in range(0, len(mine), self.batch):
                rows = mine[first : first + self.batch]
                z = model.latents(
                    model.noise(rows, self.seed),
                    labels[rows],
                    times,
                    self.omega,
                    self.interval,
                    model.noise_labels(rows, self.seed),
                )
                images = to_uint8(model.decode(z, self.vae)).permute(0, 2, 3, 1).numpy()
                if packed:
                    pixels.append(images)
                else:
                    for i, image in zip(rows, images, strict=True):
                        as_picture(image).save(folder / f"{i:06d}.png")
                bar.update(len(rows))
            bar.close()
            if pixels:
                np.save(folder / f"{part}.npy", np.concatenate(pixels))
            wait()
            if part == 0:
                self._finish(folder, labels, parts, model.info)

    def _finish(self, folder: Path, labels: torch.Tensor, parts: int, info: dict) -> None:
        about = {
            "model": str(self.model),
            "label_protocol": protocol(self.labels),
            "count": self.count,
            "steps": self.steps,
            "t_mid": self.t_mid,
            "omega": self.omega or info.get("sampling", {}).get("omega", 1.0),
            "interval": self.interval,
            "seed": self.seed,
            "labels": labels.tolist(),
            "settings": info.get("settings"),
            "imported": info.get("imported"),
        }
        if self.out.suffix == ".npz":
            busy = range(min(parts, self.count))  # the others had nothing to do
            pieces = [np.load(folder / f"{part}.npy") for part in busy]
            images = np.empty((self.count, *pieces[0].shape[1:]), np.uint8)
            for part, piece in enumerate(pieces):
                images[part::parts] = piece
                (folder / f"{part}.npy").unlink()
            folder.rmdir()
            np.savez(self.out, arr_0=images, labels=labels.numpy(), about=json.dumps(about))
        else:
            (folder / "samples.json").write_text(json.dumps(about) + "\n")
            shown = load_grid(folder, min(self.count, 100))
            save_grid(shown, folder / "grid.png", 10)
        print(f"{self.count} samples in {self.out}", file=sys.stderr)
