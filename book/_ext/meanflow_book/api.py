"""The API reference: one section a module of the package, in the order in which they build."""

from __future__ import annotations

import ast
import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.napoleon.docstring import GoogleDocstring

from meanflow_book.chapters import ROOT, table

# In the order of the package: a module imports only what stands above it.
PACKAGE = [
    "randomness",
    "paths",
    "domains",
    "fields",
    "conventions",
    "identity",
    "guidance",
    "losses",
    "samplers",
    "objectives",
    "networks",
    "files",
    "data",
    "training",
    "evaluation",
    "weights",
    "runs",
    "cli",
    "notebook",
]
_MEMBERS = "   :members:\n   :ignore-module-all:\n"


def first_line(name: str) -> str:
    """The first sentence of a module's docstring, as Markdown that stays on one line."""
    path = ROOT / "meanflow_lite" / name
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").split("\n\n")[0]
    text = re.sub(r":math:`([^`]*)`", r"$\1$", " ".join(text.split()))
    return re.sub(r"`+([^`]*)`+", r"`\1`", text)


def api_list() -> str:
    """The modules of the package, each with what it is for."""
    rows = [[f"[{name}](api/{name}.md)", in_cell_math(first_line(name))] for name in PACKAGE]
    return table(["module", "what it holds"], rows)


def in_cell_math(text: str) -> str:
    """Text with formulas, safe inside a Markdown table."""
    return text.replace("|", "\\|")


def api_module(name: str) -> str:
    """One module: what it exports, and the docstrings where things are defined, file by file."""
    package = ROOT / "meanflow_lite" / name
    if not package.is_dir():
        return _documented(f"meanflow_lite.{name}", _MEMBERS)
    parts = [_documented(f"meanflow_lite.{name}", "")]
    for leaf in sorted(p.stem for p in package.glob("*.py") if p.stem != "__init__"):
        parts.append(f"## {leaf}")
        parts.append(_documented(f"meanflow_lite.{name}.{leaf}", _MEMBERS))
    return "\n\n".join(parts)


def _documented(module: str, options: str) -> str:
    return f"```{{eval-rst}}\n.. automodule:: {module}\n{options}```"


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


def setup(app: Sphinx) -> None:
    """Short names resolve, constants keep their colons."""
    app.connect("missing-reference", resolve_short_name)
    GoogleDocstring._parse_attribute_docstring = _sentence
