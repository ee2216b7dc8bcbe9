"""Pages that are written from data, and links that no author writes.

Each directive turns a file of the repository into Markdown and lets MyST parse it, so that the page
cannot disagree with the file. `links` connects chapters with glossary, index, equations and each
other while they stay plain Markdown; `theme` keeps buttons that lead nowhere off the page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from meanflow_book import api, cells, figures, finish, ledger, links, search, theme
from meanflow_book.cards import (
    claims_filter,
    claims_page,
    headline,
    landing_picture,
    published_filter,
    published_page,
)
from meanflow_book.chapters import ROOT, chapter_map, reading_path
from meanflow_book.conventions import conventions_page, shares_page
from meanflow_book.full_scale import cards_page, data_page, fid_page, nodes_page
from meanflow_book.pages import (
    bugs_page,
    citation_page,
    runtimes_page,
    solutions_page,
)

PAGES: dict[str, Callable[[], str]] = {
    "api-list": api.api_list,
    "bug-table": bugs_page,
    "chapter-map": chapter_map,
    "citation": citation_page,
    "claims-ledger": claims_page,
    "claims-filter": claims_filter,
    "claims-headline": headline,
    "conventions-table": conventions_page,
    "exercise-solutions": solutions_page,
    "landing-picture": landing_picture,
    "plan-data": data_page,
    "plan-nodes": nodes_page,
    "published-filter": published_filter,
    "published-fid": fid_page,
    "published-numbers": published_page,
    "run-cards": cards_page,
    "run-times": runtimes_page,
    "shares-table": shares_page,
}
SOURCES = ("CITATION.cff", "book/claims.yml", "meanflow_lite/notebook/published.yml")


class GeneratedPage(SphinxDirective):
    """Parses the Markdown that its function returns; headings become sections of the page."""

    write: ClassVar[Callable[[], str]]
    has_content = False

    def text(self) -> str:
        """What to parse."""
        return type(self).write()

    def run(self) -> list[nodes.Node]:
        """The nodes of the page."""
        for path in SOURCES:
            self.env.note_dependency(str(ROOT / path))
        self.env.note_reread()
        lines = StringList(self.text().splitlines(), source=self.env.docname)
        holder = nodes.Element()
        self.state.nested_parse(lines, self.content_offset, holder, match_titles=True)
        return holder.children


class ReadingPath(GeneratedPage):
    """A way through the book: its lines name chapters by number."""

    has_content = True

    def text(self) -> str:
        """The table of the way."""
        return reading_path(list(self.content))


class ApiModule(GeneratedPage):
    """One module of the package, which its argument names."""

    required_arguments = 1

    def text(self) -> str:
        """What autodoc is asked for."""
        return api.api_module(self.arguments[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives and the parts that work on every page."""
    for name, write in PAGES.items():
        made = type(name, (GeneratedPage,), {"write": staticmethod(write)})
        app.add_directive(name, made)
    app.add_directive("reading-path", ReadingPath)
    app.add_directive("api-module", ApiModule)
    for part in (api, cells, figures, finish, ledger, links, search, theme):
        part.setup(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
