"""The one way from a chapter's source to its notebook: derive, execute, stamp.

    python -m tools.notebooks build [--only 06_identity ...] [--force]
    python -m tools.notebooks check              # sources, notebooks and conventions agree
    python -m tools.notebooks scripts FOLDER     # the code cells as .py files, for ruff and pyright

A source, notebooks/src/NN_topic.md, is Markdown in which every ```python block is a cell (the
Markdown format of jupytext, tags in the fence). CONTRIBUTING.md has the conventions.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
from pathlib import Path
from textwrap import dedent

import nbformat
import yaml
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools.chapters import VIEW, lint_notebook, lint_source
from tools.sources import NOTEBOOKS, ROOT, SOURCES, TURN, read, solution, sources, stub, tags

__all__ = ["NOTEBOOKS", "ROOT", "SOURCES", "TURN", "read", "solution", "sources", "stub", "tags"]
TIMEOUT = 600  # seconds for one cell


def repository() -> tuple[str, str]:
    """The public address from _config.yml, or "" while there is none, and the branch."""
    setting = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["repository"]
    return (setting["url"] or "").rstrip("/").removesuffix(".git"), setting["branch"]


def setup_code(address: str, branch: str, chapter: str = "00") -> str:
    """The first code cell of every notebook: installs the library only where it is missing."""
    if address:
        missing = dedent(f"""\
            import subprocess
            import sys

            wanted = "meanflow-lite @ git+{address}@{branch}"
            subprocess.run([sys.executable, "-m", "pip", "install", "-q", wanted], check=True)""")
    else:
        missing = dedent("""\
            raise ModuleNotFoundError(
                "meanflow_lite is missing: run `pip install .` in a copy of its repository"
            )""")
    body = missing.replace("\n", "\n    ").replace("\n    \n", "\n\n")
    return (
        "# @title Set-up: the library where it is missing; figure style, seed and threads\n"
        "import importlib.util\n\n"
        'if importlib.util.find_spec("meanflow_lite") is None:\n'
        f"    {body}\n\n"
        "from meanflow_lite.notebook import setup\n\n"
        f'setup(chapter="{chapter}")'
    )


def _code_cell(cell: NotebookNode) -> NotebookNode:
    """A derived code cell: tags, and what each front end needs to hide or fold its input."""
    marks = tags(cell)
    if "say" in marks:
        marks.append("remove-input")
    if "checked" in marks:
        marks.append("hide-input")
    out = new_code_cell(cell.source)
    if marks:
        out.metadata["tags"] = marks
    if {"remove-input", "hide-input", "remove-cell"} & set(marks):
        out.metadata["jupyter"] = {"source_hidden": True}
        out.metadata["cellView"] = "form"
    return out


def derive(source: Path) -> NotebookNode:
    """The notebook that belongs to ``source``, not executed: set-up cell, stubs, solutions, ids."""
    cells: list[NotebookNode] = []
    pending: NotebookNode | None = None  # the solution, placed after the cell that checks it
    started = False
    for cell in read(source):
        if cell.cell_type != "code":
            cells.append(new_markdown_cell(cell.source))
            continue
        if not started:
            first = new_code_cell(setup_code(*repository(), source.stem[:2]))
            first.metadata["tags"] = ["setup", "remove-cell"]
            cells.append(_code_cell(first))
            started = True
        made = _code_cell(cell)
        if "exercise" in tags(cell):
            made.source = stub(cell.source)
            text = f"```python\n{solution(cell.source)}\n```"
            pending = new_markdown_cell(
                f"<details>\n<summary>Solution</summary>\n\n{text}\n\n</details>"
            )
        cells.append(made)
        if pending is not None and "check" in tags(cell):
            cells.append(pending)
            pending = None
    link = _colab(source.stem)
    if link:
        cells[0].source += f"\n\n{link}"
    for n, cell in enumerate(cells):
        cell["id"] = f"{source.stem[:2]}-{n:03d}"
    book = new_notebook(cells=cells)
    book.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "meanflow_lite": {"source": fingerprint(book)},
        }
    )
    return book


def _colab(stem: str) -> str:
    """A link to Colab, or "" while there is no public address (text: a badge would be fetched)."""
    address, branch = repository()
    if not address.startswith("https://github.com/"):
        return ""
    place = f"{address.removeprefix('https://github.com/')}/blob/{branch}/notebooks/{stem}.ipynb"
    return f"[Open in Colab](https://colab.research.google.com/github/{place})"


def fingerprint(book: NotebookNode) -> str:
    """A hash of everything but the outputs."""
    parts = [
        (c.id, c.cell_type, c.source, {k: v for k, v in c.metadata.items() if k != "mystnb"})
        for c in book.cells
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def execute(book: NotebookNode) -> float:
    """Run ``book`` in place, one thread, no time stamps; the processor seconds that it took."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    begin = _spent()
    NotebookClient(
        book,
        timeout=TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    ).execute()
    return _spent() - begin


