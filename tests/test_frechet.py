"""The Frechet distance against closed forms, and the judges of digits against held-out ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from meanflow_lite.data.digits import HELD_OUT, digits, to_uint8
from meanflow_lite.evaluation import digits as judges
from meanflow_lite.evaluation.frechet import (
    Moments,
    Sums,
    accumulate,
    add,
    frechet_distance,
    moments,
    read_statistics,
    write_statistics,
)


def test_closed_form_of_two_gaussians():
    """Diagonal covariances: the squared distance of means and of standard deviations."""
    rng = np.random.default_rng(0)
    m, s = rng.normal(size=(2, 6)), rng.uniform(0.5, 2, size=(2, 6))
    a, b = (Moments(m[i], np.diag(s[i] ** 2)) for i in (0, 1))
    exact = ((m[0] - m[1]) ** 2).sum() + ((s[0] - s[1]) ** 2).sum()
    assert abs(frechet_distance(a, b) - exact) < 1e-10
    assert abs(frechet_distance(a, a)) < 1e-10


def test_moments_in_float64_survive_a_large_offset():
    """In float32 the covariance of features near 1e4 has lost its digits."""
    features = torch.randn(500, 4, dtype=torch.float64) + 1e4
    whole, parts = moments(features), accumulate(features.split(33))
    np.testing.assert_allclose(parts.covariance, np.cov(features.numpy().T), rtol=1e-9)
    np.testing.assert_allclose(whole.covariance, parts.covariance, rtol=1e-9)
    single = features.float()
    wrong = (single.T @ single - 500 * torch.outer(single.mean(0), single.mean(0))) / 499
    assert abs(wrong.numpy() / whole.covariance - 1).max() > 1e-2


def test_statistics_come_back_and_bad_input_is_refused(tmp_path):
    m = moments(torch.randn(20, 3))
    for name in ("s.npz", "t", "u.v"):  # numpy adds .npz to a name without it
        written = write_statistics(m, tmp_path / name)
        assert frechet_distance(read_statistics(written), m) < 1e-6
        assert read_statistics(written).count == 20
    assert read_statistics(write_statistics(replace(m, count=None), tmp_path / "s")).count is None
    np.savez(tmp_path / "other.npz", arr_0=np.zeros(3))
    with pytest.raises(ValueError, match=r"mu \[d\] and sigma \[d, d\]"):
        read_statistics(tmp_path / "other.npz")
    with pytest.raises(ValueError, match="3 and 4"):
        frechet_distance(m, moments(torch.randn(20, 4)))
    with pytest.raises(ValueError, match="at least two"):
        moments(torch.randn(1, 3))
    with pytest.raises(ValueError, match="NaN"):
        moments(torch.full((3, 2), torch.nan))


def refused_moments():
    mean, sound = np.zeros(3), np.diag([1.0, 2.0, 3.0])
    yield "NaN", mean * np.nan, sound
    yield "NaN", mean, np.full((3, 3), np.inf)
    yield "not symmetric", mean, np.triu(np.ones((3, 3)) + sound)
    yield "negative variance", mean, -sound
    yield "negative eigenvalue", mean, np.ones((3, 3)) - np.diag([0, 0, 0.9])
    yield "mean .d. and a covariance", mean, sound[:2]
    yield "mean .d. and a covariance", mean, sound[0]
    yield "mean .d. and a covariance", mean[:2], sound


@pytest.mark.parametrize(("message", "mean", "covariance"), [*refused_moments()])
def test_what_is_no_moments_is_refused(message, mean, covariance, tmp_path):
    np.savez(tmp_path / "s.npz", mu=mean, sigma=covariance)
    with pytest.raises(ValueError, match=f"s.npz does not hold reference statistics.*{message}"):
        read_statistics(tmp_path / "s.npz")


def test_sums_of_parts_add_up_to_the_whole():
    """In any split, one with a single row and one with none included; and not by accident."""
    features = torch.randn(60, 5, dtype=torch.float64) * torch.arange(1, 6) + 100
    whole = moments(features)
    for sizes in ([60], [1, 59], [20, 0, 40], [7] * 8 + [4]):
        parts = [Sums.of(part) for part in features.split(sizes)]
        for summed in (add(parts), add(reversed(parts))):
            np.testing.assert_allclose(summed.moments().covariance, whole.covariance, rtol=1e-12)
            np.testing.assert_allclose(summed.moments().mean, whole.mean, rtol=1e-14)
    apart = [Sums.of(part - part.mean(0)) for part in features.split(30)]  # without the means
    assert abs(add(apart).moments().covariance / whole.covariance - 1).max() > 1e-3


def test_the_split_is_fixed_and_disjoint():
    (x, y), (held, _) = digits(), digits(held_out=True)
    assert len(held) == HELD_OUT and len(x) + len(held) == 1797
    assert x.min() == -1 and x.max() == 1 and set(y.tolist()) == set(range(10))
    assert judges.nearest(held, x).min() > 0
    assert to_uint8(torch.tensor([[[[-1.0, 0.0, 1.0, 9.0]]]])).flatten().tolist() == [
        0,
        128,
        255,
        255,
    ]


def test_the_judges_know_held_out_digits_and_see_noise_and_copies():
    x, y = digits(held_out=True)
    report = judges.judge(x, y, resamples=20)
    assert report.accuracy.low > 0.97 and report.accuracy_floor > 0.98
    assert report.frechet.low <= report.frechet.center <= report.frechet.high
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    worse = judges.judge((x + 0.6 * noise).clamp(-1, 1), y.flip(0), resamples=20)
    assert worse.frechet.low > 3 * report.frechet.high and worse.accuracy.high < 0.3
    copies = judges.judge(digits()[0], digits()[1], resamples=2)
    assert copies.nearest.high < 0.01 < report.nearest.low
    with pytest.raises(ValueError, match="1, 8, 8"):
        judges.judge(x[:, 0], y)
    with pytest.raises(ValueError, match="NaN"):
        judges.judge(x * torch.nan, y)


@pytest.mark.slow
def test_the_shipped_features_are_what_training_gives():
    again, shipped = judges.train_feature_network(), judges.feature_network()
    x = digits(held_out=True)[0]
    torch.testing.assert_close(again.features(x), shipped.features(x), rtol=1e-2, atol=1e-2)
