"""Every objective, one interface: shapes, types, labels, compilation, resuming, parts."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from meanflow_lite.data.batches import FromTensors
from meanflow_lite.networks.mlp import MLP, MLPDiscriminator
from meanflow_lite.objectives import OBJECTIVES, AdversarialDistillation, Objective
from meanflow_lite.objectives.base import Context
from meanflow_lite.randomness import Random
from meanflow_lite.training import TrainConfig, Trainer
from meanflow_lite.training.checkpoint import load_checkpoint, save_checkpoint

CLASSES = 3


def make(name: str, dim: int) -> Objective:
    if name == "adversarial_distillation":
        return AdversarialDistillation(MLPDiscriminator(dim, 16, CLASSES))
    return OBJECTIVES[name]()


def context(net, progress=0.4):
    return Context(net, net, torch.tensor(progress), Random(1))


def network(dim: int) -> MLP:
    net = MLP(dim, 16, 2, num_classes=CLASSES)
    torch.nn.init.normal_(net.last.weight, std=0.1)
    return net


@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16 autocast"])
@pytest.mark.parametrize("shape", [(2,), (4, 8, 8)], ids=["points", "latents"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_runs_on_any_shape_and_type_with_finite_gradients(name, shape, kind):
    dtype = torch.float64 if kind == "float64" else torch.float32
    dim = int(torch.tensor(shape).prod())
    net, objective = network(dim).to(dtype), make(name, dim)
    if isinstance(objective, torch.nn.Module):
        objective.to(dtype)
    x, y = torch.randn(16, *shape, dtype=dtype), torch.arange(16) % CLASSES
    draw = objective.draw(x, y, context(net))
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bfloat16 autocast"):
        loss = objective(net, draw, context(net))
    assert loss.per_sample.shape == (16,)
    loss.per_sample.mean().backward()
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    assert grads and all(g.isfinite().all() for g in grads)
    assert any(g.abs().sum() > 0 for g in grads)
    assert all(not v.requires_grad for v in loss.watch.values())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_is_a_pure_function_of_its_draws(name):
    net, objective = network(2), make(name, 2)
    x, y = torch.randn(16, 2), torch.arange(16) % CLASSES
    draw = objective.draw(x, y, context(net))
    blind = replace(context(net), random=None)
    first, second = (objective(net, draw, blind).per_sample for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0.0, atol=0.0)
    other = objective(net, objective.draw(x, y, replace(context(net), random=Random(2))), blind)
    assert not torch.equal(first, other.per_sample)


# Drifting couples the rows of a batch, so its parts are batches of their own.
@pytest.mark.parametrize("name", [n for n in OBJECTIVES if n != "drifting"])
def test_two_parts_add_up_to_the_whole_batch(name):
    net, objective = network(2), make(name, 2)
    x, y = torch.randn(16, 2), torch.arange(16) % CLASSES

    def mean(part, parts):
        ctx = replace(context(net), part=part, parts=parts)
        draw = objective.draw(x[part::parts], y[part::parts], ctx)
        return objective(net, draw, ctx).per_sample.mean()

    whole, halves = mean(0, 1), (mean(0, 2) + mean(1, 2)) / 2
    torch.testing.assert_close(whole, halves)


COMPILED = """
import torch, pathlib, sys
sys.path.insert(0, "tests")
from test_objectives_interface import CLASSES, OBJECTIVES, context, make, network, replace
for name in OBJECTIVES:
    torch.compiler.reset()
    net, objective = network(2), make(name, 2)
    x, y = torch.randn(16, 2), torch.arange(16) % CLASSES
    draw = objective.draw(x, y, context(net))
    ctx = replace(context(net), random=None)
    loss = lambda: objective(net, draw, ctx).per_sample
    one = torch.compile(loss, backend="eager", fullgraph=True)
    try:
        torch.testing.assert_close(one(), objective(net, draw, ctx).per_sample)
    except Exception as error:
        print(name, type(error).__name__, str(error)[:300])
"""


@pytest.mark.slow
def test_every_loss_compiles_to_one_graph():
    """In a process of its own: the type checker of the tests is no graph. A backend that only
    records is enough to see that nothing breaks the graph.
    """
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stdout


@pytest.mark.parametrize("name", OBJECTIVES)
def test_training_resumes_to_the_bit(name, tmp_path):
    """Stages and teachers included: progressive distillation is stopped in its third stage."""
    batches = FromTensors(torch.randn(64, 2), torch.arange(64) % CLASSES)
    config = TrainConfig(steps=10, batch=16)

    def trainer():
        torch.manual_seed(0)
        return Trainer(network(2), make(name, 2), batches, config, network(2))

    straight = trainer()
    list(straight.run())
    first = trainer()
    list(first.run(until=5))
    save_checkpoint(first, tmp_path)
    second = trainer()
    load_checkpoint(second, tmp_path)
    assert second.step == 5
    list(second.run())
    assert second.stage == straight.stage
    for a, b in zip(straight.module.parameters(), second.module.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=0.0)
