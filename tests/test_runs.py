"""A run goes on, changes, branches and is held by one writer; what is wrong is said in one line."""

import json
import os
import shutil
import signal
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from meanflow_lite import cli
from meanflow_lite.files import Damage, OtherVersion, locked, write_json
from meanflow_lite.networks.presets import build
from meanflow_lite.objectives import FlowMatching
from meanflow_lite.runs import load
from meanflow_lite.runs.folder import read_info, write_weights
from meanflow_lite.runs.identity import as_options, changed, identity, parse_changes, short
from meanflow_lite.runs.initial import read_weights
from meanflow_lite.runs.processes import refuse_strangers
from meanflow_lite.runs.settings import PRESETS, Settings
from meanflow_lite.training import CheckpointError, Diverged, TrainConfig, Trainer
from meanflow_lite.training.fit import SIGNALS, _on_signals

TINY = ["--network", "digits-XS", "--batch", "16", "--device", "cpu", "--grid-every", "0"]


def run(*arguments) -> None:
    cli.main([str(a) for a in arguments])


def fails(capsys, *arguments) -> str:
    """The one line that a command ends with; the code is 2."""
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    printed = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in printed
    return [line for line in printed.splitlines() if "error: " in line][-1].split("error: ", 1)[1]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def equal(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture(scope="module")
def six(tmp_path_factory) -> Path:
    """A finished run of six steps, with checkpoints at 2, 4 and 6."""
    out = tmp_path_factory.mktemp("runs") / "six"
    run("train", "--out", out, *TINY, "--steps", 6, "--save-every", 2, "--cooldown", 0)
    return out


@pytest.fixture
def copy(six, tmp_path) -> Path:
    return Path(shutil.copytree(six, tmp_path / "run"))


GO = [*TINY, "--save-every", 2, "--cooldown", 0, "--steps"]


def test_a_finished_run_is_extended_to_what_a_longer_one_is(copy, tmp_path, capsys):
    """At a constant rate the two are one run, to the last bit."""
    run("train", "--out", copy, *GO, 6, "--change", "steps=9")
    assert "from step 6 on: steps 6 -> 9" in capsys.readouterr().err
    run("train", "--out", tmp_path / "whole", *GO, 9)
    assert equal(copy, tmp_path / "whole")
    info = read_info(copy)
    assert info["steps"] == 9 and [c["step"] for c in info["changes"]] == [6]
    assert info["changes"][0]["changed"] == {"steps": [6, 9]}
    run("train", "--out", copy, *GO, 6, "--change", "steps=9")  # a chain of jobs repeats it
    assert (
        "is complete" in capsys.readouterr().err and read_info(copy)["changes"] == info["changes"]
    )


def test_a_change_that_is_not_named_is_refused_with_the_option_that_names_it(copy, capsys):
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file() and p.name != ".lock"}
    said = fails(capsys, "train", "--out", copy, *GO, 9, "--lr", 0.01, "--bf16", "True")
    assert "lr is 0.001 there, 0.01 here" in said and "bf16 is False there, True here" in said
    assert "--change steps=9 lr=0.01 bf16=True" in said or "--change" in said
    for path, content in before.items():
        assert path.read_bytes() == content, path
    run("train", "--out", copy, *GO, 6, "--accumulate", 2, "--checkpoint", "True")  # the same sums


@pytest.mark.parametrize(
    "changes",
    [["lr=0.01"], ["clip=0.1"], ["bf16=True"], ["seed=3"], ["batch=32"], ["ema=0.2,0.99"]],
)
def test_each_change_is_made_and_noted(copy, tmp_path, changes):
    """An average's rate is ramped up: only one below 7/16 acts after six updates."""
    run("train", "--out", tmp_path / "same", *GO, 8)
    run("train", "--out", copy, *GO, 6, "--change", "steps=8", *changes)
    assert not equal(copy, tmp_path / "same")
    name = changes[0].split("=")[0]
    assert name in read_info(copy)["changes"][0]["changed"]
    assert load(copy).source == copy / "model.safetensors"


