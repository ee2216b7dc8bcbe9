"""The latent cache: written once, resumed anywhere, and no damage passes unseen."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from meanflow_lite.data.batches import Ahead
from meanflow_lite.data.images import BadImage, ImageFolder, center_crop, read_image
from meanflow_lite.data.latents import (
    CacheError,
    CacheSettings,
    LatentCache,
    Vae,
    damaged,
    encode,
    finish,
    remove_shards,
)

SETTINGS = CacheSettings(size=16, shard=4)


class FakeVae(Vae):
    """Four channels at an eighth of the size: enough for everything but the pictures."""

    def __init__(self):
        self.name, self.fingerprint, self.slow = "fake", "f1", 0.0
        self.breaks: int | None = None  # this row of each batch comes out as NaN

    def encode(self, images):
        time.sleep(self.slow)
        mean = torch.nn.functional.avg_pool2d(images, 8)
        mean = torch.cat([mean, mean.mean(1, keepdim=True)], 1)
        if self.breaks is not None:
            mean[self.breaks] = float("nan")
        return torch.cat([mean, 0.1 + mean.abs()], 1)


@pytest.fixture
def images(tmp_path) -> ImageFolder:
    rng = np.random.default_rng(0)
    for name, count in (("cat", 6), ("dog", 5)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(256, size=(20 + i, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    return ImageFolder.open(tmp_path / "images")


@pytest.fixture
def cache(images, tmp_path):
    encode(images, FakeVae(), tmp_path / "cache", SETTINGS)
    finish(tmp_path / "cache")
    return tmp_path / "cache"


def test_the_batch_is_the_stated_formula(images, cache):
    """x = (mean + std * noise) * 0.18215, row by row; and the parts of a batch make the batch."""
    latents = LatentCache(cache)
    assert (len(latents), latents.num_classes, latents.shape, latents.vae) == (
        11,
        2,
        (4, 2, 2),
        "fake",
    )
    x, y = latents(3, 8, seed=1)
    pieces = [latents(3, 8, 1, part, 2) for part in range(2)]
    for part, (xs, ys) in enumerate(pieces):
        assert torch.equal(xs, x[part::2]) and torch.equal(ys, y[part::2])
    draws = torch.stack([latents(step, 11, 0)[0].mean(0) for step in range(400)]).mean(0)
    all_rows = latents.moments(torch.arange(11), torch.zeros(11, dtype=torch.long))
    torch.testing.assert_close(draws, all_rows[:, :4].mean(0) * 0.18215, atol=4e-3, rtol=0)
    first = read_image(images.paths[0], 16).float() / 127.5 - 1
    torch.testing.assert_close(all_rows[0], FakeVae().encode(first[None])[0])


def test_reading_ahead_changes_nothing(cache):
    """In order, after a jump and backwards; the next value is computed by a thread meanwhile."""
    latents = LatentCache(cache)
    threads = []

    def read(n):
        threads.append(threading.current_thread())
        return latents(n, 8, 1)

    ahead = Ahead(read)
    for n in (0, 1, 2, 9, 10, 3):
        for value, expected in zip(ahead(n), latents(n, 8, 1), strict=True):
            assert torch.equal(value, expected)
    own = threads.count(threading.main_thread())
    assert own == 3 and len(threads) - own >= 3  # 0, 9 and 3 were not foreseen


def test_more_shards_than_a_process_may_open(cache, images, tmp_path):
    """ImageNet has 1,252 shards where 1,024 open files are a common limit."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(os.listdir("/proc/self/fd"))
    encode(images, FakeVae(), tmp_path / "c", CacheSettings(16, shard=1), 4)
    finish(tmp_path / "c")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before + 6, limits[1]))
        with pytest.raises(OSError, match="Too many open files"):  # as numpy maps files
            _ = [np.load(p, mmap_mode="r") for p in (tmp_path / "c").glob("*.npy")]
        latents = LatentCache(tmp_path / "c")
        assert torch.equal(latents(0, 11, 0)[0], LatentCache(cache)(0, 11, 0)[0])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_flips_are_a_second_view(images, tmp_path):
    encode(images, FakeVae(), tmp_path / "c", CacheSettings(16, True, 4))
    finish(tmp_path / "c")
    latents = LatentCache(tmp_path / "c")
    views = [latents.moments(torch.tensor([2]), torch.tensor([v]))[0] for v in (0, 1)]
    torch.testing.assert_close(views[0].flip(-1), views[1])


