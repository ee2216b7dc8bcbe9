"""The conventions of a chapter, as checks that return sentences: what is wrong, and where."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from nbformat import NotebookNode

from tools import fresh_run
from tools.sources import BEGIN, END, INLINE, SOURCES, read, tags

VIEW = "application/vnd.jupyter.widget-view+json"  # what a live widget is displayed as
LONGEST_CELL = 45  # lines; longer code belongs in the library, with a test
LONGEST_FOLDED = 80  # of a cell that a reader sees only on request
COLUMNS = 76  # of code: what a page shows without scrolling
LONGEST_SOURCE, MOST_WORDS = 450, 1500  # of a chapter: lines of its source, words of its prose
DURATIONS = {
    "five minutes": 5,
    "ten minutes": 10,
    "a quarter of an hour": 15,
    "fifteen minutes": 15,
    "twenty minutes": 20,
    "twenty-five minutes": 25,
    "half an hour": 30,
    "thirty minutes": 30,
    "forty minutes": 40,
    "three quarters of an hour": 45,
    "forty-five minutes": 45,
    "fifty minutes": 50,
    "an hour": 60,
    "an hour and a quarter": 75,
    "an hour and a half": 90,
    "thirty-five minutes": 35,
}
FOLDED = {"say", "hide-input", "checked"}
# Chapters of the first edition that were cut to the new division and still have to be written:
# length, captions and difficulties are not asked of them. The list may only shrink.
OLD = frozenset(  # one a line, so that two writers can cross out at the same time
    {
        "15",
        "16",
        "17",
        "18",
        "19",
        "20",
        "21",
        "22",
        "23",
        "24",
    }
)
HEADINGS = ("## Summary", "## References")
MYST = {
    "a MyST role": re.compile(r"(?<![`\w\"}])\{[a-z:\-]+\}`[^`]"),
    "a MyST directive": re.compile(r"^\s*(?:```+|:::+|~~~+)\s*\{", re.M),
    "a MyST target": re.compile(r"^\([\w\-]+\)=", re.M),
    "a substitution": re.compile(r"\{\{"),
}
_FENCE = re.compile(r"^(```+|~~~+).*?^\1\s*$", re.M | re.S)
_DISPLAY = re.compile(r"\$\$(.+?)\$\$", re.S)
_TAG = re.compile(r"\\tag\{(\d+\.\d+[a-z]?)\}")
_REFERENCE = re.compile(r"\((\d+\.\d+[a-z]?)\)")
_HIDDEN = [
    _FENCE,
    _DISPLAY,
    re.compile(r"`+[^`]*`+"),
    re.compile(r"\$[^$\n]+\$"),
    re.compile(r"\]\([^)\s]*\)"),  # the address of a link
    re.compile(r"https?://\S+"),
    re.compile(r"<!--.*?-->", re.S),
]
_EXERCISE = re.compile(r"^\*\*([^*\n]+)\*\* \((easy|medium|hard|pencil), (\d+) minutes?\)", re.M)
_FIGURE = re.compile(r"\b(show|slider|triangle_slider|panel|live)\(")
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+|\s?%)")


def _plain(text: str) -> str:
    for pattern in _HIDDEN:
        text = pattern.sub(" ", text)
    return text


def prose(text: str) -> str:
    """``text`` without code, mathematics, addresses and references to equations."""
    return _REFERENCE.sub(" ", _plain(text))


def equation_tags(source: Path) -> list[str]:
    """The numbers of the equations of a chapter, in order."""
    markdown = [c.source for c in read(source) if c.cell_type == "markdown"]
    return [t for text in markdown for t in _TAG.findall(text)]


def _lint_markdown(text: str, chapter: str) -> Iterator[str]:
    bare = _FENCE.sub(" ", text)
    for name, pattern in MYST.items():
        where = text if "directive" in name else bare if "role" in name else _plain(bare)
        found = pattern.search(where)
        if found:
            yield f"{name} (plain Markdown only): {found.group(0).strip()!r}"
    for equation in _DISPLAY.findall(bare):
        found = _TAG.findall(equation)
        if len(found) != 1 or int(found[0].split(".")[0]) != int(chapter):
            yield f"an equation needs one \\tag{{{int(chapter)}.n}}: {equation.strip()[:50]!r}"
    for number in _NUMBER.findall(prose(text)):
        yield f"the number {number.strip()!r} stands in prose: print it from a cell tagged `say`"
    if re.search(r"!\[\s*\]\(", bare) or re.search(r"<img(?![^>]*\balt=\"\w)", bare):
        yield "an image without alt text"


def _lint_shape(code: str, marks: set[str], longest: int) -> Iterator[str]:
    """Length, width and place of imports of one cell of code."""
    lines = code.splitlines()
    if len(lines) > longest:
        yield f"is longer than {longest} lines"
    wide = [ln.strip() for ln in lines if len(ln.removesuffix(INLINE).rstrip()) > COLUMNS]
    if wide:
        yield f"is wider than {COLUMNS} columns, which a page cuts off: {wide[0][:50]!r}"
    if code.startswith(("import ", "from ")) and not FOLDED & marks:
        yield "imports: fold it, `hide-input`"
    if "checked" in marks and not code.startswith("# "):
        yield "is tagged `checked`: begin with what is checked, `# ...`"
    if len(re.findall(r"(?<!def )\bshow\(", code)) > 1:
        yield "shows more than one figure"


def _lint_code(cells: list[NotebookNode], longest: int) -> Iterator[str]:
    for n, cell in enumerate(cells):
        first = cell.source.strip().splitlines()[0] if cell.source.strip() else "(empty)"
        marks = set(tags(cell))
        limit = LONGEST_FOLDED if FOLDED & marks else longest
        for problem in _lint_shape(cell.source, marks, limit):
            yield f"the cell starting {first!r} {problem}"
        if "say" in marks and "say(" not in cell.source:
            yield f"the cell starting {first!r} is tagged `say` and does not call say()"
        if "exercise" in marks and not any(mark in cell.source for mark in (BEGIN, INLINE)):
            yield f"the exercise {first!r} has no {BEGIN} ... {END}, nor {INLINE}"
        if "exercise" in marks and "check" not in [
            t for c in cells[n + 1 : n + 2] for t in tags(c)
        ]:
            yield f"the exercise {first!r} is not followed by a code cell tagged `check`"


def words(cells: list[NotebookNode]) -> int:
    """Words of prose of a chapter: no code, no formula, no references."""
    text = "\n\n".join(c.source for c in cells if c.cell_type == "markdown")
    return len(_plain(text.split("\n## References")[0]).split())


def exercises(cells: list[NotebookNode]) -> list[tuple[str, str, int]]:
    """Title, difficulty and minutes of each exercise: "**The target** (easy, 5 minutes). ..."."""
    text = "\n\n".join(c.source for c in cells if c.cell_type == "markdown")
    return [(a, b, int(c)) for a, b, c in _EXERCISE.findall(text)]


def stated(text: str) -> int:
    """Minutes in the sentence "Time: half an hour; it runs in ..." of a chapter."""
    found = re.search(r"^Time: ([a-z\- ]+?)[;.,]", text, re.M)
    if not found or found.group(1) not in DURATIONS:
        said = found.group(1) if found else "nothing"
        raise ValueError(f"a chapter says how long it takes, by one of {[*DURATIONS]}: got {said}")
    return DURATIONS[found.group(1)]


def minutes(cells: list[NotebookNode]) -> float:
    """An estimate of the time a chapter takes.

    Prose at 180 words a minute, a minute for an equation and for a figure, five seconds for a line
    of code that is not folded, and what the exercises say.
    """
    code = [c for c in cells if c.cell_type == "code"]
    markdown = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    visible = [c for c in code if not {*FOLDED, "exercise", "check"} & set(tags(c))]
    lines = sum(len(c.source.splitlines()) for c in visible)
    figures = sum(bool(_FIGURE.search(c.source)) for c in code)
    read = words(cells) / 180 + len(_TAG.findall(markdown)) + figures + lines * 5 / 60
    return read + sum(m for _, _, m in exercises(cells))


def _lint_length(cells: list[NotebookNode], text: str) -> Iterator[str]:
    """Lines, words and minutes of a chapter of the second edition."""
    lines = len(text.splitlines())
    if lines > LONGEST_SOURCE:
        yield f"{lines} lines of source; one idea fits into {LONGEST_SOURCE}"
    if words(cells) > MOST_WORDS:
        yield f"{words(cells)} words of prose; {MOST_WORDS} are enough for one idea"
    wanted, said = minutes(cells), stated(text)
    if not 0.8 <= said / wanted <= 1.2:
        yield f"it says that it takes {said} minutes; the estimate is {wanted:.0f}"


def _lint_edition(cells: list[NotebookNode], text: str) -> Iterator[str]:
    """What else is asked of it: marked exercises, captions, no claims in prose."""
    if len(exercises(cells)) != sum("exercise" in tags(c) for c in cells):
        yield "an exercise begins with its difficulty and minutes: **Title** (easy, 5 minutes). ..."
    for cell in cells:
        for call in re.findall(r"nb\.show\((.*?)\n?\)$", cell.source, re.S | re.M):
            if "caption=" not in call:
                yield f"a figure without caption=: {call.strip()[:40]!r}"
    if re.search(r"^Claims? settled", text, re.M):
        yield "the ledger box is made from the tags; do not write 'Claims settled'"


def lint_source(source: Path) -> list[str]:
    """Departures of a source from the conventions of CONTRIBUTING.md."""
    cells = read(source)
    chapter = source.stem[:2]
    markdown = [c.source for c in cells if c.cell_type == "markdown"]
    code = [c for c in cells if c.cell_type == "code"]
    problems: list[str] = []
    if cells[0].cell_type != "markdown" or not cells[0].source.startswith("# "):
        problems.append("the first cell must be the title, `# ...`")
    if sum(line.startswith("# ") for t in markdown for line in _FENCE.sub("", t).splitlines()) != 1:
        problems.append("exactly one heading of the first level")
    whole = "\n".join(markdown)
    problems += [f"no heading {h!r}" for h in HEADINGS if f"\n{h}\n" not in f"\n{whole}\n"]
    for text in markdown:
        problems += _lint_markdown(text, chapter)
    problems += _lint_code(code, LONGEST_FOLDED if chapter in OLD else LONGEST_CELL)
    if chapter not in OLD:
        text = source.read_text("utf-8")
        problems += [*_lint_length(cells, text), *_lint_edition(cells, text)]
    problems += fresh_run.problems(code)
    if not any(re.search(r"^\s*assert\b", c.source, re.M) for c in code):
        problems.append("no cell asserts anything")
    own = equation_tags(source)
    problems += [
        f"\\tag{{{t}}} is used twice" for t in sorted({t for t in own if own.count(t) > 1})
    ]
    everywhere = {t for p in SOURCES.glob("[0-9]*.md") for t in equation_tags(p)}
    for text in markdown:
        problems += [
            f"equation ({t}) is referred to and does not exist"
            for t in _REFERENCE.findall(_plain(text))
            if t not in everywhere
        ]
    return problems


_VARIES = {
    "an address": re.compile(r"\bat 0x[0-9a-f]{6,}"),
    "a wall time": re.compile(r"\b\d+(\.\d+)?\s?(it/s|s/it)\b"),
    "a path of this machine": re.compile(r"(/home/|/tmp/|/Users/|[A-Z]:\\\\)"),
}


def _text(output: NotebookNode) -> str:
    data = output.get("data", {})
    parts = [output.get("text", ""), data.get("text/plain", ""), data.get("text/markdown", "")]
    return "\n".join(parts)


def _lint_output(cell: NotebookNode, output: NotebookNode) -> Iterator[str]:
    if output.output_type == "error":
        yield f"{cell.id} raised {output.get('ename')}"
    if output.get("name") == "stderr":
        yield f"{cell.id} writes to stderr: {output.text.strip().splitlines()[-1][:80]!r}"
    for name, pattern in _VARIES.items():
        found = pattern.search(_text(output))
        if found:
            yield f"{cell.id} prints {name}, which differs from run to run: {found.group(0)!r}"
    data = output.get("data", {})
    if "image/png" in data and not output.metadata.get("image/png", {}).get("alt"):
        yield f"{cell.id} has a figure without alt text: display it with show(fig, alt=...)"
    if "image/svg+xml" in data or "application/vnd.plotly.v1+json" in data:
        yield f"{cell.id} has an output whose text differs from run to run; use show() or slider()"
    if VIEW in data:
        yield f"{cell.id} holds a live widget, for which a page asks the network; use panel()"


def lint_notebook(book: NotebookNode) -> list[str]:
    """Departures of an executed notebook: errors, warnings, outputs that vary, missing alt text."""
    problems: list[str] = []
    for cell in book.cells:
        outputs = cell.get("outputs", [])
        if cell.cell_type == "code" and cell.execution_count is None:
            problems.append(f"{cell.id} was not executed")
        if sum("image/png" in o.get("data", {}) for o in outputs) > 1:
            problems.append(f"{cell.id} shows more than one figure; give each its own cell")
        for output in outputs:
            problems += _lint_output(cell, output)
    if "widgets" in book.metadata:
        problems.append("its metadata hold the state of widgets; refresh it by `make notebooks`")
    ids = re.findall(r'class="mf-slider" id="([^"]+)"', str(book))
    problems += [
        f"slider id {i!r} is used twice" for i in sorted({i for i in ids if ids.count(i) > 1})
    ]
    return problems
