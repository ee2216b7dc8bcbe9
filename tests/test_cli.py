"""The commands as a user types them; presets against the published table; cost against counts."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_sit import SiT
from torch.utils.flop_counter import FlopCounterMode

from meanflow_lite import cli, notebook
from meanflow_lite.data.batches import FromTensors
from meanflow_lite.guidance import Guidance
from meanflow_lite.networks.presets import PRESETS as NETWORKS
from meanflow_lite.networks.presets import build
from meanflow_lite.networks.sit import from_sit
from meanflow_lite.objectives import OBJECTIVES, FlowMatching
from meanflow_lite.objectives.phases import Phases
from meanflow_lite.runs import Model, cost, load
from meanflow_lite.runs.samples import choose_labels
from meanflow_lite.runs.settings import PRESETS, Settings
from meanflow_lite.training import TrainConfig, Trainer

PUBLISHED = notebook.__path__[0] + "/published.yml"
NAMES = {"b4": "B/4", "b2": "B/2", "m2": "M/2", "l2": "L/2", "xl2": "XL/2", "xl2-plus": "XL/2+"}
TINY = ["--network", "digits-XS", "--batch", "16", "--device", "cpu", "--grid-every", "0"]


@pytest.mark.parametrize("preset", NAMES)
def test_presets_hold_the_published_settings(preset):
    with open(PUBLISHED) as file:
        table = yaml.safe_load(file)["settings"][NAMES[preset]]
    s = PRESETS[preset]
    net = NETWORKS[s.network]
    ours = {
        "depth": net.depth,
        "width": net.width,
        "heads": net.heads,
        "patch": net.patch_size,
        "epochs": s.epochs,
        "omega": s.omega,
        "kappa": s.kappa,
        "t_guided": list(s.t_guided),
        "optimizer": torch.optim.Adam.__name__,
        "lr": s.lr,
        "betas": list(s.betas),
        "weight_decay": 0.0,
        "warmup_epochs": s.warmup,
        "batch": s.batch,
        "ema": s.ema[0],
        "dropout": 0.0,
        "grad_clip": s.clip,
        "precision": "bfloat16" if s.bf16 else "float32",
        "p_equal": s.p_equal,
        "p": s.p,
        "c": s.c,
        "label_dropout": s.label_dropout,
        "latent_scale": s.latent_scale,
        "embedding": "(" + ", ".join(name.replace("-", " - ") for name in net.times) + ")",
        "vae": cli.COMMANDS["encode"].load()(Path("images")).vae.split("/")[-1],
        "horizontal_flip": cli.COMMANDS["encode"].load()(Path("images")).flip,
        "time_law": f"logit-normal({s.time_mean}, {s.time_std}), two draws, swapped so that r <= t",
    }
    scale = s.guidance(1000).effective_scale
    assert scale == pytest.approx(table["omega_effective"], abs=0.01)
    apart = {"omega_effective", "c_in_paper", "source", "trust"}
    assert ours == {key: value for key, value in table.items() if key not in apart}
    assert s.cooldown == 0 and s.accumulate == 1
    assert not any(isinstance(m, torch.nn.Dropout) and m.p for m in build("tiny").modules())
    trainer = Trainer(
        build("tiny"), FlowMatching(), FromTensors(torch.zeros(2, 2, 4, 4)), TrainConfig()
    )
    assert trainer.optimizer.defaults["weight_decay"] == 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_any_objective_by_name(name):
    settings = replace(PRESETS["b2"], objective=name, network="tiny", omega=1.0, kappa=0.0)
    objective = settings.make_objective(3)
    assert isinstance(objective, OBJECTIVES[name])
    if hasattr(objective, "dropout"):
        assert objective.dropout.null == 3


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="shortcut has no guidance in training"):
        replace(PRESETS["b2"], objective="shortcut").make_objective(3)
    with pytest.raises(ValueError, match="unknown network 'B/3': choose from"):
        Settings(network="B/3")
    with pytest.raises(ValueError, match="unknown objective"):
        Settings(objective="meanflows")


def test_the_two_stage_recipe_is_plain_first():
    s = replace(PRESETS["b2"], network="tiny", plain_epochs=60.0)
    objective = s.make_objective(3)
    assert isinstance(objective, Phases) and objective.share == 0.25
    assert objective.first.guidance is None and objective.then.guidance == Guidance(3, 1.0, 0.5)


class Trap:
    """An object that would run a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("echo pwned > trapped",)


