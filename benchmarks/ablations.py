r"""The ablations of chapters 7 and 8: one setting of MeanFlow changed at a time.

    python benchmarks/ablations.py            # writes meanflow_lite/results/ablations.json
    python benchmarks/ablations.py --quick    # a minute; writes nothing into the package

A toy with exact average velocities (a product of mixtures) and several seeds; every run has the
same network, number of steps, batch and learning rate. The variants that change what is learned
also run on a second toy (the ring), and flow matching and MeanFlow once more with a larger
network and budget: one step against fifty. Recorded along training: the exact one-step error
(root mean square distance to the exact endpoint of the same noise), and at the end the excess
energy distance at 1, 2, 4 steps (flow matching: also 50), the seconds, and the watched losses.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from harness import RESULTS, Cell, run_cells

from meanflow_lite.data import toys
from meanflow_lite.data.batches import FromDistribution, seeded
from meanflow_lite.evaluation.distances import compare, energy_distance
from meanflow_lite.fields import instantaneous
from meanflow_lite.identity import TANGENTS, finite_difference, total_derivative
from meanflow_lite.networks import MLP
from meanflow_lite.objectives import (
    INSTANT,
    JOINT,
    TEACHER,
    FlowMatching,
    MeanFlow,
    Objective,
    exact,
)
from meanflow_lite.paths import Below, LogitNormal, Ordered, ToData, Uniform
from meanflow_lite.samplers import integrate, sample, uniform_times
from meanflow_lite.training import Diverged, TrainConfig, Trainer, train

TOY, SECOND = "product", "ring"
SEEDS = (0, 1, 2)
CONFIG = TrainConfig(steps=2000, batch=256, lr=3e-3, clip=10.0, cooldown=0.5)
POINTS = 12  # evaluations along one run
POPULATION = 4096

#: The setting that all others are compared with.
BASE = MeanFlow(p=0.0, p_equal=0.5, pair=Below(Uniform()))


def variants(toy) -> dict[str, tuple[Objective, tuple[str, ...]]]:
    """Objective and network conditioning of each variant."""
    truth = exact(toy.velocity)

    def differences(step: float, order: int):
        return partial(finite_difference, step=step, order=order)

    objectives: dict[str, Objective] = {
        "base": BASE,
        "flow matching": FlowMatching(Uniform()),
        "velocity: joint": replace(BASE, target_velocity=JOINT, tangent_velocity=JOINT),
        "velocity: joint, tangent only": replace(BASE, tangent_velocity=JOINT),
        "velocity: teacher": replace(BASE, target_velocity=TEACHER, tangent_velocity=TEACHER),
        "velocity: exact": replace(BASE, target_velocity=truth, tangent_velocity=truth),
        "r: smaller of two draws": replace(BASE, pair=Ordered(Uniform())),
        "r: fixed at 0": replace(BASE, pair=ToData(Uniform())),
        "law: logit-normal(-0.4, 1)": replace(BASE, pair=Below(LogitNormal(-0.4, 1.0))),
        "law: logit-normal(-0.2, 1.2)": replace(BASE, pair=Below(LogitNormal(-0.2, 1.2))),
        "derivative: difference, step 0.1": replace(BASE, derivative=differences(0.1, 1)),
        "derivative: difference, step 0.01": replace(BASE, derivative=differences(0.01, 1)),
        "derivative: second order, step 0.1": replace(BASE, derivative=differences(0.1, 2)),
        "stop-gradient: off": replace(BASE, stop_gradient=False),
    }
    for p_equal in (0.0, 0.25, 0.75):
        objectives[f"p_equal: {p_equal}"] = replace(BASE, p_equal=p_equal)
    for p in (0.5, 1.0):
        objectives[f"p: {p}"] = replace(BASE, p=p)
    objectives["p: 1.0, c: 100"] = replace(BASE, p=1.0, c=100.0)
    for name in ("v00", "v10", "v11", "001"):
        wrong = partial(total_derivative, tangent=TANGENTS[name])
        objectives[f"tangent: {name}"] = replace(BASE, derivative=wrong)
    told: dict[str, tuple[Objective, tuple[str, ...]]] = {
        name: (objective, ("t", "t-r")) for name, objective in objectives.items()
    }
    for times in (("t", "r"), ("t", "r", "t-r"), ("t-r",)):
        told[f"told: {', '.join(times)}"] = (BASE, times)
    return told


def run(cell: Cell) -> dict:
    """Train one variant on one toy with one seed."""
    toy = {TOY: toys.product, SECOND: toys.ring}[cell["toy"]]()  # both have exact fields
    objective, times = variants(toy)[cell["variant"]]
    batch = 4 * cell["width"]
    config = replace(CONFIG, steps=cell["steps"], batch=batch, seed=cell["seed"])
    data = FromDistribution(toy)
    extra = 0.0
    teacher = None
    if cell["variant"] == "velocity: teacher":
        began = time.perf_counter()
        torch.manual_seed(100 + cell["seed"])
        teacher, _ = train(MLP(toy.dim, cell["width"], 3), FlowMatching(Uniform()), data, config)
        extra = time.perf_counter() - began
    torch.manual_seed(cell["seed"])
    net = MLP(toy.dim, cell["width"], 3, conditioning=times)
    trainer = Trainer(net, objective, data, config, teacher)

    eps = torch.randn(POPULATION, toy.dim, generator=seeded(cell["seed"], 0, 7))
    truth = sample(toy.average, eps)
    walker = instantaneous(lambda z, t, y=None: trainer.averages[0].net(z, t, t))
    u = walker if objective.domain == INSTANT else trainer.averages[0].net
    marks = [round(config.steps * (k + 1) / POINTS) for k in range(POINTS)]
    errors: list[float] = []
    watch: dict[str, list[float]] = {}
    spent = 0.0
    try:
        for mark in marks:
            began = time.perf_counter()
            records = list(trainer.run(until=mark))
            spent += time.perf_counter() - began
            errors.append(float((sample(u, eps) - truth).square().sum(1).mean().sqrt()))
            for name in ("loss", *records[0].watch):
                values = [r.loss if name == "loss" else r.watch[name] for r in records]
                watch.setdefault(name, []).append(sum(values) / len(values))
    except Diverged:
        return {"diverged": True, "marks": marks, "one_step_error": errors}
    counts = (1, 2, 4, 50) if objective.domain == INSTANT else (1, 2, 4)
    if objective.domain == INSTANT:
        walks = {n: integrate(u, eps, uniform_times(n)) for n in counts}
    else:
        walks = {n: sample(u, eps, uniform_times(n)) for n in counts}
    energy = {
        n: compare(energy_distance, x, toy, seeded(cell["seed"], 0, 8), repeats=2)
        for n, x in walks.items()
    }
    return {
        "diverged": False,
        "marks": marks,
        "one_step_error": errors,
        "watch": watch,
        "energy_excess": {str(n): found.excess for n, found in energy.items()},
        "energy_floor": energy[1].floor,
        "train_seconds": spent,
        "teacher_seconds": extra,
    }


def main() -> None:
    """Run all cells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few steps, one seed, one toy")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "ablations.json")
    args = parser.parse_args()
    names = list(variants(toys.toy(TOY)))
    second = [n for n in names if n.startswith(("base", "flow", "velocity", "r:"))]
    small, large = {"width": 64, "steps": CONFIG.steps}, {"width": 128, "steps": 2 * CONFIG.steps}
    jobs = [(TOY, n, small) for n in names] + [(SECOND, n, small) for n in second]
    jobs += [(SECOND, n, large) for n in ("p_equal: 0.25", "r: fixed at 0", "flow matching")]
    seeds = SEEDS
    if args.quick:
        jobs, seeds = [(TOY, n, {"width": 16, "steps": 48}) for n in names[:3]], SEEDS[:1]
        args.output = Path(tempfile.mkdtemp()) / "ablations.json"
    cells = [
        {"toy": toy, "variant": name, "seed": seed, **size}
        for seed in seeds
        for toy, name, size in jobs
    ]
    run_cells(cells, run, args.output, args.workers)


if __name__ == "__main__":
    main()
