r"""Guided one-step digits: the guidance scale, the size of the model, two steps, and the baseline.

    python benchmarks/digits.py            # writes meanflow_lite/results/digits.json
    python benchmarks/digits.py --quick    # a minute; writes into the working folder
    python benchmarks/digits.py --ship runs/digits   # the run of `meanflow-lite train`, packaged

Every trained cell has the optimizer, schedule and label dropout of the `digits` preset. The
guidance scale is varied on one size with that preset's rate and batch and fewer steps (`STEPS`).
Sizes are compared without guidance, whose effect on the distance is larger than theirs, at equal
steps and batches: three seeds at one learning rate, and one seed at a third and at three times
that rate, to see whether the order depends on it. Flow matching is the network of the shipped model
with its number of steps, walked by 50 Euler steps with classifier-free guidance. The shipped model
is judged and timed too. Judged are 2,000 samples with balanced labels; the intervals in a cell are
bootstraps over samples of one training run, so they do not hold the spread between runs, which the
seeds show.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from statistics import median

import torch
from harness import RESULTS, Cell, rounded, run_cells

from meanflow_lite.evaluation.digits import judge
from meanflow_lite.objectives import trained
from meanflow_lite.runs.data import open_data
from meanflow_lite.runs.folder import WEIGHTS, write_info
from meanflow_lite.runs.model import Model, load
from meanflow_lite.runs.settings import PRESETS
from meanflow_lite.samplers import Times, uniform_times
from meanflow_lite.training import Trainer

STEPS = 1200
SCALES = (2.0, 1.0, 1.5, 3.0, 5.0)
SIZES = ("M", "S", "XS")
SIZE_STEPS, SIZE_BATCH = 500, 64
RUNS = [(0, 3e-3), (1, 3e-3), (2, 3e-3), (0, 1e-3), (0, 9e-3)]  # seed and learning rate
MIDDLES = (0.2, 0.35, 0.5, 0.65, 0.8)
BASELINE_STEPS = 50


def cells(quick: bool) -> list[Cell]:
    def cell(method: str, size: str, scale: float, steps: int, **settings: float) -> Cell:
        network = f"digits-{size}"
        return {"method": method, "network": network, "scale": scale, "steps": steps, **settings}

    made, steps, short = [], 20 if quick else STEPS, 20 if quick else SIZE_STEPS
    if not quick:  # first, as the comparison of the same network and budget
        info = load("digits").info
        size, long = info["settings"]["network"].removeprefix("digits-"), info["steps"]
        made = [cell("shipped", size, 2.0, long), cell("flow_matching", size, 1.0, long)]
    for (seed, lr), size in product(RUNS, SIZES):
        made.append(cell("meanflow", size, 1.0, short, batch=SIZE_BATCH, lr=lr, seed=seed))
    return made + [cell("meanflow", "S", scale, steps) for scale in SCALES]


def fit(cell: Cell) -> tuple[Model, float]:
    """Train one cell; returns the model and the seconds of the processor that it took."""
    base = PRESETS["digits"]
    kappa = 0.5 if cell["scale"] != 1 else 0.0
    settings = replace(
        base,
        objective=cell["method"],
        network=cell["network"],
        steps=cell["steps"],
        omega=cell["scale"] * (1 - kappa),
        kappa=kappa,
        **{name: cell[name] for name in ("batch", "lr", "seed") if name in cell},
    )
    data = open_data("digits", 1.0)
    torch.manual_seed(settings.seed)
    net, objective = settings.make_network(10), settings.make_objective(10)
    config = settings.train_config(data.images)
    trainer = Trainer(net, objective, data.batches, config)
    began = time.process_time()
    for _ in trainer.run():
        pass
    info = {
        "num_classes": 10,
        "shape": [1, 8, 8],
        "vae": None,
        "domain": asdict(objective.domain),
    }
    field = trained(trainer.averages[0].net, objective.domain)
    return Model(field, info), time.process_time() - began  # pyright: ignore[reportArgumentType]


def judged(model: Model, times: Times, omega: float = 1.0, count: int = 2000) -> dict:
    labels = torch.arange(count) % 10
    x = model.latents(model.noise(range(count)), labels, times, omega)
    return asdict(judge(x.clamp(-1, 1), labels))


def latency(model: Model, batch: int, pairs: int = 9) -> dict:
    """Milliseconds of one step and of 50, medians of alternating calls, and their ratio."""
    eps, labels = model.noise(range(batch)), torch.arange(batch) % 10
    walks = {"one": [1.0, 0.0], "many": uniform_times(BASELINE_STEPS)}
    seconds: dict[str, list[float]] = {name: [] for name in walks}
    for pair in range(pairs + 1):  # the first is warm-up
        for name, times in walks.items():
            began = time.perf_counter()
            model.latents(eps, labels, times)
            if pair:
                seconds[name].append(time.perf_counter() - began)
    ratios = [many / one for one, many in zip(seconds["one"], seconds["many"], strict=True)]
    return {
        **{name: 1000 * median(values) for name, values in seconds.items()},
        "ratio": median(ratios),
    }


def run(cell: Cell) -> dict:
    model, seconds = (load("digits"), None) if cell["method"] == "shipped" else fit(cell)
    many = uniform_times(BASELINE_STEPS)
    result: dict = {
        "parameters": sum(p.numel() for p in model.net.parameters()),
        "training_cpu_seconds": seconds,
    }
    if cell["method"] == "flow_matching":
        result["walk"] = {str(w): judged(model, many, w) for w in SCALES}
        result["one_step"] = judged(model, [1.0, 0.0])
        return result
    result["one_step"] = judged(model, [1.0, 0.0])
    if cell["scale"] == 2.0:
        result["two_steps"] = {str(t): judged(model, [1.0, t, 0.0]) for t in MIDDLES}
    if cell["method"] == "shipped":
        result["fifty_steps"] = judged(model, many)
        result["latency_ms"] = {str(b): latency(model, b) for b in (1, 100)}
    return result


def ship(folder: Path) -> None:
    """Copy a run into the package as the model `digits`, with what it measures."""
    model, target = load(folder), RESULTS / "digits"
    target.mkdir(parents=True, exist_ok=True)
    metrics = {"one_step": judged(model, [1.0, 0.0]), "two_steps": judged(model, [1.0, 0.5, 0.0])}
    shutil.copy(folder / WEIGHTS, target / WEIGHTS)
    write_info(target, {**model.info, "metrics": rounded(metrics)})
    print(json.dumps(metrics, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Guided one-step digits.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--ship", type=Path, default=None, help="run folder to put in the package")
    args = parser.parse_args()
    if args.ship:
        ship(args.ship)
        raise SystemExit
    out = args.out or (Path("digits.json") if args.quick else RESULTS / "digits.json")
    run_cells(cells(args.quick), run, out, args.workers)
