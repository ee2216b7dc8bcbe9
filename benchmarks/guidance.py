r"""Learned guided fields against the exact guided field, on two overlapping classes.

    python benchmarks/guidance.py            # writes meanflow_lite/results/guidance.json
    python benchmarks/guidance.py --quick    # a minute; writes to a temporary folder

MeanFlow with guidance in the target, omega = omega' (1 - kappa), one network a setting. Recorded:
the root mean square error to the exact guided field under the training law, along exact guided
paths, of one step from noise, and of two steps over their middle time; and the distance of one
step to the exact guided fields of *other* scales: the scale that the network
learned is the one whose exact field is nearest.

Three further variants: label dropout at random and by position, with the errors of the null label
at r = t and in one jump; and one network that takes omega as an input, judged over scales.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from harness import RESULTS, Cell, run_cells

from meanflow_lite.data.batches import FromDistribution, seeded
from meanflow_lite.data.toys import classes
from meanflow_lite.evaluation.exact import field_error, one_step_error, triangle_points
from meanflow_lite.fields import Field, GaussianMixture, Guided
from meanflow_lite.guidance import Guidance, LabelDropout, Scales
from meanflow_lite.networks import MLP
from meanflow_lite.objectives import MeanFlow
from meanflow_lite.paths import Below, Uniform
from meanflow_lite.samplers import sample
from meanflow_lite.training import TrainConfig, train

SCALES = (1.0, 1.5, 2.0, 3.0)
KAPPAS = (0.0, 0.5, 0.9)
SEEDS = (0, 1, 2)
STEPS = 1200
MIDDLES = (0.15, 0.35, 0.5, 0.65, 0.85)
CANDIDATES = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5)
POPULATION = 2048
VARIANTS = ("random", "positional", "omega as input")
RANGE = Scales(1.0, 3.5)


def fit(cell: Cell, data: GaussianMixture) -> Field:
    """Train one setting."""
    null, told = data.num_classes or 0, cell.get("variant") == "omega as input"
    guidance = Guidance.effective(cell["scale"], null, cell["kappa"])
    objective = MeanFlow(
        pair=Below(Uniform()),
        p_equal=0.5,
        p=0.0,
        guidance=replace(guidance, scales=RANGE) if told else guidance,
        dropout=LabelDropout(null, cell["dropout"], cell.get("variant") == "positional"),
    )
    config = TrainConfig(
        steps=cell["steps"], batch=256, lr=3e-3, clip=10.0, cooldown=0.5, seed=cell["seed"]
    )
    torch.manual_seed(cell["seed"])
    net = MLP(data.dim, 64, 3, num_classes=null, conditions=("omega",) if told else ())
    return train(net, objective, FromDistribution(data), config)[0]


def run(cell: Cell) -> dict:
    """Train one setting and compare it with exact guided fields."""
    data = classes()
    data.steps = 8  # of the exact solver: 1e-6 on this toy
    field = fit(cell, data)
    return judge_variant(cell, data, field) if "variant" in cell else judge(cell, data, field)


def judge(cell: Cell, data: GaussianMixture, field: Field) -> dict:
    """Errors of one scale and kappa."""
    truth, null = Guided(data, cell["scale"]), data.num_classes or 0
    generator = seeded(cell["seed"], 0, 7)
    points = triangle_points(data, POPULATION, generator)
    eps = torch.randn(POPULATION, data.dim, generator=generator)
    y = torch.randint(null, (POPULATION,), generator=generator)
    ends = torch.rand(2, POPULATION, generator=generator)
    r, t = ends.amin(0), ends.amax(0)
    on_path = eps - (1 - t)[:, None] * truth.average(eps, t, torch.ones_like(t), y)
    fixed = sample(truth.average, eps, y=y)

    def landing(times: list[float]) -> float:
        gap = sample(field, eps, times, y) - fixed
        return float(gap.square().sum(1).mean().sqrt())

    return {
        "training_law": field_error(field, truth.average, *points),
        "guided_paths": field_error(field, truth.average, on_path, r, t, y),
        "one_step": one_step_error(field, truth.average, eps, y),
        "two_steps": {str(middle): landing([1.0, middle, 0.0]) for middle in MIDDLES},
        "distance_to_scale": {
            str(other): one_step_error(field, Guided(data, other).average, eps, y)
            for other in CANDIDATES
        },
        "spread": float(fixed.sub(fixed.mean(0)).square().sum(1).mean().sqrt()),
    }


def judge_variant(cell: Cell, data: GaussianMixture, field: Field) -> dict:
    """One-step error over the scale, or the errors of the null label."""
    generator, null = seeded(cell["seed"], 0, 7), data.num_classes or 0
    eps = torch.randn(POPULATION, data.dim, generator=generator)
    y = torch.randint(null, (POPULATION,), generator=generator)
    if cell["variant"] == "omega as input":
        return {
            "one_step_at_scale": {
                str(scale): one_step_error(
                    partial(field, omega=torch.full((POPULATION,), scale)),
                    Guided(data, scale).average,
                    eps,
                    y,
                )
                for scale in CANDIDATES
            }
        }
    z, _, t, _ = triangle_points(data, POPULATION, generator)
    nothing = torch.full_like(y, null)
    return {
        "one_step": one_step_error(field, Guided(data, cell["scale"]).average, eps, y),
        "null_velocity": field_error(field, data.average, z, t, t, nothing),
        "null_one_step": one_step_error(field, data.average, eps, nothing),
    }


def main() -> None:
    """Run all cells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few steps, one seed, two settings")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "guidance.json")
    args = parser.parse_args()
    settings = [(s, k) for s in SCALES for k in KAPPAS if s > 1 or k == 0]
    seeds, steps, variants = SEEDS, STEPS, VARIANTS
    if args.quick:
        settings, seeds, steps = settings[:2], SEEDS[:1], 40
        args.output = Path(tempfile.mkdtemp()) / "guidance.json"
    cell = partial(dict, dropout=0.2, steps=steps)
    cells = [cell(scale=s, kappa=k, seed=seed) for seed in seeds for s, k in settings]
    cells += [cell(scale=2.0, kappa=0.5, seed=k, variant=v) for v in variants for k in seeds]
    run_cells(cells, run, args.output, args.workers)


if __name__ == "__main__":
    main()
