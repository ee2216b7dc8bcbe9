"""A module imports only what stands above it; the environment files agree; the book lists all."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "meanflow_lite"
ORDER = [
    "randomness",
    "paths",
    "domains",
    "fields",
    "conventions",
    "identity",
    "guidance",
    "losses",
    "samplers",
    "objectives",
    "networks",
    "files",
    "data",
    "training",
    "evaluation",
    "weights",
    "runs",
    "cli",
    "notebook",
]
FILES = sorted(PACKAGE.rglob("*.py"))


def own_module(path: Path) -> str:
    """The first part of a file's place in the package; "" for the package's own __init__."""
    part = path.relative_to(PACKAGE).parts[0]
    return "" if part == "__init__.py" else part.removesuffix(".py")


def imported_modules(source: str) -> set[str]:
    """Parts of meanflow_lite that a module imports, wherever in it the import stands."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            if node.module == "meanflow_lite":
                names |= {f"meanflow_lite.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            raise AssertionError("relative imports hide the order; write meanflow_lite.x")
    parts = [n.split(".") for n in names if n.startswith("meanflow_lite.")]
    return {p[1] for p in parts if p[1] != "__version__"}


def offenders(module: str, source: str) -> set[str]:
    """What ``module`` imports and does not stand above it."""
    return {n for n in imported_modules(source) if n != module} - set(ORDER[: ORDER.index(module)])


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_what_stands_above_it(path):
    module = own_module(path)
    if module and module != "__main__":  # which only starts the command line
        assert module in ORDER, f"{module} has no place in the order"
        assert not offenders(module, path.read_text("utf-8"))


def test_the_order_catches_an_import_from_below():
    assert offenders("paths", "from meanflow_lite.networks import MLP") == {"networks"}
    assert offenders("losses", "def f():\n    import meanflow_lite.training") == {"training"}
    assert offenders("networks", "from meanflow_lite import paths") == set()


def test_files_can_be_read_in_one_sitting():
    long = {str(p): n for p in FILES if (n := len(p.read_text("utf-8").splitlines())) > 400}
    assert not long
    assert not list(PACKAGE.rglob("utils.py"))


def code_lines(source: str) -> int:
    """Lines that hold code: no blank one, no comment, no docstring."""
    inside = set()
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            inside |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    lines = enumerate(source.splitlines(), 1)
    return sum(bool(ln.strip()) and ln.strip()[0] != "#" and n not in inside for n, ln in lines)


def test_an_objective_is_at_most_eighty_lines_of_code():
    from meanflow_lite.objectives import OBJECTIVES

    files = {name: PACKAGE / "objectives" / f"{name}.py" for name in OBJECTIVES}
    lengths = {name: code_lines(path.read_text("utf-8")) for name, path in files.items()}
    assert max(lengths.values()) <= 80, lengths
    assert code_lines('"""Two\nlines."""\n\n# and none\nx = 1\ny = """kept\nkept"""\n') == 3


def requirements() -> dict[str, list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return {"": project["dependencies"], **project["optional-dependencies"]}


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = [ln.split("==") for ln in lines if ln and not ln.startswith("#")]
    return {normal(name): version for name, version in pairs}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_has_a_tested_version_inside_its_bounds():
    from packaging.requirements import Requirement

    versions = pinned()
    for group, lines in requirements().items():
        for line in lines:
            wanted = Requirement(line)
            assert normal(wanted.name) in versions, f"{line} ({group}) is not in constraints.txt"
            assert wanted.specifier.contains(versions[normal(wanted.name)]), line


def test_constraints_have_no_local_path():
    text = (ROOT / "constraints.txt").read_text("utf-8")
    assert "file:" not in text and "@" not in text
    versions = pinned()
    assert {"torch", "torchvision"} <= set(versions)


def test_environment_yml_installs_what_make_does():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    make = (ROOT / "Makefile").read_text("utf-8")
    extras = re.search(r'-c constraints.txt -e "\.\[([^\]]+)\]"', make)
    assert extras is not None
    assert pip == ["-c constraints.txt", f"-e .[{extras.group(1)}]"]
    assert set(extras.group(1).split(",")) == set(requirements()) - {""}
    python = next(d for d in environment["dependencies"] if str(d).startswith("python="))
    assert tuple(map(int, python.removeprefix("python=").split("."))) >= (3, 11)


@pytest.mark.parametrize(("name", "shipped"), [("torch", "2.11.0"), ("ipywidgets", "7.7.1")])
def test_colab_keeps_what_it_ships(name, shipped):
    from packaging.requirements import Requirement

    wanted = next(r for d in requirements()[""] if (r := Requirement(d)).name == name)
    assert wanted.specifier.contains(shipped)


def test_one_version_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    newest = re.search(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert newest is not None
    assert project["version"] == newest.group(1) == citation["version"]


def toc_files() -> list[str]:
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text("utf-8"))
    return [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]


def test_the_book_lists_every_page_once():
    listed = toc_files()
    assert len(listed) == len(set(listed))
    pages = {p.stem for p in (ROOT / "book").glob("*.md")}
    chapters = {f"notebooks/{p.stem}" for p in (ROOT / "notebooks").glob("[0-9]*.ipynb")}
    assert set(listed) == pages | chapters
    in_order = [name for name in listed if name.startswith("notebooks/")]
    assert in_order == sorted(in_order)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="an sdist leaves one of the links out")
def test_links_of_the_book_are_links():
    assert (ROOT / "book" / "_config.yml").resolve() == ROOT / "_config.yml"
    assert (ROOT / "book" / "notebooks").resolve() == ROOT / "notebooks"


def test_five_names_at_the_top_are_resolved_lazily():
    code = (
        "import sys, meanflow_lite as m\n"
        "assert 'torch' not in sys.modules, 'the import itself is light'\n"
        "assert set(m.__all__) <= set(dir(m)) and len(m.__all__) == 5\n"
        "from meanflow_lite import MeanFlow, integrate, load, sample, train\n"
        "assert MeanFlow().loss and all(map(callable, (integrate, load, sample, train)))\n"
        "assert not hasattr(m, 'nothing')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
