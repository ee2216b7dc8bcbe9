r"""Every method on one bench: the same network, data, seeds, number of steps and batches.

    python benchmarks/methods.py            # writes meanflow_lite/results/bench.json
    python benchmarks/methods.py --quick    # a minute; writes to a temporary folder
    python benchmarks/methods.py --table    # prints the tables of a finished run

Four parts, in this order, each decided by the one before:

1. a *pilot* on a toy that stands in no table fixes the number of steps;
2. a *search* on that toy, with half the steps and seeds that stand in no table: for each method the
   learning rate and the law of times, then a setting of its own, by the energy distance of one
   step. The shared settings are the rate and the law with the best mean rank over the methods;
3. the *final* runs: ten fresh seeds on three other toys, with shared and with own settings;
4. a *check*: the best three methods once more with twice the steps.

All judges know the exact law (:mod:`meanflow_lite.evaluation.laws`). Ten seeds train side by side
in one pass (``stacked.py``); a finished run is one line in a file beside the output, so a bench
that was stopped goes on. Teachers are trained for as many steps as their students.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness import RESULTS, Cell, environment, finish_cells, finished_lines, write
from measure import noise_bound, run
from recipes import CONTROLS, LAWS, METHODS, RATES
from tables import check_table, choices_table, result_table

TUNING = "moons"
TOYS = ("ring", "product", "mixture_a")
FIRST = {"lr": 3e-3, "law": "uniform"}
PILOT = ("meanflow", "improved_meanflow", "terminal_velocity", "drifting", "energy_generator")


@dataclass(frozen=True)
class Plan:
    """Sizes of a bench; ``budgets`` are the numbers of steps that the pilot may choose from."""

    budgets: tuple[int, ...] = (500, 1000)
    batch: int = 128
    seeds: int = 10
    trial_seeds: int = 3
    toys: tuple[str, ...] = TOYS
    rates: tuple[float, ...] = RATES
    laws: tuple[str, ...] = tuple(LAWS)
    rows: int = 2048


QUICK = Plan((16,), 32, 2, 2, TOYS[-1:], RATES[1:2], ("uniform",), 256)
Runner = Callable[[list[Cell]], list[dict]]


def trial(plan: Plan, method: str, steps: int, **settings) -> Cell:
    """One run on the toy of the search."""
    knob = METHODS[method].knobs[0] if method in METHODS else {}
    settings = {**FIRST, "knob": dict(knob), **settings}
    return {"toy": TUNING, "method": method, "steps": steps, "block": 1, **_sizes(plan, True)} | {
        "settings": settings
    }


def _sizes(plan: Plan, trial: bool) -> dict:
    seeds = plan.trial_seeds if trial else plan.seeds
    return {"seeds": seeds, "batch": plan.batch, "rows": plan.rows}


def mean_energy(record: dict, judged: int) -> float:
    """Mean over seeds of the energy distance; infinite where a seed diverged."""
    if any(run["diverged"] for run in record["runs"]):
        return math.inf
    values = [run["nfe"][str(judged)]["energy"] for run in record["runs"]]
    return sum(values) / len(values)


def fix_budget(plan: Plan, go: Runner) -> tuple[int, list[dict]]:
    """The smallest number of steps from which on, at every longer one that the pilot ran, the best
    three gain less than a factor 1.5 by twice as many or are at the noise of a perfect generator;
    the largest allowed if there is none.
    """
    steps = [*plan.budgets, 2 * plan.budgets[-1]]
    cells = [trial(plan, method, n) for method in PILOT for n in steps]
    cells.append(trial(plan, "perfect", 0))
    records = go(cells)
    energy = {
        (r["cell"]["method"], r["cell"]["steps"]): mean_energy(r, 1)
        for r in records
        if r["cell"]["method"] != "perfect"
    }
    noise = noise_bound(records[-1], plan.trial_seeds)
    fixed = plan.budgets[-1]
    for n in reversed(plan.budgets):
        best = sorted(PILOT, key=lambda method: energy[method, n])[:3]
        if any(energy[m, n] > max(noise, 1.5 * energy[m, 2 * n]) for m in best):
            break
        fixed = n
    return fixed, records


def search(plan: Plan, steps: int, go: Runner) -> tuple[dict[str, dict], dict, list[dict]]:
    """Own settings of each method, the shared ones, and all that was tried."""
    cells = [
        trial(plan, method, steps, lr=lr, law=law)
        for method, recipe in METHODS.items()
        for lr in plan.rates
        for law in (plan.laws if recipe.law else plan.laws[:1])
    ]
    first = go(cells)
    best = {m: _best(m, first) for m in METHODS}
    second = go(
        [
            trial(plan, method, steps, **{**best[method], "knob": dict(knob)})
            for method, recipe in METHODS.items()
            for knob in recipe.knobs[1:]
        ]
    )
    tried = first + second
    return {m: _best(m, tried) for m in METHODS}, _shared(plan, first), tried


def _best(method: str, records: list[dict]) -> dict:
    own = [r for r in records if r["cell"]["method"] == method]
    judged = METHODS[method].judged
    return min(own, key=lambda r: mean_energy(r, judged))["cell"]["settings"]


def _shared(plan: Plan, records: list[dict]) -> dict:
    """The rate and law with the smallest mean rank over all methods that draw times."""
    choices = [{"lr": lr, "law": law} for lr in plan.rates for law in plan.laws]
    ranks = [0.0] * len(choices)
    for method in (m for m, recipe in METHODS.items() if recipe.law):
        found = {
            (r["cell"]["settings"]["lr"], r["cell"]["settings"]["law"]): mean_energy(
                r, METHODS[method].judged
            )
            for r in records
            if r["cell"]["method"] == method
        }
        order = sorted(range(len(choices)), key=lambda i: found[tuple(choices[i].values())])
        for rank, i in enumerate(order):
            ranks[i] += rank
    return choices[ranks.index(min(ranks))]


def final_cells(plan: Plan, steps: int, own: dict[str, dict], shared: dict) -> list[Cell]:
    """Both tables; a run that stands in both is one cell."""
    block = {"block": 0, **_sizes(plan, False)}
    cells = [
        {"toy": name, "method": control, "steps": 0, **block, "settings": {}}
        for name in plan.toys
        for control in CONTROLS
    ]
    for which in ("own", "shared"):
        for name in plan.toys:
            for method, recipe in METHODS.items():
                common = {**FIRST, **(shared if recipe.law else {"lr": shared["lr"]})}
                common["knob"] = dict(recipe.knobs[0])
                settings = own[method] if which == "own" else common
                base = {"toy": name, "method": method, "steps": steps, **block}
                cell = base | {"settings": settings}
                cells += [] if cell in cells else [cell]
    return cells


def check_cells(plan: Plan, steps: int, own: dict[str, dict], records: list[dict]) -> list[Cell]:
    """The best three methods of each toy, with own settings and twice the steps."""
    cells = []
    for name in plan.toys:
        mine = [
            r
            for r in records
            if r["cell"]["toy"] == name and r["cell"]["settings"] == own.get(r["cell"]["method"])
        ]
        best = sorted((r for r in mine), key=lambda r: mean_energy(r, 1))[:3]
        cells += [r["cell"] | {"steps": 2 * steps} for r in best]
    return cells


def bench(plan: Plan, output: Path, workers: int, finished: bool = False) -> dict:
    """All four parts; returns what is written. With ``finished`` nothing is run."""
    kept = output.with_suffix(".cells")

    def go(cells: list[Cell]) -> list[dict]:
        if finished:
            done = {json.dumps(r["cell"], sort_keys=True): r for r in finished_lines(kept).values()}
            keys = [json.dumps(cell, sort_keys=True) for cell in cells]
            return [done[key] for key in keys if key in done]
        return finish_cells(cells, partial(run, folder=output.parent), kept, workers)

    steps, pilot = fix_budget(plan, go)
    own, shared, tried = search(plan, max(steps // 2, 1), go)
    final = go(final_cells(plan, steps, own, shared))
    check = go(check_cells(plan, steps, own, final))
    cost = go([{"cost": method, "batch": 256} for method in METHODS])
    return {
        "environment": environment(),
        "plan": {**vars(plan), "tuning": TUNING, "steps": steps},
        "shared": shared,
        "own": own,
        "pilot": pilot,
        "search": tried,
        "final": final,
        "check": check,
        "cost": cost,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore
    parser.add_argument("--quick", action="store_true", help="a minute, into a temporary folder")
    parser.add_argument("--table", action="store_true", help="print the tables of a finished run")
    parser.add_argument("--output", type=Path, help="another place for the result")
    parser.add_argument(
        "--finished", action="store_true", help="write what a stopped bench has so far; run nothing"
    )
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    output = args.output or RESULTS / "bench.json"
    if args.quick and not args.output:
        output = Path(tempfile.mkdtemp()) / "bench.json"
    if not args.table:
        plan = QUICK if args.quick else Plan()
        write(output, bench(plan, output, args.workers, args.finished))
        if not args.finished:
            output.with_suffix(".cells").unlink(missing_ok=True)
    result = json.loads(output.read_text())
    for text in (choices_table(result), *map(partial(result_table, result), ("shared", "own"))):
        print(text + "\n")
    print(check_table(result))


if __name__ == "__main__":
    main()
