"""The latent cache: written once, resumed anywhere, and no damage passes unseen."""

import json
import math
import multiprocessing
import os
import resource
import shutil
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from meanflow_lite.data.batches import Ahead
from meanflow_lite.data.encoding import CacheSettings, begin, encode, finish, left_out
from meanflow_lite.data.images import BadImage, ImageFolder, center_crop, read_image
from meanflow_lite.data.latents import CacheError, LatentCache, damaged
from meanflow_lite.data.vae import Vae
from meanflow_lite.files import read_json, write_json

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


def flip(path, place=-5):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["shard-00001.npy", "shard-00001.json"])
def test_verify_finds_a_flipped_byte_and_just_that_shard_is_written_again(name, images, cache):
    target, other = cache / name, cache / "shard-00000.npy"
    good, kept = target.read_bytes(), other.stat().st_mtime_ns
    flip(target, len(good) // 2)
    found = damaged(cache)
    assert [*found] == [1] and name in found[1] and damaged(cache) == found
    assert target.read_bytes() != good  # looking changes nothing
    begin(images, FakeVae(), cache, SETTINGS, only=found).write()
    finish(cache)
    assert damaged(cache) == {} and target.read_bytes() == good
    assert other.stat().st_mtime_ns == kept


def test_labels_carry_a_checksum(cache):
    """A changed label once passed both verify and training."""
    path = cache / "shard-00000.json"
    sidecar = read_json(path, {})
    sidecar["labels"][0] = 1
    path.write_text(json.dumps(sidecar | {"checksum": json.loads(path.read_text())["checksum"]}))
    assert "not that of its checksum" in damaged(cache)[0]
    with pytest.raises(CacheError, match="shard-00000.json is damaged"):
        LatentCache(cache)
    write_json(path, sidecar)  # whole, but not what the manifest says
    assert "of another cache than the manifest" in damaged(cache)[0]
    with pytest.raises(CacheError, match="of another cache than the manifest"):
        LatentCache(cache)


def test_a_cut_shard_a_missing_one_and_an_unfinished_cache_are_named(cache):
    shard = cache / "shard-00001.npy"
    shard.write_bytes(shard.read_bytes()[:-200])
    with pytest.raises(CacheError, match="shard-00001.npy is damaged.*verify.*--repair True"):
        LatentCache(cache)
    shard.unlink()
    with pytest.raises(CacheError, match="shard-00001.npy is missing"):
        LatentCache(cache)
    manifest = read_json(cache / "manifest.json", {})
    write_json(cache / "manifest.json", {**manifest, "complete": False})
    with pytest.raises(CacheError, match="has not ended: run the same encode again"):
        LatentCache(cache)
    with pytest.raises(CacheError, match="not a latent cache"):
        LatentCache(cache.parent)


def test_a_damaged_manifest_is_set_aside_and_the_shards_stay(images, cache):
    shards = {path: path.stat().st_mtime_ns for path in cache.glob("shard*")}
    content = LatentCache(cache).content
    (cache / "manifest.json").write_text("{")
    for read in (LatentCache, damaged):
        with pytest.raises(CacheError, match="The same `meanflow-lite encode` again keeps"):
            read(cache)
    encode(images, FakeVae(), cache, SETTINGS)
    finish(cache)
    assert LatentCache(cache).content == content
    assert (cache / "damaged-manifest.json").read_text() == "{"
    assert {path: path.stat().st_mtime_ns for path in shards} == shards


def test_the_content_is_that_of_images_vae_and_settings(images, cache, tmp_path):
    """Not of the last bits, which a batch size moves; but of anything that is another thing."""
    content = LatentCache(cache).content

    def other(folder=images, vae=None, **settings):
        place = tmp_path / f"other-{len([*tmp_path.iterdir()])}"
        options = {"size": 16, "shard": 4, **settings}
        encode(folder, vae or FakeVae(), place, CacheSettings(**options))
        finish(place)
        return LatentCache(place).content

    rounded = FakeVae()
    rounded.encode = lambda x: FakeVae.encode(rounded, x) * (1 + 1e-6)
    assert other(vae=rounded) == content == other(shard=4, skip_bad=True)
    fewer = FakeVae()
    fewer.fingerprint = "f2"
    changes = [{"vae": fewer}, {"size": 8}, {"flip": True}, {"exif": False}]
    found = [other(**change) for change in changes]
    images.paths[3].rename(images.root / "dog" / "9.png")
    found.append(other(ImageFolder.open(images.root)))
    assert len({content, *found}) == 1 + len(found)


def test_skipping_bad_images_may_begin_at_any_time_and_keeps_the_shards(images, tmp_path):
    place, bad = tmp_path / "c", images.paths[9]
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(BadImage, match=f"{bad.name}: cannot.*--skip-bad True.*are kept"):
        encode(images, FakeVae(), place, SETTINGS)
    kept = {p: p.stat().st_mtime_ns for p in place.glob("shard*")}
    assert len(kept) == 4
    encode(images, FakeVae(), place, CacheSettings(16, shard=4, skip_bad=True))
    manifest = finish(place)
    assert manifest["count"] == 10 and bad.name in left_out(place)[0]
    assert {p: p.stat().st_mtime_ns for p in kept} == kept


def test_another_list_of_images_is_named_and_may_be_taken_up(images, cache):
    gone = images.paths[5]
    gone.unlink()
    fewer = ImageFolder.open(images.root)
    with pytest.raises(CacheError, match=r"11 images and there are 10 now \(cat/5.png has gone\)"):
        encode(fewer, FakeVae(), cache, SETTINGS)
    kept = (cache / "shard-00000.npy").stat().st_mtime_ns
    work = begin(fewer, FakeVae(), cache, SETTINGS, update=True)
    assert work.missing == [1, 2]
    work.write()
    finish(cache)
    assert len(LatentCache(cache)) == 10 and not damaged(cache)
    assert (cache / "shard-00000.npy").stat().st_mtime_ns == kept
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(images.root / "cat" / "0a.png")
    with pytest.raises(CacheError, match=r"cat/0a.png is new"):
        encode(ImageFolder.open(images.root), FakeVae(), cache, SETTINGS)


@pytest.mark.parametrize(("batch", "settings"), [(0, {}), (-1, {})])
def test_a_batch_below_one_writes_nothing(batch, settings, images, tmp_path):
    """Minus one once wrote complete shards of nothing."""
    with pytest.raises(CacheError, match="at least one image at once"):
        encode(images, FakeVae(), tmp_path / "c", SETTINGS, batch)
    assert not [*(tmp_path / "c").glob("shard*")]


@pytest.mark.parametrize("wrong", [{"size": 0}, {"size": 10**5}, {"shard": 0}])
def test_settings_that_cannot_be(wrong):
    with pytest.raises(CacheError, match="pixels|at least one image"):
        CacheSettings(**wrong)


def test_a_size_that_the_vae_cannot_halve(images, tmp_path):
    with pytest.raises(CacheError, match="multiple of 8 for this VAE: got 20"):
        encode(images, FakeVae(), tmp_path / "c", CacheSettings(20))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_no_factor(scale, cache):
    with pytest.raises(ValueError, match="positive number"):
        LatentCache(cache, scale)


def test_the_deviation_that_is_noted_is_that_of_the_latents(images, cache):
    manifest = read_json(cache / "manifest.json", {})
    latents = LatentCache(cache, scale=1.0)
    draws = torch.cat([latents(step, 11, 0)[0] for step in range(300)])
    assert manifest["deviation"] == pytest.approx(float(draws.std()), rel=0.02)


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


def test_a_label_out_of_range(images, tmp_path):
    wrong = replace(images, labels=(2, *images.labels[1:]))
    encode(wrong, FakeVae(), tmp_path / "c", SETTINGS)
    finish(tmp_path / "c")
    with pytest.raises(CacheError, match="labels 0 ... 2 but 2 classes"):
        LatentCache(tmp_path / "c")


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
    with pytest.raises(CacheError, match="of another cache than the manifest"):
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
    """Batch by batch; shards that are there are not work."""
    for batch, expected in ((2, [2, 2, 2, 2, 2, 1]), (2, [])):
        counts = []
        encode(images, FakeVae(), tmp_path / "c", SETTINGS, batch, on_images=counts.append)
        assert counts == expected


def test_a_corrupt_image_is_fatal_or_left_out_but_never_silent(images, tmp_path):
    images.paths[2].write_bytes(images.paths[2].read_bytes()[:60])
    with pytest.raises(BadImage, match="cat/2.png: cannot be read"):
        encode(images, FakeVae(), tmp_path / "a", SETTINGS)
    skip = CacheSettings(16, shard=4, skip_bad=True)
    encode(images, FakeVae(), tmp_path / "b", skip)
    manifest = finish(tmp_path / "b")
    left = left_out(tmp_path / "b")
    assert len(left) == 1 and "cat/2.png" in left[0]
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
