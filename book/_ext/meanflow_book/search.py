"""What a reader types into the search, and the page that explains it: entries of the index.

The search puts main entries of the index first. A chapter is plain Markdown and cannot hold any, so
they are added here, to the page as a whole.
"""

from __future__ import annotations

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.transforms import SphinxTransform

from meanflow_book.chapters import ROOT

#: Words of a search, to the page where they are explained.
EXPLAINED = {
    "loss is 1": "troubleshooting",
    "loss stays at 1": "troubleshooting",
    "jvp flash attention": "troubleshooting",
    "FID": "notebooks/19_judging",
    "Fréchet distance": "notebooks/19_judging",
    "Frechet distance": "notebooks/19_judging",
    "r = t": "notebooks/12_settings",
    "p_equal": "notebooks/12_settings",
    "EMA": "notebooks/09_training",
    "what is MeanFlow": "notebooks/00_start",
    "install": "full_scale",
    "why does one step blur": "notebooks/05_average_velocity",
    "stop-gradient": "notebooks/09_training",
    "adaptive weight": "notebooks/11_loss_of_one",
    "dual number": "notebooks/08_jvp",
    "total derivative": "notebooks/06_identity",
    "guidance": "notebooks/16_guidance",
}


class Explained(SphinxTransform):
    """Add the entries of a page, in front of its first section."""

    default_priority = 835  # before Sphinx collects entries of the index

    def apply(self, **kwargs: object) -> None:
        """Change the page."""
        words = [w for w, page in EXPLAINED.items() if page == self.env.docname]
        first = self.document.next_node(nodes.section)
        if not words or first is None:
            return
        id = "explained-here"
        entries = [("single", word, id, "main", None) for word in words]
        first.insert(1, [addnodes.index(entries=entries), nodes.target("", "", ids=[id])])


def scorer(app: Sphinx, config: Config) -> None:
    """The order of results; Sphinx wants the path from where it runs."""
    config.html_search_scorer = str(ROOT / "book" / "_static" / "scorer.js")


def setup(app: Sphinx) -> None:
    """Every page is read through it."""
    app.connect("config-inited", scorer)
    app.add_transform(Explained)
