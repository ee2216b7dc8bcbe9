"""A chapter depends on nothing that a fresh run would not have, and each dependence is found."""

import pytest
from nbformat.v4 import new_code_cell

from tools import fresh_run
from tools import notebooks as tool

SHARED = ("import torch\n\ndef twice(z):\n    return 2 * z", ["shared"])
PLAIN = ("x = twice(torch.ones(2))", [])
EXERCISE = (
    "def thrice(z):\n    # <solution>\n    return z + twice(z)\n    # </solution>",
    ["exercise"],
)
CHECK = ('print("04-thrice", thrice)', ["check"])
SOUND = [SHARED, PLAIN, EXERCISE, CHECK, ("print(x)", [])]


def chapter(cells):
    return [new_code_cell(code, metadata={"tags": marks}) for code, marks in cells]


@pytest.mark.parametrize("source", [pytest.param(p, id=p.stem) for p in tool.sources()])
def test_a_chapter_has_all_it_needs(source):
    cells = [c for c in tool.read(source) if c.cell_type == "code"]
    assert fresh_run.problems(cells) == []


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        (SOUND, None),
        ([PLAIN, SHARED], "uses `torch`, which no cell above it binds"),
        ([*SOUND, ("def f():\n    return later\n", []), ("later = 1", [])], "uses `later`"),
        ([*SOUND, ("print(thrice(x))", [])], "uses `thrice`, the answer of an exercise"),
        ([*SOUND, ("thrice = twice", []), ("print(thrice(x))", [])], None),
        ([SHARED, PLAIN, ("a = x + 1", ["exercise"])], "uses `x`, which no cell tagged `shared`"),
        ([SHARED, PLAIN, ('print("04-x", x)', ["check"])], "uses `x`, which no cell tagged"),
        ([SHARED, PLAIN, ("y = [x for _ in range(3)]", ["shared"])], "uses `x`, which no cell"),
        ([SHARED, ("def f(z, q=[k for k in range(2)]):\n    return q[z]", [])], None),
        ([SHARED, ('open("../book/claims.yml")', [])], "a file that only the repository has"),
        ([SHARED, ('open("README.md")', [])], "a file that only the repository has"),
        ([SHARED, ("print(__file__)", [])], "depends on where the notebook runs"),
        ([SHARED, ("import pathlib\npathlib.Path.cwd()", [])], "depends on where"),
        ([SHARED, ("!pip install torch", [])], "is not Python"),
    ],
)
def test_each_dependence_is_found(cells, says):
    found = fresh_run.problems(chapter(cells))
    assert found == [] if says is None else any(says in p for p in found), found


def test_names_of_functions_classes_and_comprehensions():
    code = (
        "import a.b as c\nfrom d import e as f\n"
        "def g(h, i=j):\n    global k\n    k = h + L\n    return lambda m: m + k\n"
        "class N:\n    o = 1\n    def p(self):\n        return q\n"
        "r = [s for s in t if s]\nfor u in r:\n    pass\nwith v as w:\n    pass\n(x := 1)\n"
    )
    bound, used = fresh_run.names(code)
    assert bound == {"c", "f", "g", "k", "N", "r", "u", "w", "x"}
    assert used - bound == {"j", "L", "q", "t", "v"}