def test_a_branch_starts_at_any_kept_step_of_another_run(six, tmp_path, capsys):
    start, out = six / "checkpoints" / "step-00000002", tmp_path / "branch"
    run("train", "--out", out, *GO, 6, "--resume", start)
    assert equal(six, out)  # without a change it is the same run
    other = tmp_path / "other"
    run("train", "--out", other, *GO, 6, "--resume", start, "--change", "lr=0.02")
    assert not equal(six, other)
    entry = read_info(other)["changes"][0]
    assert entry["step"] == 2 and entry["branch_of"] == str(start)
    assert entry["changed"] == {"lr": [0.001, 0.02]}
    said = fails(capsys, "train", "--out", tmp_path / "x", *GO, 6, "--resume", "nowhere")
    assert "--resume is auto, never, a checkpoint such as" in said


def test_a_divergence_ends_with_the_command_that_goes_on(tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    line = ["train", "--out", out, *GO, 8, "--lr", 0.004, "--clip", "None"]
    monkeypatch.setattr("sys.argv", ["meanflow-lite", *map(str, line)])
    real = Trainer._means
    sick = {5}

    def means(self, sums):
        found = real(self, sums)
        bad = self.step in sick and self.config.lr > 0.0015
        return {**found, "loss": float("nan")} if bad else found

    monkeypatch.setattr(Trainer, "_means", means)
    said = fails(capsys, *line)
    assert "the loss is nan" in said and "at step 5; the weights are those before it" in said
    assert f"The last sound state is {out}/checkpoints/step-00000004" in said
    command = said.split("other settings: meanflow-lite ")[1].split(" (skip_nonfinite")[0].split()
    assert command[-3:] == ["--change", "lr=0.002", "clip=1.0"]
    monkeypatch.setattr("sys.argv", ["meanflow-lite", *command])
    assert fails(capsys, *command).count("--change") == 1  # still too high: the advice is repeated
    run(*command[:-2], "lr=0.001", "clip=1.0")
    assert read_info(out)["changes"][-1]["step"] == 4 and weights(out)


def test_steps_that_are_not_finite_may_be_left_out(monkeypatch):
    def trainer(**settings) -> Trainer:
        torch.manual_seed(0)
        data = PRESETS["digits"]
        net, config = build("tiny"), TrainConfig(steps=6, batch=4, **settings)
        batches = torch.randn(8, 2, 4, 4)
        from meanflow_lite.data.batches import FromTensors

        assert data
        return Trainer(net, FlowMatching(), FromTensors(batches), config)

    real = Trainer._means
    sick = {2, 3}

    def means(self, sums):
        found = real(self, sums)
        return {**found, "loss": float("inf")} if self.step in sick else found

    monkeypatch.setattr(Trainer, "_means", means)
    with pytest.raises(Diverged, match="at step 2"):
        list(trainer().run())
    with pytest.raises(Diverged, match="at step 3"):
        list(trainer(skip_nonfinite=1).run())
    one = trainer(skip_nonfinite=2)
    records = list(one.run())
    assert [r.loss == float("inf") for r in records] == [False, False, True, True, False, False]
    assert one.averages[0].updates == 4 and one.step == 6


def test_weights_that_are_not_finite_are_never_the_end_of_a_run(tmp_path, capsys, monkeypatch):
    """The update itself overflows: the loss that it came from was finite."""
    real = torch.optim.Adam.step

    @torch.no_grad()
    def overflow(self, *arguments):
        real(self, *arguments)
        self.param_groups[0]["params"][0].mul_(float("inf"))

    monkeypatch.setattr(torch.optim.Adam, "step", overflow)
    said = fails(capsys, "train", "--out", tmp_path / "r", *TINY, "--steps", 1)
    assert "not finite" in said and not (tmp_path / "r" / "model.safetensors").exists()
    with pytest.raises(FloatingPointError, match="not finite"):
        net = build("tiny")
        with torch.no_grad():
            next(net.parameters()).fill_(float("nan"))
        write_weights(tmp_path, net, "x", 1, 0.9)
    assert not (tmp_path / "model.safetensors").exists()


def test_any_checkpoint_and_any_average_can_be_sampled(tmp_path):
    out = tmp_path / "run"
    run("train", "--out", out, *GO, 6, "--ema", 0.05, 0.9)
    final, two = load(out), load(out, step=2)
    assert final.source == out / "model.safetensors"
    assert two.source == out / "checkpoints" / "step-00000002"
    nets = {str(a): load(out, step=4, average=a) for a in (None, 0.05, "0.9", "net")}
    flat = {
        k: torch.cat([v.flatten() for v in m.net.state_dict().values()]) for k, m in nets.items()
    }
    assert torch.equal(flat["None"], flat["0.05"])
    assert len({tuple(v[-300:].tolist()) for v in flat.values()}) == 3
    newest = load(out, average="0.05")
    assert all(
        torch.equal(a, b)
        for a, b in zip(newest.net.parameters(), final.net.parameters(), strict=True)
    )
    with pytest.raises(ValueError, match=r"no checkpoint of step 3; it has those of \[6, 4, 2\]"):
        load(out, step=3)
    with pytest.raises(ValueError, match="those of the rates 0.05, 0.9, and `net`"):
        load(out, average=0.8)


def test_the_model_of_another_run_is_never_taken(copy, six, tmp_path, capsys):
    """Checkpoints were removed to save space; then another run is started into the folder."""
    shutil.rmtree(copy / "checkpoints")
    for extra in (["--resume", "never"], [], ["--change", "steps=9"]):
        said = fails(capsys, "train", "--out", copy, *GO, 9, "--seed", 7, *extra)
        assert "already has a run" in said or "no checkpoint to go on from" in said
    assert equal(copy, six)
    run("train", "--out", tmp_path / "b", *TINY, "--steps", 1, "--kappa", 0)
    shutil.copy(tmp_path / "b" / "model.safetensors", copy)
    with pytest.raises(Damage, match="it is of another run than .*run.json"):
        load(copy)


def test_damage_of_a_run_folder_is_named_and_sound_parts_stand_in(copy, six, capsys):
    path = copy / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    with pytest.warns(UserWarning, match="the newest checkpoint is taken instead"):
        assert load(copy).source == copy / "checkpoints" / "step-00000006"
    run("train", "--out", copy, *GO, 6)  # writes what is damaged again
    assert equal(copy, six)
    (copy / "run.json").write_text("{")
    with pytest.raises(Damage, match="run.json is damaged: it is not JSON"):
        load(copy)
    run("train", "--out", copy, *GO, 6, "--change", "steps=8")
    assert "damaged-run.json" in {p.name for p in copy.iterdir()} and load(copy)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"format": 3}, OtherVersion, "has format 3, of meanflow_lite 0.1.0; this version reads"),
        ({"config": {"kind": "UNet"}}, OtherVersion, "knows no network 'UNet'"),
        ({"config+": {"online_fields": 1}}, OtherVersion, "DiTConfig knows no online_fields"),
        ({"domain": {"name": "everywhere"}}, OtherVersion, "cannot use"),
        (
            {"num_classes": 10**8, "config+": {"num_classes": 10**8}},
            Damage,
            "tensors are not those",
        ),
        ({"config+": {"depth": 10**9}}, Damage, "too few for 1000000000 blocks"),
        ({"shape": [1, 60000, 60000]}, Damage, r"makes \[1, 8, 8\], not the shape"),
        ({"config+": {"heads": 0}}, Damage, "its network cannot be"),
        ({"classes": 3}, Damage, "'classes' cannot be 3"),
        ({"vae": 3}, Damage, "'vae' is 3, not"),
    ],
)
def test_a_run_json_of_others_takes_no_memory_and_is_named(copy, change, error, said):
    shutil.rmtree(copy / "checkpoints")
    info = json.loads((copy / "run.json").read_text())
    for key, value in change.items():
        old = info[key.rstrip("+")]
        info[key.rstrip("+")] = {**old, **value} if key.endswith("+") else value
    write_json(copy / "run.json", info)
    with pytest.raises(error, match=said):
        load(copy)


