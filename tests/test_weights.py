"""Published checkpoints become run folders: every format, whole or refused in one line."""

import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import official_trees as official
import pytest
import torch
from safetensors.torch import save_file

from meanflow_lite.cli import main
from meanflow_lite.networks.catalogue import build_any, make
from meanflow_lite.networks.dit import DiT, DiTConfig
from meanflow_lite.networks.drift_generator import DriftConfig
from meanflow_lite.networks.in_context import InContextConfig
from meanflow_lite.runs import load
from meanflow_lite.weights import WeightsError
from meanflow_lite.weights.importing import open_checkpoint, with_velocity_head, write_run
from meanflow_lite.weights.names import Sizes
from meanflow_lite.weights.reading import read

tensorstore = pytest.importorskip("tensorstore")
msgpack = pytest.importorskip("msgpack")

CONFIGS = {
    "iMF": InContextConfig(8, 2, 4, 24, 4, 2, 5, 2),
    "pMF": InContextConfig(16, 4, 3, 16, 3, 2, 4, 1, pixels=True, bottleneck=6),
    "Drifting": DriftConfig(8, 2, 4, 24, 2, 2, 20, 6, 3, 2, 7),
    "MeanFlow": DiTConfig(8, 2, 4, 24, 2, 3, 5),
}
SIZES = {"iMF": Sizes(image_size=8), "MeanFlow": Sizes(image_size=8, heads=3)}


def network(family, seed=0):
    torch.manual_seed(seed)
    net = make(CONFIGS[family])
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn_like(p) * 0.3)
    return net


def tree_of(family, net, **options):
    if family in ("iMF", "pMF"):
        return official.in_context_tree(net, pixels=family == "pMF", **options)
    return {"Drifting": official.drifting_tree, "MeanFlow": official.meanflow_tree}[family](net)


def training_state(family, net):
    """What a training run saves: averages, and raw weights that are wrong on purpose."""
    tree = tree_of(family, net)
    averages = {"1000": official.shifted(tree), "2000": tree} if family == "pMF" else tree
    return {"params": official.shifted(tree), "ema_params": averages}


def written(family, layout, net, folder: Path):
    if family == "Drifting":
        folder.mkdir()
        (folder / "ema_params.msgpack").write_bytes(official.packed(tree_of(family, net)))
        config = {"model_config": {"in_channels": 4, "patch_size": 2, "use_rope": True}}
        (folder / "metadata.json").write_text(json.dumps(config))
        return folder
    write = {"ocdbt": official.write_ocdbt, "msgpack": official.write_orbax_msgpack}[layout]
    write(training_state(family, net), folder / "checkpoint_7")
    return folder


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


CASES = [(f, lay) for f in ("iMF", "pMF", "MeanFlow") for lay in ("ocdbt", "msgpack")]


@pytest.mark.parametrize(("family", "layout"), [*CASES, ("Drifting", "msgpack")])
def test_every_family_and_layout_comes_back_bit_for_bit(family, layout, tmp_path):
    net = network(family)
    source = written(family, layout, net, tmp_path / "source")
    ema = "2000" if family == "pMF" else None
    imported = open_checkpoint(source, ema=ema, sizes=SIZES.get(family, Sizes()))
    assert same(imported.net.state_dict(), net.state_dict())  # the averages, not the raw weights
    assert imported.info["imported"]["family"] == family
    write_run(imported, tmp_path / "run")
    model = load(tmp_path / "run")
    assert same(model.net.state_dict(), net.state_dict())
    assert model.net.config == imported.net.config
    labels = torch.tensor([1, 0, 3])
    z = model.latents(model.noise(range(3)), labels, noise_labels=model.noise_labels(range(3)))
    assert z.shape == (3, *model.shape) and z.isfinite().all()