def test_the_crop_is_centered_and_halves_by_boxes():
    """A white square in the middle of a wide picture fills the middle of the crop."""
    picture = np.zeros((80, 200, 3), np.uint8)
    picture[20:60, 80:120] = 255
    crop = np.asarray(center_crop(Image.fromarray(picture), 16))
    assert crop.shape == (16, 16, 3)
    assert crop[5:11, 5:11].min() > 250 and crop[0].max() < 5 and crop[:, -1].max() < 5


def _slowly(images, folder):
    vae = FakeVae()
    vae.slow = 0.02
    encode(images, vae, folder, CacheSettings(16, shard=1), 1)
    finish(folder)


def test_killed_at_random_moments(images, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    encode(images, FakeVae(), whole, CacheSettings(16, shard=1), 1)
    finish(whole)
    rng = torch.Generator().manual_seed(0)
    for _ in range(20):
        process = multiprocessing.get_context("fork").Process(target=_slowly, args=(images, cut))
        process.start()
        time.sleep(float(torch.rand((), generator=rng)) * 0.1)
        process.kill()
        process.join()
    _slowly(images, cut)
    for path in whole.glob("shard*"):
        assert path.read_bytes() == (cut / path.name).read_bytes()


def test_processes_share_the_shards(images, tmp_path, cache):
    for part in (1, 0):
        encode(images, FakeVae(), tmp_path / "c", SETTINGS, 32, part, 2)
    finish(tmp_path / "c")
    for path in cache.glob("shard*"):
        assert path.read_bytes() == (tmp_path / "c" / path.name).read_bytes()


def test_verify_finds_a_flipped_byte_and_repairs_just_that_shard(images, cache):
    target, other = cache / "shard-00001.npy", cache / "shard-00000.npy"
    good, kept = target.read_bytes(), other.stat().st_mtime_ns
    target.write_bytes(good[:-5] + bytes([good[-5] ^ 1]) + good[-4:])
    assert damaged(cache) == [1]
    remove_shards(cache, [1])
    assert damaged(cache) == [1]
    encode(images, FakeVae(), cache, SETTINGS)
    finish(cache)
    assert damaged(cache) == [] and target.read_bytes() == good
    assert other.stat().st_mtime_ns == kept


def test_a_cut_shard_a_missing_one_and_an_unfinished_cache_are_named(cache):
    shard = cache / "shard-00001.npy"
    shard.write_bytes(shard.read_bytes()[:-200])
    with pytest.raises(CacheError, match="shard-00001.npy is missing or damaged.*verify"):
        LatentCache(cache)
    shard.unlink()
    with pytest.raises(CacheError, match="shard-00001.npy"):
        LatentCache(cache)
    manifest = json.loads((cache / "manifest.json").read_text())
    (cache / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    with pytest.raises(CacheError, match="has not ended: run the same encode again"):
        LatentCache(cache)
    with pytest.raises(CacheError, match="not a latent cache"):
        LatentCache(cache.parent)


def test_nan_in_a_latent(images, cache, tmp_path):
    shard = np.load(cache / "shard-00002.npy")
    shard[1, 0, 3] = np.nan
    np.save(cache / "shard-00002.npy", shard)
    with pytest.raises(CacheError, match="shard-00002.npy holds NaN"):
        LatentCache(cache)(0, 11, 0)
    vae = FakeVae()
    vae.breaks = 3
    with pytest.raises(CacheError, match="NaN for .*cat/3.png"):
        encode(images, vae, tmp_path / "c", SETTINGS)


def test_a_label_out_of_range(cache):
    sidecar = json.loads((cache / "shard-00000.json").read_text())
    sidecar["labels"][0] = 2
    (cache / "shard-00000.json").write_text(json.dumps(sidecar))
    with pytest.raises(CacheError, match="labels 0 ... 2 but 2 classes"):
        LatentCache(cache)


def test_another_vae_other_images_or_other_settings_are_refused(images, cache):
    vae = FakeVae()
    vae.fingerprint = "f2"
    with pytest.raises(CacheError, match="vae_fingerprint is 'f1' there and 'f2' here"):
        encode(images, vae, cache, SETTINGS)
    with pytest.raises(CacheError, match="settings"):
        encode(images, FakeVae(), cache, CacheSettings(16, True, 4))


def test_a_manifest_of_another_cache_is_refused(images, cache, tmp_path):
    """The shards are whole and have the right shapes: only the checksums tell."""
    vae = FakeVae()
    vae.name = vae.fingerprint = "another"
    vae.encode = lambda x: 2 * FakeVae.encode(vae, x)
    encode(images, vae, tmp_path / "c", SETTINGS)
    finish(tmp_path / "c")
    assert LatentCache(tmp_path / "c").content != LatentCache(cache).content
    shutil.copy(tmp_path / "c" / "manifest.json", cache / "manifest.json")
    with pytest.raises(CacheError, match="of another cache .another VAE.*own manifest back"):
        LatentCache(cache)


def test_the_content_is_the_same_wherever_the_cache_lies(cache, tmp_path):
    shutil.copytree(cache, tmp_path / "moved")
    assert LatentCache(tmp_path / "moved").content == LatentCache(cache).content


def _encode_on_a_full_disk(images, folder):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    vae = FakeVae()
    whole, vae.slow = vae.encode, 0

    def narrow(x):  # from the second shard on no file may be longer than the first bytes
        out = whole(x)
        if (folder / "shard-00000.json").exists():
            resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
        return out

    vae.encode = narrow
    try:
        encode(images, vae, folder, SETTINGS)
    except OSError:
        os._exit(7)
    os._exit(1)


def test_a_full_disk_keeps_the_shards_that_were_whole(images, cache, tmp_path):
    arguments = (images, tmp_path / "c")
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_encode_on_a_full_disk, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 7
    assert (tmp_path / "c" / "shard-00000.json").exists()
    assert not (tmp_path / "c" / "shard-00001.json").exists()
    with pytest.raises(CacheError, match="has not ended"):
        LatentCache(tmp_path / "c")
    encode(images, FakeVae(), tmp_path / "c", SETTINGS)
    finish(tmp_path / "c")
    for path in cache.glob("shard*"):
        assert path.read_bytes() == (tmp_path / "c" / path.name).read_bytes()


def test_progress_counts_every_image_once(images, tmp_path):
    """Batch by batch, and shards that are there at once."""
    for batch, expected in ((2, [2, 2, 2, 2, 2, 1]), (2, [4, 4, 3])):
        counts = []
        encode(images, FakeVae(), tmp_path / "c", SETTINGS, batch, on_images=counts.append)
        assert counts == expected


def test_a_corrupt_image_is_fatal_or_left_out_but_never_silent(images, tmp_path):
    images.paths[2].write_bytes(images.paths[2].read_bytes()[:60])
    with pytest.raises(BadImage, match="cat/2.png: cannot be read"):
        encode(images, FakeVae(), tmp_path / "a", SETTINGS)
    skip = CacheSettings(16, shard=4, skip_bad=True)
    left = encode(images, FakeVae(), tmp_path / "b", skip)
    assert len(left) == 1 and "cat/2.png" in left[0]
    manifest = finish(tmp_path / "b")
    assert manifest["count"] == 10 and manifest["left_out"] == 1
    assert LatentCache(tmp_path / "b").labels.tolist() == [0] * 5 + [1] * 5


def test_a_wrong_image_mode(tmp_path):
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(BadImage, match="deep.png: mode I.* no faithful conversion"):
        read_image(tmp_path / "deep.png", 16)


def test_folders_without_classes_or_images(images, tmp_path):
    with pytest.raises(ValueError, match="no image folder"):
        ImageFolder.open(tmp_path / "nowhere")
    (tmp_path / "flat").mkdir()
    with pytest.raises(ValueError, match="no subfolders"):
        ImageFolder.open(tmp_path / "flat")
    with pytest.raises(ValueError, match="2 class folders, not 3"):
        ImageFolder.open(images.root, num_classes=3)
    (images.root / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no images"):
        ImageFolder.open(images.root)
