r"""Links that no author writes: first uses of glossary terms, chapters by number, equations.

Chapters are plain Markdown, since they must read the same in Jupyter and on GitHub. In the book
the first use of a glossary term on a page becomes a link to its entry and an entry of the index;
"chapter 07" becomes a link to it, "(5.2)" a link to the equation with that number. Titles, code,
formulas and links are left as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

from meanflow_book.chapters import ROOT, chapters
from tools.chapters import equation_tags
from tools.notebooks import SOURCES

QUIET = (
    nodes.title,
    nodes.literal,
    nodes.literal_block,
    nodes.math,
    nodes.math_block,
    nodes.reference,
    nodes.raw,
    nodes.comment,
    nodes.target,
    nodes.term,
    nodes.caption,
    nodes.image,
    addnodes.pending_xref,
    addnodes.index,
    addnodes.desc,
)
UNLINKED = ("glossary", "api", "genindex", "search")
CHAPTERS = re.compile(r"\b[Cc]hapters?\s+\d\d(?:(?:,|,?\s+(?:and|or|to))\s+\d\d)*\b")
CHAPTER = re.compile(r"(?:[Cc]hapter\s+)?(\d\d)")
EQUATION = re.compile(r"\((\d+\.\d+[a-z]?)\)")
TAG = re.compile(r"\\tag\{([^}]+)\}")


def glossary_terms(text: str) -> dict[str, str]:
    """The terms of a `{glossary}` directive: each spelling, to the first of its entry."""
    block = text.split("```{glossary}\n", 1)[1].split("\n```", 1)[0]
    found = {}
    for entry in block.split("\n\n"):
        heads = [line for line in entry.splitlines() if not line.startswith(" ")]
        found |= {head: heads[0] for head in heads}
    return found


@cache
def terms() -> dict[str, str]:
    """Each spelling of the glossary in lower case, to the first spelling of its entry."""
    spelled = glossary_terms((ROOT / "book" / "glossary.md").read_text("utf-8"))
    return {term.lower(): first for term, first in spelled.items()}


def pattern(names: list[str]) -> re.Pattern[str]:
    """Any of ``names``, whole words, the longest first; acronyms in capitals, plurals too."""
    alternatives = []
    for name in sorted(names, key=len, reverse=True):
        escaped = r"\s+".join(re.escape(word) for word in name.split())
        alternatives.append(escaped if name.isupper() else f"(?i:{escaped})")
    return re.compile(rf"(?<![\w-])({'|'.join(alternatives)})s?(?![\w-])")


@cache
def _term_pattern() -> re.Pattern[str]:
    return pattern(list(glossary_terms((ROOT / "book" / "glossary.md").read_text("utf-8"))))


@cache
def equation_homes() -> dict[str, str]:
    """The number of each equation of a listed chapter, to the chapter's document."""
    listed = [SOURCES / f"{c.stem}.md" for c in chapters().values()]
    return {tag: f"notebooks/{p.stem}" for p in listed for tag in equation_tags(p)}


def anchor(tag: str) -> str:
    """The id of an equation."""
    return "equation-" + tag.replace(".", "-")


class Linker:
    """Walks one document; remembers which terms it has linked already."""

    def __init__(self, document: str) -> None:
        self.document, self.seen = document, set()

    def text(self, text: str) -> Iterator[nodes.Node]:
        """``text`` cut at what becomes a link."""
        last = 0
        for begin, end, made in sorted(self._found(text), key=lambda found: found[0]):
            if begin < last:
                continue
            yield nodes.Text(text[last:begin])
            yield from made
            last = end
        yield nodes.Text(text[last:])

    def _found(self, text: str) -> Iterator[tuple[int, int, list[nodes.Node]]]:
        for named in CHAPTERS.finditer(text):
            for match in CHAPTER.finditer(text, *named.span()):
                chapter = chapters().get(match.group(1))
                if chapter and self.document != f"notebooks/{chapter.stem}":
                    link = _reference("doc", f"/notebooks/{chapter.stem}", match.group())
                    yield *match.span(), [link]
        for match in EQUATION.finditer(text):
            home = equation_homes().get(match.group(1))
            if home:
                yield *match.span(), [self._equation(home, match.group(1), match.group())]
        for match in _term_pattern().finditer(text):
            term = terms()[" ".join(match.group(1).lower().split())]
            if term not in self.seen:
                self.seen.add(term)
                yield *match.span(), _term(term, match.group())

    def _equation(self, home: str, tag: str, shown: str) -> nodes.Node:
        link = nodes.reference(shown, shown, internal=True, classes=["mf-equation"])
        link["refuri"] = (
            f"#{anchor(tag)}"
            if home == self.document
            else _relative(self.document, home) + f"#{anchor(tag)}"
        )
        return link


