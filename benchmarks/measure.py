"""One run of the bench: train a method with many seeds side by side, and judge what it makes."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from recipes import LAWS, METHODS, Build, Recipe
from stacked import Stack, StackTrainer
from torch import Tensor, nn
from torch.profiler import profile

from meanflow_lite.data.batches import Batch, FromDistribution, seeded
from meanflow_lite.data.toys import Toy, toy
from meanflow_lite.domains import INSTANT, ONE_JUMP, TO_DATA
from meanflow_lite.evaluation.laws import (
    Law,
    OutlierShare,
    SlicedWasserstein,
    energy_to_law,
    law_of,
)
from meanflow_lite.networks.mlp import MLP
from meanflow_lite.objectives import FlowMatching
from meanflow_lite.paths import Uniform
from meanflow_lite.randomness import Random
from meanflow_lite.samplers import heun, integrate, jump_and_renoise, sample, uniform_times
from meanflow_lite.training.loop import TrainConfig, Trainer

COUNTS = (1, 2, 4, 16)  # evaluations (NFE); a velocity is also followed for 64
MARKS = 4  # looks along one run
WIDTH, DEPTH = 64, 3
TEACHER = {"lr": 3e-3, "law": "uniform"}
PAIRS = 16_384  # of reflow, a seed


@dataclass(frozen=True)
class Unlabeled:
    """A toy without its labels: every method is unconditional here."""

    toy: Toy

    def sample(self, n: int, generator: torch.Generator | None = None) -> Batch:
        """``n`` rows and no labels."""
        return self.toy.sample(n, generator)[0], None


@dataclass(frozen=True)
class Pool:
    """Rows of each seed from its own fixed pool, ``[N, S, ...]``: drawn anew in every step."""

    rows: Tensor

    def __call__(self, step: int, size: int, seed: int, part: int = 0, parts: int = 1) -> Batch:
        """``size`` rows in all, interleaved by seed."""
        n, seeds = self.rows.shape[:2]
        pick = torch.randint(n, (size // seeds,), generator=seeded(seed, step, 1))
        return self.rows[pick].flatten(0, 1)[part::parts], None


@cache
def judges(name: str, n: int) -> tuple[Law, SlicedWasserstein, OutlierShare]:
    """The law of a toy and the judges that are built from it."""
    law = law_of(toy(name))
    return law, SlicedWasserstein(law, n), OutlierShare(law)


@cache
def noise(name: str, block: int, seeds: int, rows: int) -> Tensor:
    """The noise that every method of a block is judged on, interleaved by seed."""
    return torch.randn(rows * seeds, toy(name).dim, generator=seeded(block, 0, 7))


@cache
def truth(name: str, block: int, seeds: int, rows: int) -> Tensor:
    """Where the exact flow takes the first rows of the noise."""
    eps = noise(name, block, seeds, rows)[: seeds * min(rows, 1024)]
    return sample(toy(name).average, eps)  # pyright: ignore[reportAttributeAccessIssue]


def judged(made: Tensor, name: str, everything: bool = True) -> dict[str, float]:
    """All three judges, or the energy distance alone."""
    law, sliced, outliers = judges(name, len(made))
    found = {"energy": energy_to_law(made, law)}
    if everything:
        found |= {"sliced": sliced(made), "outliers": outliers(made)}
    return found


def walk(u, eps: Tensor, n: int) -> Tensor | None:
    """Samples by ``n`` evaluations, the way the method is meant to; None where it has no way."""
    if u.domain == INSTANT:
        return integrate(u, eps, uniform_times(n))
    if u.domain == TO_DATA:
        noises = [eps] + [torch.randn(eps.shape, generator=seeded(1, k, 7)) for k in range(1, n)]
        return jump_and_renoise(u, noises, uniform_times(n))
    if u.domain == ONE_JUMP and n > 1:
        return None
    return sample(u, eps, uniform_times(n))


def build_trainer(cell: dict, folder: Path, seeds: int) -> tuple[Trainer, float]:
    """The trainer of a cell and the seconds of its teacher; ``seeds`` 0: nothing is stacked."""
    recipe, data, settings = METHODS[cell["method"]], toy(cell["toy"]), cell["settings"]
    width = cell["batch"] * max(seeds, 1)
    config = TrainConfig(
        steps=cell["steps"], batch=width, lr=settings["lr"], cooldown=0.5, seed=cell["block"]
    )
    batches = FromDistribution(Unlabeled(data))
    net, seconds, teacher = fresh(data.dim, cell["block"], seeds), 0.0, None
    if recipe.teacher:
        teacher, seconds = teach(cell, folder, seeds)
        net.load_state_dict(teacher.state_dict())
        if cell["method"] == "reflow":
            batches, more = pairs(teacher, cell, seeds)
            seconds += more
    torch.manual_seed(10_000 + cell["block"])
    build = Build(LAWS[settings["law"]], data.dim, seeds)
    objective = recipe.objective(build, settings["knob"])
    if seeds:
        return StackTrainer(net, objective, batches, config, teacher), seconds  # pyright: ignore
    return Trainer(net, objective, batches, config, teacher), seconds


def fresh(dim: int, block: int, seeds: int) -> nn.Module:
    """Networks at their start, the same for every method."""
    members = []
    for k in range(max(seeds, 1)):
        torch.manual_seed(1000 * block + k)
        members.append(MLP(dim, WIDTH, DEPTH))
    return Stack(members) if seeds else members[0]


def teach(cell: dict, folder: Path, seeds: int) -> tuple[nn.Module, float]:
    """A flow matching teacher of as many steps, kept in ``folder`` for the other students."""
    keys = ("toy", "block", "steps", "batch")
    path = folder / ("teacher-" + "-".join(str(cell[k]) for k in keys) + f"-{seeds}.pt")
    net = fresh(toy(cell["toy"]).dim, cell["block"], seeds)
    if path.exists():
        kept = torch.load(path, weights_only=True)
        net.load_state_dict(kept["net"])
        return net.requires_grad_(False), kept["seconds"]
    config = TrainConfig(
        steps=cell["steps"],
        batch=cell["batch"] * max(seeds, 1),
        lr=TEACHER["lr"],
        cooldown=0.5,
        seed=cell["block"],
    )
    batches = FromDistribution(Unlabeled(toy(cell["toy"])))
    objective = FlowMatching(Uniform())
    trainer = (StackTrainer if seeds else Trainer)(net, objective, batches, config)  # pyright: ignore
    began = time.process_time()
    list(trainer.run())
    seconds = time.process_time() - began
    taught = trainer.averages[0].net
    partial = path.with_suffix(".tmp")
    torch.save({"net": taught.state_dict(), "seconds": seconds}, partial)
    partial.replace(path)
    net.load_state_dict(taught.state_dict())
    return net.requires_grad_(False), seconds


def pairs(teacher: nn.Module, cell: dict, seeds: int) -> tuple[Pool, float]:
    """Noise and where 16 of Heun's steps take it, for one round of reflow."""
    began = time.process_time()
    n = min(PAIRS, 64 * cell["batch"]) * max(seeds, 1)
    eps = torch.randn(n, toy(cell["toy"]).dim, generator=seeded(cell["block"], 3, 7))
    end = integrate(teacher, eps, uniform_times(16), step=heun)  # pyright: ignore
    rows = torch.stack([eps, end], 1).unflatten(0, (-1, max(seeds, 1)))
    return Pool(rows), time.process_time() - began