def test_a_run_starts_from_a_sit_checkpoint_and_never_from_code(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sit = SiT(NETWORKS["digits-XS"], learn_sigma=True)
    for p in sit.parameters():
        torch.nn.init.normal_(p, std=0.1)
    torch.save({"ema": sit.state_dict(), "args": None}, "sit.pt")
    options = [*TINY, "--init-from", "sit.pt", "--plain-epochs", 100.0, "--lr", 1e-12]
    run("train", "--out", "run", *options, "--steps", 1)
    ours, copied = load("run").net, from_sit(sit.state_dict(), NETWORKS["digits-XS"])
    z, t, y = torch.randn(4, 1, 8, 8), torch.rand(4), torch.arange(4)
    torch.testing.assert_close(ours(z, t, t, y), copied(z, t, t, y), atol=1e-5, rtol=1e-5)
    assert copied(z, t, t, y).abs().max() > 1e-2
    torch.save({"ema": Trap()}, "sit.pt")
    with pytest.raises(SystemExit):
        run("train", "--out", "other", *options, "--steps", 1)
    assert "run its code" in capsys.readouterr().err and not Path("trapped").exists()


def run(*arguments: str) -> None:
    cli.main([str(a) for a in arguments])


def test_train_sample_fid_and_load(tmp_path, capsys):
    out = tmp_path / "run"
    run("train", "--out", out, *TINY, "--steps", 4, "--log-every", 2, "--ema", 0.9)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    wanted = {"loss", "error", "velocity_error", "grad_norm", "images_per_second", "memory_gib"}
    assert wanted <= lines[0].keys()
    assert list((out / "tensorboard").iterdir())
    info = json.loads((out / "run.json").read_text())
    assert info["settings"]["network"] == "digits-XS" and info["versions"]["torch"]

    model = load(out)
    images = model.sample(labels=[3, 1, 4], steps=1)
    assert images.shape == (3, 1, 8, 8) and images.abs().max() <= 1
    for batch, name in ((5, "a.npz"), (64, "b.npz")):
        run(
            "sample",
            "--model",
            out,
            "--out",
            tmp_path / name,
            "--count",
            60,
            "--batch",
            batch,
            "--labels",
            "random",
            "--steps",
            2,
            "--t-mid",
            0.4,
        )
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        assert abs(a["arr_0"].astype(int) - b["arr_0"]).max() <= 1
        assert (a["labels"] == b["labels"]).all() and len(set(a["labels"])) == 10
    run("sample", "--model", out, "--out", tmp_path / "png", "--count", 60)
    assert len(list((tmp_path / "png").glob("0*.png"))) == 60
    run("fid", "--samples", tmp_path / "a.npz", "--save-statistics", tmp_path / "ref.npz")
    printed = capsys.readouterr().out
    assert "label protocol    random" in printed and "label accuracy" in printed
    run("fid", "--samples", tmp_path / "a.npz", "--reference", tmp_path / "ref.npz")
    assert "frechet distance  0.0000" in capsys.readouterr().out.replace("-0.0", "0.0")
    run("fid", "--samples", tmp_path / "png", "--reference", tmp_path / "png")
    assert "label protocol    balanced" in capsys.readouterr().out


def test_two_processes_sample_the_images_of_one(tmp_path, small_run):
    """The environment is what torchrun sets."""
    arguments = ["sample", "--model", small_run, "--count", 30, "--batch", 7, "--device", "cpu"]
    run(*arguments, "--out", tmp_path / "one.npz")
    pids = []
    for rank in (0, 1):
        pids.append(os.fork())
        if pids[-1] == 0:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
            os.environ |= {"MASTER_PORT": str(20000 + os.getppid() % 20000)}
            try:
                run(*arguments, "--out", tmp_path / "two.npz")
            except BaseException:
                os._exit(1)
            os._exit(0)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "two.npz") as two:
        assert abs(one["arr_0"].astype(int) - two["arr_0"]).max() <= 1
        assert (one["labels"] == two["labels"]).all()


