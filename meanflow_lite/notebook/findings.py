"""Findings: numbers and paired intervals that the ledger and the chapters read from results.

A finding is a name and a function of the result files. ``told`` fills a text that names findings
and published numbers, so that no sentence of the ledger holds a number that was typed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from statistics import mean

from meanflow_lite.evaluation.paired import Comparison, paired_difference, paired_ratio
from meanflow_lite.notebook.claims import published, results

Runs = dict[int, float]


def as_text(found: Comparison, digits: int = 2) -> str:
    """A paired ratio with its interval, and in how many seeds the first is worse."""
    center, low, high = (f"{value:.{digits}f}" for value in found.interval)
    return f"ratio {center} [{low}, {high}], larger in {found.worse} of {found.n} seeds"


def as_difference(found: Comparison, digits: int = 4) -> str:
    """A paired difference with its interval, and in how many seeds the first is worse."""
    center, low, high = (f"{value:+.{digits}f}" for value in found.interval)
    return f"difference {center} [{low}, {high}], larger in {found.worse} of {found.n} seeds"


def paired_runs(first: Runs, second: Runs) -> tuple[list[float], list[float]]:
    """The values of the seeds that both have, in one order."""
    seeds = sorted(first.keys() & second.keys())
    return [first[s] for s in seeds], [second[s] for s in seeds]


@cache
def ablation(variant: str, toy: str = "product", width: int = 64) -> dict[int, float]:
    """One-step error at the end of each run of chapter 12's benchmark, by seed."""
    return {
        cell["cell"]["seed"]: cell["one_step_error"][-1]
        for cell in results("ablations")["cells"]
        if (cell["cell"]["variant"], cell["cell"]["toy"], cell["cell"]["width"])
        == (variant, toy, width)
    }


def against_base(variant: str) -> Comparison:
    """A variant of the ablations over the base setting, paired by seed."""
    return paired_ratio(*paired_runs(ablation(variant), ablation("base")))


def ablation_spread() -> float:
    """Largest over smallest mean one-step error among settings that the article leaves out."""
    left_out = ("p_equal: 0.0", "p_equal: 0.75", "p: 0.5", "p: 1.0", "told: t-r")
    left_out += ("law: logit-normal(-0.4, 1)", "base")
    means = [mean(ablation(name).values()) for name in left_out]
    return max(means) / min(means)


@cache
def guidance(scale: float, kappa: float, of: str = "one_step", variant: str = "") -> Runs:
    """A measurement of the benchmark of guidance, by seed."""
    return {
        cell["cell"]["seed"]: cell[of]
        for cell in results("guidance")["cells"]
        if cell["cell"]["scale"] == scale
        and cell["cell"]["kappa"] == kappa
        and cell["cell"].get("variant", "") == variant
    }


def told_scale() -> Runs:
    """One-step error at scale 2 of the network that takes the scale as an input, by seed."""
    return {
        cell["cell"]["seed"]: cell["one_step_at_scale"]["2.0"]
        for cell in results("guidance")["cells"]
        if cell["cell"].get("variant") == "omega as input"
    }


def best_middles() -> str:
    """In how many runs the best of the middle times is below one half, by kappa."""
    parts = []
    cells = [c for c in results("guidance")["cells"] if "variant" not in c["cell"]]
    for kappa in sorted({c["cell"]["kappa"] for c in cells}):
        best = [
            float(min(c["two_steps"], key=c["two_steps"].get))
            for c in cells
            if c["cell"]["kappa"] == kappa
        ]
        parts.append(
            f"kappa {kappa:g}: below one half in {sum(b < 0.5 for b in best)} of {len(best)}"
        )
    return "; ".join(parts)


def digits(**wanted: object) -> list[dict]:
    """Cells of the digits' benchmark with these settings."""
    return [
        c
        for c in results("digits")["cells"]
        if all(c["cell"].get(name) == value for name, value in wanted.items())
    ]


def digits_sizes() -> Comparison:
    """Frechet distance of the largest over that of the middle network, paired by seed."""
    large, middle = (
        {
            c["cell"]["seed"]: c["one_step"]["frechet"][0]
            for c in digits(network=f"digits-{size}", lr=0.003, steps=500)
        }
        for size in ("M", "S")
    )
    return paired_ratio(*paired_runs(large, middle))


