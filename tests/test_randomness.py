"""Random numbers are a function of (seed, step, stream, row, column), and of the right law."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from test_objectives_interface import CLASSES, context, make, network

from meanflow_lite.guidance import Scales
from meanflow_lite.objectives import OBJECTIVES, Context
from meanflow_lite.paths import Below, LogitNormal, Ordered, Separate, ToData, Uniform
from meanflow_lite.randomness import FAR, WORDS, Random

M64 = 2**64 - 1


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox 4x64-10 as its paper writes it (Salmon et al. 2011), in Python's whole numbers."""
    (a, b, c, d), (k, m) = counter, key
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = second >> 64 ^ b ^ k, second & M64, first >> 64 ^ d ^ m, first & M64
        k, m = k + 0x9E3779B97F4A7C15 & M64, m + 0xBB67AE8584CAA73B & M64
    return [a, b, c, d]


# the known answers that the authors publish with their library (Random123, kat_vectors)
ANSWERS = [
    ("0 0 0 0", "0 0", "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
    (
        " ".join(["ffffffffffffffff"] * 4),
        " ".join(["ffffffffffffffff"] * 2),
        "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0",
    ),
    (
        "243f6a8885a308d3 13198a2e03707344 a4093822299f31d0 082efa98ec4e6c89",
        "452821e638d01377 be5466cf34e90c6c",
        "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), ANSWERS)
def test_known_answers(counter, key, answer):
    counter, key, answer = ([int(w, 16) for w in text.split()] for text in (counter, key, answer))
    assert philox(counter, key) == answer
    before = sum(word << 64 * i for i, word in enumerate(counter)) - 1  # NumPy counts, then draws
    ours = np.random.Philox(counter=before % 2**256, key=key[0] + (key[1] << 64))
    assert ours.random_raw(4).tolist() == answer


@pytest.mark.parametrize(("seed", "step", "rows", "size"), [(0, 0, 1, 2), (7, 2**40, 5, 37)])
@pytest.mark.parametrize("stream", ["noise", "t"])
def test_the_key_is_seed_and_step_and_the_counter_is_row_and_stream(seed, step, rows, size, stream):
    blocks = -(-size // WORDS)
    for row in range(rows):
        words = []
        for block in range(row * blocks, (row + 1) * blocks):
            for word in philox([block + 1, 0, zlib.crc32(stream.encode()), 0], [seed, step]):
                words += [word & 0xFFFFFFFF, word >> 32]
        words = np.array(words, dtype=np.float64)
        got = Random(seed, step).uniform(stream, range(row, row + 1), size)[0]
        assert got.tolist() == (np.floor(words / 256) * 2.0**-24)[:size].tolist()
        normal = stats.norm.ppf((words + 0.5) / 2**32)[:size]
        got = Random(seed, step).normal(stream, range(row, row + 1), size)[0]
        torch.testing.assert_close(got.double(), torch.from_numpy(normal), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [(), (2,), (3,), (64,), (4, 8, 8), (4, 32, 32)])
def test_any_split_is_the_whole_to_the_last_bit(shape):
    """Parts near enough to read through, and parts so far apart that they jump."""
    random, n = Random(3, 11), 96
    for draw in (random.normal, random.uniform):
        whole = draw("noise", range(n), *shape)
        for parts in (1, 2, 3, 5, 7, 32, 64, 96):
            for part in {0, parts // 2, parts - 1}:
                rows = range(part, n, parts)
                assert torch.equal(draw("noise", rows, *shape), whole[part::parts])


LAWS = [LogitNormal(), LogitNormal(-0.6, 1.6), Uniform()]


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_times_do_not_depend_on_the_split(law, seed):
    """At every position of a vector register."""
    whole = law(*Random(seed).pair("t", range(333)))
    for parts in range(1, 50):
        for part in (0, parts // 2, parts - 1):
            mine = Random(seed).pair("t", range(part, 333, parts))
            assert torch.equal(law(*mine), whole[part::parts])


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.0])
def test_scales_do_not_depend_on_the_split(beta):
    law, uniform = Scales(1.0, 8.0, beta), Random(0).uniform("omega", range(333))
    whole = law(uniform)
    for parts in range(1, 50):
        assert torch.equal(law(uniform[parts - 1 :: parts]), whole[parts - 1 :: parts])


def test_a_part_draws_its_own_rows_only(monkeypatch):
    """Blocks taken from the generator, by all parts together and by one of them."""
    taken = []

    class Counting(np.random.Philox):
        def random_raw(self, size):  # pyright: ignore[reportIncompatibleMethodOverride]
            taken.append(size // 4)
            return super().random_raw(size)

    monkeypatch.setattr(np.random, "Philox", Counting)
    Random(0).normal("noise", range(5, 2048, 64), 4, 32, 32)
    assert sum(taken) == 32 * 4096 // WORDS  # not the 2,048 rows of the batch
    taken.clear()
    Random(0).uniform("t", range(5, 2048, 64))
    assert sum(taken) <= 32 * FAR  # a row of one number: cheaper to read through than to jump


@pytest.mark.parametrize("seed", range(8))
def test_draws_follow_their_laws(seed):
    normal = Random(seed, 5).normal("noise", range(2000), 3, 5).flatten()
    uniform = Random(seed, 5).uniform("noise", range(30_000))
    first, second = Random(seed, 5).pair("noise", range(30_000))
    for draws in (normal, first):
        assert stats.kstest(draws.numpy(), "norm").pvalue > 1e-4
        assert stats.kstest((draws + 0.05).numpy(), "norm").pvalue < 1e-4  # the test can fail
    for draws in (uniform, second):
        assert stats.kstest(draws.numpy(), "uniform").pvalue > 1e-4
        assert draws.min() >= 0 and draws.max() < 1
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 4.5 * 30_000**-0.5


@pytest.mark.parametrize("seed", range(8))
def test_neighbors_in_every_coordinate_are_independent(seed):
    """Rows, columns, streams, steps, seeds: nothing is correlated with what stands next to it."""
    n = 20_000
    here = Random(seed, 5).normal("noise", range(n), 4)
    others = {
        "column": here.roll(1, 1),
        "row": here.roll(1, 0),
        "stream": Random(seed, 5).normal("t", range(n), 4),
        "step": Random(seed, 6).normal("noise", range(n), 4),
        "seed": Random(seed + 1, 5).normal("noise", range(n), 4),
        "swapped": Random(5, seed + 10).normal("noise", range(n), 4),
    }
    for name, other in others.items():
        pair = torch.stack([here.flatten(), other.flatten()]).double()
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 4.5 * (4 * n) ** -0.5, name
        assert abs(float(torch.corrcoef(pair**2)[0, 1])) < 4.5 * (4 * n) ** -0.5, name
    assert torch.equal(here, Random(seed, 5).normal("noise", range(n), 4))


@pytest.mark.parametrize("bad", [{"seed": -1}, {"seed": 2**64}, {"seed": 0, "step": -1}])
def test_a_key_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="whole number in"):
        Random(**bad)


def test_a_context_without_random_numbers_says_so():
    ctx = Context(lambda z, r, t, y=None: z, None, torch.tensor(0.0), None)
    with pytest.raises(ValueError, match="random=Random"):
        ctx.normal(torch.zeros(3, 2))


class Spy(Random):
    """Notes which streams were drawn."""

    def _words(self, stream, rows, size):
        self.__dict__.setdefault("streams", []).append(stream)
        return super()._words(stream, rows, size)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_objective_draws_one_stream_twice(name):
    net, spy = network(2), Spy(0)
    make(name, 2).draw(
        torch.randn(16, 2), torch.arange(16) % CLASSES, replace(context(net), random=spy)
    )
    assert spy.streams and len(set(spy.streams)) == len(spy.streams)


@pytest.mark.parametrize("pair", [Ordered(), Below(), Separate(), ToData()])
def test_no_pair_of_times_draws_one_stream_twice(pair):
    streams = []

    def time(law, stream):
        streams.append(stream)
        return torch.rand(3)

    pair(time)
    assert len(set(streams)) == len(streams)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_methods_that_draw_alike_share_their_noise(name):
    """Streams have names, so that two methods are compared on the same noise."""
    x, y = torch.randn(16, 2), torch.arange(16) % CLASSES
    ctx = context(network(2))
    assert torch.equal(make(name, 2).draw(x, y, ctx).eps, ctx.normal(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_draws_do_not_depend_on_the_type_of_the_data(name, dtype):
    """Half precision would round a uniform number to 1, and a step of the finest grid to 0."""
    x, y = torch.zeros(20_000, 2), torch.arange(20_000) % CLASSES
    objective, ctx = make(name, 2), context(network(2), 0.99)
    plain, draw = objective.draw(x, y, ctx), objective.draw(x.to(dtype), y, ctx)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    for field in ("x", "eps", "r", "t", "z", "v"):
        value = getattr(draw, field)
        assert value.dtype == expected, field
        torch.testing.assert_close(value, getattr(plain, field).to(expected), rtol=0, atol=1e-6)
    assert draw.t.max() <= 1 and (draw.r <= draw.t).all()
    assert (draw.r[draw.n_equal :] < draw.t[draw.n_equal :]).all() or name == "terminal_velocity"
