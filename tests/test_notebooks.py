"""Chapters: source and notebook agree, conventions hold, and each convention catches its breach."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tools import chapters
from tools import notebooks as tool

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = [pytest.param(p, id=p.stem) for p in tool.sources()]


@pytest.mark.parametrize("source", CHAPTERS)
def test_source_keeps_the_conventions(source):
    assert chapters.lint_source(source) == []


@pytest.mark.parametrize("source", CHAPTERS)
def test_notebook_is_the_one_its_source_derives(source):
    assert tool.stored(source) is not None, "run `make notebooks`"
    assert not tool.drifted(source), "run `make notebooks`"


@pytest.mark.parametrize("source", CHAPTERS)
def test_notebook_is_executed_described_and_the_same_everywhere(source):
    book = tool.stored(source)
    assert book is not None
    assert chapters.lint_notebook(book) == []
    assert book.metadata["language_info"] == {"name": "python"}
    assert all("execution" not in cell.metadata for cell in book.cells)
    for cell in book.cells:
        for output in cell.get("outputs", []):
            alt = output.get("metadata", {}).get("image/png", {}).get("alt")
            assert alt == (
                cell.metadata.get("mystnb", {}).get("image", {}).get("alt") if alt else None
            )


def test_every_notebook_has_a_source():
    built = {p.stem for p in tool.NOTEBOOKS.glob("*.ipynb")}
    assert built == {p.stem for p in tool.sources()}


def test_slider_ids_are_unique_in_the_book():
    pattern = re.compile(r'class=\\"mf-slider\\" id=\\"([^"\\]+)\\"')
    ids = [i for p in tool.NOTEBOOKS.glob("*.ipynb") for i in pattern.findall(p.read_text("utf-8"))]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("source", CHAPTERS)
def test_links_resolve(source):
    book = tool.stored(source)
    assert book is not None
    text = "\n".join(c.source for c in book.cells if c.cell_type == "markdown")
    text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$", "", text, flags=re.DOTALL)  # R[u](z, r, t) is no link
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
        if not target.startswith(("https://", "http://")):
            assert (tool.NOTEBOOKS / target).exists(), f"{source.stem}: {target}"


def test_citations_of_arxiv_are_in_the_bibliography():
    known = (ROOT / "book" / "references.bib").read_text("utf-8")
    for source in tool.sources():
        for number in re.findall(r"arxiv\.org/abs/(\d{4}\.\d{5})", source.read_text("utf-8")):
            assert number in known, f"{source.stem} cites arXiv {number}; add it to references.bib"


def test_deriving_is_deterministic():
    for source in tool.sources():
        assert nbformat.writes(tool.derive(source)) == nbformat.writes(tool.derive(source))


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("address", ["", "https://github.com/someone/somewhere"])
def test_setup_cell_installs_only_where_the_library_is_missing(address):
    code = tool.setup_code(address, "main")
    compile(code, "setup", "exec")
    assert ('"meanflow-lite @ git+' + address in code) == bool(address)
    ran = python(code)
    assert ran.returncode == 0, ran.stderr
    hidden = code.replace('find_spec("meanflow_lite")', 'find_spec("no_such_module")')
    if not address:
        ran = subprocess.run(
            [sys.executable, "-c", hidden], capture_output=True, text=True, check=False
        )
        assert "pip install ." in ran.stderr


@pytest.mark.parametrize(
    ("url", "installs", "links"),
    [
        ("", "", ""),
        ("https://github.com/an/example", "https://github.com/an/example@dev", "an/example"),
        ("https://github.com/an/example.git/", "https://github.com/an/example@dev", "an/example"),
        ("https://gitlab.com/an/example", "https://gitlab.com/an/example@dev", ""),
    ],
)
def test_set_up_cells_and_colab_links_come_from_one_setting(
    tmp_path, monkeypatch, url, installs, links
):
    config = (ROOT / "_config.yml").read_text("utf-8")
    config = re.sub(r'url: ".*"', f'url: "{url}"', config).replace("branch: main", "branch: dev")
    (tmp_path / "_config.yml").write_text(config, "utf-8")
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    for source in tool.sources():
        book = tool.derive(source)
        first = next(c.source for c in book.cells if c.cell_type == "code")
        assert ("raise ModuleNotFoundError" in first) == (not url)
        assert re.findall(r'git\+([^"]+)"', first) == ([installs] if url else [])
        found = re.findall(r"\(https://colab\S+\)", book.cells[0].source)
        place = f"https://colab.research.google.com/github/{links}/blob/dev/notebooks"
        assert found == ([f"({place}/{source.stem}.ipynb)"] if links else [])


SOUND = """# A title

A sentence; see (7.1).

$$
a = b \\tag{7.1}
$$

```python
assert 1 + 1 == 2
```

## Summary

Done.

## References

