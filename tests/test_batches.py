"""What may be trained on: refused, or right; and settings that name files, from any folder."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from meanflow_lite.data.batches import FromDistribution, FromTensors, epoch_rows, seeded
from meanflow_lite.data.digits import to_uint8
from meanflow_lite.evaluation import digits as judges

X = torch.randn(6, 2)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_data_that_cannot_take_noise_is_refused(dtype):
    """Whole numbers once trained at t = 0 with rounded noise, to a lower error."""
    with pytest.raises(ValueError, match="floating-point numbers are needed"):
        FromTensors((X * 3).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_stored_and_trained_in_float32(dtype):
    """Times in half precision round to 1 in a row of six hundred."""
    x, y = FromTensors(X.to(dtype), torch.arange(6, dtype=torch.uint8))(0, 4, 0)
    assert x.dtype == torch.float32 and y.dtype == torch.int64
    assert FromTensors(X.double())(0, 4, 0)[0].dtype == torch.float64


@pytest.mark.parametrize(
    "labels",
    [
        torch.rand(6),
        torch.full((6,), torch.nan),
        torch.zeros(6, 1, dtype=torch.int64),
        torch.zeros(1, dtype=torch.int64),
        torch.tensor(0),
        torch.zeros(6, dtype=torch.bool),
        torch.tensor([0, 1, 2, 0, 1, -1]),
    ],
)
def test_labels_that_are_none_are_refused(labels):
    with pytest.raises(ValueError, match="labels are"):
        FromTensors(X, labels)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite(value):
    x = X.clone()
    x[3, 1] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        FromTensors(x)
    with pytest.raises(ValueError, match="did training diverge"):
        to_uint8(x.view(6, 2, 1, 1))


def test_a_distribution_of_whole_numbers_is_refused():
    class Dice:
        def sample(self, n, generator=None):
            return torch.randint(1, 7, (n, 1), generator=generator), None

    with pytest.raises(ValueError, match="floating-point"):
        FromDistribution(Dice())(0, 4, 0)


@pytest.mark.parametrize("size", [0, -1, 7])
def test_batches_of_no_row_or_too_many(size):
    with pytest.raises(ValueError, match="batch"):
        epoch_rows(6, 0, size, 0)


@pytest.mark.parametrize("keys", [(-1,), (2**64,), (0, 10**23)])
def test_seeds_have_sixty_four_bits(keys):
    with pytest.raises(ValueError, match="a seed is a whole number"):
        seeded(*keys)


@pytest.mark.parametrize("labels", [torch.full((3,), 11), torch.full((3,), -1), torch.rand(3)])
def test_labels_of_judged_digits(labels):
    with pytest.raises(ValueError, match="labels of digits"):
        judges.judge(torch.zeros(3, 1, 8, 8), labels)


def test_what_notebooks_are_compared_by_is_found_from_any_folder(tmp_path, monkeypatch):
    root = Path(__file__).resolve().parent.parent
    spec = importlib.util.spec_from_file_location("root_conftest", root / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    option = SimpleNamespace(nbval_sanitize_with="tests/nbval_sanitize.cfg")
    module.pytest_configure(SimpleNamespace(option=option))
    assert Path(option.nbval_sanitize_with).is_file()
    own = SimpleNamespace(nbval_sanitize_with=str(tmp_path / "own.cfg"))
    module.pytest_configure(SimpleNamespace(option=own))
    assert own.nbval_sanitize_with == str(tmp_path / "own.cfg")
