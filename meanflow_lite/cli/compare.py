"""``meanflow-lite compare``: several models on the same noise and labels, one row a model."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tyro

from meanflow_lite.runs.compare import Row, draw_rows, table
from meanflow_lite.runs.model import load
from meanflow_lite.runs.processes import joined
from meanflow_lite.runs.samples import choose_labels
from meanflow_lite.runs.sampling import walk_times


@dataclass(frozen=True)
class Compare:
    """Draw several models on the same noise, one row a model.

    Evaluations, seconds and parameters stand at each row. Models whose samples have the same
    shape get the same noise, scaled as each wants it.

    Attributes:
        models: folders of runs, `digits`, or published names such as imf-b2 pmf-b16 drift-b2.
        labels: classes, repeated in turn: numbers, or names where the models are of ImageNet.
        columns: samples of a model.
        steps: evaluations of models that jump; each is told what is recommended for it.
        velocity_steps: Euler steps of models that know velocities alone, such as SiT.
        seed: of the noise.
        vae: decoder of latents; None: what each model names.
        out: the picture; its numbers go into a .json beside it.
        device: `cpu`, `cuda`, or `auto`: a GPU where there is one.
    """

    models: tyro.conf.Positional[tuple[str, ...]]
    labels: str = "207,360,387,974,88,979,417,279"
    columns: int = 8
    steps: int = 1
    velocity_steps: int = 250
    seed: int = 0
    vae: str | None = None
    out: Path = Path("compare.png")
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.models or self.columns < 1:
            raise ValueError("name at least one model, and at least one column")

    def run(self) -> None:
        """Sample, draw, and print the table."""
        with joined(self.device) as device:
            rows = [self._row(name, device) for name in self.models]
        self.out.parent.mkdir(parents=True, exist_ok=True)
        draw_rows(rows).save(self.out)
        numbers = [{k: v for k, v in asdict(row).items() if k != "images"} for row in rows]
        self.out.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n")
        print(table(rows))
        print(f"picture in {self.out}", file=sys.stderr)

    def _row(self, name: str, device: torch.device) -> Row:
        model = load(name, device)
        indices = range(self.columns)
        labels = choose_labels(
            self.labels, self.columns, model.num_classes, self.seed, model.classes
        )
        steps = self.velocity_steps if model.instant else self.steps
        if model.info["domain"]["name"] == "one_jump":
            steps = 1
        eps, told = model.noise(indices, self.seed), model.noise_labels(indices, self.seed)
        start = time.perf_counter()
        z = model.latents(eps, labels, walk_times(steps), noise_labels=told)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = (time.perf_counter() - start) / self.columns
        parameters = sum(p.numel() for p in model.net.parameters())
        scale = model.info.get("noise_scale", 1.0)
        images = model.decode(z, self.vae)
        guidance = model.recommended
        return Row(
            name, images, steps, seconds, parameters, model.shape, self.seed, scale, guidance
        )
