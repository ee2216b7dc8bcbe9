"""``train`` as a user starts it: all options, several processes, moved data, full disks."""

import argparse
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from safetensors.torch import load_file
from test_latents import SETTINGS, FakeVae
from test_sit import SiT

from meanflow_lite import cli
from meanflow_lite.cli.train import Train
from meanflow_lite.data.batches import FromTensors
from meanflow_lite.data.encoding import encode, finish
from meanflow_lite.data.image_sets import ImageSet
from meanflow_lite.data.images import ImageFolder, read_image
from meanflow_lite.networks.dit import DiTConfig
from meanflow_lite.networks.presets import PRESETS as NETWORKS
from meanflow_lite.networks.presets import build
from meanflow_lite.objectives import FlowMatching
from meanflow_lite.runs import processes
from meanflow_lite.runs.cost import passes
from meanflow_lite.runs.model import Model
from meanflow_lite.runs.settings import PRESETS, Settings
from meanflow_lite.training import TrainConfig, Trainer, fit
from meanflow_lite.training.logs import Logger

TINY = ["--network", "digits-XS", "--batch", "16", "--device", "cpu", "--grid-every", "0"]

#: Another value for each setting, as typed.
TYPED = {
    "network": ["digits-L"],
    "objective": ["shortcut"],
    "epochs": ["7.5"],
    "steps": ["77"],
    "batch": ["64"],
    "accumulate": ["4"],
    "lr": ["0.0003"],
    "betas": ["0.8", "0.99"],
    "warmup": ["10"],
    "cooldown": ["0.25"],
    "clip": ["2.5"],
    "ema": ["0.9", "0.99", "0.9995"],
    "p_equal": ["0.5"],
    "p": ["0.5"],
    "c": ["0.001"],
    "time_mean": ["-0.6"],
    "time_std": ["1.6"],
    "omega": ["0.7"],
    "kappa": ["0.9"],
    "t_guided": ["0.1", "0.7"],
    "label_dropout": ["0.2"],
    "plain_epochs": ["5.5"],
    "latent_scale": ["0.5"],
    "bf16": ["True"],
    "derivative_fp32": ["True"],
    "tf32": ["True"],
    "compile": ["True"],
    "checkpoint": ["True"],
    "seed": ["3"],
    "skip_nonfinite": ["10"],
}


def run(*arguments) -> None:
    cli.main([str(a) for a in arguments])


def weights(folder: Path) -> torch.Tensor:
    tensors = load_file(folder / "model.safetensors")
    return torch.cat([tensors[k].flatten() for k in sorted(tensors)])


@pytest.mark.parametrize("preset", PRESETS)
def test_every_setting_of_every_preset_can_be_overridden(preset, monkeypatch):
    """One at a time: that one has the typed value, all others stay those of the preset."""
    assert TYPED.keys() == {f.name for f in fields(Settings)}
    parsed: list[Train] = []
    monkeypatch.setattr(Train, "run", lambda self: parsed.append(self))
    for name, typed in TYPED.items():
        run("train", "--preset", preset, f"--{name.replace('_', '-')}", *typed)
        got, published = asdict(parsed[-1].settings), asdict(PRESETS[preset])
        value = got.pop(name)
        assert [str(v) for v in (value if isinstance(value, tuple) else (value,))] == typed
        assert value != published.pop(name) and got == published
    run("train", "--preset", preset)
    assert parsed[-1].settings == PRESETS[preset]


def test_several_averages_and_grids_of_the_same_noise(tmp_path):
    out = tmp_path / "run"
    options = [*TINY[:-1], 1, "--steps", 2, "--ema", 0.5, 0.9, "--lr", 1e-12, "--save-every", 1]
    run("train", "--out", out, *options)
    kept = {p.name for p in (out / "checkpoints" / "step-00000002").glob("ema-*")}
    assert kept == {"ema-0.safetensors", "ema-1.safetensors"}
    first, second = sorted((out / "grids").iterdir())
    assert first.read_bytes() == second.read_bytes()  # nothing was learned: the noise is the same


def test_a_model_stays_on_the_device_of_its_network():
    """A grid is drawn in the middle of training: it must not take the average off its GPU."""
    net = build("digits-XS").to("meta")  # a device that nothing can be copied away from
    model = Model(net, {"num_classes": 10, "shape": [1, 8, 8], "vae": None})
    assert model.device.type == next(net.parameters()).device.type == "meta"
    with pytest.raises(NotImplementedError):
        net.to("cpu")