def _spent() -> float:
    """Processor seconds of all finished child processes: a busy machine does not lengthen them."""
    times = os.times()
    return times.children_user + times.children_system


def stamp(book: NotebookNode, seconds: float) -> None:
    """Alt texts to where the book reads them, the run time, and nothing that varies by machine."""
    for cell in book.cells:
        if "hide-input" in tags(cell):
            cell.metadata["mystnb"] = {"code_prompt_show": _prompt(cell)}
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(VIEW, None)  # live only: a page would fetch its script
            alt = output.get("metadata", {}).get("image/png", {}).get("alt")
            if alt:
                cell.metadata.setdefault("mystnb", {})["image"] = {"alt": alt}
    book.metadata["language_info"] = {"name": "python"}
    book.metadata["meanflow_lite"]["seconds"] = round(seconds, 1)


def _prompt(cell: NotebookNode) -> str:
    """What a page writes on a folded cell."""
    code = cell.source.strip()
    if "checked" in tags(cell):
        said = code.splitlines()[0].lstrip("# ").rstrip(".")
        return f"\u2713 Checked: {said[0].lower()}{said[1:]}"
    if all(line.startswith(("import ", "from ", " ", ")")) for line in code.splitlines() if line):
        return "Set-up: imports"
    return "How it is drawn" if re.search(r"\b(show|slider|panel)\(", code) else "Show the code"


def stored(source: Path) -> NotebookNode | None:
    """The committed notebook of ``source``, if there is one."""
    path = NOTEBOOKS / f"{source.stem}.ipynb"
    return nbformat.read(path, as_version=4) if path.exists() else None


def drifted(source: Path) -> bool:
    """Whether the committed notebook is missing or is not what its source derives."""
    book = stored(source)
    if book is None:
        return True
    mark = book.metadata.get("meanflow_lite", {}).get("source")
    return not mark == fingerprint(book) == fingerprint(derive(source))


def build(only: list[str], force: bool) -> int:
    """Execute the chapters whose source changed (or all, or those named)."""
    known = {p.stem: p for p in sources()}
    unknown = [name for name in only if name not in known]
    if unknown:
        print(f"no source is called {unknown}; there are {sorted(known)}")
        return 1
    failed = 0
    for source in [known[name] for name in only] or list(known.values()):
        if not (only or force or drifted(source)):
            continue
        problems = lint_source(source)
        if not problems:
            book = derive(source)
            seconds = execute(book)
            stamp(book, seconds)
            problems = lint_notebook(book)
            nbformat.write(book, NOTEBOOKS / f"{source.stem}.ipynb")
            print(f"{source.stem}: {seconds:.1f} s")
        for problem in problems:
            print(f"{source.stem}: {problem}")
        failed += bool(problems)
    return int(failed > 0)


def check() -> int:
    """Print every departure from the conventions; 1 if there is any."""
    problems = []
    for source in sources():
        problems += [f"{source.stem}: {p}" for p in lint_source(source)]
        book = stored(source)
        if book is None or drifted(source):
            problems.append(
                f"{source.stem}: run `make notebooks`, the notebook is not its source's"
            )
        else:
            problems += [f"{source.stem}: {p}" for p in lint_notebook(book)]
    print("\n".join(problems) or f"{len(sources())} chapters agree with their notebooks")
    return int(bool(problems))


def scripts(folder: Path) -> int:
    """Write the code cells of each chapter, with solutions, as one .py file each."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources():
        cells = [c for c in read(source) if c.cell_type == "code"]
        text = "\n\n".join(
            f"# %% cell {n}\n{solution(c.source)}" for n, c in enumerate(cells, start=1)
        )
        (folder / f"chapter_{source.stem}.py").write_text(text + "\n", "utf-8")
    return 0


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Notebooks from their sources.")
    commands = parser.add_subparsers(dest="command", required=True)
    builder = commands.add_parser("build")
    builder.add_argument("--only", nargs="*", default=[])
    builder.add_argument("--force", action="store_true")
    commands.add_parser("check")
    commands.add_parser("scripts").add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.command == "build":
        return build(options.only, options.force)
    return check() if options.command == "check" else scripts(options.folder)


if __name__ == "__main__":
    sys.exit(main())
