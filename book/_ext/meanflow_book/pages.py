"""Pages that are written from data: claims, run times, published numbers, solutions, citation."""

from __future__ import annotations

import re

import nbformat
import yaml

from meanflow_book.chapters import ROOT, chapters, in_cell, table
from meanflow_lite.notebook.bugs import CATALOG
from meanflow_lite.notebook.exercises import find
from tools import notebooks as tool

#: The first words of an exercise, and the call of its check.
TITLE = re.compile(r"^\*\*(.+?)\.?\*\* \(", re.M)
CHECK = re.compile(r"check\(\s*\"([^\"]+)\"")


def runtimes_page() -> str:
    """Seconds that each chapter took in its last execution."""
    rows, total = [], 0.0
    for chapter in chapters().values():
        path = tool.NOTEBOOKS / f"{chapter.stem}.ipynb"
        if path.exists():
            seconds = nbformat.read(path, as_version=4).metadata["meanflow_lite"]["seconds"]
            total += seconds
            rows.append([chapter.link, f"{seconds:.0f} s"])
    rows.append(["**all chapters**", f"**{total / 60:.1f} min**"])
    return table(["chapter", "run time"], rows)


def bugs_page() -> str:
    """The catalog of mistakes: what is seen, what it is, what finds it."""
    rows = [
        [
            in_cell(bug.symptom),
            f"**{bug.name}**: {in_cell(bug.mistake)}",
            f"`{bug.diagnostic.__name__}`",
        ]
        for bug in CATALOG.values()
    ]
    return table(["seen", "the mistake", "found by"], rows)


def solutions_page() -> str:
    """The solution of every exercise, under its title, with the mistakes that its check knows."""
    parts = []
    for chapter in chapters().values():
        parts.append(f"## {chapter.link}")
        title, code = "", ""
        for cell in tool.read(tool.SOURCES / f"{chapter.stem}.md"):
            if cell.cell_type == "markdown" and (found := TITLE.findall(cell.source)):
                title = found[-1]
            elif "exercise" in tool.tags(cell):
                code = tool.solution(cell.source)
            elif "check" in tool.tags(cell):
                parts += [_solved(id, title, code) for id in CHECK.findall(cell.source)]
                title, code = "", ""  # a second check is of the same answer
    return "\n\n".join(parts)


def _solved(id: str, title: str, code: str) -> str:
    head = f"(solution-{id})=\n### {title or id}\n\n```python\n{code}\n```\n\n" if code else ""
    sentences = "\n".join(f"- {s}" for s in find(id).mistakes)
    return f"{head}Wrong answers that `{id}` recognizes, and what it says:\n\n{sentences}"


def _people(authors: list[dict[str, str]]) -> list[str]:
    return [
        a["name"] if "name" in a else f"{a['family-names']}, {a['given-names']}" for a in authors
    ]


def _entry(kind: str, key: str, fields: dict[str, str]) -> str:
    """One entry of BibTeX."""
    body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items() if value)
    return f"```bibtex\n@{kind}{{{key},\n{body}\n}}\n```"


def citation_page() -> str:
    """What CITATION.cff says, as a sentence and as BibTeX; then the references it names."""
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    year, address = str(config["copyright"]), config["repository"]["url"]
    by = [a.get("name", "") for a in cff["authors"]]
    said = f"{' and '.join(by)} ({year}). *{cff['title']}* (version {cff['version']})."
    own = {
        "author": " and ".join(f"{{{name}}}" for name in by),
        "title": f"{{{cff['title']}}}",
        "version": cff["version"],
        "year": year,
        "url": address,
    }
    parts = [said + (f" <{address}>" if address else ""), _entry("software", "meanflow_lite", own)]
    for reference in cff["references"]:
        people = _people(reference["authors"])
        fields = {
            "author": " and ".join(people),
            "title": f"{{{reference['title']}}}",
            "note": ", ".join(i["value"] for i in reference["identifiers"]),
            "url": reference.get("url", ""),
            "year": str(reference["year"]),
        }
        key = people[0].split(",")[0].lower() + str(reference["year"])
        parts += [f"**{reference['title']}**", _entry(reference["type"], key, fields)]
    return "\n\n".join(parts)
