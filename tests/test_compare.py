"""Rows of several models in one picture; classes by name; what doctor says of weights."""

import json

import pytest
import torch
from PIL import Image
from test_ways_out import run_of

from meanflow_lite.cli import main
from meanflow_lite.runs.class_names import class_number, imagenet_names
from meanflow_lite.runs.compare import SIDE, TEXT, Row, draw_rows
from meanflow_lite.runs.samples import choose_labels


def test_one_row_a_model_with_what_it_took(tmp_path, capsys):
    runs = [run_of("pMF-tiny", tmp_path / "pmf", seed) for seed in (0,)]
    runs.append(run_of("pMF-tiny", tmp_path / "other", 1))
    out = tmp_path / "c.png"
    names = [str(r) for r in runs] + ["digits"]
    main(["compare", *names, "--labels", "1,2", "--columns", "3", "--out", str(out)])
    numbers = json.loads(out.with_suffix(".json").read_text())
    assert [n["name"] for n in numbers] == names
    assert all(n["evaluations"] == 1 and n["seconds"] > 0 for n in numbers)
    assert numbers[0]["parameters"] == numbers[1]["parameters"]
    assert set(numbers[0]["guidance"]) == {"omega", "t_min", "t_max"}
    picture = Image.open(out)
    assert picture.height > 3 * (SIDE + TEXT)
    assert "evaluations" in capsys.readouterr().out


def test_the_same_noise_where_shape_and_scale_agree():
    def row(shape, scale=1.0, seed=0):
        images = torch.zeros(2, 3, 8, 8)
        return Row("a", images, 1, 0.1, 10, shape, seed, scale, {})

    assert row((3, 8, 8)).noise == row((3, 8, 8)).noise
    others = [row((1, 8, 8)), row((3, 8, 8), 2.0), row((3, 8, 8), seed=1)]
    assert all(row((3, 8, 8)).noise != other.noise for other in others)
    assert "x 2" in others[1].noise
    drawn = draw_rows([row((3, 8, 8)), row((1, 8, 8))])
    assert drawn.getpixel((20, TEXT + 20)) == (128, 128, 128)


def test_classes_by_name():
    names = imagenet_names()
    assert len(names) == 1000 and class_number("Golden Retriever", 1000) == 207
    assert class_number(" 12 ", 1000) == 12
    assert choose_labels("golden retriever,0", 3, 1000, 0).tolist() == [207, 0, 207]
    assert class_number("b", 2, ["a", "b"]) == 1
    with pytest.raises(ValueError, match="near are .*golden retriever"):
        class_number("golden retreiver", 1000)
    with pytest.raises(ValueError, match="write its number"):
        class_number("otter", 10)
    with pytest.raises(ValueError, match="all called 'x'"):
        class_number("x", 2, ["x", "x"])


def test_doctor_knows_extras_and_weights(tmp_path, monkeypatch):
    from meanflow_lite.cli import doctor

    monkeypatch.setenv("MEANFLOW_CACHE", str(tmp_path))
    assert doctor._weights() == f"none yet in {tmp_path}"
    run_of("pMF-tiny", tmp_path / "pmf-b16")
    assert doctor._weights().startswith("pmf-b16 in ")
    missing = doctor._extra("weights", ("no-such-package",))
    assert missing.endswith('pip install "meanflow-lite[weights]"')
