"""What the chapters' sources say about themselves, and the map of the book made from that."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from tools import notebooks as tool  # noqa: E402
from tools.chapters import stated as minutes  # noqa: E402


@dataclass(frozen=True)
class Chapter:
    """One chapter that the table of contents lists."""

    stem: str
    title: str
    minutes: int
    goals: tuple[str, ...]
    exercises: int

    @property
    def number(self) -> str:
        """Two digits, as the prose names it."""
        return self.stem[:2]

    @property
    def link(self) -> str:
        """A link from a page at the root of the book."""
        return f"[{self.number} {self.title}](notebooks/{self.stem}.ipynb)"


def goals(text: str) -> tuple[str, ...]:
    """What the list below "After this chapter you can" says."""
    block = text.split("After this chapter you can\n\n", 1)[1].split("\n\n", 1)[0]
    items = re.split(r"^- ", block, flags=re.M)[1:]
    return tuple(" ".join(item.split()).rstrip(",.;") for item in items)


def parse(source: Path) -> Chapter:
    """A chapter from its source."""
    text = source.read_text("utf-8")
    tried = re.findall(r"^```python .*\"exercise\"", text, re.M)
    title = text.splitlines()[0].removeprefix("# ")
    return Chapter(source.stem, title, minutes(text), goals(text), len(tried))


@cache
def parts() -> tuple[tuple[str, tuple[Chapter, ...]], ...]:
    """The parts of the table of contents that hold chapters: caption and chapters."""
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text("utf-8"))
    found = []
    for part in toc["parts"]:
        stems = [c["file"].removeprefix("notebooks/") for c in part["chapters"] if "file" in c]
        known = tuple(parse(tool.SOURCES / f"{s}.md") for s in stems if s[:2].isdigit())
        if known:
            found.append((part["caption"], known))
    return tuple(found)


def chapters() -> dict[str, Chapter]:
    """Every chapter of the book, in order, by its number."""
    return {c.number: c for _, part in parts() for c in part}


def titled(stem: str) -> str:
    """A link to a chapter, by its title; its bare name while the book does not list it."""
    found = [c for c in chapters().values() if c.stem == stem]
    return found[0].link if found else f"`{stem}`"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def in_cell(text: object) -> str:
    """Text that is safe inside a Markdown table."""
    return str(text).replace("|", "\\|").replace("$", "\\$").replace("\n", " ").strip()


def chapter_map() -> str:
    """A card a chapter, by part: what the reader can do after it, how long it takes."""
    out = []
    for caption, members in parts():
        cards = "\n".join(_card(c) for c in members)
        out.append(f"**{caption}**\n\n:::::{{grid}} 1 2 2 2\n:gutter: 2\n\n{cards}\n:::::")
    return "\n\n".join(out)


def _card(chapter: Chapter) -> str:
    count = f"{chapter.exercises} exercise{'s' * (chapter.exercises != 1)}"
    goal = chapter.goals[0][0].upper() + chapter.goals[0][1:]
    return (
        f"::::{{grid-item-card}} {chapter.number} {chapter.title}\n"
        f":link: notebooks/{chapter.stem}\n:link-type: doc\n:class-card: mf-card\n\n"
        f"{goal}.\n\n*{chapter.minutes} minutes, {count}*\n::::"
    )


def reading_path(lines: list[str]) -> str:
    """A table of a way through the book: each line is a label, a colon and numbers of chapters."""
    rows, total, known = [], 0, chapters()
    for line in lines:
        label, numbers = line.rsplit(":", 1)
        members = [known[n] for n in numbers.split() if n in known]
        if not members:
            continue
        spent = sum(c.minutes for c in members)
        total += spent
        rows.append([label, "<br>".join(c.link for c in members), f"{spent}"])
    rows.append(["**together**", "", f"**{total}** ({total / 60:.1f} hours)"])
    return table(["", "chapters", "minutes"], rows)
