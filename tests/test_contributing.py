"""What CONTRIBUTING.md shows works as it stands: a chapter's template, the worked objective."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from test_claims import cells_by_claim, ledger, problems
from test_objectives_interface import context, network

from meanflow_lite.data.toys import gaussian
from meanflow_lite.evaluation.fixed_point import gradient_at
from meanflow_lite.fields import instantaneous
from meanflow_lite.notebook.bugs import EulerMap
from meanflow_lite.objectives import Objective
from tools import chapters
from tools import notebooks as tool

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def block(start: str, language: str = "python") -> str:
    """The code block that contains ``start``."""
    blocks = re.findall(rf"```{language}\n(.*?)```", TEXT, re.S)
    return next(b for b in blocks if start in b)


@pytest.fixture(scope="module")
def worked():
    """The module of the worked objective."""
    module = ModuleType("worked_objective")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec(compile(block("class KnowledgeDistillation"), "CONTRIBUTING.md", "exec"), module.__dict__)
    yield module
    del sys.modules[module.__name__]


def test_the_worked_objective_is_one(worked):
    objective = worked.KnowledgeDistillation()
    assert isinstance(objective, Objective)
    x, net = gaussian().sample(16)[0], network(1)
    draw = objective.draw(x, None, context(net))
    assert objective(net, draw, context(net)).per_sample.shape == (16,)
    with pytest.raises(ValueError, match="needs a teacher"):
        objective(net, draw, worked.Context(net, None, context(net).progress, None))
    assert len(block("class KnowledgeDistillation").splitlines()) <= 80


def test_its_fixed_point_is_the_one_that_the_text_tests(worked):
    space = {
        "gaussian": gaussian,
        "instantaneous": instantaneous,
        "EulerMap": EulerMap,
        "gradient_at": gradient_at,
        "KnowledgeDistillation": worked.KnowledgeDistillation,
        "RIGHT": 4.0,
        "WRONG": 6.0,
    }
    code = block("def test_knowledge_distillation_is_at_rest")
    exec(compile(code, "CONTRIBUTING.md", "exec"), space)
    space["test_knowledge_distillation_is_at_rest_at_eulers_map_and_not_at_the_flow"]()


def test_its_row_fits_the_bench():
    from importlib.util import module_from_spec, spec_from_file_location

    sys.path.insert(0, str(ROOT / "benchmarks"))
    spec = spec_from_file_location("bench_of_methods", ROOT / "benchmarks" / "recipes.py")
    assert spec is not None and spec.loader is not None
    bench = module_from_spec(spec)
    sys.modules["bench_of_methods"] = bench
    spec.loader.exec_module(bench)
    made = {"Recipe": bench.Recipe, "KnowledgeDistillation": object}
    row = eval("{" + block('"knowledge_distillation": Recipe') + "}", made)
    assert row["knowledge_distillation"].teacher and "meanflow" in bench.METHODS


def test_the_example_of_a_claim_is_a_row_that_the_ledger_takes():
    opened = yaml.safe_load(block("id: geng-fd", "yaml"))[0]
    assert problems([opened], {}) == []
    settled = {**opened, **yaml.safe_load(block("status: fails", "yaml"))}
    assert problems([settled], {"geng-fd": {"11_loss_of_one"}}) == []
    assert problems([settled], {})
    assert problems(ledger(), cells_by_claim()) == problems([*ledger(), opened], cells_by_claim())


def test_paths_that_the_text_names_exist():
    for name in set(re.findall(r"`((?:[\w.]+/)+[\w.]*|[\w]+\.(?:yml|md|toml))`", TEXT)):
        made_up = "NN" in name or "knowledge_distillation" in name or "NAME" in name
        assert made_up or (ROOT / name).exists() or list(ROOT.rglob(name)), name


@pytest.mark.slow
def test_the_template_is_a_chapter(tmp_path, monkeypatch):
    """Its equations, cells, claim, exercise and figure pass every check, executed."""
    source = tmp_path / "05_template.md"
    source.write_text((tool.SOURCES / "_template.md").read_text("utf-8"), "utf-8")
    monkeypatch.setattr(chapters, "SOURCES", tmp_path)
    assert chapters.lint_source(source) == []
    book = tool.derive(source)
    tool.stamp(book, tool.execute(book))
    assert chapters.lint_notebook(book) == []
