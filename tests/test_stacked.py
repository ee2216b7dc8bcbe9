"""Seeds side by side in one pass are the seeds one by one."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from controls import DistributionMatching, EnergyGenerator, PlainGan, Reflow
from stacked import EachSeed, Stack, StackTrainer

from meanflow_lite.data.batches import FromDistribution, seeded
from meanflow_lite.data.toys import product
from meanflow_lite.networks.mlp import MLP, MLPDiscriminator
from meanflow_lite.objectives import Context, Drifting, MeanFlow
from meanflow_lite.randomness import Random
from meanflow_lite.training.loop import TrainConfig, Trainer

SEEDS = 3


def members(seed=0):
    torch.manual_seed(seed)
    made = [MLP(2, 16, 2) for _ in range(SEEDS)]
    for net in made:
        torch.nn.init.normal_(net.last.weight)
    return made


def nothing(z, r, t, y=None):
    return torch.zeros_like(z)


def context(u, teacher=None):
    return Context(u, teacher, torch.tensor(0.5), Random(1))


def test_a_stack_gives_each_row_to_its_own_member():
    nets = members()
    stack, z, r, t = Stack(nets), torch.randn(12, 2), torch.rand(12), torch.rand(12)
    values, slopes = stack.forward_with_tangent(z, r, t, z, r, t)
    for k, net in enumerate(nets):
        own = slice(k, None, SEEDS)
        torch.testing.assert_close(stack(z, r, t)[own], net(z[own], r[own], t[own]))
        wanted = net.forward_with_tangent(*(v[own] for v in (z, r, t, z, r, t)))
        torch.testing.assert_close((values[own], slopes[own]), wanted)
    assert not torch.allclose(stack(z, r, t)[:4], nets[0](z[:4], r[:4], t[:4]))


@pytest.mark.parametrize("objective", [Drifting(), EnergyGenerator()], ids=["drifting", "energy"])
def test_rows_are_compared_within_their_seed(objective):
    nets = [net.double() for net in members()]
    draw = objective.draw(product().sample(24, seeded(2))[0].double(), None, context(nothing))
    together = EachSeed(objective, SEEDS)(Stack(nets), draw, context(nothing)).per_sample
    for k, net in enumerate(nets):
        rows = draw.map(lambda v, k=k: v[k::SEEDS])
        torch.testing.assert_close(
            together[k::SEEDS], objective(net, rows, context(nothing)).per_sample
        )
    assert not torch.allclose(together, objective(Stack(nets), draw, context(nothing)).per_sample)


def test_one_seed_in_a_stack_trains_as_the_librarys_trainer_does():
    torch.manual_seed(0)
    net, batches = MLP(2, 16, 2), FromDistribution(product())
    config = TrainConfig(steps=20, batch=32, lr=1e-2, clip=0.5)
    stacked = StackTrainer(
        Stack([net]), MeanFlow(p=0.0), batches, replace(config, clip=None), clip=0.5
    )
    plain = Trainer(net, MeanFlow(p=0.0), batches, config)
    for trainer in (stacked, plain):
        list(trainer.run())
    own = [p[0] for p in stacked.net.parameters()]
    torch.testing.assert_close(
        own, [p.detach() for p in plain.net.parameters()], rtol=1e-4, atol=1e-5
    )


def test_a_seed_that_is_lost_leaves_the_others_as_they_were():
    def trained(broken):
        nets = members()
        if broken:
            with torch.no_grad():
                nets[1].first.weight.fill_(torch.nan)
        config = TrainConfig(steps=5, batch=8 * SEEDS)
        trainer = StackTrainer(Stack(nets), MeanFlow(p=0.0), FromDistribution(product()), config)
        list(trainer.run())
        return trainer

    whole, broken = trained(False), trained(True)
    assert whole.lost == set() and broken.lost == {1}
    for mine, theirs in zip(whole.net.parameters(), broken.net.parameters(), strict=True):
        torch.testing.assert_close(mine[::2], theirs[::2])


@pytest.mark.parametrize("name", ["gan", "dmd"])
def test_the_two_players_of_a_control_do_not_touch(name):
    nets, rivals = Stack(members()), [MLP(2, 16, 2) for _ in range(SEEDS)]
    for rival in rivals:
        torch.nn.init.normal_(rival.last.weight)
    critic = Stack([MLPDiscriminator(2, 16) for _ in range(SEEDS)])
    objective = PlainGan(critic) if name == "gan" else DistributionMatching(Stack(rivals))
    ctx = context(nets, Stack(members(1)))
    draw = objective.draw(product().sample(24, seeded(2))[0], None, ctx)
    loss = objective(nets, draw, ctx).per_sample.mean()
    both = [*nets.parameters()], [*objective.parameters()]
    whole = [torch.autograd.grad(loss, player, retain_graph=True) for player in both]
    frozen = replace(draw, eps=draw.eps)

    def still(z, r, t, y=None):
        return nets(z, r, t).detach()

    alone = objective(still, frozen, ctx).per_sample.mean()
    torch.testing.assert_close(torch.autograd.grad(alone, both[1]), whole[1])
    assert all(g.abs().sum() > 0 for g in whole[0])


def test_reflow_of_an_exact_teacher_has_straight_paths_and_keeps_the_ends():
    """On pairs of the exact flow the best constant-speed field is the average velocity."""
    data, eps = product(), torch.randn(4000, 2, generator=seeded(3))
    one = torch.ones(len(eps))
    end = eps - data.average(eps, 0 * one, one)
    draw = Reflow().draw(torch.stack([eps, end], 1), None, context(nothing))

    def average(z, r, t, y=None):
        return data.average(draw.eps, 0 * one, one)

    assert Reflow()(average, draw, context(nothing)).per_sample.max() < 1e-8
    assert (
        Reflow()(
            lambda z, r, t, y=None: data.velocity(z, t), draw, context(nothing)
        ).per_sample.mean()
        > 0.1
    )