def digits_scales() -> str:
    """One-step Frechet distances with their intervals, by guidance scale."""
    parts = []
    for scale in (1.0, 1.5, 2.0):
        (cell,) = digits(method="meanflow", steps=1200, scale=scale)
        center, low, high = cell["one_step"]["frechet"]
        parts.append(f"scale {scale:g}: {center:.1f} [{low:.1f}, {high:.1f}]")
    return "; ".join(parts)


def digits_latency() -> str:
    """Time of a walk over time of a jump, by batch."""
    (cell,) = digits(method="shipped")
    return ", ".join(
        f"{batch} at a time: {times['ratio']:.0f} times as long"
        for batch, times in cell["latency_ms"].items()
    )


def _scaling(power: str) -> str:
    if power == "fid":
        return f"{published('meanflow-b2-1nfe').value / published('meanflow-xl2-1nfe').value:.1f}"
    large, small = published("meanflow-xl2-params"), published("meanflow-b2-params")
    return f"{large.value / small.value:.1f}"


def _embedder(size: str) -> str:
    gap = published(f"meanflow-{size}-params").value - published(f"dit-{size}-params").value
    return f"{gap:.1f}"


def _best_omega() -> str:
    scales = ("1", "1.5", "2", "3", "5")
    return min(scales, key=lambda s: published(f"ablation-omega-{s}").value)


def _ratio(variant: str) -> Callable[[], str]:
    return lambda: as_text(against_base(variant))


FINDINGS: dict[str, Callable[[], str]] = {
    "scaling-parameters": lambda: _scaling("parameters"),
    "scaling-fid": lambda: _scaling("fid"),
    "embedder-b2": lambda: _embedder("b2"),
    "embedder-xl2": lambda: _embedder("xl2"),
    "best-omega": _best_omega,
    "ablation-r-zero": _ratio("r: fixed at 0"),
    "ablation-difference": lambda: (
        "step 0.1, first order: "
        + as_text(against_base("derivative: difference, step 0.1"))
        + "; second order: "
        + as_text(against_base("derivative: second order, step 0.1"))
    ),
    "ablation-spread": lambda: f"{ablation_spread():.0f}",
    "ablation-share": lambda: as_text(
        paired_ratio(*paired_runs(ablation("p_equal: 0.75"), ablation("p_equal: 0.0")))
    ),
    "ablation-embedding": lambda: (
        "(t, r): "
        + as_text(against_base("told: t, r"))
        + "; t - r alone: "
        + as_text(against_base("told: t-r"))
    ),
    "ablation-law": _ratio("law: logit-normal(-0.4, 1)"),
    "ablation-power": _ratio("p: 1.0"),
    "ablation-stop-gradient": _ratio("stop-gradient: off"),
    "guidance-kappa": lambda: as_text(
        paired_ratio(*paired_runs(guidance(2.0, 0.5), guidance(2.0, 0.0)))
    ),
    "guidance-input": lambda: as_text(paired_ratio(*paired_runs(told_scale(), guidance(2.0, 0.5)))),
    "guidance-positional": lambda: (
        "one step with the null label: "
        + as_text(
            paired_ratio(
                *paired_runs(
                    *(guidance(2.0, 0.5, "null_one_step", v) for v in ("positional", "random"))
                )
            )
        )
    ),
    "guidance-midpoint": best_middles,
    "digits-scale": lambda: f"{digits(method='shipped')[0]['cell']['scale']:g}",
    "digits-scales": digits_scales,
    "digits-sizes": lambda: as_text(digits_sizes()),
    "digits-latency": digits_latency,
}


def told(text: str) -> str:
    """``text`` with each ``{results:NAME}`` and ``{published:KEY:FORMAT}`` filled in.

    FORMAT is a format of the value, or the name of one of the row's conditions.
    Raises ``KeyError`` that names an unknown finding or number.
    """
    return re.sub(r"\{(results|published):([^:}]+)(?::([^}]*))?\}", _filled, text)


def _filled(match: re.Match[str]) -> str:
    kind, name, spec = match.groups()
    if kind == "results":
        if name not in FINDINGS:
            raise KeyError(f"findings.py has no finding {name!r}; it has {sorted(FINDINGS)}")
        return FINDINGS[name]()
    row = published(name)
    if spec and spec.isidentifier():
        condition = getattr(row, spec)
        if not condition:
            raise KeyError(f"the published number {name!r} has no {spec}")
        return condition
    return format(row, spec or "")


__all__ = ["FINDINGS", "against_base", "as_difference", "as_text", "paired_difference", "told"]
