r"""Every method on one bench: the same network, data, seeds, steps and batches.

    python benchmarks/methods.py            # writes meanflow_lite/results/methods.json
    python benchmarks/methods.py --quick    # a minute; writes to a temporary folder
    python benchmarks/methods.py --table    # prints the table of a finished run

Along a run: the exact one-step error (methods that aim at the flow map) and the excess energy
distance of one step, against steps and processor seconds, so one run gives both budgets. At its
end: energy and Wasserstein distance in excess of the data-to-data floor at 1, 2, 4 and 64
evaluations, the noise of the gradient, and what a step costs. Teachers are trained for as many
steps as their students, and their time is counted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from harness import RESULTS, Cell, run_cells
from torch import Tensor
from torch.profiler import profile

from meanflow_lite.data.batches import FromDistribution, seeded
from meanflow_lite.data.toys import Toy, toy
from meanflow_lite.evaluation.distances import energy_distance, wasserstein
from meanflow_lite.evaluation.intervals import seed_interval
from meanflow_lite.networks.mlp import MLP, MLPDiscriminator
from meanflow_lite.objectives import (
    INSTANT,
    ONE_JUMP,
    TO_DATA,
    AdversarialDistillation,
    AlphaFlow,
    Consistency,
    Drifting,
    FlowMatching,
    ImprovedMeanFlow,
    MeanFlow,
    Objective,
    ProgressiveDistillation,
    Shortcut,
    SplitMeanFlow,
    TerminalVelocity,
)
from meanflow_lite.paths import Below, Uniform
from meanflow_lite.randomness import Random
from meanflow_lite.samplers import integrate, jump_and_renoise, sample, uniform_times
from meanflow_lite.training.loop import Diverged, TrainConfig, Trainer, train

TOYS = ("ring", "product", "mixture_a")
SEEDS = (0, 1, 2, 3, 4)
STEPS = 800
CONFIG = TrainConfig(batch=256, lr=3e-3, clip=10.0, cooldown=0.5)
COUNTS = (1, 2, 4, 64)  # evaluations (NFE)
MARKS = 8  # evaluations of the error along one run
PAIR = Below(Uniform())


@dataclass(frozen=True)
class Recipe:
    """How one method runs here; ``flow_map``: it aims at the exact u, so it has an exact error."""

    objective: Callable[[int], Objective]
    flow_map: bool = True
    teacher: bool = False


# p = 0 throughout: an adaptive weight moves the minimizer in few dimensions.
METHODS: dict[str, Recipe] = {
    "flow_matching": Recipe(lambda dim: FlowMatching(Uniform())),
    "meanflow": Recipe(lambda dim: MeanFlow(PAIR, p_equal=0.5, p=0.0)),
    "improved_meanflow": Recipe(lambda dim: ImprovedMeanFlow(PAIR, p_equal=0.5, p=0.0)),
    "alphaflow": Recipe(lambda dim: AlphaFlow(pair=PAIR, p_equal=0.5, p=0.0)),
    "splitmeanflow": Recipe(lambda dim: SplitMeanFlow(PAIR, p_equal=0.5)),
    "shortcut": Recipe(lambda dim: Shortcut(target_ema=0.99)),
    "consistency": Recipe(lambda dim: Consistency(law=Uniform())),
    "consistency_continuous": Recipe(lambda dim: Consistency(steps=None, law=Uniform())),
    "terminal_velocity": Recipe(lambda dim: TerminalVelocity(PAIR, Uniform())),
    "drifting": Recipe(lambda dim: Drifting(), flow_map=False),
    "progressive_distillation": Recipe(lambda dim: ProgressiveDistillation(), teacher=True),
    "adversarial_distillation": Recipe(
        lambda dim: AdversarialDistillation(MLPDiscriminator(dim)), flow_map=False, teacher=True
    ),
}


@dataclass(frozen=True)
class Unlabeled:
    """A toy without its labels: every method is unconditional here."""

    toy: Toy

    def sample(
        self, n: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """``n`` rows and no labels."""
        return self.toy.sample(n, generator)[0], None


@cache
def noise_and_truth(name: str) -> tuple[Tensor, Tensor]:
    """Noise, and where the exact flow takes it in one jump."""
    data = toy(name)
    eps = torch.randn(2048, data.dim, generator=seeded(0, 0, 7))
    return eps, sample(data.average, eps)  # pyright: ignore[reportAttributeAccessIssue]


def walk(trainer: Trainer, eps: Tensor, n: int) -> Tensor | None:
    """Samples by ``n`` evaluations, the way the method is meant to; None where it has no way."""
    u, domain = trainer.field, trainer.objective.domain
    if domain == INSTANT:
        return integrate(u, eps, uniform_times(n))  # pyright: ignore[reportArgumentType]
    if domain == TO_DATA:
        noises = [eps] + [torch.randn(eps.shape, generator=seeded(1, k, 7)) for k in range(1, n)]
        return jump_and_renoise(u, noises, uniform_times(n))  # pyright: ignore[reportArgumentType]
    if domain == ONE_JUMP and n > 1:
        return None
    return sample(u, eps, uniform_times(n))  # pyright: ignore[reportArgumentType]


def gradient_noise(trainer: Trainer, draws: int = 16) -> dict[str, float]:
    """Norm of the mean gradient at the end, and the root of the trace of its covariance."""
    samples = []
    for k in range(draws):
        x, y = trainer.batches(10_000 + k, trainer.config.batch, trainer.config.seed)
        ctx = trainer._context(trainer.step, 0, Random(trainer.config.seed, 10_000 + k))
        trainer.net.zero_grad()
        draw = trainer.objective.draw(x, y, ctx)
        loss = trainer.module(draw, replace(ctx, random=None))
        loss.per_sample.mean().backward()
        grads = [p.grad.flatten() for p in trainer.net.parameters() if p.grad is not None]
        samples.append(torch.cat(grads))
    grad = torch.stack(samples)
    spread = grad.var(0).sum().sqrt()
    return {"gradient_norm": float(grad.mean(0).norm()), "gradient_noise": float(spread)}


def peak_bytes(trainer: Trainer) -> int:
    """Largest amount of memory that one more step holds at a time, beyond what it finds."""
    with profile(profile_memory=True) as prof:
        list(trainer.run(until=trainer.step + 1))
    held = peak = 0
    for event in prof.profiler.kineto_results.events():  # pyright: ignore
        if event.name() == "[memory]":
            held += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
            peak = max(peak, held)
    return peak


def run(cell: Cell) -> dict:
    """Train one method on one toy with one seed."""
    recipe, data = METHODS[cell["method"]], toy(cell["toy"])
    config = replace(CONFIG, steps=cell["steps"], seed=cell["seed"])
    batches = FromDistribution(Unlabeled(data))
    torch.manual_seed(cell["seed"])
    net, teacher, teacher_seconds = MLP(data.dim, 64, 3), None, 0.0
    if recipe.teacher:
        began = time.process_time()
        teacher, _ = train(net, FlowMatching(Uniform()), batches, config)
        teacher_seconds = time.process_time() - began
        net.load_state_dict(teacher.state_dict())
    objective = recipe.objective(data.dim)
    trainer = Trainer(net, objective, batches, config, teacher)
    eps, truth = noise_and_truth(cell["toy"])
    result: dict = {"diverged": False, "teacher_seconds": teacher_seconds, "curve": []}
    spent, fastest = 0.0, float("inf")
    try:
        for k in range(MARKS):
            began = time.process_time()
            before = trainer.step
            list(trainer.run(until=round(config.steps * (k + 1) / MARKS)))
            took = time.process_time() - began
            spent, fastest = spent + took, min(fastest, took / (trainer.step - before))
            result["curve"].append({"step": trainer.step, "seconds": spent})
            made = walk(trainer, eps, 1)
            assert made is not None
            result["curve"][-1] |= measured(made, truth, cell["toy"], recipe.flow_map)
        result |= gradient_noise(trainer)
    except (Diverged, ValueError) as error:
        return result | {"diverged": True, "why": str(error)}
    result["milliseconds"] = 1000 * fastest  # of the fastest part: the machine may be shared
    result["floor"] = {kind: floor(kind, cell["toy"]) for kind in DISTANCES}
    result["nfe"] = {}
    for n in COUNTS:
        made = walk(trainer, eps, n)
        if made is not None:
            result["nfe"][n] = {kind: distance(kind, made, cell["toy"]) for kind in DISTANCES}
    if cell["seed"] == 0:
        result["peak_bytes"] = peak_bytes(trainer)
    return result


def measured(made: Tensor, truth: Tensor, name: str, flow_map: bool) -> dict[str, float]:
    """One-step error to the exact flow and excess energy distance, on the way."""
    found = {"energy": distance("energy", made, name)}
    if flow_map:
        found["error"] = float((made - truth).double().square().sum(1).mean().sqrt())
    return found


# Both distances, and how many samples they take: optimal transport is dear.
DISTANCES = {"energy": (energy_distance, 1024), "wasserstein": (wasserstein, 512)}


def distance(kind: str, made: Tensor, name: str) -> float:
    """Distance from samples to the data, in excess of the floor from data to data."""
    measure, n = DISTANCES[kind]
    return measure(made[:n], references(name)[0]) - floor(kind, name)


@cache
def references(name: str) -> list[Tensor]:
    """Five samples of the data; the first is what every method is compared with."""
    return [toy(name).sample(1024, seeded(0, k, 8))[0] for k in range(5)]


@cache
def floor(kind: str, name: str) -> float:
    """Mean distance of four samples of the data to the first."""
    measure, n = DISTANCES[kind]
    first, *others = references(name)
    return sum(measure(other[:n], first) for other in others) / len(others)


def table(results: list[dict]) -> str:
    """Means over seeds with 95% intervals, a row a toy and method."""
    lines = [
        "| toy | method | one-step error | energy 1 | 2 | 4 | 64 | W2 1 | ms | MB | diverged |",
        "|" + "---|" * 11,
    ]
    groups: dict[tuple[str, str], list[dict]] = {}
    for r in results:
        groups.setdefault((r["cell"]["toy"], r["cell"]["method"]), []).append(r)
    for (name, method), runs in groups.items():
        good = [r for r in runs if not r["diverged"]]
        row = [name, method, _interval([r["curve"][-1].get("error") for r in good])]
        for n in COUNTS:
            row.append(_interval([r["nfe"].get(str(n), {}).get("energy") for r in good]))
        row.append(_interval([r["nfe"].get("1", {}).get("wasserstein") for r in good]))
        row.append(f"{min((r['milliseconds'] for r in good), default=0):.1f}")
        peaks = [r["peak_bytes"] / 1e6 for r in good if "peak_bytes" in r]
        row.append(f"{peaks[0]:.1f}" if peaks else "")
        row.append(f"{len(runs) - len(good)}/{len(runs)}")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _interval(values: list) -> str:
    known = [v for v in values if v is not None]
    if len(known) < 2:
        return f"{known[0]:.3f}" if known else ""
    found = seed_interval(known)
    return f"{found.center:.3f} ± {found.high - found.center:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore
    parser.add_argument("--quick", action="store_true", help="a minute, into a temporary folder")
    parser.add_argument("--table", action="store_true", help="print the table of a finished run")
    parser.add_argument("--output", type=Path, help="another place for the result")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    output = args.output or RESULTS / "methods.json"
    if not args.table:
        toys, seeds, steps = TOYS, SEEDS, STEPS
        if args.quick:
            output = args.output or Path(tempfile.mkdtemp()) / "methods.json"
            toys, seeds, steps = TOYS[-1:], SEEDS[:1], 64
        cells = [
            {"toy": name, "method": method, "seed": seed, "steps": steps}
            for seed in seeds
            for name in toys
            for method in METHODS
        ]
        run_cells(cells, run, output, args.workers)
    print(table(json.loads(output.read_text())["cells"]))


if __name__ == "__main__":
    main()
