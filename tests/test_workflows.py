"""What cannot be run at home is at least held to its rules: workflows and templates of GitHub."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = {p.name: p.read_text("utf-8") for p in (ROOT / ".github/workflows").glob("*.yml")}
FORMS = {p.name: p.read_text("utf-8") for p in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")}
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
OWN = ("sudo rm -rf /usr/share/dotnet", "number=$(gh issue list")  # what has no place in a Makefile


def problems(text: str) -> list[str]:
    """Where a workflow leaves the rules: commands, rights, ends, versions."""
    flow = yaml.safe_load(text)
    out = []
    if flow.get("permissions") != {"contents": "read"}:
        out.append("the default permission must be to read the contents")
    if "concurrency" not in flow:
        out.append("no concurrency group")
    if "-euo pipefail" not in flow.get("defaults", {}).get("run", {}).get("shell", ""):
        out.append("commands must run under -euo pipefail")
    for name, job in flow["jobs"].items():
        if "timeout-minutes" not in job:
            out.append(f"{name} has no time limit")
        for step in job["steps"]:
            out += _step_problems(step)
    return out


def _step_problems(step: dict) -> list[str]:
    command = step.get("run", "").strip()
    if "uses" in step and not re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]):
        return [f"{step['uses']} is not an action of GitHub's at a major version"]
    if not command or command.startswith(OWN):
        return []
    called = re.fullmatch(r"make ([a-z]+)( [A-Z]+=\w+)*", command)
    if not called:
        return [f"{command!r} is no target of the Makefile"]
    if not re.search(rf"^{called.group(1)}:", MAKEFILE, re.M):
        return [f"the Makefile has no target {called.group(1)!r}"]
    return []


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_keeps_the_rules(name):
    assert problems(WORKFLOWS[name]) == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("run: make unit", "run: make units", "has no target 'units'"),
        ("run: make unit", "run: pytest", "is no target of the Makefile"),
        ("run: make unit", "run: make unit || true", "is no target of the Makefile"),
        ("contents: read", "contents: write", "default permission"),
        ("timeout-minutes: 40", "", "unit has no time limit"),
        ("checkout@v5", "checkout@main", "at a major version"),
        ("actions/checkout@v5", "somebody/checkout@v5", "not an action of GitHub's"),
        (" -euo pipefail", "", "-euo pipefail"),
        ("concurrency:", "other:", "no concurrency"),
    ],
)
def test_each_breach_is_found(old, new, says):
    broken = WORKFLOWS["tests.yml"].replace(old, new)
    assert broken != WORKFLOWS["tests.yml"]
    assert any(says in p for p in problems(broken)), problems(broken)


def test_the_tests_run_on_the_versions_that_the_package_supports():
    matrix = yaml.safe_load(WORKFLOWS["tests.yml"])["jobs"]["unit"]["strategy"]["matrix"]
    assert len(matrix["os"]) == 2 and len(matrix["python"]) == 3
    lowest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert lowest is not None and lowest.group(1) == matrix["python"][0]


def test_a_failure_in_colab_opens_an_issue():
    flow = yaml.safe_load(WORKFLOWS["colab.yml"])
    assert flow[True]["schedule"]  # YAML 1.1 reads the key `on` as a truth value
    report = flow["jobs"]["report"]
    assert report["needs"] == "notebooks" and report["if"] == "failure()"
    assert report["permissions"] == {"issues": "write"}
    assert "us-docker.pkg.dev/colab-images/public/runtime" in MAKEFILE


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_complete(name):
    form = yaml.safe_load(FORMS[name])
    assert form["name"] and form["description"]
    kinds = {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    assert all(field["type"] in kinds for field in form["body"])
    ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert len(ids) == len(set(ids))
    assert all(f["attributes"].get("label") for f in form["body"] if f["type"] != "markdown")


def test_a_bug_report_asks_for_doctor():
    fields = {f.get("id"): f for f in yaml.safe_load(FORMS["bug.yml"])["body"]}
    assert "meanflow-lite doctor" in fields["doctor"]["attributes"]["label"]
    assert fields["doctor"]["validations"]["required"]
