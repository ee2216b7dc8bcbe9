"""In from the Hub and out to it, to diffusers, to ONNX and to torch.export."""

import io
import zipfile

import numpy as np
import official_trees as official
import pytest
import torch
from hub_server import serving

from meanflow_lite.cli import main
from meanflow_lite.networks.catalogue import build_any
from meanflow_lite.runs import load
from meanflow_lite.runs.pipeline import FlowMapPipeline
from meanflow_lite.weights import WeightsError
from meanflow_lite.weights.export import inputs
from meanflow_lite.weights.fetching import fetch
from meanflow_lite.weights.importing import Imported, describe, write_run
from meanflow_lite.weights.names import Found

FAMILIES = {"iMF-tiny": "iMF", "pMF-tiny": "pMF", "Drift-tiny": "Drifting"}


def run_of(name, folder, seed=0):
    """The folder of an imported run of random weights."""
    torch.manual_seed(seed)
    net = build_any(name)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn_like(p) * 0.3)
    about = {"source": "a test", "sha256": "0" * 64, "family": FAMILIES[name]}
    about |= {"average": "1000", "licence": "MIT", "repository": "https://example.org"}
    info = describe(net, Found(net, FAMILIES[name]), about)
    write_run(Imported(net, info, []), folder)
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The stand-in, and a cache of its own."""
    constants = pytest.importorskip("huggingface_hub").constants
    with serving() as (hub, address):
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        monkeypatch.setenv("MEANFLOW_CACHE", str(tmp_path / "runs"))
        yield hub


def zipped_imf():
    net = build_any("iMF-tiny")
    tree = {"ema_params": official.in_context_tree(net)}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("iMF-T/checkpoint_5/checkpoint", official.packed(tree))
        archive.writestr("iMF-T/checkpoint_5/_METADATA", "{}")
    return net, packed.getvalue()


def test_import_from_the_hub_says_size_and_licence_first(hub, tmp_path, capsys):
    pytest.importorskip("msgpack")
    net, content = zipped_imf()
    hub.repositories["someone/iMF"] = {"iMF-T.zip": content, "README.md": b"#", "b.zip": b"no"}
    hub.licences["someone/iMF"] = "mit"
    out = tmp_path / "run"
    main(["import", "hf:someone/iMF/iMF-T", "--out", str(out), "--image-size", "4"])
    said = capsys.readouterr().err
    assert said.startswith(f"someone/iMF: 1 file, {len(content) / 2**20:.1f} MiB, licence mit")
    assert hub.fetched == ["iMF-T.zip"]
    state = load(out).net.state_dict()
    assert all(torch.equal(state[n], v) for n, v in net.state_dict().items())
    main(["import", "hf:someone/iMF/iMF-T.zip", "--out", str(tmp_path / "b"), "--image-size", "4"])
    assert hub.fetched == ["iMF-T.zip"]  # from the cache
    with pytest.raises(WeightsError, match="no file 'iMF-X': it has README.md, b.zip, iMF-T.zip"):
        fetch("hf:someone/iMF/iMF-X")


def test_without_a_network_it_says_what_to_fetch(hub, tmp_path, monkeypatch, capsys):
    pytest.importorskip("msgpack")
    _, content = zipped_imf()
    hub.repositories["someone/iMF"] = {"iMF-T.zip": content}
    kept = fetch("hf:someone/iMF/iMF-T")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert fetch("hf:someone/iMF/iMF-T") == kept
    assert "of the cache is taken" in capsys.readouterr().err
    with pytest.raises(
        WeightsError, match=r"huggingface.co/Lyy0725/iMF/tree/main, save iMF-B-2.zip"
    ):
        fetch("hf:Lyy0725/iMF/iMF-B-2")
    with pytest.raises(SystemExit):
        main(["import", "imf-b2", "--out", str(tmp_path / "x")])
    assert capsys.readouterr().err.strip().count("\n") == 0
    with pytest.raises(SystemExit):
        main(["import", "mf-b4", "--out", str(tmp_path / "x")])
    assert "Google Drive" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_published_name_is_imported_at_its_first_use(hub, tmp_path, monkeypatch):
    pytest.importorskip("msgpack")
    from meanflow_lite.weights import published

    net = build_any("Drift-tiny")
    hub.repositories["someone/drift"] = {
        "gen/x/ema_params.msgpack": official.packed(official.drifting_tree(net))
    }
    meta = b'{"model_config": {"in_channels": 2, "patch_size": 2}}'
    hub.repositories["someone/drift"]["gen/x/metadata.json"] = meta
    one = published.Published("Drift-tiny", "hf:someone/drift/gen/x")
    monkeypatch.setitem(published.PUBLISHED, "drift-tiny", one)
    for _ in range(2):
        model = load("drift-tiny")
    assert len(hub.fetched) == 2
    assert all(torch.equal(model.net.state_dict()[n], v) for n, v in net.state_dict().items())


def test_a_run_goes_to_the_hub_and_comes_back(hub, tmp_path):
    model = load(run_of("pMF-tiny", tmp_path / "run"))
    assert model.push_to_hub("someone/mine").endswith("/someone/mine")
    files = hub.repositories["someone/mine"]
    assert {"run.json", "model.safetensors", "README.md"} <= files.keys()
    assert hub.private["someone/mine"]
    assert b'load("hf:someone/mine")' in files["README.md"] and b"MIT" in files["README.md"]
    back = load("hf:someone/mine")
    eps, y = model.noise([0, 1]), torch.tensor([1, 2])
    torch.testing.assert_close(back.latents(eps, y), model.latents(eps, y), rtol=0, atol=0)
    hub.repositories["someone/else"] = {"a.txt": b"x"}
    with pytest.raises(WeightsError, match="holds no run"):
        load("hf:someone/else")


def test_weights_without_a_licence_are_not_made_public(tmp_path):
    model = load(run_of("Drift-tiny", tmp_path / "run"))
    model.info["imported"]["licence"] = "none stated: ask"
    with pytest.raises(WeightsError, match="states no licence"):
        model.push_to_hub("someone/drift", private=False)


@pytest.mark.parametrize("name", ["digits", *FAMILIES])
def test_the_scheduler_of_diffusers_walks_our_field_to_the_last_bit(name, tmp_path):
    model = load("digits" if name == "digits" else run_of(name, tmp_path / "run"))
    eps, y, told = model.noise(range(3)), torch.tensor([1, 2, 0]), model.noise_labels(range(3))
    pipeline = model.pipeline()
    pipeline.save_pretrained(tmp_path / "pipeline")
    reloaded = FlowMapPipeline.from_pretrained(tmp_path / "pipeline")
    for steps in (1,) if name == "Drift-tiny" else (1, 2, 4):
        times = [1 - k / steps for k in range(steps + 1)]
        expected = model.latents(eps, y, times, noise_labels=told)
        for p in (pipeline, reloaded):
            made = p(y.tolist(), steps, latents=eps, noise_labels=told, output_type="latent")
            assert torch.equal(made, expected)
    if name == "Drift-tiny":
        with pytest.raises(ValueError, match="not trained for the jump"):
            pipeline([1], 2)
    if name in ("iMF-tiny", "pMF-tiny"):
        expected = model.latents(eps, y, omega=3.0, interval=(0.1, 0.6))
        made = reloaded(
            y.tolist(), latents=eps, omega=3.0, interval=(0.1, 0.6), output_type="latent"
        )
        assert torch.equal(made, expected) and not torch.equal(made, model.latents(eps, y))
    if name == "digits":
        assert pipeline([1, 2]).shape == (2, 1, 8, 8)
        with pytest.raises(ValueError, match="does not take omega"):
            pipeline([1], omega=2.0)


SLOW = [("pMF-tiny", "onnx"), ("Drift-tiny", "onnx"), ("Drift-tiny", "pt2")]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("digits", "pt2"),
        ("digits", "onnx"),
        ("pMF-tiny", "pt2"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW),
    ],
)
def test_the_one_step_sampler_as_a_graph(name, kind, tmp_path, capsys):
    run = "digits" if name == "digits" else run_of(name, tmp_path / "run")
    model = load(run)
    out = tmp_path / f"one.{kind}"
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    main(["export", "--model", str(run), "--out", str(out)])
    rows = 3  # another batch than the one that was traced
    y, told = torch.tensor([1, 2, 0]), model.noise_labels(range(rows))
    given = {"noise": model.noise(range(rows)), "labels": y}
    given |= {n: torch.full((rows,), float(v)) for n, v in model.recommended.items()}
    if told is not None:
        given["noise_labels"] = told
    assert list(given) == list(inputs(model.net, model.info))
    expected = model.latents(given["noise"], y, noise_labels=told)
    if kind == "pt2":
        made = torch.export.load(out).module()(*given.values())
    else:
        session = pytest.importorskip("onnxruntime").InferenceSession(str(out))
        feed = {n: v.numpy() for n, v in given.items()}
        made = torch.from_numpy(np.asarray(session.run(["sample"], feed)[0]))
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
