"""Published numbers: rows are complete, citations exist, an unknown key says what is near."""

import re

import pytest

from meanflow_lite.notebook import all_published, published, results, settings
from tools import notebooks as tool

TRUST = {"first hand", "second hand", "abstract"}


def test_every_row_has_value_source_and_trust():
    for row in all_published().values():
        assert isinstance(row.value, int | float), row
        assert row.what and row.source and row.trust in TRUST, row
        if row.what.startswith("FID"):
            said = (row.nfe, row.guidance, row.epochs, row.labels, row.tokenizer, row.batch)
            assert all(said), f"{row.key}: a condition is missing; write 'not stated here'"


def test_a_value_prints_as_it_was_published():
    row = published("meanflow-xl2plus-2nfe")
    assert f"{row:.2f}" == "2.20"
    assert f"{row}" == "2.2"
    assert row.epochs == "1000"


def test_an_unknown_key_says_what_is_near():
    with pytest.raises(KeyError, match="meanflow-xl2-1nfe"):
        published("meanflow-xl")
    with pytest.raises(KeyError, match="XL/2"):
        settings("XL")
    with pytest.raises(KeyError, match="no result is called 'nothing'"):
        results("nothing")


def test_effective_guidance_agrees_with_omega_and_kappa():
    for preset in ("B/2", "M/2", "L/2", "XL/2", "XL/2+"):
        row = settings(preset)
        assert row["omega_effective"] == pytest.approx(row["omega"] / (1 - row["kappa"]), rel=1e-6)


def test_chapters_cite_keys_that_exist():
    for source in tool.sources():
        for key in re.findall(r"\bpublished\(\s*\"([^\"]+)\"", source.read_text("utf-8")):
            assert published(key).value is not None
