"""The convention translator: rows of `meanflow_lite.conventions`, read by running its adapters."""

from __future__ import annotations

import ast
import inspect

import torch
from torch import Tensor

from meanflow_book.chapters import in_cell, table
from meanflow_lite import conventions
from meanflow_lite.conventions import CONVENTIONS, SHARES, Convention


def noise_time(row: Convention) -> float:
    """The time that a foreign network is given for pure noise, seen by listening to the adapter."""
    heard: list[Tensor] = []

    def net(z: Tensor, *times: Tensor | None) -> Tensor:
        heard.append(next(t for t in times if t is not None))
        return z

    one = torch.ones(1)
    row.read(net, one, 0 * one, one, None)
    return float(heard[0])


def sources() -> dict[str, tuple[str, str]]:
    """The two adapters of each row, as the code of the library writes them."""
    tree = ast.parse(inspect.getsource(conventions))
    found = {}
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Convention":
            name, *_, read, write = call.args
            assert isinstance(name, ast.Constant)
            found[name.value] = (ast.unparse(read), ast.unparse(write))
    return found


def _split(call: str) -> list[str]:
    """The call, and what its symbols are, each to a line."""
    head, _, symbols = call.partition("), ")
    return [f"{head})", *symbols.split(", ")] if symbols else [call]


def conventions_page() -> str:
    """Every row: what the network is called with, what it returns, and both adapters."""
    head = ["convention, and who uses it", "the network is called", "it returns"]
    rows = [
        [
            f"**{row.name}**<br>{in_cell(row.repositories)}",
            "<br>".join(f"`{part}`" for part in _split(row.call))
            + f"<br>noise at {noise_time(row):g}",
            in_cell(row.meaning),
        ]
        for row in CONVENTIONS.values()
    ]
    written = sources()
    lines = []
    for name, (read, write) in written.items():
        lines.append(f"# {name}\nto_field   = {read}\nfrom_field = {write}")
    for adapter in (conventions._read_guided, conventions._write_guided):
        lines.append(inspect.getsource(adapter).strip())
    code = "```python\n" + "\n\n".join(lines) + "\n```"
    folded = f"::::{{dropdown}} The adapters, as the library has them\n{code}\n::::"
    return table(head, rows) + "\n\n" + folded


def shares_page() -> str:
    """The share of plain rows as each repository spells it, and the `p_equal` that it means."""
    head = ["where", "its name there", "its value", "share of rows with", "`p_equal`"]
    rows = [
        [
            share.repository,
            f"`{share.name}`",
            f"{share.value:g}",
            "$r = t$" if share.counts_equal else "$r \\ne t$",
            f"**{share.p_equal:g}**",
        ]
        for share in SHARES
    ]
    return table(head, rows)