def test_a_folder_that_is_held_is_refused_and_unchanged(copy, capsys):
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*") if p.name != ".lock"}
    with locked(copy):
        said = fails(capsys, "train", "--out", copy, *GO, 6, "--change", "steps=9")
    assert f"is being written by process {os.getpid()}" in said and "Nothing was changed" in said
    folders = {p for p in before if p.is_dir()}
    assert {p: p.stat().st_mtime_ns for p in before if p not in folders} == {
        p: t for p, t in before.items() if p not in folders
    }
    assert load(copy)  # reading needs no lock


def test_srun_without_ranks_is_refused(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "8")
    with pytest.raises(ValueError, match="Slurm has 8 tasks here, but no RANK"):
        refuse_strangers()
    monkeypatch.setenv("RANK", "0")
    refuse_strangers()
    monkeypatch.delenv("RANK")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    refuse_strangers()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGHUP", "SIGXCPU", "SIGINT"])
def test_signals_of_clusters_ask_to_stop(name):
    number = getattr(signal, name)
    assert number in SIGNALS
    with _on_signals() as asked:
        os.kill(os.getpid(), number)
        assert asked() == number


def test_the_identity_is_what_the_weights_mean():
    settings, sizes = PRESETS["b2"], {"width": 8, "checkpoint": False}
    base = short(identity(settings, sizes, "digits", 10))
    same = [
        replace(settings, lr=1.0, steps=3, seed=9, bf16=True, ema=(0.5,), clip=2.0, batch=8),
        replace(settings, accumulate=4, compile=True, checkpoint=True),
    ]
    assert {short(identity(s, sizes, "digits", 10)) for s in same} == {base}
    other = [
        identity(replace(settings, kappa=0.1), sizes, "digits", 10),
        identity(replace(settings, objective="flow_matching"), sizes, "digits", 10),
        identity(settings, {**sizes, "width": 9}, "digits", 10),
        identity(settings, sizes, "latents", 10),
        identity(settings, sizes, "digits", 11),
        identity(settings, sizes, "digits", 10, build("tiny")),
    ]
    assert len({base, *map(short, other)}) == 1 + len(other)
    assert short(identity(settings, {**sizes, "checkpoint": True}, "digits", 10)) == base


