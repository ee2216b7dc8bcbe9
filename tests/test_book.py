"""The pages that are not chapters: what is generated agrees with its source, and links are made."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from docutils import nodes

from meanflow_lite import __version__
from meanflow_lite import conventions as library
from meanflow_lite.conventions import CONVENTIONS, SHARES
from meanflow_lite.notebook.exercises import find
from tools import notebooks as tool

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "book" / "_ext"))

from meanflow_book import api, chapters, conventions, links, pages, theme  # noqa: E402

PROSE = sorted((ROOT / "book").glob("*.md"))
PACKAGE = ROOT / "meanflow_lite"


# What a chapter says about itself


def test_every_chapter_says_its_minutes_goals_and_exercises():
    for chapter in chapters.chapters().values():
        assert chapter.minutes >= 5 and chapter.goals and chapter.exercises >= 1
        assert not chapter.goals[0].endswith(",")


@pytest.mark.parametrize("text", ["Time: a while; it runs.", "No time.", "Time: 20 minutes."])
def test_minutes_that_cannot_be_read_are_an_error(text):
    assert chapters.minutes("Time: half an hour; it runs in seconds.") == 30
    with pytest.raises(ValueError, match="how long it takes"):
        chapters.minutes(text)


def test_the_map_and_the_paths_name_chapters_of_the_book():
    text = chapters.chapter_map()
    for chapter in chapters.chapters().values():
        assert chapter.title in text
    table = chapters.reading_path(["first: 00 01", "not written: 97"])
    known = chapters.chapters()
    total = known["00"].minutes + known["01"].minutes
    assert f"**{total}**" in table and "97" not in table


def test_the_course_meets_every_chapter_once():
    preface = (ROOT / "book" / "preface.md").read_text("utf-8")
    weeks = re.findall(r"^week \d+: (.+)$", preface, re.M)
    met = [n for week in weeks for n in week.split()]
    assert met == [f"{n:02d}" for n in range(25)]


def test_every_prose_page_starts_with_one_title():
    for page in PROSE:
        text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
        titles = [line for line in text.splitlines() if line.startswith("# ")]
        assert len(titles) == 1 and text.startswith("# "), page.name


# own_network trains a network of its own, in float32: tests/test_own_network.py runs it
RUNNABLE = [p for p in PROSE if p.stem != "own_network"]


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda p: p.stem)
def test_code_of_a_prose_page_runs(page, float64):
    """The blocks of a page are one program; of one that needs a trained model, the imports run."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    for n, block in enumerate(blocks):
        compile(block, page.name, "exec")
        if "runs/" in block:
            blocks[n] = "\n".join(re.findall(r"^(?:from|import) .*$", block, re.M))
    exec(compile("\n".join(blocks), page.name, "exec"), {"__name__": "page"})


# Generated pages


def test_the_translator_shows_every_row_as_the_library_has_it():
    text = conventions.conventions_page()
    written = conventions.sources()
    assert set(written) == set(CONVENTIONS)
    for name, row in CONVENTIONS.items():
        assert name in text and row.call.split("), ")[0] in text
        read, write = (eval(code, vars(library)) for code in written[name])
        assert callable(read) and callable(write)


def test_the_place_of_the_noise_is_heard_from_the_adapter():
    heard = {name: conventions.noise_time(row) for name, row in CONVENTIONS.items()}
    assert heard["start and length"] == 1 and heard["data at one"] == 0
    assert heard["noise level as a timestep"] == 1000


def test_shares_add_up_in_opposite_ways():
    meant = {share.name: share.p_equal for share in SHARES}
    assert meant["data_proportion"] == 0.75 and meant["ratio_r_not_equal_t"] == 0.25
    assert meant["ratio of r unlike t"] == 0.75
    text = conventions.shares_page()
    assert all(share.name in text and share.repository in text for share in SHARES)


def test_the_citation_is_that_of_the_version_installed():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert cff["version"] == __version__
    text = pages.citation_page()
    assert f"version = {{{__version__}}}" in text
    assert "author = {Geng, Zhengyang and Deng, Mingyang" in text
    for reference in cff["references"]:
        assert reference["title"] in text
    for entry in re.findall(r"```bibtex\n(.*?)```", text, re.S):
        assert entry.count("{") == entry.count("}")


def test_solutions_tell_the_mistakes_of_each_check():
    text = pages.solutions_page()
    for chapter in chapters.chapters().values():
        source = (tool.SOURCES / f"{chapter.stem}.md").read_text("utf-8")
        for id in re.findall(r"check\(\s*\"([^\"]+)\"", source):
            assert all(sentence in text for sentence in find(id).mistakes)


# The API reference: every public name says what it is


