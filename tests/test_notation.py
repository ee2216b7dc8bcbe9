"""Symbols: every letter of a formula is in the table of notation, with one meaning a chapter."""

import re
from pathlib import Path

import pytest

from tools import sources

ROOT = Path(__file__).resolve().parent.parent
GREEK = {
    *("alpha", "beta", "gamma", "delta", "Delta", "epsilon", "eta", "theta", "kappa", "lambda"),
    *("Lambda", "mu", "xi", "pi", "rho", "sigma", "tau", "phi", "varphi", "Phi", "psi", "omega"),
}
# Chapters whose letters the table holds; a writer adds a chapter and its rows.
HELD = {f"{n:02d}" for n in range(9)}
_QUIET = re.compile(
    r"\\tag\{.*?\}|\\text\{.*?\}|\\mathrm\{[^}]*\}|\\operatorname\{.*?\}|\\(?:begin|end)\{.*?\}"
)


def letters(text: str) -> set[str]:
    """Latin and Greek letters of the formulas of a Markdown text, words left out."""
    text = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S)
    found: set[str] = set()
    for display, inline in re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", text, re.S):
        formula = _QUIET.sub(" ", re.sub(r"_\{\\text.*?\}", "", display or inline))
        names = re.findall(r"\\([A-Za-z]+)", formula)
        found |= {name for name in names if name in GREEK}
        found |= set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", formula)))
    return found


def table() -> tuple[set[str], dict[str, set[str]]]:
    """Letters with one meaning in the book, and those of single chapters: chapter to letters."""
    page = (ROOT / "book" / "notation.md").read_text("utf-8")
    everywhere, single = page.split("## Letters of single chapters")
    rows = re.findall(r"^\| (\$.*?) \|", everywhere, re.M)
    of_chapter: dict[str, set[str]] = {}
    for symbol, chapters in re.findall(r"^\| (\$.*?) \| ([\d ]+) \|", single, re.M):
        for chapter in chapters.split():
            mine = of_chapter.setdefault(chapter, set())
            new = {c for part in symbol.split(",") for c in letters(part)} - {"t"}
            assert not mine & new, f"{mine & new} has two meanings in chapter {chapter}"
            mine |= new
    return {c for row in rows for c in letters(row)}, of_chapter


@pytest.mark.parametrize(
    "source", [pytest.param(p, id=p.stem) for p in sources.sources() if p.stem[:2] in HELD]
)
def test_every_letter_of_a_chapter_is_in_the_table(source):
    everywhere, of_chapter = table()
    cells = [c.source for c in sources.read(source) if c.cell_type == "markdown"]
    used = letters("\n\n".join(cells))
    assert used - everywhere - of_chapter.get(source.stem[:2], set()) == set()


def test_a_letter_that_nobody_explains_is_found():
    everywhere, of_chapter = table()
    assert letters(r"$g(z, t)$ and $\rho$") - everywhere == {"g", "rho"}
    assert letters(r"$\mathrm{d}z$, $$ a \tag{1.1} $$ `b` $E_{\text{old}}$") == {"z", "a", "E"}
    assert "k" in of_chapter["07"] and "k" not in everywhere
