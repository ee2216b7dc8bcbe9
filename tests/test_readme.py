"""The README's code runs, its picture exists, its commands are targets of the Makefile."""

import re
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def test_code_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert blocks
    for block in blocks:
        space: dict[str, object] = {}
        exec(compile(block, "README.md", "exec"), space)
        x = space["x"]
        assert isinstance(x, torch.Tensor)
        assert torch.isfinite(x).all()


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)\s]+)\)", README):
        if not target.startswith("https://"):
            assert (ROOT / target).exists(), target


def test_commands_are_targets():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for name in set(re.findall(r"make ([a-z]+)\b(?=[` ])", README)):
        assert re.search(rf"^{name}:", makefile, re.M), name
