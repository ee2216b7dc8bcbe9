"""What a source is: its cells, their tags, the stub and the solution of an exercise."""

from __future__ import annotations

from pathlib import Path

import jupytext
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "notebooks" / "src"
NOTEBOOKS = ROOT / "notebooks"
TURN = "...  # your turn"
BEGIN, END, INLINE = "# <solution>", "# </solution>", "# <solution/>"


def sources() -> list[Path]:
    """Sources of all chapters, in order; a name that starts with an underscore is not built."""
    return sorted(p for p in SOURCES.glob("*.md") if not p.name.startswith("_"))


def read(source: Path) -> list[NotebookNode]:
    """The cells as the author wrote them, solutions in place."""
    return jupytext.reads(source.read_text("utf-8"), fmt="md").cells


def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return list(cell.metadata.get("tags", []))


def stub(code: str) -> str:
    """The code with what stands between the solution marks replaced by a placeholder.

    `# <solution>` ... `# </solution>` around lines gives one placeholder line at their indentation;
    `# <solution/>` at the end of an assignment replaces its right-hand side.
    """
    lines, inside = [], False
    for line in code.splitlines():
        mark = line.strip()
        if mark == BEGIN:
            inside = True
            lines.append(line.replace(BEGIN, TURN))
        elif mark == END:
            inside = False
        elif line.rstrip().endswith(INLINE):
            left = line.split("=", 1)[0].rstrip()
            lines.append(f"{left} = {TURN}")
        elif not inside:
            lines.append(line)
    return "\n".join(lines)


def solution(code: str) -> str:
    """The code without the solution marks."""
    kept = [ln for ln in code.splitlines() if ln.strip() not in (BEGIN, END)]
    return "\n".join(ln.replace(INLINE, "").rstrip() for ln in kept)