def test_the_average_is_a_choice(tmp_path):
    net = network("pMF")
    source = written("pMF", "ocdbt", net, tmp_path / "source")
    with pytest.raises(WeightsError, match="averages 1000, 2000, .*choose with --ema 2000"):
        open_checkpoint(source)
    with pytest.raises(WeightsError, match="--ema 500 is not among its averages: 1000, 2000"):
        open_checkpoint(source, ema="500")
    other = open_checkpoint(source, ema="1000")
    assert other.info["imported"]["average"] == "1000"
    weight = "u_layer.linear.weight"
    torch.testing.assert_close(other.net.state_dict()[weight], net.state_dict()[weight] + 1)


@pytest.mark.parametrize("velocity", ["layer", "none"])
def test_weights_for_sampling_lack_the_velocity_head(velocity, tmp_path):
    net = network("iMF")
    tree = {"ema_params": official.in_context_tree(net, velocity=velocity)}
    source = official.write_ocdbt(tree, tmp_path / "checkpoint_3")
    imported = open_checkpoint(source, sizes=SIZES["iMF"])
    assert not imported.net.config.velocity_head
    assert any("velocity head" in note for note in imported.notes)
    z, r, t = torch.randn(2, 4, 8, 8), torch.zeros(2), torch.ones(2)
    torch.testing.assert_close(imported.net(z, r, t), net(z, r, t))
    with pytest.raises(ValueError, match="no velocity head"):
        imported.net.with_velocity(z, r, t)
    whole = with_velocity_head(imported.net)
    u, v = whole.with_velocity(z, r, t)
    torch.testing.assert_close(u, net(z, r, t))
    torch.testing.assert_close(v, u)
    with pytest.raises(ValueError, match="has a velocity head"):
        with_velocity_head(whole)


def test_the_pytorch_port_of_meanflow_with_wrappers_and_half_precision(tmp_path):
    net = network("MeanFlow")
    port = official.meanflow_port(net)
    port["projectors.0.weight"] = torch.zeros(2, 2)
    bare = {n: v.half() for n, v in port.items()}
    wrapped = {f"module._orig_mod.{n}": v for n, v in port.items()}
    torch.save(bare, tmp_path / "half.pt")
    torch.save({"ema": wrapped, "model": {n: v + 1 for n, v in wrapped.items()}}, tmp_path / "b.pt")
    save_file(port, tmp_path / "c.safetensors")
    for name in ("half.pt", "b.pt", "c.safetensors"):
        found = open_checkpoint(tmp_path / name, sizes=SIZES["MeanFlow"])
        assert any("projectors" in note for note in found.notes)
        gap = max(
            float((a - b).abs().max())
            for a, b in zip(found.net.state_dict().values(), net.state_dict().values(), strict=True)
        )
        assert (gap > 0) == (name == "half.pt") and gap < 1e-3
    assert "float16" in str(open_checkpoint(tmp_path / "half.pt", sizes=SIZES["MeanFlow"]).notes)
    with pytest.raises(WeightsError, match="give --heads"):
        open_checkpoint(tmp_path / "b.pt", sizes=Sizes(image_size=8))


def test_sit_is_an_instantaneous_field(tmp_path):
    net = DiT(DiTConfig(4, 2, 4, 12, 1, 2, 3, times=("t",)))
    port = {n.replace("h_embedder", "x"): v for n, v in official.meanflow_port(net).items()}
    torch.save({"ema": port}, tmp_path / "sit.pt")
    imported = open_checkpoint(tmp_path / "sit.pt", sizes=Sizes(4, 2))
    assert imported.info["domain"]["name"] == "instant"
    write_run(imported, tmp_path / "run")
    model = load(tmp_path / "run")
    z = model.latents(model.noise([0]), torch.tensor([1]), [1.0, 0.5, 0.0], omega=2.0)
    assert z.isfinite().all()


def test_chunked_arrays_and_bfloat16(tmp_path):
    net = network("iMF")
    tree = official.halved(official.in_context_tree(net))
    source = official.write_orbax_msgpack({"ema_params": tree}, tmp_path / "c", chunk=50)
    imported = open_checkpoint(source, sizes=SIZES["iMF"])
    for name, value in net.state_dict().items():
        assert torch.equal(imported.net.state_dict()[name], value.bfloat16().float()), name


