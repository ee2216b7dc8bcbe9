"""Pages that are written from data: the claims ledger, run times, published numbers, solutions.

Each directive turns a file of the repository into Markdown and lets MyST parse it, so that the page
cannot disagree with the file. The extension also switches the launch buttons on when `_config.yml`
names a public repository, and off while it does not.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import nbformat
import yaml
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from meanflow_lite.notebook.claims import all_published  # noqa: E402
from tools import notebooks as tool  # noqa: E402

STATUSES = {
    "contradicted": "The cell finds otherwise.",
    "reproduced": "The cell finds what is claimed.",
    "not testable here": "It would take a GPU cluster, or a statement that can be tested.",
    "open": "No chapter has settled it yet.",
}


def _cell(text: object) -> str:
    """Text that is safe inside a Markdown table."""
    return str(text).replace("|", "\\|").replace("$", "\\$").replace("\n", " ").strip()


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def _chapters() -> list[Path]:
    """Sources of the chapters that the table of contents lists."""
    toc = (ROOT / "book" / "_toc.yml").read_text("utf-8")
    return [p for p in tool.sources() if f"notebooks/{p.stem}\n" in toc]


def _title(stem: str) -> str:
    """A link to a chapter, by its title; its bare name while the book does not list it."""
    if stem not in [p.stem for p in _chapters()]:
        return f"`{stem}`"
    first = (tool.SOURCES / f"{stem}.md").read_text("utf-8").splitlines()[0].removeprefix("# ")
    return f"[{stem[:2]} {first}](notebooks/{stem}.ipynb)"


def claims_page() -> str:
    """The ledger, grouped and counted by status."""
    rows = yaml.safe_load((ROOT / "book" / "claims.yml").read_text("utf-8"))
    count = Counter(row["status"] for row in rows)
    parts = [
        f"{len(rows)} claims: " + ", ".join(f"{count[s]} {s}" for s in STATUSES if count[s]) + "."
    ]
    for status, meaning in STATUSES.items():
        chosen = [row for row in rows if row["status"] == status]
        if not chosen:
            continue
        body = [[_cell(r["claim"]), _cell(r["source"]), _found(r), f"`{r['id']}`"] for r in chosen]
        table = _table(["claim", "who says it", "what was found", "row"], body)
        parts += [f"## {status.capitalize()} ({len(chosen)})", meaning, table]
    return "\n\n".join(parts)


def _found(row: dict[str, Any]) -> str:
    if row["status"] == "open":
        return f"planned for chapter {row['chapter']}"
    where = f" {_title(row['notebook'])}" if "notebook" in row else ""
    return _cell(row["why"]) + where


def runtimes_page() -> str:
    """Seconds that each chapter took in its last execution."""
    rows, total = [], 0.0
    for source in _chapters():
        path = tool.NOTEBOOKS / f"{source.stem}.ipynb"
        if path.exists():
            seconds = nbformat.read(path, as_version=4).metadata["meanflow_lite"]["seconds"]
            total += seconds
            rows.append([_title(source.stem), f"{seconds:.0f} s"])
    rows.append(["**all chapters**", f"**{total / 60:.1f} min**"])
    return _table(["chapter", "run time"], rows)


def published_page() -> str:
    """Every published number, with its conditions."""
    rows = []
    for n in all_published().values():
        conditions = [f"NFE {n.nfe}" if n.nfe else "", n.guidance and f"guidance {n.guidance}"]
        conditions += [f"{n.epochs} epochs" if n.epochs else "", n.labels and f"labels {n.labels}"]
        text = "; ".join(c for c in conditions if c)
        source = f"{n.source} ({n.trust})" + (f". Note: {n.note}" if n.note else "")
        rows.append([f"{n}", _cell(n.what), _cell(text), _cell(source), f"`{n.key}`"])
    return _table(["value", "what", "conditions", "source and trust", "key"], rows)


def solutions_page() -> str:
    """The solution of every exercise, by chapter, with the sentences of its check."""
    parts = []
    for source in _chapters():
        marked = [c for c in tool.read(source) if {"exercise", "check"} & set(tool.tags(c))]
        if not marked:
            continue
        parts.append(f"## {_title(source.stem)}")
        for cell in marked:
            if "exercise" in tool.tags(cell):
                parts.append(f"```python\n{tool.solution(cell.source)}\n```")
    return "\n\n".join(parts)


# In the order of the package: a module imports only what stands above it.
PACKAGE = [
    "paths",
    "fields",
    "conventions",
    "identity",
    "guidance",
    "losses",
    "objectives",
    "samplers",
    "networks",
    "data",
    "training",
    "evaluation",
    "cli",
    "notebook",
]


_MEMBERS = "   :members:\n   :ignore-module-all:\n"


def api_page() -> str:
    """One section a module of the package, what it exports, and the docstrings where defined."""
    parts = []
    for name in PACKAGE:
        package = ROOT / "meanflow_lite" / name
        leaves = [f"meanflow_lite.{name}"]
        if package.is_dir():
            files = sorted(p.stem for p in package.glob("*.py") if p.stem != "__init__")
            leaves += [f"meanflow_lite.{name}.{stem}" for stem in files]
        elif not package.with_suffix(".py").exists():
            continue
        parts.append(f"## `meanflow_lite.{name}`")
        for leaf in leaves:
            options = "" if (package / "__init__.py").exists() and leaf == leaves[0] else _MEMBERS
            parts.append(f"```{{eval-rst}}\n.. automodule:: {leaf}\n{options}```")
    return "\n\n".join(parts)


class GeneratedPage(SphinxDirective):
    """Parses the Markdown that its function returns; headings become sections of the page."""

    write: ClassVar[Any]
    has_content = False

    def run(self) -> list[nodes.Node]:
        """The nodes of the page."""
        text = type(self).write()
        for path in ("book/claims.yml", "meanflow_lite/notebook/published.yml"):
            self.env.note_dependency(str(ROOT / path))
        self.env.note_reread()
        lines = StringList(text.splitlines(), source=self.env.docname)
        holder = nodes.Element()
        self.state.nested_parse(lines, self.content_offset, holder, match_titles=True)
        return holder.children


def _page(name: str, function: Any) -> type[GeneratedPage]:
    return type(name, (GeneratedPage,), {"write": staticmethod(function)})


def launch_buttons(app: Sphinx, config: Any) -> None:
    """Buttons that open a page in Colab, only when there is an address to open."""
    options = config.html_theme_options
    if options.get("repository_url"):
        options["launch_buttons"] = {"colab_url": "https://colab.research.google.com"}
        options["use_repository_button"] = True
    else:
        options.pop("launch_buttons", None)


def drop_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], *rest: Any) -> None:
    """Jupyter Book loads Thebe's settings into each page, twice; this book needs no kernel."""
    files = context.get("script_files", [])
    files[:] = [
        f
        for f in files
        if "sphinx-thebe" not in str(getattr(f, "filename", ""))
        and "THEBE" not in str(getattr(f, "attributes", {}).get("body", ""))
    ]


