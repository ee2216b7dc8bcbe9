"""Every notebook under conditions it was not written under, compared with its stored outputs.

Other thread counts, a CPU without vector instructions, and, from an empty folder, a clean
environment that has nothing but the built wheel, its dependencies and what runs a notebook.

    python -m tools.portable [--only 05_identity ...] [--skip-wheel]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONDITIONS = [
    {"OMP_NUM_THREADS": "1"},
    {"OMP_NUM_THREADS": "2"},
    {"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "default"},
]
RUNNERS = ["nbval", "pytest", "ipykernel"]


def compare(python: str, notebooks: list[Path], conditions: dict[str, str], folder: Path) -> int:
    """Run ``notebooks`` by nbval in ``folder``; the exit status of pytest."""
    print(f"--- {conditions}", flush=True)
    command = [python, "-m", "pytest", "-q", "--nbval", "--nbval-current-env"]
    command += [f"--nbval-sanitize-with={ROOT / 'tests' / 'nbval_sanitize.cfg'}"]
    command += ["--nbval-cell-timeout=600", "-c", os.devnull, f"--rootdir={folder}"]
    command += [str(p) for p in notebooks]
    return subprocess.run(command, cwd=folder, env={**os.environ, **conditions}).returncode


def from_the_wheel(notebooks: list[Path]) -> int:
    """Build the wheel, install it alone, and run the notebooks where no repository is near."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dist, empty, venv = folder / "dist", folder / "empty", folder / "venv"
        subprocess.run([sys.executable, "-m", "build", "-w", "-o", dist, ROOT], check=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        python = str(venv / "bin" / "python")
        install = [python, "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
        subprocess.run([*install, *map(str, dist.glob("*.whl")), *RUNNERS], check=True)
        empty.mkdir()
        copies = [Path(shutil.copy(p, empty)) for p in notebooks]
        os.environ.pop("PYTHONPATH", None)
        return compare(python, copies, {"OMP_NUM_THREADS": "1"}, empty)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Notebooks under other conditions.")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--skip-wheel", action="store_true")
    options = parser.parse_args()
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    notebooks = [p for p in notebooks if not options.only or p.stem in options.only]
    failed = [c for c in CONDITIONS if compare(sys.executable, notebooks, c, ROOT / "notebooks")]
    failed += [] if options.skip_wheel or not from_the_wheel(notebooks) else [{"wheel": "alone"}]
    print(f"failed under: {failed}" if failed else "the same under every condition")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
