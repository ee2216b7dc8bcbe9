"""Exercises: every solution is accepted, every mistake is told what it is, every stub is 'open'."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

from meanflow_lite import notebook as nb
from meanflow_lite.notebook.exercises import exercise, find
from tools import notebooks as tool
from tools.chapters import OLD

CHAPTERS = [pytest.param(p, id=p.stem) for p in tool.sources()]


def exercise_ids(source: Path) -> list[str]:
    """Ids that the chapter's cells tagged `check` name."""
    cells = [c for c in tool.read(source) if "check" in tool.tags(c)]
    return [i for c in cells for i in re.findall(r"check\(\s*\"([^\"]+)\"", c.source)]


IDS = [i for p in tool.sources() for i in exercise_ids(p)]


def run(source: Path, transform, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the checks of a chapter print when its exercises are filled in by ``transform``."""
    space: dict[str, object] = {"__name__": f"chapter_{source.stem[:2]}"}
    nb.setup()
    capsys.readouterr()
    said = []
    for cell in tool.read(source):
        marks = set(tool.tags(cell))
        if cell.cell_type != "code" or not marks & {"shared", "exercise", "check"}:
            continue
        code = transform(cell.source) if "exercise" in marks else cell.source
        exec(compile(code, f"{source.stem}:{sorted(marks)}", "exec"), space)
        text = capsys.readouterr().out.strip()
        if "check" in marks:
            said.append(text)
    plt.close("all")
    return said


@pytest.mark.parametrize("source", CHAPTERS)
def test_every_solution_is_accepted(source, capsys):
    said = run(source, tool.solution, capsys)
    assert len(said) == len(exercise_ids(source))
    for line in said:
        assert line.startswith("[ok]"), line


@pytest.mark.parametrize("source", CHAPTERS)
def test_every_stub_is_open(source, capsys):
    for line in run(source, tool.stub, capsys):
        assert line.startswith("[ ] Not done yet"), line


@pytest.mark.parametrize("source", CHAPTERS)
def test_stub_differs_from_solution_in_the_marked_lines_only(source):
    for cell in tool.read(source):
        if "exercise" in tool.tags(cell):
            kept = [ln for ln in tool.stub(cell.source).splitlines() if tool.TURN not in ln]
            solved = tool.solution(cell.source).splitlines()
            assert tool.TURN in tool.stub(cell.source)
            assert all(line in solved for line in kept)


@pytest.mark.parametrize("id", IDS)
def test_every_mistake_is_told_its_own_sentence(id):
    item = find(id)
    assert item.verdict(item.right).state == "right"
    for sentence, mistake in item.mistakes.items():
        verdict = item.verdict(mistake)
        assert verdict.state == "wrong"
        assert verdict.message == sentence


def otherwise(right):
    """The same answer in another form: a tensor for a number, a column [B, 1] for [B]."""
    if callable(right):
        return lambda *a, **k: otherwise(right(*a, **k))
    if isinstance(right, torch.Tensor):
        return right.detach().tolist() if right.dim() == 0 else right.unsqueeze(-1)
    if isinstance(right, int | float) and not isinstance(right, bool):
        return torch.tensor([float(right)], dtype=torch.float64)
    if isinstance(right, tuple) and all(isinstance(x, int | float) for x in right):
        return torch.tensor(right, dtype=torch.float64)
    return right


@pytest.mark.parametrize("id", IDS)
def test_another_form_of_the_right_answer_is_accepted(id):
    verdict = find(id).verdict(otherwise(find(id).right))
    assert verdict.state == "right", verdict.message


@pytest.mark.parametrize("id", [i for i in IDS if i[:2] not in OLD])
def test_three_mistakes_are_known_by_name(id):
    assert len(find(id).mistakes) >= 3


def test_usual_slips_are_recognized_in_any_exercise():
    rows = exercise(
        "99-rows",
        use=lambda f: {"the loss of each row": f(torch.arange(1.0, 4.0)), "its count": 3},
        right=lambda z: z**2,
        mistakes={"That is z.": lambda z: z},
    )
    said = {
        "mean over the rows": lambda z: (z**2).mean(),
        "sum over the rows": lambda z: (z**2).sum(),
        "Every row met every time": lambda z: z[:, None] * z,
        "The sign is turned round": lambda z: -(z**2),
        "Look at the loss of each row": lambda z: z**3,
    }
    for words, answer in said.items():
        assert words in rows.verdict(answer).message
    assert rows.verdict(lambda z: (z**2)[:, None]).state == "right"
    assert rows.verdict(lambda z: [1.0, 4.0, 9.0]).state == "right"


def test_ids_are_unique_and_belong_to_their_chapter():
    assert len(IDS) == len(set(IDS))
    for source in tool.sources():
        assert all(i.startswith(source.stem[:2] + "-") for i in exercise_ids(source))


def test_every_chapter_has_exercises():
    for source in tool.sources():
        assert exercise_ids(source), f"{source.stem} has no exercise"


TOY = exercise(
    "99-toy",
    use=lambda double: double(torch.arange(3.0)),
    right=lambda z: 2 * z,
    mistakes={"That is the square.": lambda z: z**2},
    hint="Think of z + z.",
)


def _empty(z):
    """Docstring."""
    ...


def _constant_one(z):
    return 1


def _identity(z):
    return z


def _partial(z):
    w = ...
    return w


def _every_row(z):
    w = z.clone()
    w[...] = 2 * z
    return w


@pytest.mark.parametrize(
    ("answer", "state", "says"),
    [
        (..., "open", "Not done yet"),
        (None, "open", "Not done yet"),
        (_empty, "open", "Not done yet"),
        (_partial, "open", "Not done yet"),
        (lambda z: z + z, "right", "Right"),
        (lambda z: 2 * z[...], "right", "Right"),
        (_every_row, "right", "Right"),
        (lambda z: z**2, "wrong", "square"),
        (_identity, "wrong", "largest difference is 2"),
        (_constant_one, "wrong", "shape is ()"),
        (lambda z: z[:2], "wrong", "shape is (2,), it should be (3,)"),
        (lambda z: z / 0, "wrong", "not finite"),
        (lambda z: "two", "wrong", "got str"),
        (lambda z: print(end=""), "wrong", "return"),
        (lambda z: undefined, "wrong", "NameError"),  # noqa: F821  # pyright: ignore
        (lambda: 1, "wrong", "TypeError"),
    ],
)
def test_verdicts(answer, state, says):
    verdict = TOY.verdict(answer)
    assert verdict.state == state
    assert says in verdict.message


def test_words_and_tuples():
    word = exercise("99-word", right="total", mistakes={"z is held fixed there.": "partial"})
    assert word.verdict("Total ").state == "right"
    assert word.verdict("partial").message == "z is held fixed there."
    assert "'half' is not it" in word.verdict("half").message
    pair = exercise(
        "99-pair", right=(1.0, torch.ones(2)), mistakes={"Swapped.": (torch.ones(2), 1.0)}
    )
    assert pair.verdict((1, torch.ones(2))).state == "right"
    assert pair.verdict((torch.ones(2), 1)).message == "Swapped."


def test_bad_exercises_are_refused():
    with pytest.raises(ValueError, match="taken"):
        exercise("99-toy", right=1, mistakes={"no": 2})
    with pytest.raises(ValueError, match="names no mistake"):
        exercise("99-none", right=1, mistakes={})
    with pytest.raises(ValueError, match="no exercise is called '98-nothing'"):
        find("98-nothing")


def test_stub_and_solution_marks():
    body = "    # <solution>\n    w = z\n    return w\n    # </solution>"
    code = f"def f(z):\n{body}\na = 1 + 1  # <solution/>"
    assert tool.stub(code) == "def f(z):\n    ...  # your turn\na = ...  # your turn"
    assert tool.solution(code) == "def f(z):\n    w = z\n    return w\na = 1 + 1"
