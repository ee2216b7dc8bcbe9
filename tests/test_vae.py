"""Autoencoders of diffusers: which are read, how, and that no other one takes their place."""

import os
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny  # pyright: ignore[reportPrivateImportUsage]

from meanflow_lite.data import vae as module
from meanflow_lite.data.vae import CHUNK, Vae


def small(**config) -> AutoencoderKL:
    blocks = {"block_out_channels": (8, 8), "norm_num_groups": 4}
    blocks |= {"down_block_types": ("DownEncoderBlock2D",) * 2}
    blocks |= {"up_block_types": ("UpDecoderBlock2D",) * 2}
    torch.manual_seed(0)
    return AutoencoderKL(**blocks, latent_channels=3, **config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("vae") / "plain"
    small().save_pretrained(place)
    return place


def test_encoding_in_chunks_is_that_of_the_network(folder, monkeypatch):
    images = torch.rand(2 * CHUNK + 3, 3, 8, 8) * 2 - 1
    net = AutoencoderKL.from_pretrained(folder)
    sizes = []
    ours = Vae(str(folder))
    original = ours.net.decode

    def decode(z):
        sizes.append(len(z))
        return original(z)

    monkeypatch.setattr(ours.net, "decode", decode)
    with torch.no_grad():
        dist = net.encode(images).latent_dist
        torch.testing.assert_close(ours.encode(images), torch.cat([dist.mean, dist.std], 1))
        decoded = net.decode(dist.mean).sample.clamp(-1, 1)
    torch.testing.assert_close(ours.decode(dist.mean), decoded, atol=1e-5, rtol=1e-5)
    assert sizes == [CHUNK, CHUNK, 3]
    made = ours.decode_bytes(dist.mean)
    assert made.dtype == torch.uint8 and made.device.type == "cpu"
    assert (made.float() / 127.5 - 1 - decoded).abs().max() < 0.5 / 127.5 + 1e-5
    assert (ours.scale, ours.factor) == (0.18215, 2)


@pytest.mark.parametrize(
    ("config", "shift", "spread"),
    [
        ({"scaling_factor": 0.3611, "shift_factor": 0.1159}, [0.1159], [1.0]),
        ({"latents_mean": [0.1, 0.2, 0.3], "latents_std": [2.0, 3.0, 4.0]}, [0.1, 0.2, 0.3], None),
    ],
)
def test_shift_and_statistics_are_taken_off_and_put_back(config, shift, spread, tmp_path):
    small(**config).save_pretrained(tmp_path)
    ours, net = Vae(str(tmp_path)), small()
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    spread = torch.tensor(spread or [2.0, 3.0, 4.0]).view(1, -1, 1, 1)
    shift = torch.tensor(shift).view(1, -1, 1, 1)
    with torch.no_grad():
        dist = net.encode(images).latent_dist
        mean, std = ours.encode(images).chunk(2, 1)
        torch.testing.assert_close(mean, (dist.mean - shift) / spread)
        torch.testing.assert_close(std, dist.std / spread)
        decoded = net.decode(dist.mean).sample.clamp(-1, 1)
    torch.testing.assert_close(ours.decode(mean), decoded, atol=1e-5, rtol=1e-5)
    assert ours.scale == config.get("scaling_factor", 0.18215)


def test_an_autoencoder_without_noise_and_one_inside_a_pipeline(tmp_path):
    tiny = AutoencoderTiny(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
                           num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))  # fmt: skip
    tiny.save_pretrained(tmp_path / "pipe" / "vae")
    ours = Vae(str(tmp_path / "pipe"))
    made = ours.encode(torch.rand(2, 3, 8, 8))
    mean, std = made.chunk(2, 1)
    assert std.abs().max() == 0 and mean.abs().max() > 0
    assert ours.decode(mean).shape == (2, 3, 8, 8)


def test_another_vae_of_the_same_name_is_told_apart(folder, tmp_path):
    known = Vae(str(folder)).fingerprint
    net = AutoencoderKL.from_pretrained(folder)
    with torch.no_grad():
        next(reversed(list(net.parameters()))).add_(1e-3)  # the smallest change, at the end
    net.save_pretrained(tmp_path / "plain")
    assert Vae(str(folder), fingerprint=known).fingerprint == known
    with pytest.raises(ValueError, match="is not the one that made these latents"):
        Vae(str(tmp_path / "plain"), fingerprint=known)


def test_a_relative_name_is_stored_as_a_place(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert Vae("plain").name == str(folder)


def test_a_name_that_is_fetched_is_printed_first(monkeypatch, capsys):
    def offline(name):
        raise OSError("no network")

    monkeypatch.setattr(module, "_config", offline)
    with pytest.raises(ValueError, match="cannot load the VAE 'some/vae'.*no network"):
        Vae("some/vae")
    assert "the VAE some/vae comes from the Hugging Face hub" in capsys.readouterr().err
    for name in ("/no/such/folder", "./nor/this"):
        with pytest.raises(ValueError, match="there is no such folder"):
            Vae(name)
    assert capsys.readouterr().err == ""


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_weights_that_may_hold_code_are_not_read(folder, tmp_path):
    place = shutil.copytree(folder, tmp_path / "vae")
    (place / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(Trap(tmp_path / "trapped"), place / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot load the VAE"):
        Vae(str(place))
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("name", ["config.json", "diffusion_pytorch_model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1}', b"[]"])
def test_a_damaged_vae_is_one_line(name, content, folder, tmp_path):
    place = shutil.copytree(folder, tmp_path / "vae")
    (place / name).write_bytes(content)
    with pytest.raises(ValueError, match="cannot load the VAE") as found:
        Vae(str(place))
    assert "\n" not in str(found.value)
