"""Adapters to other conventions undo each other and move samples the right way."""

import pytest
import torch

from meanflow_lite.conventions import CONVENTIONS, p_equal_from_share_of_jumps
from meanflow_lite.data.toys import product
from meanflow_lite.objectives import MeanFlow
from meanflow_lite.paths import count_equal

KNOW_NO_R = {"data at one", "noise level as a timestep"}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_there_and_back_is_the_field_itself(name, float64):
    row, data = CONVENTIONS[name], product()
    z, t = torch.randn(32, 2), torch.rand(32) * 0.9 + 0.1
    r = t if name in KNOW_NO_R else t * torch.rand(32)
    back = row.to_field(row.from_field(data.average))
    torch.testing.assert_close(back(z, r, t), data.average(z, r, t))
    # the times swapped are another jump: the adapters are not all the identity by accident
    other = CONVENTIONS["start and length"].from_field(data.average)
    assert not torch.allclose(other(z, t, 0.5 * t), data.average(z, t, t))


def test_each_foreign_call_means_what_its_row_says(float64):
    data, z = product(), torch.randn(8, 2)
    t, r = torch.full((8,), 0.75), torch.full((8,), 0.25)
    u, v = data.average(z, r, t), data.velocity(z, t)
    foreign = {name: row.from_field(data.average) for name, row in CONVENTIONS.items()}
    torch.testing.assert_close(foreign["start and length"](z, t, t - r), u)
    torch.testing.assert_close(foreign["start, then end"](z, t, r), u)
    thousand = foreign["start, then end, in thousandths"]
    torch.testing.assert_close(thousand(z, 1000 * t, 1000 * r), u)
    torch.testing.assert_close(foreign["data at one"](z, 1 - t), -v)
    torch.testing.assert_close(foreign["data at one, with a length"](z, 1 - t, t - r), -u)
    torch.testing.assert_close(foreign["noise level as a timestep"](z, 1000 * t), v)


def test_a_foreign_euler_walk_ends_where_ours_does(float64):
    """SiT's direction: from noise at s = 0 forwards by the velocity of data minus noise."""
    data = product()
    net = CONVENTIONS["data at one"].from_field(data.average)
    x = eps = torch.randn(16, 2)
    for k in range(256):
        x = x + net(x, torch.full((16,), k / 256)) / 256
    one = eps - data.average(eps, torch.zeros(16), torch.ones(16))
    assert (x - one).abs().max() < 0.05
    wrong = eps + data.average(eps, torch.zeros(16), torch.ones(16))  # the sign forgotten
    assert (x - wrong).abs().max() > 1


def test_p_equal_and_the_ratio_of_jumps_add_up_to_one():
    ratio = 0.25  # "25% of r unlike t"
    assert count_equal(p_equal_from_share_of_jumps(ratio), 64) == 48
    assert MeanFlow().p_equal == p_equal_from_share_of_jumps(ratio)
    with pytest.raises(ValueError, match="share of rows"):
        p_equal_from_share_of_jumps(1.5)