def run(cell: dict, folder: Path) -> dict:
    """One line of the bench: what all seeds of a cell reached."""
    if "cost" in cell:
        return cost(cell, folder)
    if cell["method"] not in METHODS:
        return {"runs": [control(cell, k) for k in range(cell["seeds"])]}
    recipe, seeds = METHODS[cell["method"]], cell["seeds"]
    trainer, taught = build_trainer(cell, folder, seeds)
    eps = noise(cell["toy"], cell["block"], seeds, cell["rows"])
    curves: list[list[dict]] = [[] for _ in range(seeds)]
    spent = 0.0
    for k in range(MARKS):
        began = time.process_time()
        list(trainer.run(until=round(cell["steps"] * (k + 1) / MARKS)))
        spent += time.process_time() - began
        if cell["block"] == 0:
            for seed, found in enumerate(looked(trainer, cell, eps, recipe)):
                curves[seed].append({"step": trainer.step, **found})
    assert isinstance(trainer, StackTrainer)
    ends = finished(trainer, cell, eps)
    noises = gradient_noise(trainer) if cell["block"] == 0 else [{}] * seeds
    runs = [
        {"seed": k, "diverged": k in trainer.lost, "curve": curves[k], "nfe": ends[k], **noises[k]}
        for k in range(seeds)
    ]
    return {"runs": runs, "processor": spent, "teacher": taught}


def looked(trainer: Trainer, cell: dict, eps: Tensor, recipe: Recipe) -> list[dict]:
    """One-step energy distance of each seed on the way, and the error to the exact flow."""
    seeds = cell["seeds"]
    first = eps[: seeds * min(cell["rows"], 1024)]
    made = walk(trainer.field, first, 1)
    assert made is not None
    finds = []
    for k in range(seeds):
        own = made[k::seeds]
        found = judged(own, cell["toy"], False) if own.isfinite().all() else {"energy": math.nan}
        if recipe.flow_map:
            exact = truth(cell["toy"], cell["block"], seeds, cell["rows"])[k::seeds]
            found["error"] = float((own - exact).double().square().sum(1).mean().sqrt())
        finds.append(found)
    return finds