def test_new_labels_keep_everything_else(tmp_path):
    for family in CONFIGS:
        net = network(family)
        source = written(family, "msgpack", net, tmp_path / family)
        ema = "2000" if family == "pMF" else None
        new = open_checkpoint(source, ema, SIZES.get(family, Sizes()), new_labels=2)
        rows = 2 if family == "Drifting" else 3
        state, old = new.net.state_dict(), net.state_dict()
        table = next(n for n in state if n.endswith("labels.weight"))
        assert state[table].shape[0] == rows and new.info["num_classes"] == 2
        assert all(torch.equal(state[n], old[n]) for n in old if n != table)
        assert any("untrained" in note for note in new.notes)
    with pytest.raises(WeightsError, match="at least 1: got 0"):
        open_checkpoint(source, None, SIZES[family], new_labels=0)


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder.parent))
    return path


def test_a_zip_is_what_is_in_it(tmp_path):
    net = network("iMF")
    source = written("iMF", "ocdbt", net, tmp_path / "iMF-X")
    path = zipped(source, tmp_path / "iMF-X.zip")
    imported = open_checkpoint(path, sizes=SIZES["iMF"])
    assert same(imported.net.state_dict(), net.state_dict())
    assert len(imported.info["imported"]["sha256"]) == 64
    assert sorted(p.name for p in tmp_path.iterdir()) == ["iMF-X", "iMF-X.zip"]


def test_the_newest_of_several_steps_is_taken(tmp_path):
    net = network("MeanFlow")
    tree = official.meanflow_tree(net)
    official.write_orbax_msgpack({"ema_params": official.shifted(tree)}, tmp_path / "checkpoint_9")
    official.write_orbax_msgpack({"ema_params": tree}, tmp_path / "checkpoint_10")
    imported = open_checkpoint(tmp_path, sizes=SIZES["MeanFlow"])
    assert same(imported.net.state_dict(), net.state_dict())


def in_tree(change, words):
    """An Orbax folder whose tree was changed before it was written."""

    def make(tmp_path):
        tree = official.in_context_tree(network("iMF"))
        change(tree["net"])
        return official.write_ocdbt({"ema_params": tree}, tmp_path / "checkpoint_7"), words

    return make


def without_norm(net):
    del net["u_heads_1"]["attn"]["k_norm"]


def swapped(net):
    mlp = net["shared_blocks_0"]["mlp"]
    mlp["w1"], mlp["w2"] = mlp["w2"], mlp["w1"]


def with_adapter(net):
    net["adapter"] = {"kernel": torch.zeros(2, 2)}


def with_nan(net):
    net["time_tokens"] = net["time_tokens"] * float("nan")


def cut(path, size):
    path.write_bytes(path.read_bytes()[:-size])
    return path


def truncated_msgpack(tmp_path):
    tree = {"ema_params": official.in_context_tree(network("iMF"))}
    folder = official.write_orbax_msgpack(tree, tmp_path / "checkpoint_7")
    cut(folder / "checkpoint", 1000)
    return folder, "checkpoint is damaged or cut short"


def lost_file(tmp_path):
    folder = in_tree(lambda net: None, "")(tmp_path)[0]
    files = [p for p in folder.rglob("*") if p.is_file()]
    max(files, key=lambda p: p.stat().st_size).unlink()
    return folder, "damaged or incomplete"


def truncated_zip(tmp_path):
    folder = in_tree(lambda net: None, "")(tmp_path)[0]
    return cut(zipped(folder, tmp_path / "a.zip"), 200), "damaged or cut short"


