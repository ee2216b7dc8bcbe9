"""From a folder of images to a Frechet distance, all on a CPU and without a network."""

import json

import pytest
import torch

from meanflow_lite import cli
from meanflow_lite.data.crops import write_crops, write_small_vae
from meanflow_lite.data.images import ImageFolder
from meanflow_lite.networks.dit import DiTConfig
from meanflow_lite.networks.presets import PRESETS as NETWORKS
from meanflow_lite.runs import load


def run(*arguments) -> None:
    cli.main([str(a) for a in arguments])


def pipeline(folder, monkeypatch, capsys, crops, size, steps, vae_steps) -> list[dict]:
    """Crops, a VAE, encode, damage and verify, train, sample, decode, compare."""
    side = size // 8
    patch = max(2, side // 8)  # 64 tokens at 256 pixels
    config = DiTConfig(side, patch_size=patch, width=64, depth=3, heads=4, num_classes=2)
    monkeypatch.setitem(NETWORKS, "test", config)
    images, vae, cache = folder / "images", folder / "vae", folder / "latents"
    write_crops(images, crops, size)
    write_small_vae(vae, ImageFolder.open(images), min(size, 64), vae_steps, width=8)
    run("encode", images, "--out", cache, "--vae", vae, "--size", size, "--shard", 16)
    shard = cache / "shard-00001.npy"
    good = shard.read_bytes()
    shard.write_bytes(good[:-9] + bytes([good[-9] ^ 16]) + good[-8:])
    with pytest.raises(SystemExit):
        run("verify", cache)
    assert shard.read_bytes() != good
    run("verify", cache, "--repair", "True")
    assert "damaged: shard-00001" in capsys.readouterr().out
    assert shard.read_bytes() == good
    run(
        "train",
        "--preset",
        "b2",
        "--network",
        "test",
        "--data",
        cache,
        "--out",
        folder / "run",
        "--batch",
        8,
        "--steps",
        steps,
        "--lr",
        "1e-3",
        "--ema",
        0.9,
        "--grid-every",
        steps,
    )
    assert (folder / "run" / "grids" / f"step-{steps:08d}.png").exists()
    run("sample", "--model", folder / "run", "--out", folder / "samples", "--count", 16)
    judged = ["--samples", folder / "samples", "--reference", images, "--features", "digits"]
    run("fid", *judged, "--few", "True")
    printed = capsys.readouterr().out
    assert "label protocol    balanced" in printed
    assert float(printed.split("frechet distance")[1].split()[0]) >= 0
    return [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]


def test_small(tmp_path, monkeypatch, capsys):
    pipeline(tmp_path, monkeypatch, capsys, crops=12, size=32, steps=4, vae_steps=2)
    model = load(tmp_path / "run")
    images = model.sample(labels=[0, 1], steps=2)
    assert images.shape == (2, 3, 32, 32) and images.abs().max() <= 1
    eps = model.noise([0, 1])
    latents = model.latents(eps, torch.tensor([0, 1]), [1.0, 0.5, 0.0])
    torch.testing.assert_close(model.decode(latents), images)


@pytest.mark.slow
def test_at_256_pixels(tmp_path, monkeypatch, capsys):
    lines = pipeline(tmp_path, monkeypatch, capsys, crops=100, size=256, steps=300, vae_steps=60)
    assert lines[-1]["velocity_error"] < 0.8 * lines[0]["velocity_error"]