def finished(trainer: Trainer, cell: dict, eps: Tensor) -> list[dict]:
    """All judges at the end of a run, for each seed and number of evaluations."""
    seeds, ends = cell["seeds"], [{} for _ in range(cell["seeds"])]
    counts = COUNTS if cell["block"] == 0 else (METHODS[cell["method"]].judged,)
    if cell["method"] == "flow_matching" and cell["block"] == 0:
        counts = (*COUNTS, 64)
    made = {str(n): walk(trainer.field, eps, n) for n in counts}
    if trainer.field.domain == INSTANT:
        u = trainer.field
        made |= {
            f"heun {n}": integrate(u, eps, uniform_times(n // 2), step=heun)  # pyright: ignore
            for n in counts
            if n > 1
        }
    for count, rows in made.items():
        for k in range(seeds):
            if rows is not None and rows[k::seeds].isfinite().all():
                own = rows[k::seeds]
                own = own if count == "1" or cell["block"] else own[: len(own) // 2]
                ends[k][count] = judged(own, cell["toy"])
    return ends


def control(cell: dict, seed: int) -> dict:
    """Rows that train nothing: the data itself, a Gaussian of its moments, the noise."""
    name, rows, seeds = cell["toy"], cell["rows"], cell["seeds"]
    data = toy(name)
    eps = noise(name, cell["block"], seeds, rows)[seed::seeds]
    if cell["method"] == "perfect":
        made = data.sample(rows, seeded(cell["block"], seed, 11))[0]
    elif cell["method"] == "moments":
        mean, covariance = law_of(data).moments()
        made = (mean + eps.double() @ torch.linalg.cholesky(covariance).T).float()
    else:
        made = eps
    ends = {"1": judged(made, name), "half": judged(made[: rows // 2], name)}
    run: dict = {"seed": seed, "diverged": False, "curve": [], "nfe": ends}
    if cell["method"] == "noise" and cell["block"] == 0:
        exact = truth(name, cell["block"], seeds, rows)[seed::seeds]
        gap = (eps[: len(exact)] - exact).double()
        run["curve"] = [{"step": 0, "error": float(gap.square().sum(1).mean().sqrt())}]
    return run


def noise_bound(record: dict, seeds: int) -> float:
    """What the mean over ``seeds`` perfect generators stays below in 95 of 100 cases."""
    values = torch.tensor([run["nfe"]["1"]["energy"] for run in record["runs"]])
    return 1.645 * float(values.std()) / math.sqrt(seeds)


def gradient_noise(trainer: StackTrainer, draws: int = 8) -> list[dict[str, float]]:
    """Of each seed: norm of the mean gradient at the end, root of its covariance's trace."""
    samples = []
    for k in range(draws):
        x, y = trainer.batches(10_000 + k, trainer.config.batch, trainer.config.seed)
        ctx = trainer._context(trainer.step, 0, Random(trainer.config.seed, 10_000 + k))
        trainer.net.zero_grad()
        draw = trainer.objective.draw(x, y, ctx)
        (trainer.size * trainer.module(draw, ctx).per_sample.mean()).backward()
        grads = [p.grad.flatten(1) for p in trainer.net.parameters() if p.grad is not None]
        samples.append(torch.cat(grads, 1))
    grad = torch.stack(samples)  # [draws, S, P]
    mean, spread = grad.mean(0).norm(dim=1), grad.var(0).sum(1).sqrt()
    pairs = zip(mean.tolist(), spread.tolist(), strict=True)
    return [{"gradient_norm": a, "gradient_noise": b} for a, b in pairs]


def cost(cell: dict, folder: Path, steps: int = 64) -> dict:
    """Milliseconds and peak memory of one step of one network, not stacked."""
    method = cell["cost"]
    settings = {**TEACHER, "knob": dict(METHODS[method].knobs[0])}
    whole = {"toy": "ring", "method": method, "settings": settings, "steps": steps, "block": 2}
    trainer, _ = build_trainer(whole | {"batch": cell["batch"]}, folder, 0)
    fastest = math.inf
    for k in range(8):
        began, before = time.process_time(), trainer.step
        list(trainer.run(until=steps * (k + 1) // 9))
        fastest = min(fastest, (time.process_time() - began) / (trainer.step - before))
    return {"milliseconds": 1000 * fastest, "peak_bytes": peak_bytes(trainer)}


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