None.
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("", "", None),
        ("A sentence", "The error is 0.25", "'0.25' stands in prose"),
        ("A sentence", "It gains 40%", "stands in prose"),
        ("A sentence", "The factor $0.25$, `0.25` and (7.1)", None),
        ("A sentence", "See {ref}`x`", "a MyST role"),
        ("A sentence", "```{note}\nx\n```", "a MyST directive"),
        ("A sentence", "(label)=\n", "a MyST target"),
        ("see (7.1)", "see (7.2)", "equation (7.2) is referred to"),
        (" \\tag{7.1}", "", "needs one \\tag"),
        ("\\tag{7.1}", "\\tag{6.1}", "needs one \\tag"),
        ("assert 1 + 1 == 2", "1 + 1", "no cell asserts"),
        ("## Summary", "## End", "no heading '## Summary'"),
        ("# A title", "# A title\n\n# Another", "exactly one heading"),
        ("A sentence", "![](x.png)", "without alt text"),
        ("```python\nassert", '```python tags=["exercise"]\nassert', "has no # <solution>"),
        ("```python\nassert", '```python tags=["say"]\nassert', "does not call say()"),
        ("assert 1", "\n" * 90 + "assert 1", "longer than"),
        ("assert 1", f"x = '{'a' * 80}'\nassert 1", "wider than 76 columns"),
        ("assert 1", "import math\n\nassert 1", "imports: fold it"),
        ("```python\nassert", '```python tags=["checked"]\nassert', "begin with what is checked"),
    ],
)
def test_each_convention_catches_its_breach(tmp_path, monkeypatch, old, new, says):
    monkeypatch.setattr(chapters, "OLD", chapters.OLD | {"07"})  # what every chapter is asked
    source = tmp_path / "07_sample.md"
    source.write_text(SOUND.replace(old, new, 1) if old else SOUND, "utf-8")
    chapters_dir, chapters.SOURCES = chapters.SOURCES, tmp_path
    try:
        problems = chapters.lint_source(source)
    finally:
        chapters.SOURCES = chapters_dir
    if says is None:
        assert problems == []
    else:
        assert any(says in p for p in problems), problems


SECOND = SOUND.replace("A sentence", "Time: five minutes; it runs. A sentence").replace(
    "## Summary",
    """## Exercises

**One** (easy, 5 minutes). Add.

```python tags=["exercise"]
one = 1  # <solution/>
```

```python tags=["check"]
print(one)
```

## Summary""",
)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("", "", None),
        ("A sentence", "A " + "word " * 1501, "words of prose"),
        ("A sentence", "A" + "\n" * 450, "lines of source"),
        ("five minutes", "an hour", "the estimate is"),
        (" (easy, 5 minutes)", "", "begins with its difficulty"),
        ("Done.", "Claims settled: all.", "the ledger box is made from the tags"),
        ("assert 1", "nb = fig = 0\nnb.show(fig, alt='x')\nassert 1", "without caption="),
    ],
)
def test_each_rule_of_the_second_edition_catches_its_breach(tmp_path, monkeypatch, old, new, says):
    source = tmp_path / "07_sample.md"
    monkeypatch.setattr(chapters, "SOURCES", tmp_path)
    source.write_text(SECOND.replace(old, new, 1) if old else SECOND, "utf-8")
    monkeypatch.setattr(chapters, "OLD", frozenset())
    problems = chapters.lint_source(source)
    assert problems == [] if says is None else any(says in p for p in problems), problems
    monkeypatch.setattr(chapters, "OLD", frozenset({"07"}))
    assert says is None or not any(says in p for p in chapters.lint_source(source))


def test_chapters_of_the_first_edition_only_become_fewer():
    assert len(chapters.OLD) <= 25


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (new_output("stream", name="stdout", text="fine\n"), None),
        (new_output("stream", name="stderr", text="UserWarning\n"), "stderr"),
        (new_output("stream", text="<f at 0x7f00deadbeef>\n"), "an address"),
        (new_output("stream", text="12.3 it/s\n"), "a wall time"),
        (new_output("display_data", {"image/png": "x"}), "without alt text"),
        (new_output("display_data", {"image/svg+xml": "<svg/>"}), "differs from run to run"),
        (new_output("error", ename="ValueError", evalue="", traceback=[]), "raised ValueError"),
    ],
)
def test_each_output_rule_catches_its_breach(output, says):
    cell = new_code_cell("x", outputs=[output], execution_count=1)
    problems = chapters.lint_notebook(new_notebook(cells=[cell]))
    if says is None:
        assert problems == []
    else:
        assert any(says in p for p in problems), problems


@pytest.mark.slow
def test_code_of_the_chapters_is_clean(tmp_path):
    tool.scripts(tmp_path)
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length", "100"]
    ruff += ["--select", "E,F,UP,B,SIM", "--ignore", "E402,F811,E741,B023,E501", str(tmp_path)]
    ran = subprocess.run(ruff, capture_output=True, text=True, check=False, env={**os.environ})
    assert ran.returncode == 0, ran.stdout