def test_noise_is_the_same_bits_in_any_company():
    model = Model(build("digits-XS"), {"num_classes": 10, "shape": [1, 8, 8], "vae": None})
    whole = model.noise(range(20), seed=5)
    assert torch.equal(torch.cat([model.noise([i], 5) for i in range(20)]), whole)
    assert not torch.equal(model.noise(range(20), 6), whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_resume_goes_on_and_ends_with_the_same_bits(tmp_path, capfd, number, code):
    a, b = tmp_path / "a", tmp_path / "b"
    run("train", "--out", a, *TINY, "--steps", 6)
    pid = os.fork()
    if pid == 0:  # asked to stop in the middle, as by a cluster or by Ctrl-C
        fit = __import__("meanflow_lite.training.fit", fromlist=["fit"])
        step = fit.Trainer._advance

        def advance(self):
            if self.step == 3:
                os.kill(os.getpid(), number)
            return step(self)

        fit.Trainer._advance = advance
        try:
            run("train", "--out", b, *TINY, "--steps", 6)
        except SystemExit as stop:
            os._exit(30 + int(stop.code or 0))
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 30 + code
    assert "stopped and saved at step 4: the same command goes on there" in capfd.readouterr().err
    assert [p.name for p in (b / "checkpoints").iterdir()] == ["step-00000004"]
    assert load(b).sample([1]).shape == (1, 1, 8, 8)
    run("train", "--out", b, *TINY, "--steps", 6)
    first, second = (load_file(p / "model.safetensors") for p in (a, b))
    assert all(torch.equal(first[k], second[k]) for k in first)


MISTAKES = {
    "another preset there": (
        ["train", "--out", "RUN", "--network", "digits-S"],
        "network is 'digits-XS' there",
    ),
    "no cache": (
        ["train", "--preset", "b2", "--data", "nowhere", "--out", "X"],
        "meanflow-lite encode",
    ),
    "no run": (["sample", "--model", "nowhere"], "not the folder of a run"),
    "labels": (["sample", "--model", "RUN", "--labels", "11"], "must be 0 ... 9, or 10 for none"),
    "count": (["sample", "--count", "-2"], "count and batch are at least 1"),
    "a file": (["sample", "--out", "RUN/run.json"], "is a file: give a folder"),
    "no samples": (["fid"], "Write it with `meanflow-lite sample`"),
    "fid batch": (["fid", "--batch", "0"], "--batch must be at least 1"),
    "crop": (["fid", "--samples", "RUN", "--crop", "256"], "--crop cuts the images of a folder"),
    "mfu": (["cost", "--mfu", "35"], "--mfu is a share of the peak in (0, 1]: got 35"),
    "images": (["cost", "--preset", "b2", "--images", "0"], "--images must be at least 1"),
    "label rule": (["sample", "--model", "RUN", "--labels", "all"], "random, balanced or a list"),
    "omega": (["sample", "--model", "RUN", "--omega", "2"], "fixed by its training"),
    "steps": (["sample", "--model", "RUN", "--t-mid", "0.5"], "needs steps = 2"),
    "teacher": (
        [
            "train",
            "--out",
            "X",
            "--objective",
            "progressive_distillation",
            "--omega",
            "1",
            "--kappa",
            "0",
            "--network",
            "digits-XS",
            "--steps",
            "1",
        ],
        "teacher",
    ),
    "samples": (["fid", "--samples", "RUN"], "neither an npz nor a folder"),
    "gpu": (["cost", "--gpu", "H1000"], "choose from H200"),
    "gpus": (["cost", "--preset", "b2", "--gpus", "3"], "must divide into 3 GPUs"),
    "never": (
        ["train", "--out", "RUN", "--resume", "never", "--network", "digits-XS"],
        "already has",
    ),
}


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    run("train", "--out", out, *TINY, "--steps", 1)
    return out


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_end_with_one_line_that_helps(name, small_run, tmp_path, capsys, monkeypatch):
    arguments, message = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run(*[a.replace("RUN", str(small_run)) for a in arguments])
    assert stop.value.code == 2
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())  # long paths wrap
    assert message in error and "Traceback" not in error


