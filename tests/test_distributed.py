"""Two processes train what one process trains, with every objective; and when they would not."""

import multiprocessing
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from meanflow_lite.data.batches import FromTensors
from meanflow_lite.guidance import Guidance, LabelDropout
from meanflow_lite.networks import MLP
from meanflow_lite.objectives import OBJECTIVES, AdversarialDistillation, MeanFlow
from meanflow_lite.objectives.phases import Phases
from meanflow_lite.training import TrainConfig, Trainer

STEPS, BATCH, CLASSES = 5, 16, 3
TOLERANCE = 1e-12  # float64: only the order of sums differs
COMBINED = [(1, True), (2, False), (4, False), (2, True)]  # micro-batches a process, bf16


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1))

    def forward(self, x, y=None):
        return self.net(x)[:, 0]


def objectives() -> dict:
    made = {k: v() for k, v in OBJECTIVES.items() if v is not AdversarialDistillation}
    torch.manual_seed(3)
    made["adversarial_distillation"] = AdversarialDistillation(Critic().double())
    # positional dropout drops the front rows of each part, as the official code does: not equal
    guided = MeanFlow(guidance=Guidance(CLASSES, 1.0, 0.5), dropout=LabelDropout(CLASSES, 0.2))
    return made | {"guided": guided, "phases": Phases(MeanFlow(), guided, 0.5)}


def network(seed: int) -> MLP:
    torch.manual_seed(seed)
    net = MLP(2, 8, 2, CLASSES).double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    return net


def trainer(objective, accumulate=1, bf16=False) -> Trainer:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    y = torch.randint(CLASSES, (50,), generator=generator)
    dtype = torch.float32 if bf16 else torch.float64  # autocast leaves float64 alone
    config = TrainConfig(
        steps=STEPS, batch=BATCH, lr=1e-2, clip=1.0, accumulate=accumulate, bf16=bf16
    )
    teacher = network(9).requires_grad_(False)
    return Trainer(network(0).to(dtype), objective, FromTensors(x.to(dtype), y), config, teacher)


def result(run: Trainer) -> tuple[dict, float]:
    records = [*run.run()]
    state = {k: v.clone() for k, v in run.module.state_dict().items()}
    return state, records[-1].loss


def _process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/store", timedelta(seconds=60), world_size=2, rank=rank
    )
    results = {name: result(trainer(objective)) for name, objective in objectives().items()}
    for accumulate, bf16 in COMBINED:
        results[f"{accumulate} {bf16}"] = result(trainer(MeanFlow(), accumulate, bf16))
    results["unwrapped"] = unwrapped()
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def unwrapped():
    """What other repositories do: DDP around the network, and the loss on what is inside it."""
    run = trainer(MeanFlow())
    wrapper = DistributedDataParallel(run.net)
    assert run.wrapper is not None
    run.call = lambda draw, ctx: run.objective(wrapper.module, draw, ctx)  # pyright: ignore
    return result(run)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("gloo")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_process, args=(rank, folder)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [p.exitcode for p in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", [*OBJECTIVES, "guided", "phases"])
def test_two_processes_train_what_one_does(two, name):
    weights, loss = result(trainer(objectives()[name]))
    for rank in (0, 1):
        theirs, their_loss = two[rank][name]
        torch.testing.assert_close(theirs, weights, rtol=TOLERANCE, atol=TOLERANCE)
        assert abs(their_loss - loss) < 1e-5 * abs(loss)  # logged in float32
    start = network(0).state_dict()
    assert any((weights[f"net.{k}"] - v).abs().max() > 1e-3 for k, v in start.items())


def test_the_loss_on_the_unwrapped_network_is_not_synchronized(two):
    """The negative control: no error is raised, and the processes drift apart."""
    first, second = two[0]["unwrapped"][0], two[1]["unwrapped"][0]
    assert max(float((first[k] - second[k]).abs().max()) for k in first) > 1e-4


@pytest.mark.parametrize("name", [k for k in OBJECTIVES if k != "drifting"])
def test_micro_batches_are_one_batch(name):
    """Drifting couples the samples of a micro-batch, so there they are not."""
    whole, parts = (result(trainer(objectives()[name], n))[0] for n in (1, 4))
    torch.testing.assert_close(parts, whole, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(("accumulate", "bf16"), COMBINED)
def test_processes_times_micro_batches_are_one_batch(two, accumulate, bf16):
    """In bfloat16 as closely as its own rounding; and the two agree to the last bit."""
    weights, _ = result(trainer(MeanFlow(), 1, bf16))
    first, second = (two[rank][f"{accumulate} {bf16}"][0] for rank in (0, 1))
    exact, _ = result(trainer(MeanFlow()))

    def apart(a, b):
        return max(float((a[k] - b[k]).abs().max()) for k in exact)

    assert (apart(weights, exact) > 1e-4) == bf16
    assert apart(first, weights) < (3 * apart(weights, exact) if bf16 else TOLERANCE)
    assert all(torch.equal(first[k], second[k]) for k in weights)