def test_each_process_takes_its_own_gpu_and_nccl(monkeypatch):
    calls = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda d: calls.update(device=d))
    monkeypatch.setattr(dist, "init_process_group", lambda *a, **k: calls.update(a=a, **k))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.update(ended=True))
    monkeypatch.setenv("RANK", "11")
    monkeypatch.setenv("LOCAL_RANK", "3")
    with processes.joined() as device:
        assert device == calls["device"] == calls["device_id"] == torch.device("cuda", 3)
        assert calls["a"] == ("nccl",)
    assert calls["ended"]


def test_mfu_is_the_arithmetic_of_the_step_over_the_peak(tmp_path):
    """So that the log's number is the one that `cost --mfu` takes."""
    data = FromTensors(torch.zeros(8, 2, 4, 4))
    trainer = Trainer(build("tiny"), FlowMatching(), data, TrainConfig(steps=1, batch=8))
    logger = Logger(trainer, tmp_path, 1, flops=5e3, peak=1e6)
    logger.records = [*trainer.run()]
    line = logger._line()
    logger.close()
    assert line["mfu"] == pytest.approx(line["images_per_second"] * 5e3 / 1e6)
    assert passes(PRESETS["b2"]).step > passes(replace(PRESETS["b2"], kappa=0.0)).step
    assert passes(replace(PRESETS["b2"], objective="flow_matching")).step == 3


def start(rank: int, port: int, arguments: list) -> int:
    """A process as torchrun starts it, but forked: importing PyTorch anew takes seconds."""
    pid = os.fork()
    if pid == 0:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        try:
            run(*arguments)
        except SystemExit as stop:
            os._exit(int(stop.code or 0))
        except BaseException:
            os._exit(99)
        os._exit(0)
    return pid


def two_processes(port: int, *arguments) -> list[int]:
    pids = [start(rank, 20000 + (os.getpid() + port) % 20000, [*arguments]) for rank in (0, 1)]
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def test_two_processes_and_micro_batches_train_what_one_does(tmp_path):
    """In float32: sums in another order, through Adam, which divides by a norm, for four steps."""
    options = [*TINY, "--steps", 4, "--ema", 0.5]
    run("train", "--out", tmp_path / "one", *options)
    codes = two_processes(1, "train", "--out", tmp_path / "two", *options, "--accumulate", 2)
    assert codes == [0, 0]
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    torch.testing.assert_close(one, two, atol=2e-5, rtol=1e-3)
    logs = [(tmp_path / n / "log.jsonl").read_text().splitlines() for n in ("one", "two")]
    last = [json.loads(lines[-1]) for lines in logs]
    for name in ("loss", "error", "velocity_error", "grad_norm"):
        assert last[0][name] == pytest.approx(last[1][name], rel=1e-3)
    assert json.loads((tmp_path / "two" / "run.json").read_text())["processes"] == 2
    run("train", "--out", tmp_path / "other", *options, "--seed", 1)
    assert (weights(tmp_path / "other") - one).abs().max() > 1e-2


def test_fewer_samples_than_processes(tmp_path):
    out = tmp_path / "s.npz"
    assert two_processes(2, "sample", "--out", out, "--count", 1, "--device", "cpu") == [0, 0]
    with np.load(out) as stored:
        assert stored["arr_0"].shape == (1, 8, 8, 1)


def test_samples_of_an_earlier_command_are_not_counted(tmp_path, capsys):
    out = tmp_path / "samples"
    run("sample", "--out", out, "--count", 50)
    (out / "mine.txt").write_text("kept")
    run("sample", "--out", out, "--count", 40)
    run("fid", "--samples", out)
    assert "samples           40 in" in capsys.readouterr().out and (out / "mine.txt").exists()
    (out / "000039.png").unlink()
    with pytest.raises(SystemExit):
        run("fid", "--samples", out)
    assert "holds 39 images but describes 40" in capsys.readouterr().err


