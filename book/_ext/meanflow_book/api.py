"""The API reference: one section a module of the package, in the order in which they build."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.napoleon.docstring import GoogleDocstring

from meanflow_book.chapters import ROOT

# In the order of the package: a module imports only what stands above it.
PACKAGE = [
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
        parts.append(f"## `meanflow_lite.{name}`")
        for leaf in leaves:
            options = "" if package.is_dir() and leaf == leaves[0] else _MEMBERS
            parts.append(f"```{{eval-rst}}\n.. automodule:: {leaf}\n{options}```")
    return "\n\n".join(parts)


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