def public_names(tree: ast.Module) -> list[tuple[str, str | None]]:
    """Public functions, classes and their methods, with their docstrings; and constants."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            found.append((node.name, ast.get_docstring(node)))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                overload = isinstance(method, ast.FunctionDef) and not method.name.startswith("_")
                if overload:
                    found.append((f"{node.name}.{method.name}", ast.get_docstring(method)))
    return found


def undocumented(source: str) -> list[str]:
    """Public names of a module without a docstring."""
    return [name for name, text in public_names(ast.parse(source)) if not text]


def test_every_public_name_is_documented():
    missing = {
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in PACKAGE.rglob("*.py")
        for name in undocumented(path.read_text("utf-8"))
    }
    assert not missing


def test_a_missing_docstring_is_found():
    code = 'def f():\n    ...\nclass A:\n    "A."\n    def g(self): ...\n    def _h(self): ...\n'
    assert undocumented(code) == ["f", "A.g"]


def test_the_reference_has_every_module():
    text = "".join(api.api_module(name) for name in api.PACKAGE)
    listed = set(re.findall(r"automodule:: (\S+)", text))
    assert {p.stem for p in (ROOT / "book" / "api").glob("*.md")} == set(api.PACKAGE)
    assert all(f"[{name}](api/{name}.md)" in api.api_list() for name in api.PACKAGE)
    modules = {
        "meanflow_lite." + ".".join(p.relative_to(PACKAGE).with_suffix("").parts)
        for p in PACKAGE.rglob("*.py")
        if p.stem not in ("__init__", "__main__") and p.parent.name != "checks"
    }
    assert modules <= listed


# Links that no author writes


def linked(text: str, document: str = "notebooks/99_other") -> str:
    """``text`` as a linker cuts it: what is linked stands in brackets."""
    out = []
    for piece in links.Linker(document).text(text):
        if isinstance(piece, nodes.Text):
            out.append(piece.astext())
        elif piece.astext():
            out.append(f"[{piece.astext()}]")
    return "".join(out)


def test_the_first_use_of_a_term_is_linked_and_no_other():
    assert linked("A residual, then residuals.") == "A [residual], then residuals."
    assert linked("Two residuals.") == "Two [residuals]."
    # the longest term wins, at a break of a line too
    assert linked("the average\nvelocity") == "the [average\nvelocity]"
    # spellings of one entry are one term; an acronym is matched in capitals only
    assert linked("EMA, a moving average") == "[EMA], a moving average"
    assert linked("ema of a jvp") == "ema of a jvp"
    # no part of a word
    assert linked("fieldwork, subfield") == "fieldwork, subfield"


def test_chapters_and_equations_are_linked_to_their_place():
    assert linked("See chapter 05.") == "See [chapter 05]."
    assert linked("See chapter 98.") == "See chapter 98."
    assert linked("Chapters 03, 05 and 98") == "Chapters [03], [05] and 98"
    assert linked("in 05 steps") == "in 05 steps"
    own = next(c.stem for c in chapters.chapters().values() if c.number == "05")
    assert linked("See chapter 05.", f"notebooks/{own}") == "See chapter 05."
    assert linked("By (5.1) and (98.1)") == "By [(5.1)] and (98.1)"

    def address(document):
        pieces = links.Linker(document).text("(5.1)")
        return next(p["refuri"] for p in pieces if isinstance(p, nodes.reference))

    assert address(f"notebooks/{own}") == "#equation-5-1"
    assert address("notebooks/00_start") == f"{own}.html#equation-5-1"
    assert address("preface") == f"notebooks/{own}.html#equation-5-1"


def test_terms_of_the_glossary_are_unique_and_used():
    terms = links.terms()
    assert len(set(terms.values())) > 30
    everything = "\n".join(p.read_text("utf-8") for p in [*tool.sources(), *PROSE]).lower()
    everything = " ".join(everything.split())
    for term in terms:
        assert everything.count(term) > 1, f"{term} is explained and never used"


def test_the_same_page_is_linked_the_same_way():
    text = "A field, its average velocity, chapter 05, (5.1), and a residual of the field."
    assert linked(text) == linked(text)


def test_the_index_lists_the_pages_that_use_a_term(tmp_path):
    """A small book: the term leads to the glossary and the index to the page."""
    glossary = "# Glossary\n\n```{glossary}\naverage velocity\n  What it is.\n```\n"
    toc = "\n\n```{toctree}\nglossary\nused\n```\n"
    (tmp_path / "index.md").write_text(f"# Top{toc}", "utf-8")
    (tmp_path / "glossary.md").write_text(glossary, "utf-8")
    (tmp_path / "used.md").write_text("# Used\n\nThe average\nvelocity, of (5.1).\n", "utf-8")
    path = f"import sys; sys.path.insert(0, {str(ROOT / 'book' / '_ext')!r})\n"
    conf = path + 'extensions = ["myst_parser", "sphinx_design", "meanflow_book"]\n'
    (tmp_path / "conf.py").write_text(conf, "utf-8")
    command = [sys.executable, "-m", "sphinx", "-q", str(tmp_path), str(tmp_path / "out")]
    subprocess.run(command, check=True)
    page = (tmp_path / "out" / "used.html").read_text("utf-8")
    assert 'href="glossary.html#term-average-velocity"' in page
    assert 'id="use-average-velocity"' in page and "#equation-5-1" in page
    index = (tmp_path / "out" / "genindex.html").read_text("utf-8")
    assert "used.html#use-average-velocity" in index
    assert "glossary.html#term-average-velocity" in index


# Launch buttons


class Config:
    """What Sphinx hands to a listener, as far as it is used."""

    def __init__(self, **options: str) -> None:
        self.html_theme_options = options


def test_buttons_appear_with_an_address_and_only_then(tmp_path):
    def options(url: str) -> dict:
        setting = {"repository": {"url": url, "branch": "main"}}
        (tmp_path / "_config.yml").write_text(yaml.safe_dump(setting), "utf-8")
        config = Config(search_bar_text="kept")
        theme.launch_buttons(SimpleNamespace(confdir=tmp_path), config)
        return config.html_theme_options

    assert options("") == {"search_bar_text": "kept"}
    found = options("https://github.com/a/b")
    assert "colab_url" in found["launch_buttons"] and found["search_bar_text"] == "kept"
    assert found["repository_url"] == "https://github.com/a/b"
