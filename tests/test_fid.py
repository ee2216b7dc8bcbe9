"""What is judged, and what is refused: only images in bytes, against what they compare with."""

import functools
import io
import json
import os
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from meanflow_lite import cli
from meanflow_lite.data.digits import digits, to_uint8
from meanflow_lite.data.image_sets import ImageSet
from meanflow_lite.evaluation import digits as judges
from meanflow_lite.evaluation.comparison import Reference, choose_features, enough
from meanflow_lite.evaluation.inception import Inception, read_weights
from meanflow_lite.evaluation.metrics import (
    inception_score,
    kernel_distance,
    look,
    precision_recall,
    together,
)
from meanflow_lite.files import write_json


def run(*arguments) -> None:
    cli.main([str(a) for a in arguments])


def refusal(capsys, *arguments) -> str:
    """What a command that ends with an error prints: one line, and no traceback."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("error: ") and "\n" not in printed, printed
    return printed


def distance(capsys) -> float:
    return float(capsys.readouterr().out.split("frechet distance")[1].split()[0])


@functools.cache
def held() -> np.ndarray:
    """Held-out digits in bytes ``[N, 8, 8, 1]``."""
    return to_uint8(digits(held_out=True)[0]).permute(0, 2, 3, 1).numpy()


FOREIGN = {
    "floats in [0, 1]": lambda x: x / np.float32(255),
    "floats in [-1, 1]": lambda x: x / np.float32(127.5) - 1,
    "channels first": lambda x: x.transpose(0, 3, 1, 2).copy(),
    "no channels": lambda x: x[..., 0],
    "uint16": lambda x: x.astype(np.uint16) * 257,
    "bool": lambda x: x > 127,
    "four channels": lambda x: np.repeat(x, 4, 3),
    "Fortran order": np.asfortranarray,
}


@pytest.mark.parametrize("name", FOREIGN)
def test_an_array_that_is_not_images_in_bytes_is_refused(name, tmp_path, capsys):
    """Each of these once printed a number, the last but one a plausible one."""
    np.savez(tmp_path / "a.npz", arr_0=FOREIGN[name](held()))
    for place in ("--samples", "--reference"):
        arguments = {"--samples": tmp_path / "b.npz", place: tmp_path / "a.npz"}
        np.savez(tmp_path / "b.npz", arr_0=held())
        said = refusal(capsys, "fid", *[a for pair in arguments.items() for a in pair])
        assert "a.npz: images are bytes (uint8) [N, H, W, 1 or 3]" in said


def test_the_same_digits_as_an_npz_and_as_files_have_the_same_distance(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", arr_0=held())
    np.savez_compressed(tmp_path / "b.npz", arr_0=held())
    for i, image in enumerate(held()[..., 0]):
        (tmp_path / "png").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "png" / f"{i:03d}.png")
    found = []
    for name in ("a.npz", "b.npz", "png"):
        for batch in (64, 499):
            run("fid", "--samples", tmp_path / name, "--batch", batch)
            found.append(distance(capsys))
    reference = judges.moments(judges.features(digits()[0]))
    own = judges.frechet_distance(judges.moments(judges.small_features(_nchw(held()))), reference)
    assert found == pytest.approx([own] * 6, abs=2e-4)


def _nchw(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2)


def test_an_npz_is_read_in_batches_not_as_a_whole(tmp_path):
    """A part takes its batches; parts make the whole; and the archive's checksum is compared."""
    np.savez(tmp_path / "a.npz", arr_0=held(), labels=np.arange(500))
    images = ImageSet.open(tmp_path / "a.npz")
    assert (images.count, images.shape, images.kinds()) == (500, (1, 8, 8), "npz")
    batches = [*images.batches(60)]
    assert torch.equal(torch.cat(batches), _nchw(held()))
    for part in (0, 1, 2):
        mine = [*images.batches(60, part, 3)]
        assert all(torch.equal(a, b) for a, b in zip(mine, batches[part::3], strict=True))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[3000] ^= 4
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match="a.npz is damaged"):
        list(images.batches(60))