def test_inception_without_a_network_says_which_file(tmp_path, monkeypatch, capsys):
    def offline(weights, device):
        raise OSError("no network")

    monkeypatch.setattr("meanflow_lite.cli.fid.Inception", offline)
    np.savez(tmp_path / "a.npz", arr_0=np.zeros((4, 8, 8, 3), np.uint8))
    same = ["--samples", tmp_path / "a.npz", "--reference", tmp_path / "a.npz", "--few", "True"]
    with pytest.raises(SystemExit):
        run("fid", *same, "--features", "inception")
    error = capsys.readouterr().err
    assert "(no network)" in error and "--inception-weights FILE" in error


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_says_what_each_option_does(command, capsys):
    with pytest.raises(SystemExit) as stop:
        run(command, "--help")
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert len(printed) > 200
    if "--network" in printed:
        assert all(name in printed for name in (*NETWORKS, *OBJECTIVES))


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_the_commands_and_loads_nothing_that_computes(arguments):
    """Without arguments it is shown as well; importing torch alone would take seconds."""
    code = "import sys; from meanflow_lite.cli import main\ntry: main(sys.argv[1:])\n"
    code += "finally: assert not {'torch', 'numpy', 'timm'} & sys.modules.keys()"
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    for name, command in cli.COMMANDS.items():
        assert f"  {name} " in ran.stdout and command.summary in ran.stdout
        about = " ".join(command.load().__doc__.split())
        assert about.startswith(command.summary.removesuffix("."))


def test_an_unknown_command_is_answered_by_the_list(capsys):
    with pytest.raises(SystemExit) as stop:
        run("trian")
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: there is no command 'trian'\n") and "  train " in printed


def test_the_last_preset_counts_and_a_switch_needs_no_value():
    parsed = cli.parse(["cost", "--preset", "b2", "--bf16", "--preset", "xl2", "--tf32", "true"])
    assert parsed.settings == replace(PRESETS["xl2"], bf16=True, tf32=True)
    assert not cli.parse(["train", "--preset=b2", "--bf16", "false", "--compile"]).settings.bf16


def test_doctor_finds_a_working_derivative(capsys):
    run("doctor")
    printed = capsys.readouterr().out
    assert "derivative (JVP)     works" in printed and "torch " in printed
    assert "FAILS" not in printed and "bfloat16             works, 0.0e" not in printed


def test_cost_counts_in_the_precision_that_is_trained_in(capsys):
    """The published presets are float32, where an H100 has a fifteenth of its bfloat16 peak."""
    slow, fast = (cost.estimate(replace(PRESETS["b2"], bf16=b)) for b in (False, True))
    ratio = cost.PEAKS["H100"] / cost.PEAKS_FLOAT32["H100"]
    assert slow.hours / fast.hours == pytest.approx(ratio) and ratio > 10
    assert slow.activation_bytes == 2 * fast.activation_bytes
    assert fast.images_per_second * 3600 * fast.hours == pytest.approx(fast.steps * 256)
    run("cost", "--preset", "b2")
    printed = capsys.readouterr().out
    assert cost.duration(slow.hours) in printed and "float32" in printed
    between = cost.estimate(replace(PRESETS["b2"], tf32=True))
    for option, found in (("bf16", fast), ("tf32", between)):
        assert f"with --{option} True {cost.duration(found.hours)}" in printed
    assert between.hours == pytest.approx(2 * fast.hours) and slow.hours > 7 * between.hours
    assert cost.estimate(replace(PRESETS["b2"], bf16=True, tf32=True)) == fast
    run("cost", "--preset", "b2", "--tf32", "True")
    printed = capsys.readouterr().out
    assert cost.duration(between.hours) in printed and "dense TF32" in printed
    assert cost.PEAKS_FLOAT32.keys() == cost.PEAKS.keys() == cost.PEAKS_TF32.keys()


