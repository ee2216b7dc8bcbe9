"""The page on a network of one's own runs as it stands, at a tiny size."""

import re
from pathlib import Path

import pytest
import torch

from meanflow_lite.domains import ANY, domain_of

PAGE = (Path(__file__).resolve().parent.parent / "book" / "own_network.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
SIZES = "steps, batch, width = 100_000, 128, 128"


def test_the_page_runs_and_trains_the_readers_network():
    pytest.importorskip("diffusers")
    torch.manual_seed(0)
    assert SIZES in BLOCKS[0]
    code = BLOCKS[0].replace(SIZES, "steps, batch, width = 3, 8, 32")
    names: dict = {}
    for block in (code, *BLOCKS[1:]):
        exec(compile(block, "own_network.md", "exec"), names)
    assert {n: tuple(x.shape) for n, x in names["made"].items()} == {
        n: (16, 3, 32, 32) for n in (1, 2, 4)
    }
    assert all(x.isfinite().all() for x in names["made"].values())
    assert not torch.equal(names["made"][1], names["made"][2])
    assert domain_of(names["field"]) == ANY
    assert len(names["history"]) == 3 and names["loss"].isfinite()


def test_the_first_block_is_about_thirty_lines():
    lines = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(lines) <= 32, len(lines)
    assert all(len(line) <= 76 for block in BLOCKS for line in block.splitlines())
