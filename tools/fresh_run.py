"""Does a notebook depend on what a fresh run would not have? Decided by reading, not by running.

A cell may use only names that a cell above it bound; cells of exercises only those of cells tagged
`shared`, and no later cell the answer of an exercise; no cell may name a file of the repository or
the folder it runs in, which a reader in Colab does not have.
"""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Iterator
from pathlib import Path

from nbformat import NotebookNode

from tools.sources import NOTEBOOKS, ROOT, solution, tags

GIVEN = {*dir(builtins), "__name__"}
PLACES = {"__file__", "cwd", "getcwd"}  # of a script or a shell; a notebook may run anywhere


def names(code: str) -> tuple[set[str], set[str]]:
    """The global names that a cell binds, and those that it uses, inside functions too."""
    bound: set[str] = set()
    used: set[str] = set()
    tables = [symtable.symtable(code, "cell", "exec")]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            if table.get_type() == "module":
                if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace():
                    bound.add(symbol.get_name())
                if symbol.is_referenced():
                    used.add(symbol.get_name())
            elif symbol.is_global():
                (bound if symbol.is_assigned() else used).add(symbol.get_name())
    return bound, used - GIVEN


def places(code: str) -> Iterator[str]:
    """What a cell names of the repository or of the folder that it runs in."""
    for node in ast.walk(ast.parse(code)):
        name = getattr(node, "id", getattr(node, "attr", None))
        if name in PLACES:
            yield f"names `{name}`, which depends on where the notebook runs"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            looks = len(text) < 200 and (len(Path(text).parts) > 1 or Path(text).suffix)
            if looks and any((folder / text).exists() for folder in (ROOT, NOTEBOOKS)):
                yield f"names {text!r}, a file that only the repository has"


def problems(cells: list[NotebookNode]) -> list[str]:
    """What the code cells of one chapter, solutions in place, use and may not."""
    found: list[str] = []
    shared: set[str] = set()
    everything: set[str] = set()
    answers: set[str] = set()
    for cell in cells:
        marks = set(tags(cell))
        code = solution(cell.source)
        where = f"the cell starting {code.strip().splitlines()[0]!r}" if code.strip() else "a cell"
        try:
            bound, used = names(code)
        except SyntaxError as error:
            found.append(f"{where} is not Python: {error.msg}")
            continue
        alone = marks & {"shared", "exercise", "check"}  # the tests run these without the rest
        allowed = (shared if alone else everything) | (answers if "check" in marks else set())
        found += [
            f"{where} uses `{name}`, "
            + ("the answer of an exercise" if name in answers else _missing(name, everything))
            for name in sorted(used - bound - allowed)
        ]
        found += [f"{where} {place}" for place in places(code)]
        if "exercise" in marks:
            answers |= bound - everything
            continue
        everything |= bound
        answers -= bound
        if "shared" in marks:
            shared |= bound
    return found


def _missing(name: str, everything: set[str]) -> str:
    if name in everything:
        return "which no cell tagged `shared` binds above it"
    return "which no cell above it binds"
