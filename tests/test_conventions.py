"""Adapters to other conventions undo each other and move samples the right way."""

import pytest
import torch

from meanflow_lite.conventions import CONVENTIONS, p_equal_from_share_of_jumps
from meanflow_lite.data.batches import FromTensors
from meanflow_lite.data.toys import product
from meanflow_lite.domains import domain_of
from meanflow_lite.objectives import FlowMatching, MeanFlow
from meanflow_lite.paths import count_equal
from meanflow_lite.samplers import integrate, sample
from meanflow_lite.training import TrainConfig, train

KNOW_NO_R = {"data at one", "noise level as a timestep"}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_there_and_back_is_the_field_itself(name, float64):
    row, data = CONVENTIONS[name], product()
    told = {}

    def field(z, r, t, y=None, **cond):
        told.update(cond, y=y)
        return data.average(z, r, t)

    z, t = torch.randn(32, 2), torch.rand(32) * 0.9 + 0.1
    r = t if name in KNOW_NO_R else t * torch.rand(32)
    back = row.to_field(row.from_field(field))
    torch.testing.assert_close(back(z, r, t), data.average(z, r, t))
    back(z, r, t, torch.arange(32), omega=2 * t)  # labels and conditions arrive as they are
    assert torch.equal(told["y"], torch.arange(32)) and torch.equal(told["omega"], 2 * t)
    # the times swapped are another jump: the adapters are not all the identity by accident
    other = CONVENTIONS["start and length"].from_field(data.average)
    assert not torch.allclose(other(z, t, 0.5 * t), data.average(z, t, t))


class Theirs(torch.nn.Module):
    """A small network of another repository; ``labels`` says whether its call has any."""

    def __init__(self, times: int, labels: bool = True, head: bool = False) -> None:
        super().__init__()
        self.times, self.head = times, head
        self.layer = torch.nn.Linear(2 + times, 2)
        self.label = torch.nn.Embedding(4, 2) if labels else None

    def forward(self, x, *told):
        h = self.layer(torch.cat([x, *(t.sin()[:, None] for t in told[: self.times])], 1)).tanh()
        if self.label is not None:
            h = h + self.label(told[self.times])
        return (h, h) if self.head else h


TIMES = dict(zip(CONVENTIONS, (2, 5, 2, 2, 1, 2, 1), strict=True))


@pytest.mark.parametrize("name", CONVENTIONS)
@pytest.mark.parametrize("labels", [True, False])
def test_a_foreign_network_is_trained_by_its_adapter(name, labels):
    row = CONVENTIONS[name]
    if not labels and row.read.__name__ == "_read_guided":
        return  # guidance without labels is none
    torch.manual_seed(0)
    theirs = Theirs(TIMES[name], labels, head=row.read.__name__ == "_read_guided")
    before = {k: v.clone() for k, v in theirs.named_parameters()}
    objective = FlowMatching() if name in KNOW_NO_R else MeanFlow(p_equal=0.5)
    data = FromTensors(torch.randn(64, 2), torch.arange(64) % 3 if labels else None)
    field, _ = train(row.to_field(theirs), objective, data, TrainConfig(steps=3, batch=16))
    assert all((v != before[k]).any() for k, v in theirs.named_parameters())
    assert domain_of(field) == objective.domain
    y = [1] * 5 if labels else None
    walk = integrate if name in KNOW_NO_R else sample
    assert walk(field, torch.randn(5, 2), 2, y).shape == (5, 2)
    if name in KNOW_NO_R:
        with pytest.raises(ValueError, match="only r = t"):
            sample(row.to_field(theirs), torch.randn(5, 2), [1, 0], y)


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
