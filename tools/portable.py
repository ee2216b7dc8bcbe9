"""Every notebook under conditions it was not written under, compared with its stored outputs.

Other thread counts, a CPU without vector instructions, and, from an empty folder, a clean
environment that has nothing but the built wheel, its dependencies and what runs a notebook.

    python -m tools.portable [--only 06_identity ...] [--skip-wheel]
    python -m tools.portable --here    # installs the wheel into the running environment (Colab)
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONDITIONS = [
    {"OMP_NUM_THREADS": "1"},
    {"OMP_NUM_THREADS": "2"},
    {"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "default"},
]
RUNNERS = ["nbval", "pytest", "ipykernel"]
WHERE = "import meanflow_lite; print(meanflow_lite.__file__)"


def compare(python: str, notebooks: list[Path], folder: Path, env: dict[str, str]) -> int:
    """Run ``notebooks`` by nbval in ``folder``; the exit status of pytest."""
    command = [python, "-m", "pytest", "-q", "--nbval", "--nbval-current-env"]
    command += [f"--nbval-sanitize-with={ROOT / 'tests' / 'nbval_sanitize.cfg'}"]
    command += ["--nbval-cell-timeout=600", "-c", os.devnull, f"--rootdir={folder}"]
    command += [str(p) for p in notebooks]
    return subprocess.run(command, cwd=folder, env=env).returncode


def isolated(folder: Path) -> dict[str, str]:
    """An environment in which neither the repository nor the user's own settings are seen."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "JUPYTER"))}
    own = {"PYTHONNOUSERSITE": "1", "JUPYTER_DATA_DIR": str(folder / "jupyter")}
    return {**env, **own, "OMP_NUM_THREADS": "1"}


def build_wheel(folder: Path) -> Path:
    """The wheel of this tree, in ``folder``."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("*.whl"))


def clean_environment(folder: Path, wheel: Path) -> str:
    """The Python of a new environment with the wheel, its dependencies and the runners."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = str(folder / "bin" / "python")
    install = [python, "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*install, str(wheel), *RUNNERS], check=True)
    return python


def borrowed_environment(folder: Path, wheel: Path) -> str:
    """The same within seconds: the wheel is installed, its dependencies are this environment's.

    They come by a .pth file, whose folders Python does not search for further .pth files: the
    editable installation of the repository, which is one, stays behind.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = str(folder / "bin" / "python")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps"]
    subprocess.run([*install, "--no-index", str(wheel)], check=True)
    places = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    link = Path(places.stdout.strip()) / "borrowed.pth"
    link.write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    return python


def library_of(python: str, folder: Path) -> Path:
    """The file from which ``python``, started in ``folder``, imports the library."""
    command = [python, "-c", WHERE]
    done = subprocess.run(
        command, cwd=folder, env=isolated(folder), check=True, capture_output=True, text=True
    )
    return Path(done.stdout.strip()).resolve()


def from_the_wheel(notebooks: list[Path]) -> int:
    """Build the wheel, install it alone, and run the notebooks where no repository is near."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        python = clean_environment(folder / "venv", build_wheel(folder / "dist"))
        return in_an_empty_folder(python, notebooks, folder / "empty")


def here(notebooks: list[Path]) -> int:
    """Install the wheel into the running environment, whose torch must stay, and run there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        pip, torch = [sys.executable, "-m", "pip", "install", "-q"], version("torch")
        subprocess.run([*pip, "build", "hatchling", *RUNNERS], check=True)
        subprocess.run([*pip, str(build_wheel(folder / "dist"))], check=True)
        if version("torch") != torch:
            print(f"installing the library replaced torch {torch} by {version('torch')}")
            return 1
        return in_an_empty_folder(sys.executable, notebooks, folder / "empty")


def in_an_empty_folder(python: str, notebooks: list[Path], empty: Path) -> int:
    """Run copies of ``notebooks`` in ``empty``; 1 if the library would come from the repository."""
    empty.mkdir()
    library = library_of(python, empty)
    print(f"--- the wheel alone, {library.parent}", flush=True)
    if library.is_relative_to(ROOT) and ROOT / ".venv" not in library.parents:
        print("that is the repository: this environment does not isolate")
        return 1
    copies = [Path(shutil.copy(p, empty)) for p in notebooks]
    return compare(python, copies, empty, isolated(empty))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Notebooks under other conditions.")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--skip-wheel", action="store_true")
    parser.add_argument("--here", action="store_true")
    options = parser.parse_args()
    known = {p.stem: p for p in sorted((ROOT / "notebooks").glob("*.ipynb"))}
    unknown = [name for name in options.only if name not in known]
    if unknown:
        parser.error(f"no notebook is called {unknown}; there are {sorted(known)}")
    notebooks = [known[name] for name in options.only or known]
    if options.here:
        return here(notebooks)
    failed: list[dict[str, str]] = []
    for condition in CONDITIONS:
        print(f"--- {condition}", flush=True)
        env = {**os.environ, **condition}
        if compare(sys.executable, notebooks, ROOT / "notebooks", env):
            failed.append(condition)
    if not options.skip_wheel and from_the_wheel(notebooks):
        failed.append({"wheel": "alone"})
    print(f"failed under: {failed}" if failed else "the same under every condition")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