def test_gray_images_among_colors_become_rgb_and_gray_ones_alone_stay_gray(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(256, size=(9, 7), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    assert ImageSet.open(tmp_path).shape == (1, 9, 7)
    color = rng.integers(256, size=(9, 7, 3), dtype=np.uint8)
    Image.fromarray(color).save(tmp_path / "4.png")
    Image.fromarray(color).convert("P").save(tmp_path / "5.png")
    mixed = ImageSet.open(tmp_path)
    images = torch.cat([*mixed.batches(2)])
    assert mixed.shape == (3, 9, 7) and images.shape == (6, 3, 9, 7)
    assert torch.equal(images[4], torch.from_numpy(color).permute(2, 0, 1))
    gray = torch.from_numpy(np.asarray(Image.open(tmp_path / "0.png")).copy())
    assert torch.equal(images[0], gray.expand(3, 9, 7))


def test_hidden_files_grids_and_pictures_of_other_formats_are_not_samples(tmp_path):
    for name in ("0.png", "1.png", ".2.png", "._1.png", "grid.png"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / ".ipynb_checkpoints" / "0.png")
    assert ImageSet.open(tmp_path).count == 2


def test_features_are_chosen_by_the_data_or_asked_for(tmp_path, capsys):
    digit, reference = (1, 8, 8), Reference("ref.npz")
    assert choose_features("auto", digit, Reference("digits")) == "digits"
    assert choose_features("inception", digit, reference) == "inception"
    for shape in ((3, 8, 8), (3, 64, 64), (1, 28, 28)):
        with pytest.raises(ValueError, match="choose --features inception"):
            choose_features("auto", shape, reference)
        assert choose_features("digits", shape, reference) == "digits"
        for wanted in ("digits", "inception"):
            with pytest.raises(ValueError, match="--reference digits is the training split"):
                choose_features(wanted, shape, Reference("digits"))
    with pytest.raises(ValueError, match="--reference digits is the training split"):
        choose_features("inception", digit, Reference("digits"))


def test_fewer_images_than_dimensions_are_refused_unless_asked_for(tmp_path, capsys):
    enough(33, 32, "a")
    enough(None, 2048, "statistics of an unknown number")
    np.savez(tmp_path / "few.npz", arr_0=held()[:32])
    np.savez(tmp_path / "many.npz", arr_0=held())
    few, many = tmp_path / "few.npz", tmp_path / "many.npz"
    for pair in ((few, many), (many, few)):
        same = ["fid", "--samples", pair[0], "--reference", pair[1]]
        said = refusal(capsys, *same)
        assert "32 images" in said and "few.npz are too few for features of 32 dimensions" in said
        run(*same, "--few", "True")
        assert distance(capsys) > 0


def test_the_interval_is_that_of_the_printed_distance(tmp_path, capsys):
    """Against the held-out digits themselves the distance is 0, and 0 lies in the interval."""
    np.savez(tmp_path / "a.npz", arr_0=held())
    for reference, low in ((tmp_path / "a.npz", 0.0), ("digits", 0.1)):
        run("fid", "--samples", tmp_path / "a.npz", "--reference", reference)
        printed = capsys.readouterr().out
        center = float(printed.split("frechet distance")[1].split()[0])
        ends = printed.split("interval          [")[1].split("]")[0].split(", ")
        assert float(ends[0]) <= center <= float(ends[1])
        assert (float(ends[0]) == 0) == (low == 0)
    assert "-0.0000" not in printed


def test_nothing_is_written_before_everything_was_looked_at(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", arr_0=held())
    save = ["--save-statistics", tmp_path / "s.npz"]
    for reference in ("typo", tmp_path / "none.npz"):
        refusal(capsys, "fid", "--samples", tmp_path / "a.npz", "--reference", reference, *save)
    assert not (tmp_path / "s.npz").exists()
    missing = ["--save-statistics", tmp_path / "no" / "s.npz"]
    assert "no such folder" in refusal(capsys, "fid", "--samples", tmp_path / "a.npz", *missing)


def test_images_of_another_size_are_no_reference(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", arr_0=held())
    np.savez(tmp_path / "b.npz", arr_0=np.repeat(held(), 2, 1))
    said = refusal(
        capsys, "fid", "--samples", tmp_path / "a.npz", "--reference", tmp_path / "b.npz"
    )
    assert "the samples have 8 x 8 pixels and the images of" in said and "8 x 16" in said


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """Inception with random weights: all but the numbers is as with the real ones."""
    with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        patch.setattr(torch.nn.Module, "load_state_dict", lambda self, state: None)
        from torch_fidelity import feature_extractor_inceptionv3 as theirs

        patch.setattr(theirs, "load_state_dict_from_url", lambda *a, **k: {})
        return theirs.FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"])


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "w.pth"
    torch.save(network.state_dict(), path)
    return path


def test_inception_takes_bytes_gray_or_rgb_and_only_tensors_as_weights(
    network, weights, tmp_path, monkeypatch
):
    ours = Inception(weights)
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(ours(images), network(images)[0])
    gray = images[:, :1]
    assert torch.equal(ours(gray), ours(gray.expand(-1, 3, -1, -1)))
    assert len(ours.digest) == 8
    for wrong in (images.float(), images[0], images[:, :2]):
        with pytest.raises(ValueError, match="images in bytes"):
            ours(wrong)

    class Trap:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'trapped'}",)

    for content in (Trap(), {"Conv2d_1a_3x3.conv.weight": Trap()}):
        torch.save(content, tmp_path / "evil.pth")
        with pytest.raises(ValueError, match="would run code when it is read: it was not"):
            Inception(tmp_path / "evil.pth")
    assert not (tmp_path / "trapped").exists()
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="weights of another network"):
        Inception(tmp_path / "other.pth")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\3\4"])
def test_damaged_inception_weights_end_with_one_line(content, tmp_path):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ValueError, match="w.pth is damaged"):
        read_weights(tmp_path / "w.pth")


def test_cut_inception_weights(weights, tmp_path):
    content = weights.read_bytes()
    (tmp_path / "w.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="w.pth is damaged"):
        read_weights(tmp_path / "w.pth")


def test_companions_agree_with_their_closed_forms():
    """One-hot logits: a score of their number; a set against itself; sets that do not meet."""
    sure = 1e3 * torch.eye(5).repeat(20, 1)
    assert inception_score(sure, splits=1).mean == pytest.approx(5, rel=1e-6)
    assert inception_score(torch.zeros(40, 7)).mean == pytest.approx(1)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(400, 6, generator=generator) for _ in range(2))
    assert precision_recall(a, a) == (1, 1) and precision_recall(a, b + 99) == (0, 0)
    narrow = precision_recall(0.1 * a, b)
    assert narrow.precision > 0.95 and narrow.recall < 0.1
    near, far = (kernel_distance(a, x, subsets=20, size=200).mean for x in (b, b + 1))
    assert abs(near) < 0.1 * far
    # the unbiased estimate on all images, written out
    x, y = a[:50].double(), b[:50].double() + 1
    kernel = [(p @ q.T / 6 + 1) ** 3 for p, q in ((x, x), (y, y), (x, y))]
    own = sum((k.sum() - k.diagonal().sum()) / (50 * 49) for k in kernel[:2]) - 2 * kernel[2].mean()
    found = kernel_distance(x, y, subsets=1, size=50)
    assert found.mean == pytest.approx(float(own), rel=1e-9)
    for wrong in (lambda: inception_score(a[:9]), lambda: precision_recall(a[:3], b)):
        with pytest.raises(ValueError, match="need"):
            wrong()


def test_companions_are_printed_with_their_protocol(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", arr_0=held())
    np.savez(tmp_path / "b.npz", arr_0=held()[::-1].copy())
    both = ["--samples", tmp_path / "a.npz", "--reference", tmp_path / "b.npz"]
    run("fid", *both, "--also", "kid", "pr")
    printed = capsys.readouterr().out
    assert "kernel distance   " in printed and "(100 subsets of 500)" in printed
    assert "precision         1.0000, recall 1.0000 (3 neighbors, 500 images" in printed
    said = refusal(capsys, "fid", "--samples", tmp_path / "a.npz", "--also", "pr")
    assert "holds statistics only" in said
    assert "needs --features inception" in refusal(capsys, "fid", *both, "--also", "is")


def test_inception_over_the_command_line(weights, tmp_path, capsys):
    images = np.random.default_rng(0).integers(256, size=(12, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", arr_0=images)
    both = ["--samples", tmp_path / "a.npz", "--reference", tmp_path / "a.npz", "--few", "True"]
    both += ["--features", "inception", "--inception-weights", weights]
    run("fid", *both, "--also", "is", "kid", "pr", "--device", "cpu")
    printed = capsys.readouterr().out
    for line in (
        "2048 dimensions, weights ",
        "inception score   1.",
        "(10 splits)",
        "precision   ",
    ):
        assert line in printed


def test_what_many_processes_saw_is_what_one_saw():
    """In the order of the images, whichever process had them; the batches of one were uneven."""
    images = [torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8) for n in (7, 7, 7, 7, 3)]
    whole = look(judges.small_features, images, keep=True)
    parts = [look(judges.small_features, images[part::3], keep=True) for part in range(3)]
    joined = together(parts)
    assert torch.equal(joined.features(), whole.features())
    np.testing.assert_allclose(joined.moments().covariance, whole.moments().covariance)
    assert not torch.equal(together(parts[::-1]).features(), whole.features())


def test_two_processes_print_one_report(tmp_path, capfd):
    np.savez(tmp_path / "a.npz", arr_0=held())
    same = ["fid", "--samples", tmp_path / "a.npz", "--also", "pr", "--device", "cpu"]
    same += ["--reference", tmp_path / "a.npz", "--batch", 60]
    run(*same)
    alone = capfd.readouterr().out
    pids = []
    for rank in (0, 1):
        pids.append(os.fork())
        if pids[-1] == 0:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
            os.environ |= {"MASTER_PORT": str(20000 + (os.getppid() + 77) % 20000)}
            try:
                run(*same)
            except BaseException:
                os._exit(1)
            os._exit(0)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]
    assert capfd.readouterr().out.splitlines()[:4] == alone.splitlines()[:4]


def test_unfinished_samples_and_a_damaged_note_are_refused(tmp_path, capsys):
    for i in range(40):
        Image.fromarray(held()[i, ..., 0]).save(tmp_path / f"{i:06d}.png")
    note = tmp_path / "samples.json"
    about = {"format": 1, "complete": False, "count": 40, "labels": [0] * 40}
    write_json(note, about)
    assert "has not ended" in refusal(capsys, "fid", "--samples", tmp_path)
    digests = [json.dumps({**about, "checksum": "0" * 64})]
    for text in ("", "{", "[]", "[" * 100_000, *digests):
        note.write_text(text)
        assert "samples.json is damaged" in refusal(capsys, "fid", "--samples", tmp_path)
    for labels in ("all", [1.5]):
        write_json(note, {**about, "labels": labels})
        assert "samples.json is damaged" in refusal(capsys, "fid", "--samples", tmp_path)
    note.unlink()
    run("fid", "--samples", tmp_path)


def test_a_reference_with_bad_images_can_leave_them_out(tmp_path, capsys):
    for i in range(40):
        Image.fromarray(held()[i, ..., 0]).save(tmp_path / f"{i:06d}.png")
    whole = (tmp_path / "000003.png").read_bytes()
    (tmp_path / "000003.png").write_bytes(whole[: len(whole) // 2])
    np.savez(tmp_path.parent / "a.npz", arr_0=held())
    same = ["fid", "--samples", tmp_path.parent / "a.npz", "--reference", tmp_path]
    assert "000003.png: cannot be read" in refusal(capsys, *same)
    run(*same, "--skip-bad", "True")
    assert "(39 images)\nleft out          1 images" in capsys.readouterr().out


def test_lossy_samples_are_named(tmp_path, capsys):
    for i in range(40):
        Image.fromarray(held()[i, ..., 0]).save(tmp_path / f"{i:06d}.jpg")
    run("fid", "--samples", tmp_path)
    assert "lossy files" in capsys.readouterr().out


def test_a_zip_that_says_it_holds_more_than_it_does(tmp_path):
    """The header's count is not believed: no memory is taken for it."""
    header = io.BytesIO()
    shape = (10**9, 512, 512, 3)
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("arr_0.npy", header.getvalue() + b"\0" * 1000)
    images = ImageSet.open(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="ends too early"):
        next(images.batches(4))