def test_cost_of_digits_is_that_of_digits(capsys):
    run("cost")
    printed = capsys.readouterr().out
    assert "2,533 steps of 128 of 1,297 images" in printed and "bound by the launch" in printed
    run("cost", "--preset", "b2", "--bf16", "True")
    assert "bound by the launch" not in capsys.readouterr().out


def test_durations_are_readable():
    assert [cost.duration(h) for h in (94.35, 0.4, 0.001)] == ["94.3 h", "24 min", "3.6 s"]


def test_labels_by_rule():
    assert choose_labels("balanced", 5, 3, 0).tolist() == [0, 1, 2, 0, 1]
    assert choose_labels("2,1", 3, 3, 0).tolist() == [2, 1, 2]
    assert torch.equal(choose_labels("random", 9, 3, 1), choose_labels("random", 9, 3, 1))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_formulas_of_cost_are_the_network(name):
    """Parameters exactly (built without memory); the published GFLOPs to two in a hundred."""
    with torch.device("meta"):
        net = build(name)
    assert cost.parameters(NETWORKS[name]) == sum(p.numel() for p in net.parameters())
    with open(PUBLISHED) as file:
        numbers = yaml.safe_load(file)["numbers"]
    key = f"meanflow-{name.lower().replace('/', '')}-gflops"
    if key in numbers:
        assert cost.forward_macs(NETWORKS[name]) / 1e9 == pytest.approx(
            numbers[key]["value"], rel=0.02
        )


@pytest.mark.parametrize("name", ["digits-S", "digits-M"])
def test_the_arithmetic_is_what_is_counted_in_a_real_step(name):
    """Forward and backward counted by PyTorch; kept activations weighed by its hooks."""
    config, rows = NETWORKS[name], 8
    net = build(name)
    z, t = torch.randn(rows, 1, 8, 8), torch.rand(rows)
    with FlopCounterMode(display=False) as counter:
        net(z, t, t).square().sum().backward()
    ours = 3 * 2 * rows * cost.forward_macs(config)
    assert counter.get_total_flops() == pytest.approx(ours, rel=0.05)

    kept = {}

    def weigh(tensor):
        if not isinstance(tensor, torch.nn.Parameter) and tensor.ndim >= 3:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor):
        net(z, t, t)
    assert sum(kept.values()) == pytest.approx(
        cost.activation_bytes(config, rows, 4, False), rel=0.35
    )


def test_a_guided_step_costs_what_the_formula_says():
    """Counted, with the forwards that guidance adds; the tangent is a product more a row."""
    settings = replace(PRESETS["b2"], network="digits-M", batch=32)
    config = NETWORKS["digits-M"]
    net = build("digits-M")
    data = FromTensors(torch.randn(32, 1, 8, 8), torch.arange(32) % 10)
    trainer = Trainer(net, settings.make_objective(10), data, TrainConfig(steps=1, batch=32))
    with FlopCounterMode(display=False) as counter:
        [*trainer.run()]
    ratio = counter.get_total_flops() / (2 * 32 * cost.forward_macs(config))
    assert ratio == pytest.approx(cost.passes(settings).step, rel=0.1)
    assert cost.passes(settings).plain < ratio < cost.passes(settings).textbook
