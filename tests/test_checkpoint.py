"""A run that is cut anywhere and resumed ends with the same bits; damage is found, never read."""

import errno
import json
import multiprocessing
import os
import resource
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from meanflow_lite.data.batches import FromTensors
from meanflow_lite.networks import MLP
from meanflow_lite.objectives import ANY, Loss, MeanFlow
from meanflow_lite.training import (
    CheckpointError,
    Diverged,
    Mismatch,
    TrainConfig,
    Trainer,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from meanflow_lite.training import saver as saver_module
from meanflow_lite.training.checkpoint import NotWritten
from meanflow_lite.training.saver import Saver, Saving


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
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"step-00000003", "damaged-step-00000006"}  # set aside, not removed
    hurt(path, damage)
    said = "none of the 1 checkpoints in .* is sound.*left as they are"
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(other, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == names


def test_what_is_damaged_is_not_one_of_those_kept_and_is_replaced(tmp_path):
    """The newest is damaged; those after it push out sound ones only, and it is written anew."""
    run, other = trainer(), trainer()
    for record in run.run(until=6):
        if record.step in (2, 4, 6):
            save_checkpoint(run, tmp_path, keep=3)
    hurt(tmp_path / "step-00000006", "flipped")
    with pytest.warns(UserWarning, match="it is now damaged-step-00000006, step-00000004 is taken"):
        load_checkpoint(other, tmp_path)
    for record in other.run(until=8):
        if record.step in (6, 8):
            save_checkpoint(other, tmp_path, keep=2)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000008", "step-00000006"]
    assert load_checkpoint(trainer(), tmp_path) == tmp_path / "step-00000008"
    hurt(tmp_path / "step-00000008", "truncated")
    save_checkpoint(other, tmp_path)  # the same step: what is there does not read
    assert load_checkpoint(trainer(), tmp_path) == tmp_path / "step-00000008"


def test_names_that_are_not_the_librarys_are_let_alone(tmp_path):
    run = trainer()
    list(run.run(until=1))
    path = save_checkpoint(run, tmp_path)
    for name in ("step-best", "step-00000001-copy", "step-1"):
        shutil.copytree(path, tmp_path / name)
    for _ in run.run(until=6):
        save_checkpoint(run, tmp_path, keep=1)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000006"]
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_refusing_disk_is_not_called_damage(tmp_path, monkeypatch, code):
    """Sound checkpoints that cannot be read now: nothing is renamed, no older one is taken."""
    run = trainer()
    for record in run.run(until=4):
        if record.step % 2 == 0:
            save_checkpoint(run, tmp_path)
    real = open

    def refuse(path, *rest, **options):
        if "step-00000004/ema-0" in str(path):
            raise OSError(code, os.strerror(code), str(path))
        return real(path, *rest, **options)

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(OSError, match="step-00000004/ema-0.safetensors") as caught:
        load_checkpoint(trainer(), tmp_path)
    assert caught.value.errno == code and not isinstance(caught.value, CheckpointError)
    assert {p.name for p in tmp_path.iterdir()} == {"step-00000002", "step-00000004"}


@pytest.mark.parametrize("part", ["net", "ema-0"])
def test_what_is_not_finite_is_not_saved(tmp_path, part):
    run = trainer()
    list(run.run(until=2))
    net = run.net if part == "net" else run.averages[0].net
    with torch.no_grad():
        next(net.parameters())[0] = float("nan")
    with pytest.raises(Diverged, match=f"{part} holds numbers that are not finite.*after step 2"):
        save_checkpoint(run, tmp_path)
    assert not list(tmp_path.glob("*"))


def test_moving_averages_may_change_their_rates(tmp_path):
    """Each goes on from the stored one of its rate, or of the nearest half-life."""
    run = trainer()  # 0.9 and 0.99
    list(run.run(until=6))
    save_checkpoint(run, tmp_path)
    other = trainer()
    other.config = replace(other.config, ema=(0.99, 0.9, 0.8))
    other.start_stage()
    load_checkpoint(other, tmp_path)
    expected = [run.averages[1], run.averages[0], run.averages[0]]
    for ours, theirs in zip(other.averages, expected, strict=True):
        assert ours.updates == theirs.updates
        pairs = zip(ours.net.parameters(), theirs.net.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def saved_by(saver: Saver, until: int) -> list[str]:
    for _ in saver.trainer.run(until=until):
        saver.after_step()
        saver.finish()
    saver.close()
    return [p.name for p in checkpoints(saver.folder)]


def test_checkpoints_by_time_by_steps_and_milestones(tmp_path):
    by_time = Saver(trainer(), tmp_path / "a", {}, Saving(minutes=1e-9, milestones=0))
    assert saved_by(by_time, 5) == ["step-00000005", "step-00000004", "step-00000003"]
    never = Saver(trainer(), tmp_path / "b", {}, Saving(milestones=0))
    assert saved_by(never, 5) == []
    by_steps = Saver(trainer(), tmp_path / "c", {}, Saving(every=2, milestones=3, keep=1))
    # of 12 steps in 3 parts: 4, 8 and 12 are the first ones of a part, 10 is the last other one
    assert [int(n[5:]) for n in saved_by(by_steps, 12)] == [12, 10, 8, 4]


def test_training_goes_on_while_a_checkpoint_is_written_and_it_is_the_state_of_its_step(
    tmp_path, monkeypatch
):
    run, whole = trainer(), trainer()
    saver, gate, steps = Saver(run, tmp_path, {}, Saving(every=4)), threading.Event(), []
    real = saver_module.write_state

    def late(*arguments):
        gate.wait(60)
        real(*arguments)

    monkeypatch.setattr(saver_module, "write_state", late)
    for _ in run.run(until=7):
        saver.after_step()
        steps.append((run.step, checkpoints(tmp_path)))
    assert steps[-1] == (7, [])  # three steps while the state of step 4 waits to be written
    gate.set()
    saver.finish()
    saver.close()
    list(whole.run(until=4))
    restored = trainer()
    load_checkpoint(restored, tmp_path)
    assert restored.step == 4 and same(restored, whole)


def test_an_error_of_the_writing_thread_ends_training(tmp_path):
    run = trainer()
    (tmp_path / "c").write_text("a file where the folder should be")
    saver = Saver(run, tmp_path / "c", {}, Saving(every=2))
    with pytest.raises(NotWritten, match="could not write the checkpoint .*last good one is none"):
        for _ in run.run():
            saver.after_step()
            time.sleep(0.01)
    assert 2 < run.step < 12
    saver.close()


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
    (tmp_path / ".step-00000009.host-1.partial").mkdir()
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
    except NotWritten as error:
        sender.send(str(error))


def test_a_full_disk_is_a_clear_error_and_keeps_the_last_good_one(tmp_path):
    """The limit on a file's size makes the same failing write that a full disk does."""
    process, receiver = fork(_write_with_a_small_limit, tmp_path)
    process.join(60)
    assert process.exitcode == 0 and receiver.poll()
    message = receiver.recv()
    assert "the last good one is" in message and "step-00000002" in message
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
