"""Every diagnostic passes the correct code and catches its bug."""

import pytest

from meanflow_lite.notebook.bugs import CATALOG


@pytest.mark.parametrize("name", CATALOG)
def test_a_diagnostic_passes_correct_code_and_catches_its_bug(name):
    bug = CATALOG[name]
    right, wrong = bug.diagnostic(bug.correct), bug.diagnostic(bug.broken)
    print(f"{name}: {right:.3g} against {wrong:.3g}, limit {bug.limit:g}")
    assert right <= bug.limit < wrong


def test_the_catalog_names_every_bug_once_and_explains_it():
    assert len(CATALOG) == 14
    assert all(bug.mistake and bug.symptom for bug in CATALOG.values())