def resolve_short_name(
    app: Sphinx, env: Any, node: nodes.Element, contnode: nodes.Element
) -> nodes.Node | None:
    """A docstring that names `solve_average` means the one object of the package called that."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    domain = env.get_domain("py")
    found = [
        n for n in domain.objects if n.startswith("meanflow_lite.") and n.endswith(f".{target}")
    ]
    if len(found) != 1:
        return None
    kind = domain.objects[found[0]].objtype
    return domain.resolve_xref(
        env, node["refdoc"], app.builder, domain.role_for_objtype(kind), found[0], node, contnode
    )


def _sentence(self: GoogleDocstring) -> list[str]:
    """A constant's docstring is a sentence: napoleon must not read "type: text" into its colon."""
    return self._dedent(self._consume_to_end())


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("claims-ledger", _page("ClaimsLedger", claims_page))
    app.add_directive("run-times", _page("RunTimes", runtimes_page))
    app.add_directive("published-numbers", _page("PublishedNumbers", published_page))
    app.add_directive("exercise-solutions", _page("ExerciseSolutions", solutions_page))
    app.add_directive("api-reference", _page("ApiReference", api_page))
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("missing-reference", resolve_short_name)
    GoogleDocstring._parse_attribute_docstring = _sentence
    app.connect("config-inited", launch_buttons, priority=1)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