def zip_of_notes(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("x")
    return zipped(tmp_path / "notes", tmp_path / "b.zip"), "b.zip holds no checkpoint"


def zip_of_another_network(tmp_path):
    (tmp_path / "other").mkdir()
    save_file({"layer.weight": torch.zeros(2)}, tmp_path / "other" / "x.safetensors")
    return zipped(tmp_path / "other", tmp_path / "c.zip"), "of no network that is known here"


def zip_that_leads_outside(tmp_path):
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("../evil.pt", b"x")
    return tmp_path / "d.zip", "lead outside"


def truncated_torch(tmp_path):
    torch.save(official.meanflow_port(network("MeanFlow")), tmp_path / "e.pt")
    return cut(tmp_path / "e.pt", 3000), "damaged or cut short"


def truncated_safetensors(tmp_path):
    save_file(official.meanflow_port(network("MeanFlow")), tmp_path / "f.safetensors")
    return cut(tmp_path / "f.safetensors", 300), "damaged or cut short"


def web_page(tmp_path):
    (tmp_path / "g.zip").write_text("<!doctype html><title>Sign in</title>")
    return tmp_path / "g.zip", "no checkpoint that is known here"


def nothing(tmp_path):
    return tmp_path / "nothing.zip", "no such file or folder"


KINDS = {
    "missing leaf": in_tree(without_norm, "lacks u_blocks.1.attn.k_norm"),
    "swapped shape": in_tree(swapped, r"w1.weight is \(24, 64\) and should be \(64, 24\)"),
    "extra leaf": in_tree(with_adapter, "has, and should not, adapter"),
    "NaN": in_tree(with_nan, "holds NaN or infinity"),
}
KINDS |= {
    make.__name__: make
    for make in (
        truncated_msgpack,
        lost_file,
        truncated_zip,
        zip_of_notes,
        zip_of_another_network,
        zip_that_leads_outside,
        truncated_torch,
        truncated_safetensors,
        web_page,
        nothing,
    )
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wrong_gives_one_line_and_nothing_is_written(kind, tmp_path, capsys):
    source, words = KINDS[kind](tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(WeightsError, match=words):
        open_checkpoint(source, sizes=SIZES["iMF"])
    with pytest.raises(SystemExit):
        main(["import", str(source), "--out", str(tmp_path / "run"), "--image-size", "8"])
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and "\n" not in said and "Traceback" not in said
    assert sorted(tmp_path.rglob("*")) == before


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("how", ["plain pickle", "torch"])
def test_a_pickle_of_more_than_tensors_is_refused_and_not_run(how, tmp_path):
    path, marker = tmp_path / "w.pt", tmp_path / "was-run"
    content = {"model": Evil(str(marker))}
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match="would run code|damaged"):
        read(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(content))  # and it would have been run
    assert marker.exists()


def test_a_run_is_never_overwritten(tmp_path):
    imported = open_checkpoint(
        written("iMF", "msgpack", network("iMF"), tmp_path / "s"), sizes=SIZES["iMF"]
    )
    out = tmp_path / "run"
    write_run(imported, out)
    kept = (out / "run.json").read_bytes()
    with pytest.raises(WeightsError, match="exists and is not an empty folder"):
        write_run(imported, out)
    assert (out / "run.json").read_bytes() == kept


def test_without_the_extra_the_message_names_the_command(tmp_path, monkeypatch):
    import sys

    source = written("iMF", "ocdbt", network("iMF"), tmp_path / "s")
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(ImportError, match=r'pip install "meanflow-lite\[weights\]"'):
        open_checkpoint(source)


def test_latents_are_decoded_with_their_own_statistics(tmp_path):
    source = written("iMF", "msgpack", network("iMF"), tmp_path / "s")
    write_run(open_checkpoint(source, sizes=SIZES["iMF"]), tmp_path / "run")
    model = load(tmp_path / "run")
    z = torch.zeros(1, 4, 2, 2)
    torch.testing.assert_close(
        model.unscaled(z)[0, :, 0, 0], torch.tensor(model.info["latents"]["mean"])
    )
    gap = model.unscaled(z + 1) - model.unscaled(z)
    torch.testing.assert_close(gap[0, :, 0, 0], torch.tensor(model.info["latents"]["std"]))
    assert abs(float(gap[0, 0, 0, 0]) - 1 / 0.18215) > 0.5


def test_what_a_model_is_told(tmp_path):
    source = written("iMF", "msgpack", network("iMF"), tmp_path / "s")
    write_run(open_checkpoint(source, sizes=SIZES["iMF"]), tmp_path / "run")
    model = load(tmp_path / "run")
    eps, y = model.noise([0, 1]), torch.tensor([1, 2])
    told = {n: torch.full((2,), v) for n, v in {"omega": 3.0, "t_min": 0.2, "t_max": 0.8}.items()}
    z = eps - model.net(eps, torch.zeros(2), torch.ones(2), y, **told)
    torch.testing.assert_close(model.latents(eps, y, omega=3.0, interval=(0.2, 0.8)), z)
    assert not torch.allclose(model.latents(eps, y), z)
    with pytest.raises(ValueError, match=r"interval lies within \[0, 1\]"):
        model.latents(eps, y, interval=(0.8, 0.2))
    digits = load("digits")
    with pytest.raises(ValueError, match="no guidance interval"):
        digits.latents(digits.noise([0]), torch.tensor([1]), interval=(0.2, 0.8))
    with pytest.raises(ValueError, match="fixed by its training"):
        digits.latents(digits.noise([0]), torch.tensor([1]), omega=2.0)


def test_noise_labels_belong_to_the_noise(tmp_path):
    source = written("Drifting", "msgpack", network("Drifting"), tmp_path / "s")
    write_run(open_checkpoint(source), tmp_path / "run")
    model = load(tmp_path / "run")
    whole, part = model.noise_labels(range(4), 5), model.noise_labels([2, 3], 5)
    torch.testing.assert_close(whole[2:], part)
    assert not torch.equal(whole, model.noise_labels(range(4), 6))
    with pytest.raises(ValueError, match=r"labels are 0 ... 5 \(this model needs one\)"):
        model.latents(model.noise([0]), torch.tensor([6]))
    with pytest.raises(ValueError, match="not trained for the jump"):
        model.latents(model.noise([0]), torch.tensor([1]), [1, 0.5, 0])


def test_from_import_to_a_frechet_distance(tmp_path, capsys):
    source = written("pMF", "ocdbt", network("pMF"), tmp_path / "source")
    run, samples = tmp_path / "run", tmp_path / "samples"
    main(["import", str(source), "--out", str(run), "--ema", "2000"])
    main(
        ["sample", "--model", str(run), "--out", str(samples), "--count", "40", "--omega", "2"]
        + ["--interval", "0.1", "0.7", "--device", "cpu"]
    )
    main(["sample", "--model", str(run), "--out", str(tmp_path / "b.npz"), "--count", "40"])
    other = ["--reference", str(tmp_path / "b.npz"), "--features", "digits"]
    main(["fid", "--samples", str(samples), *other])
    assert "frechet distance" in capsys.readouterr().out
    about = json.loads((samples / "samples.json").read_text())
    assert about["omega"] == 2 and about["imported"]["family"] == "pMF"


PUBLISHED = os.environ.get("MEANFLOW_PUBLISHED", "")


def published(name):
    stored = np.load(Path(PUBLISHED) / f"{name}.npz")

    def tensor(key):
        value = torch.from_numpy(np.asarray(stored[key]))
        value = value.permute(0, 3, 1, 2).contiguous() if value.ndim == 4 else value
        return value.long() if value.dtype == torch.int32 else value

    return stored, tensor


def close(ours, theirs):
    assert float((ours.detach() - theirs).abs().max()) < 1e-5 * float(theirs.abs().max())


@pytest.mark.skipif(not PUBLISHED, reason="MEANFLOW_PUBLISHED has numbers of official networks")
@pytest.mark.parametrize(
    ("name", "folder", "ema", "sizes"),
    [
        ("mf", "mf_orbax_msgpack", None, Sizes(8, 3)),
        ("imf", "imf_orbax_ocdbt", None, Sizes(8)),
        ("pmf", "pmf_orbax_ocdbt", "2000", Sizes()),
        ("drift", "drift_msgpack", None, Sizes()),
    ],
)
def test_official_numbers(name, folder, ema, sizes):
    net = open_checkpoint(Path(PUBLISHED) / "checkpoints" / folder, ema, sizes).net
    stored, tensor = published(name)
    if name == "drift":
        drift_numbers(net, tensor)
    elif name == "mf":
        meanflow_numbers(net, tensor)
    else:
        in_context_numbers(net, tensor, stored)


def drift_numbers(net, tensor):
    z, one = tensor("noise"), torch.ones(6)
    for key, omega in (("out", tensor("cfg_scale")), ("out_cfg1", one)):
        told = {"omega": omega, "noise_labels": tensor("noise_labels")}
        close(z - net(z, 0 * one, one, tensor("y"), **told), tensor(key))


def meanflow_numbers(net, tensor):
    z, r, t, y = (tensor(k) for k in "zrty")
    v = tensor("e") - tensor("x")
    u, dudt = net.forward_with_tangent(z, r, t, v, 0 * r, 0 * t + 1, y)
    close(u, tensor("u"))
    close(dudt, tensor("dudt"))
    target = v - (t - r)[:, None, None, None] * dudt
    close(target, tensor("target"))
    square = (u - target).square().sum((1, 2, 3))
    close(square, tensor("sq"))
    close((square / (square.detach() + 0.01)).mean(), tensor("loss"))
    close(tensor("e") - net(tensor("e"), 0 * r, 0 * t + 1, y), tensor("sample_1nfe"))


def in_context_numbers(net, tensor, stored):
    z, r, t, y, x, e = (tensor(k) for k in "zrtyxe")
    told = {k: tensor(k) for k in ("omega", "t_min", "t_max")}
    pixels = net.config.pixels
    rows = (slice(None), None, None, None)
    close((1 - t[rows]) * x + t[rows] * e, z)
    v_t = (z - x) / t.clamp(min=0.05)[rows] if pixels else e - x
    close(v_t, tensor("v_t"))
    u, v = net.with_velocity(z, r, t, y, **told)
    close(u, tensor("u"))
    close(v, tensor("v"))
    v_c, v_g = guided(net, z, t, y, v_t, told)
    close(v_c, tensor("v_c"))
    close(v_g, tensor("v_g"))
    dudt = net.forward_with_tangent(z, r, t, v_c, 0 * r, 0 * t + 1, y, **told)[1]
    close(dudt, tensor("dudt"))
    square_u = (u + (t - r)[rows] * dudt - v_g).square().sum((1, 2, 3))
    square_v = (v - v_g).square().sum((1, 2, 3))
    close(square_u, tensor("sq_u"))
    close(square_v, tensor("sq_v"))
    loss = sum((s / (s.detach() + 0.01)).mean() for s in (square_u, square_v))
    close(loss, tensor("loss"))
    for key in (k for k in stored.files if k.startswith("sample_")):
        times = [1.0, 0.0] if "1nfe" in key else [1.0, 0.5, 0.0]
        omega = 7.5 if "omega7p5" in key else 4.0
        low, high = (0.4, 0.65) if "omega7p5" in key else (0.36, 0.64)
        told = {n: torch.full((6,), s) for n, s in zip(told, (omega, low, high), strict=True)}
        state = e
        for s, end in zip(times, times[1:], strict=False):
            jump = net(state, torch.full((6,), end), torch.full((6,), s), y, **told)
            state = state - (s - end) * jump
        close(state, tensor(key))


def guided(net, z, t, y, v_t, told):
    """v_c and v_g as improved MeanFlow trains them."""
    omega, one, zero = told["omega"], torch.ones_like(t), torch.zeros_like(t)
    everywhere = {"t_min": zero, "t_max": one}
    null = torch.full_like(y, net.config.num_classes)
    v_u = net.with_velocity(z, t, t, null, omega=one, **everywhere)[1]
    inside = (t >= told["t_min"]) & (t <= told["t_max"])
    scale = torch.where(inside, omega, one)
    v_c = net.with_velocity(z, t, t, y, omega=scale, **everywhere)[1]
    v_g = v_t + (1 - 1 / scale)[:, None, None, None] * (v_c - v_u)
    return v_c, v_g


def test_the_published_names_are_networks_that_exist():
    from meanflow_lite.networks.catalogue import NETWORKS
    from meanflow_lite.weights.published import PUBLISHED as KNOWN

    assert {p.network for p in KNOWN.values()} <= NETWORKS.keys()
    with torch.device("meta"):
        for p in KNOWN.values():
            build_any(p.network)
