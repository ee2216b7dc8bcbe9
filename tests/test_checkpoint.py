"""A run that is cut anywhere and resumed ends with the same bits; damage is found, never read."""

import json
import multiprocessing
import resource
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from meanflow_lite.data.batches import FromTensors
from meanflow_lite.networks import MLP
from meanflow_lite.objectives import ANY, Loss, MeanFlow
from meanflow_lite.training import (
    CheckpointError,
    Mismatch,
    TrainConfig,
    Trainer,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
)


class Staged(nn.Module):
    """An objective with everything a checkpoint must hold: stages, a teacher, its own player."""

    domain, target_ema, lr_scale = ANY, 0.9, 2.0

    def __init__(self):
        super().__init__()
        self.player = nn.Linear(2, 1)
        self.inner = MeanFlow(p_equal=0.5)

    def stage(self, progress):
        return int(progress * 3)

    def draw(self, x, y, ctx):
        return self.inner.draw(x, y, ctx)

    def forward(self, u, draw, ctx):
        loss = self.inner(u, draw, ctx)
        own, target = u(draw.z, draw.r, draw.t), ctx.u_ema(draw.z, draw.r, draw.t)
        pull = (own - target).square().sum(1)
        if ctx.teacher is not None:
            pull = pull + (own - ctx.teacher(draw.z, draw.r, draw.t)).square().sum(1)
        score = self.player(draw.x)[:, 0] - self.player(own.detach())[:, 0]
        return Loss(loss.per_sample + pull + score.square(), loss.watch)


def trainer(width=8, steps=12) -> Trainer:
    torch.manual_seed(0)
    data = FromTensors(torch.randn(64, 2, generator=torch.Generator().manual_seed(1)))
    config = TrainConfig(steps=steps, batch=16, ema=(0.9, 0.99), cooldown=0.5)
    return Trainer(MLP(2, width, 2), Staged(), data, config)


def weights(run: Trainer) -> dict[str, torch.Tensor]:
    assert run.target is not None and isinstance(run.objective, nn.Module)
    parts = {"net": run.net, "objective": run.objective, "target": run.target.net}
    parts |= {f"ema{i}": a.net for i, a in enumerate(run.averages)}
    return {f"{p}.{k}": v for p, m in parts.items() for k, v in m.state_dict().items()}


def same(a: Trainer, b: Trainer) -> bool:
    first, second = weights(a), weights(b)
    return all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("cut", [1, 4, 7, 11])
def test_resume_is_bit_identical(tmp_path, cut):
    """Before, at and after a change of stage."""
    whole, first, second = trainer(), trainer(), trainer()
    list(whole.run())
    list(first.run(until=cut))
    save_checkpoint(first, tmp_path)
    assert load_checkpoint(second, tmp_path) == tmp_path / f"step-{cut:08d}"
    list(second.run())
    assert same(whole, second)


@pytest.mark.parametrize("forgotten", ["optimizer", "updates", "teacher"])
def test_forgetting_a_part_of_the_state_shows(tmp_path, forgotten):
    whole, first, second = trainer(), trainer(), trainer()
    list(whole.run())
    list(first.run(until=9))
    save_checkpoint(first, tmp_path)
    load_checkpoint(second, tmp_path)
    if forgotten == "optimizer":
        second.optimizer.state.clear()
    if forgotten == "updates":
        second.averages[1].updates = 0
    if forgotten == "teacher":
        second.teacher = None
    list(second.run())
    assert not same(whole, second)


def test_keeps_the_last_and_leaves_nothing_else(tmp_path):
    run = trainer()
    for _ in run.run():
        save_checkpoint(run, tmp_path, keep=2)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000012", "step-00000011"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "no manifest", "bad json"])
def test_a_damaged_checkpoint_falls_back_to_the_last_good_one(tmp_path, damage):
    run, other = trainer(), trainer()
    for record in run.run():
        if record.step in (3, 6):
            save_checkpoint(run, tmp_path)
    newest = checkpoints(tmp_path)[0]
    hurt(newest, damage)
    with pytest.warns(UserWarning, match="damaged"):
        path = load_checkpoint(other, tmp_path)
    assert path is not None and path.name == "step-00000003" and other.step == 3
    hurt(path, damage)
    with pytest.raises(CheckpointError, match="all 2 checkpoints"), pytest.warns(UserWarning):
        load_checkpoint(other, tmp_path)


def hurt(path: Path, how: str) -> None:
    file, manifest = path / "net.safetensors", path / "manifest.json"
    data = bytearray(file.read_bytes())
    if how == "truncated":
        file.write_bytes(data[: len(data) // 2])
    elif how == "flipped":
        data[-3] ^= 1
        file.write_bytes(data)
    elif how == "missing":
        file.unlink()
    elif how == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text()[:40])


def test_another_network_or_run_is_refused_and_named(tmp_path):
    run = trainer()
    list(run.run(until=2))
    save_checkpoint(run, tmp_path, run={"preset": "b2"})
    with pytest.raises(Mismatch, match="another network.*Another preset"):
        load_checkpoint(trainer(width=9), tmp_path)
    with pytest.raises(Mismatch, match="preset is 'b2' there, 'b4' here"):
        load_checkpoint(trainer(), tmp_path, run={"preset": "b4"})
    assert load_checkpoint(trainer(), tmp_path, run={"preset": "b2"})


def test_nothing_is_unpickled(tmp_path):
    run = trainer()
    list(run.run(until=2))
    path = save_checkpoint(run, tmp_path)
    assert {p.suffix for p in path.iterdir()} == {".safetensors", ".json"}
    assert json.loads((path / "manifest.json").read_text())["step"] == 2


def test_an_empty_folder_starts_anew(tmp_path):
    (tmp_path / ".partial-step-00000009-1").mkdir()
    assert load_checkpoint(trainer(), tmp_path) is None


def fork(function, *arguments):
    """Run in a copy of this process: starting Python and PyTorch anew takes seconds."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=function, args=(sender, *arguments))
    process.start()
    return process, receiver


def _write_with_a_small_limit(sender, folder):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    run = trainer(width=64)
    list(run.run(until=2))
    save_checkpoint(run, folder)
    list(run.run(until=3))
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    try:
        save_checkpoint(run, folder)
    except CheckpointError as error:
        sender.send(str(error))


def test_a_full_disk_is_a_clear_error_and_keeps_the_last_good_one(tmp_path):
    """The limit on a file's size makes the same failing write that a full disk does."""
    process, receiver = fork(_write_with_a_small_limit, tmp_path)
    process.join(60)
    assert process.exitcode == 0 and receiver.poll()
    message = receiver.recv()
    assert "the last good checkpoint is" in message and "step-00000002" in message
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000002"]
    assert load_checkpoint(trainer(width=64), tmp_path)


def _train(sender, folder, steps):
    run = trainer(steps=steps)
    load_checkpoint(run, folder)
    for _ in run.run():
        save_checkpoint(run, folder)
        sender.send(run.step)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path, kills):
    """SIGKILL while it does nothing but train and write; then to the end, with the same bits."""
    steps = 10 * kills
    rng = torch.Generator().manual_seed(kills)
    for _ in range(kills):
        process, receiver = fork(_train, tmp_path, steps)
        receiver.recv()  # it has written one checkpoint
        time.sleep(float(torch.rand((), generator=rng)) * 0.03)
        process.kill()
        process.join()
    whole, last = trainer(steps=steps), trainer(steps=steps)
    newest = load_checkpoint(last, tmp_path)
    assert newest == checkpoints(tmp_path)[0]
    assert 0 < last.step < steps
    list(whole.run())
    list(last.run())
    assert same(whole, last)