def test_changes_are_values_of_settings():
    given = ["lr=1e-4", "clip=None", "steps=20", "ema=0.9,0.99", "bf16=true", "t-guided"]
    parsed = parse_changes(given[:-1])
    assert parsed == {"lr": 1e-4, "clip": None, "steps": 20, "ema": (0.9, 0.99), "bf16": True}
    assert parse_changes(as_options(parsed).split()[1:]) == parsed
    for wrong in ("t-guided", "lr=None", "steps=2.5", "bf16=3", "kappa=0.1", "depth=3", "ema=x"):
        with pytest.raises(ValueError, match="--change"):
            parse_changes([wrong])
    assert changed(Settings(steps=5), parse_changes(["epochs=2"])).steps is None
    assert asdict(changed(Settings(), {"lr": 0.5}))["lr"] == 0.5


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("inside", [None, "ema", "model_ema", "state_dict"])
def test_prefixes_and_precision_of_published_weights(tmp_path, prefix, inside):
    state = {f"{prefix}{k}": v.bfloat16() for k, v in build("tiny").state_dict().items()}
    torch.save(state if inside is None else {inside: state, "step": 3}, tmp_path / "w.pt")
    found = read_weights(tmp_path / "w.pt")
    assert found.keys() == build("tiny").state_dict().keys()
    assert {v.dtype for v in found.values()} == {torch.float32}
    save_file(state, tmp_path / "w.safetensors")
    assert read_weights(tmp_path / "w.safetensors").keys() == found.keys()


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04", b"PK\x03\x04", bytes(range(256))])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_that_are_none_are_one_line(tmp_path, content, suffix):
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_all_checkpoints_damaged_is_an_error_that_removes_nothing(copy, capsys):
    (copy / "model.safetensors").unlink()
    for path in copy.glob("checkpoints/*/net.safetensors"):
        path.write_bytes(b"")
    names = sorted(p for p in copy.rglob("*"))
    said = fails(capsys, "train", "--out", copy, *GO, 6)
    assert "none of the 3 checkpoints" in said and "left as they are" in said
    assert "delete" not in said and sorted(copy.rglob("*")) == names
    for path in copy.glob("checkpoints/*/ema-0.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="is damaged"):
        load(copy)