def _relative(document: str, home: str) -> str:
    """The address of a chapter from a page."""
    return ("" if document.startswith("notebooks/") else "notebooks/") + f"{Path(home).name}.html"


def _reference(kind: str, target: str, shown: str) -> nodes.Node:
    return addnodes.pending_xref(
        "",
        nodes.inline(shown, shown, classes=[f"mf-{kind}"]),
        refdomain="std",
        reftype=kind,
        reftarget=target,
        refexplicit=True,
        refwarn=True,
    )


def _term(term: str, shown: str) -> list[nodes.Node]:
    id = "use-" + nodes.make_id(term)
    entry = addnodes.index(entries=[("single", term, id, "", None)])
    target = nodes.target("", "", ids=[id])
    return [entry, target, _reference("term", term, shown)]


class Links(SphinxTransform):
    """Number the title of one page, mark its equations and link its text.

    Before Sphinx collects index entries (850) and titles (880) from the page.
    """

    default_priority = 840

    def apply(self, **kwargs: object) -> None:
        """Change the page."""
        page = self.env.docname
        if page in UNLINKED or page.startswith("api/"):
            return
        for source in (ROOT / "book" / "glossary.md", ROOT / "book" / "_toc.yml", Path(__file__)):
            self.env.note_dependency(str(source))
        number_title(page, self.document)
        for block in list(self.document.findall(nodes.math_block)):
            found = TAG.search(block.astext())
            if found and page == equation_homes().get(found.group(1)):
                target = nodes.target("", "", ids=[anchor(found.group(1))])
                block.parent.insert(block.parent.index(block), target)
        join_lines(self.document)
        linker = Linker(page)
        for text in list(self.document.findall(nodes.Text)):
            if not _is_quiet(text) and not _is_marked(text):
                pieces = [p for p in linker.text(text.astext()) if p != ""]
                text.parent.replace(text, pieces)


def join_lines(document: nodes.document) -> None:
    """MyST makes a node of each line; a term may go over the end of one."""
    for element in list(document.findall(nodes.TextElement)):
        joined: list[nodes.Node] = []
        for child in element.children:
            if joined and isinstance(child, nodes.Text) and isinstance(joined[-1], nodes.Text):
                joined[-1] = nodes.Text(joined[-1].astext() + child.astext())
            else:
                joined.append(child)
        if len(joined) < len(element.children):
            element.children = []
            element.extend(joined)


def _is_quiet(node: nodes.Node) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, QUIET) or "sd-card" in node.get("classes", ()):
            return True  # a card is one link already
    return False


def _is_marked(text: nodes.Text) -> bool:
    """Whether an author keeps a word from being linked: ``<span data-plain>field</span>``.

    Words that act on a picture, ``<span data-live=...>``, are buttons and hold no link either.
    """
    at = text.parent.index(text)
    before = text.parent[at - 1] if at else None
    return isinstance(before, nodes.raw) and before.astext().startswith(
        ("<span data-plain", "<span data-live")
    )


def number_title(page: str, document: nodes.document) -> None:
    """A chapter shows its number, since other chapters name it by that."""
    name, title = Path(page).name, document.next_node(nodes.title)
    if page.startswith("notebooks/") and name[:2].isdigit() and title is not None:
        title.insert(0, nodes.Text(f"{name[:2]}  "))


def setup(app: Sphinx) -> None:
    """Every page is read through it."""
    app.add_transform(Links)
