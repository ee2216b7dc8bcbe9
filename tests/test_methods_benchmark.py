"""The bench of all methods: its quick run gives every cell, and a stopped run goes on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from meanflow_lite.objectives import OBJECTIVES

ROOT = Path(__file__).parents[1]


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
    cells = result["cells"]
    assert {"command", "torch", "machine"} <= result["environment"].keys()
    methods = [cell["cell"]["method"] for cell in cells]
    assert set(OBJECTIVES) <= set(methods) and len(methods) == len(set(methods))
    assert not any(cell["diverged"] for cell in cells)
    for cell in cells:
        assert cell["milliseconds"] > 0 and cell["peak_bytes"] > 0 and cell["nfe"]["1"]["energy"]
        aims_at_u = cell["cell"]["method"] not in ("drifting", "adversarial_distillation")
        assert ("error" in cell["curve"][-1]) == aims_at_u
