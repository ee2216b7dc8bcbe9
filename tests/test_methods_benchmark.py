"""The bench of all methods: its quick run gives every cell, and a stopped run goes on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from meanflow_lite.objectives import OBJECTIVES

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from recipes import CONTROLS, METHODS  # noqa: E402


@pytest.mark.slow
def test_the_quick_bench_runs_every_method(tmp_path):
    command = [
        sys.executable,
        "benchmarks/methods.py",
        "--quick",
        "--output",
        str(tmp_path / "m.json"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "m.json").read_text())
    assert {"command", "torch", "machine"} <= result["environment"].keys()
    assert set(OBJECTIVES) - {"flow_matching"} < set(result["own"])
    assert set(result["own"]) == set(METHODS) and result["shared"]["lr"] > 0
    rows = {(r["cell"]["method"], json.dumps(r["cell"]["settings"])) for r in result["final"]}
    assert {name for name, _ in rows} == {*METHODS, *CONTROLS}
    seeds = result["plan"]["seeds"]
    for record in result["final"]:
        method, runs = record["cell"]["method"], record["runs"]
        assert [run["seed"] for run in runs] == list(range(seeds))
        assert not any(run["diverged"] for run in runs)
        aims_at_u = METHODS[method].flow_map if method in METHODS else method == "noise"
        assert all(
            ("error" in run["curve"][-1] if run["curve"] else False) == aims_at_u for run in runs
        )
    for record in result["cost"]:
        assert record["milliseconds"] > 0 and record["peak_bytes"] > 0
    assert len(result["check"]) == 3 and "a perfect generator" in done.stdout
    # a stopped run goes on: half of the lines, and one that was cut off
    again = tmp_path / "again"
    again.mkdir()
    lines = [json.dumps(r) for r in (*result["pilot"], *result["search"], *result["final"])]
    (again / "m.cells").write_text("\n".join(lines) + '\n{"cell": {"toy"')
    command[-1] = str(again / "m.json")
    more = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert more.returncode == 0, more.stderr
    finished = json.loads((again / "m.json").read_text())
    assert finished["final"] == result["final"] and not (again / "m.cells").exists()
