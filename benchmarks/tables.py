"""Tables of the bench: paired by seed, with intervals; what is below the noise is a bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from measure import noise_bound
from recipes import CONTROLS, LABELS, METHODS

from meanflow_lite.evaluation.intervals import seed_interval
from meanflow_lite.evaluation.paired import paired_difference, paired_ratio

Result = dict[str, Any]


def settings_of(result: Result, method: str, which: str) -> dict:
    """What a method runs with in one of the tables, ``shared`` or ``own``."""
    if method in CONTROLS:
        return {}
    if which == "own":
        return result["own"][method]
    recipe = METHODS[method]
    law = result["shared"]["law"] if recipe.law else "uniform"
    return {"lr": result["shared"]["lr"], "law": law, "knob": dict(recipe.knobs[0])}


def runs_of(result: Result, toy: str, method: str, which: str) -> list[dict]:
    """The runs of a method on a toy, one a seed."""
    wanted = settings_of(result, method, which)
    # a bench that was stopped lacks runs: their rows are empty
    for record in result["final"]:
        cell = record["cell"]
        if (cell["toy"], cell["method"]) == (toy, method) and cell["settings"] == wanted:
            return record["runs"]
    return []


def energy(count: str) -> Callable[[dict], float | None]:
    """Of one run, the energy distance after ``count`` evaluations."""
    return lambda run: run["nfe"].get(count, {}).get("energy")


def error(run: dict) -> float | None:
    """Of one run, the one-step error to the exact flow."""
    return run["curve"][-1].get("error") if run["curve"] else None


def bounded(values: list[float | None], noise: float, digits: int = 4) -> str:
    """Mean and interval over seeds, or a bound where the mean is below the noise."""
    known = [v for v in values if v is not None]
    if len(known) < 2:
        return ""
    center, low, high = seed_interval(known)
    if center < noise:
        return f"< {max(high, noise):.{digits}f}"
    return f"{center:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def against(result: Result, toy: str, method: str, which: str, of: Callable) -> str:
    """A method against MeanFlow, seed by seed: the difference, and how many seeds are worse."""
    mine, base = ([of(run) for run in runs_of(result, toy, m, which)] for m in (method, "meanflow"))
    if method == "meanflow" or not base or None in mine or None in base:
        return ""
    positive = of is error
    found = (paired_ratio if positive else paired_difference)(mine, base)
    _, low, high = found.interval
    sign = "x " if positive else ""
    return f"{sign}[{low:.3g}, {high:.3g}], {found.worse}/{found.n}"


def result_table(result: Result, which: str) -> str:
    """A row a toy and method; differences to MeanFlow paired by seed."""
    lines = [
        f"Settings: {which}",
        "| toy | method | energy, 1 evaluation | minus MeanFlow's, seeds worse | 2 | 4 | 16 "
        "| sliced W2, excess | outliers | error to the flow | over MeanFlow's, worse | lost |",
        "|" + "---|" * 12,
    ]
    for toy in result["plan"]["toys"]:
        perfect = runs_of(result, toy, "perfect", which)
        noise = noise_bound({"runs": perfect}, len(perfect))
        floor = seed_interval([run["nfe"]["1"]["sliced"] for run in perfect]).center
        for method in (*METHODS, *CONTROLS):
            runs = runs_of(result, toy, method, which)
            if not runs:
                continue
            good = [run for run in runs if not run["diverged"] and run["nfe"].get("1")]
            sliced = [run["nfe"]["1"]["sliced"] - floor for run in good]
            row = [toy, LABELS[method], bounded([energy("1")(run) for run in good], noise)]
            row.append(against(result, toy, method, which, energy("1")))
            row += [bounded([energy(n)(run) for run in good], noise) for n in ("2", "4", "16")]
            row.append(bounded(sliced, 0.0, 3))
            row.append(bounded([run["nfe"]["1"]["outliers"] for run in good], 0.0, 3))
            row.append(bounded([error(run) for run in good], 0.0, 3))
            row.append(against(result, toy, method, which, error))
            row.append(f"{len(runs) - len(good)}/{len(runs)}")
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def choices_table(result: Result) -> str:
    """What the search chose."""
    plan = result["plan"]
    lines = [
        f"{plan['steps']} steps of {plan['batch']} rows; shared: lr {result['shared']['lr']}, "
        f"{result['shared']['law']}",
        "| method | lr | law of times | own setting | ms | MB |",
        "|" + "---|" * 6,
    ]
    nothing = {"milliseconds": 0.0, "peak_bytes": 0}
    costs = {method: nothing for method in result["own"]}
    costs |= {record["cell"]["cost"]: record for record in result["cost"]}
    for method, own in result["own"].items():
        law = own["law"] if METHODS[method].law else ""
        knob = ", ".join(f"{k} {v}" for k, v in own["knob"].items())
        spent = costs[method]
        row = [LABELS[method], str(own["lr"]), law, knob, f"{spent['milliseconds']:.1f}"]
        lines.append("| " + " | ".join([*row, f"{spent['peak_bytes'] / 1e6:.1f}"]) + " |")
    return "\n".join(lines)


def check_table(result: Result) -> str:
    """The best three of each toy against themselves with twice the steps."""
    lines = ["| toy | method | energy | with twice the steps | factor |", "|" + "---|" * 5]
    for record in result["check"]:
        toy, method = record["cell"]["toy"], record["cell"]["method"]
        noise = noise_bound({"runs": runs_of(result, toy, "perfect", "own")}, len(record["runs"]))
        once, twice = (
            [energy("1")(run) for run in runs]
            for runs in (runs_of(result, toy, method, "own"), record["runs"])
        )
        a, b = (sum(values) / len(values) for values in (once, twice))  # pyright: ignore
        factor = f"{a / b:.2f}" if min(a, b) > noise else "at the noise"
        row = [toy, LABELS[method], bounded(once, noise), bounded(twice, noise), factor]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)
