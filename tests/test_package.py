"""The wheel and the sdist hold what they should, nothing else, and work where no repository is."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tools import portable

ROOT = Path(__file__).resolve().parent.parent
DATA = [
    "meanflow_lite/notebook/published.yml",
    "meanflow_lite/notebook/live_js/stage.js",
    "meanflow_lite/evaluation/digits_features.safetensors",
    "meanflow_lite/results/digits/model.safetensors",
    "meanflow_lite/results/methods.json",
]
TOPLEVEL = ["Makefile", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "constraints.txt"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="compares with what git tracks"),
]


def run(command, folder, env=None) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def in_git(*folders: str) -> set[str]:
    """What git tracks there, or would: everything that it is not told to ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders]
    return {name for name in run(command, ROOT).splitlines() if (ROOT / name).is_file()}


def contents(wheel: Path) -> set[str]:
    return {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return portable.build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def python(tmp_path_factory, wheel) -> str:
    return portable.borrowed_environment(tmp_path_factory.mktemp("alone") / "venv", wheel)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """The unpacked folder of the sdist."""
    folder = tmp_path_factory.mktemp("sdist")
    run([sys.executable, "-m", "build", "--sdist", "--no-isolation", "-o", folder, ROOT], folder)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(p for p in folder.iterdir() if p.is_dir())


def test_the_wheel_is_the_package_and_nothing_else(wheel):
    assert contents(wheel) == in_git("meanflow_lite")
    assert set(DATA) <= contents(wheel)


def test_the_wheel_installed_alone_works_in_an_empty_folder(python, tmp_path):
    library = portable.library_of(python, tmp_path)
    assert not library.is_relative_to(ROOT)
    env = portable.isolated(tmp_path)
    doctor = Path(python).parent / "meanflow-lite"
    said = run([doctor, "doctor"], tmp_path, env)
    assert "derivative (JVP)     works" in said
    modules = sorted(n for n in in_git("meanflow_lite") if n.endswith(".py"))
    names = [n.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for n in modules]
    names = [n for n in names if not n.endswith("__main__")]
    reads = "from meanflow_lite import notebook as nb; nb.all_published(); nb.results('methods')"
    run([python, "-c", f"import {', '.join(names)}\n{reads}"], tmp_path, env)


def test_isolation_would_see_the_repository():
    """The negative control: this very environment imports the repository, and that is noticed."""
    assert portable.library_of(sys.executable, ROOT).is_relative_to(ROOT)


def test_the_sdist_is_the_tracked_tree(sdist):
    files = {str(p.relative_to(sdist)) for p in sdist.rglob("*") if p.is_file()}
    assert files - {"PKG-INFO"} == in_git()
    assert set(TOPLEVEL) <= files


def test_the_sdist_builds_the_same_wheel_and_runs_tests(sdist, wheel, python, tmp_path):
    run([sys.executable, "-m", "build", "-w", "--no-isolation", "-o", tmp_path, sdist], tmp_path)
    assert contents(next(tmp_path.glob("*.whl"))) == contents(wheel)
    tests = ["tests/test_paths.py", "tests/test_readme.py"]
    run([python, "-m", "pytest", "-q", *tests], sdist, portable.isolated(tmp_path))
