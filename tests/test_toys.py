"""Toy distributions: right shapes, labels and scale, and the same draw from the same seed."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meanflow_lite.data.toys import TOYS, Checkerboard, ring, toy
from meanflow_lite.evaluation.distances import energy_distance
from meanflow_lite.fields import GaussianMixture


@pytest.mark.parametrize("name", TOYS)
def test_samples_have_the_promised_form(name, generator):
    data = toy(name)
    x, y = data.sample(4096, generator)
    assert x.shape == (4096, data.dim) and x.dtype == torch.float32
    if data.num_classes is None:
        assert y is None
    else:
        assert y is not None and y.shape == (4096,) and y.dtype == torch.int64
        assert y.unique().tolist() == list(range(data.num_classes))
    # The scale of the noise or up to twice that, so that no toy needs its own settings.
    assert x.std(0).min() > 0.7 and x.std(0).max() < 2.2
    assert x.mean(0).abs().max() < 0.7


@pytest.mark.parametrize("name", TOYS)
def test_a_seed_fixes_the_draw(name):
    data = toy(name)
    first, second, third = (
        data.sample(64, torch.Generator().manual_seed(seed))[0] for seed in (5, 5, 6)
    )
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(first, third)


@pytest.mark.parametrize("name", [name for name in TOYS if name != "checkerboard"])
def test_the_exact_flow_carries_noise_to_the_data(name, generator):
    """One step of the average velocity is a sampler; the raw velocity is the negative control."""
    data: Any = toy(name)
    if isinstance(data, GaussianMixture):
        data.steps = 6
    n = 1500
    eps = torch.randn(n, data.dim, generator=generator)
    t, r = torch.ones(n), torch.zeros(n)
    x, other = data.sample(n, generator)[0], data.sample(n, generator)[0]
    floor = energy_distance(x, other)
    exact = energy_distance(eps - data.average(eps, r, t), x)
    wrong = energy_distance(eps - data.velocity(eps, t), x)
    assert exact < 4 * floor + 0.003
    assert wrong > 10 * exact


def test_checkerboard_fills_every_other_square(generator):
    data = Checkerboard()
    x, _ = data.sample(4000, generator)
    column, row = (x + 2).floor().long().unbind(1)
    assert ((column + row) % 2 == 0).all() and x.abs().max() <= 2
    assert torch.bincount(4 * column + row, minlength=16)[::5].min() > 300
    assert not hasattr(data, "average")


def test_ring_labels_are_its_components(generator):
    data = ring()
    x, y = data.sample(1000, generator)
    nearest = torch.cdist(x.double(), data.means).argmin(1)
    assert y is not None and torch.equal(nearest, y)


@settings(max_examples=40, deadline=None)
@given(st.text().filter(lambda name: name not in TOYS))
def test_unknown_names_list_the_known_ones(name):
    with pytest.raises(ValueError, match="checkerboard, classes, gaussian, mixture_a"):
        toy(name)