@pytest.fixture
def latents(tmp_path, monkeypatch) -> Path:
    """A cache of 24 images of two classes, and the network that fits it under the name `test`."""
    config = DiTConfig(image_size=2, patch_size=1, width=16, depth=2, heads=2, num_classes=2)
    monkeypatch.setitem(NETWORKS, "test", config)
    pixels = np.random.default_rng(0).integers(256, size=(24, 16, 16, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        place = tmp_path / "images" / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{i}.png")
    encode(ImageFolder.open(tmp_path / "images"), FakeVae(), tmp_path / "latents", SETTINGS)
    finish(tmp_path / "latents")
    return tmp_path / "latents"


def test_a_run_goes_on_when_its_cache_has_moved_and_not_on_other_data(latents, tmp_path, capsys):
    options = ["--network", "test", *TINY[2:], "--out", tmp_path / "run", "--steps"]
    run("train", "--data", latents, *options, 2)
    moved = latents.rename(tmp_path / "scratch")
    run("train", "--data", moved, *options, 2)
    vae = FakeVae()
    vae.encode, vae.fingerprint = lambda x: 2 * FakeVae.encode(vae, x), "f2"
    encode(ImageFolder.open(tmp_path / "images"), vae, tmp_path / "other", SETTINGS)
    finish(tmp_path / "other")
    with pytest.raises(SystemExit):
        run("train", "--data", tmp_path / "other", *options, 2)
    assert "belongs to another run: data is" in capsys.readouterr().err


def test_a_checkpoint_of_sit_with_its_command_line(tmp_path):
    """SiT's own training script stores an argparse.Namespace beside the weights."""
    sit = SiT(NETWORKS["digits-XS"], learn_sigma=True)
    stored = {"ema": sit.state_dict(), "args": argparse.Namespace(model="SiT", lr=1e-4)}
    torch.save(stored, tmp_path / "sit.pt")
    run("train", "--out", tmp_path / "r", *TINY, "--steps", 1, "--init-from", tmp_path / "sit.pt")


def test_tf32_is_an_option_for_gpus(tmp_path, monkeypatch):
    """Off unless asked for; products on a CPU are never touched."""
    asked: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    processes.set_tf32(torch.device("cpu"), True)
    assert asked == []
    for wanted in (True, False):
        processes.set_tf32(torch.device("cuda", 0), wanted)
    assert asked == ["high", "highest"]
    given: list[bool] = []
    monkeypatch.setattr("meanflow_lite.cli.train.set_tf32", lambda _, wanted: given.append(wanted))
    for options in ([], ["--tf32", "True"]):
        run("train", "--out", tmp_path / str(len(given)), *TINY, "--steps", 1, *options)
    assert given == [False, True] and not any(s.tf32 for s in PRESETS.values())


def test_the_decoder_of_the_grids_is_loaded_before_training(latents, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for data, message in ((latents, "cannot load the VAE"), ("digits", "--vae decodes latents")):
        options = ["--data", data, "--network", "test", *TINY[2:], "--vae", tmp_path / "empty"]
        with pytest.raises(SystemExit):
            run("train", "--out", tmp_path / "run", "--steps", 1, *options)
        assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_torchrun_is_stopped_by_sigterm_and_goes_on(tmp_path):
    """As the page says it: the stopped run ends where an uninterrupted one does."""
    out, whole, errors = tmp_path / "run", tmp_path / "whole", tmp_path / "errors"
    options = [*TINY, "--steps", "60", "--save-every", "1000", "--log-every", "1"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "meanflow_lite", "train", "--out", str(out)]
    with errors.open("w") as file:  # a pipe that nobody reads would fill up
        process = subprocess.Popen([*command, *options], stderr=file)
        log = out / "log.jsonl"
        while process.poll() is None and not (log.exists() and len(log.read_text()) > 500):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) != 0  # torchrun's own, for its processes exit with zero
    said = errors.read_text()
    saved = [p.name for p in (out / "checkpoints").iterdir()]
    assert len(saved) == 1 and f"stopped and saved at step {int(saved[0][5:])}" in said, said
    assert not (out / "model.safetensors").exists()
    subprocess.run([*command, *options], check=True, capture_output=True, timeout=120)
    assert two_processes(3, "train", "--out", whole, *options) == [0, 0]
    assert torch.equal(weights(out), weights(whole))
    assert [json.loads(line)["step"] for line in log.open()] == [*range(1, 61)]


def test_a_second_ctrl_c_does_not_wait(monkeypatch):
    """The first one saves at the next step. What torchrun repeats at once is not a second one."""
    # a shell that starts a job in the background has it ignore SIGINT
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with fit._on_signals() as asked:
        assert asked() == 0
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert asked() == signal.SIGINT
        monkeypatch.setattr(fit, "PATIENCE", -1.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked() == signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


WRONG = {
    "steps": (["--steps", "0"], "steps must be at least 1: got 0"),
    "accumulate": (["--accumulate", "0"], "accumulate must be at least 1"),
    "clip": (["--clip", "-1"], "clip must be positive, or None"),
    "betas": (["--betas", "1.5", "0.9"], "betas are two rates in [0, 1)"),
    "warmup": (["--warmup", "-3"], "warmup must be a whole number of at least 0: got -3"),
    "seed": (["--seed", "-1"], "seed must be a whole number of at least 0: got -1"),
    "c": (["--c", "-1"], "c must not be negative"),
    "device": (["--device", "gpu"], "--device is auto, cpu, cuda"),
    "grid_every": (["--grid-every", "-1"], "--grid-every must not be negative"),
    "out": (["--out", "list.pt"], "--out list.pt is a file"),
    "save_every": (["--save-every", "0"], "steps between checkpoints must be at least 1"),
    "save_minutes": (["--save-minutes", "0"], "minutes between checkpoints must be positive"),
    "change": (["--change", "lr"], "--change takes settings such as lr=1e-4"),
    "change to what": (["--change", "lr=fast"], "--change lr=fast: not a value of lr"),
    "change of meaning": (["--change", "kappa=0.2"], "cannot change what its weights mean"),
    "plain_epochs": (["--plain-epochs", "999"], "plain_epochs is a part of the 250 epochs"),
    "network": (["--network", "B/2"], "or other --data"),
    "a list": (["--init-from", "list.pt"], "holds no weights"),
    "another preset": (["--init-from", "run"], "is of another network"),
    "cut weights": (["--init-from", "cut"], "its content is not that of its checksum"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_options_are_named(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save([torch.zeros(1)], "list.pt")
    for folder in ("run", "cut") if "--init-from" in WRONG[name][0] else ():
        run("train", "--out", folder, *TINY, "--steps", 1)
        whole = Path(folder, "model.safetensors").read_bytes()
    if Path("cut").exists():
        Path("cut/model.safetensors").write_bytes(whole[: len(whole) // 2])
        shutil.rmtree("cut/checkpoints")
    arguments, message = WRONG[name]
    with pytest.raises(SystemExit) as stop:
        run("train", "--out", "x", *arguments)
    printed = capsys.readouterr()
    assert stop.value.code == 2 and message in " ".join((printed.out + printed.err).split())


def test_a_full_disk_ends_with_one_line(tmp_path, capfd):
    """In the log, where no checkpoint is written; the limit fails as a full disk does."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        try:
            run("train", "--out", tmp_path / "r", *TINY, "--steps", 40, "--log-every", 1)
        except SystemExit as stop:
            os._exit(int(stop.code or 0))
        os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2
    printed = capfd.readouterr().err
    said = r"error: \[Errno 27\] File too large: '.*/(log.jsonl|tensorboard)'"
    assert re.search(said, printed), printed
    assert "free space" not in printed  # which a full disk alone is answered with


def test_statistics_of_a_folder_of_photographs(tmp_path, capsys):
    """JPEG, several sizes and modes, read batch by batch; cut as the training images were."""
    rng = np.random.default_rng(0)
    for i in range(7):
        pixels = Image.fromarray(rng.integers(256, size=(20 + i, 30, 3), dtype=np.uint8))
        pixels = pixels.convert("P") if i == 3 else pixels
        (tmp_path / "photos" / "a").mkdir(parents=True, exist_ok=True)
        pixels.save(tmp_path / "photos" / "a" / f"{i}.{'png' if i == 3 else 'jpg'}")
    with pytest.raises(SystemExit):
        run("fid", "--samples", tmp_path / "photos")
    assert "differ in size" in capsys.readouterr().err
    whole = torch.cat([*ImageSet.open(tmp_path / "photos", crop=16).batches(3)])
    paths = ImageFolder.open(tmp_path / "photos").paths
    assert torch.equal(whole, torch.stack([read_image(p, 16) for p in paths]))
    np.savez(tmp_path / "s.npz", arr_0=whole.permute(0, 2, 3, 1).numpy())
    same = ["--reference", tmp_path / "photos", "--crop", 16, "--batch", 3]
    same += ["--features", "digits", "--few", "True"]
    run("fid", "--samples", tmp_path / "s.npz", *same)
    printed = capsys.readouterr().out
    assert abs(float(printed.split("frechet distance")[1].split()[0])) < 1e-3
    assert "(7 images)" in printed
