"""The DiT is a field, its tangent pass is its forward-mode derivative, and it starts at zero."""

import inspect
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch.autograd import forward_ad

from meanflow_lite.networks.attention import under_forward_mode
from meanflow_lite.networks.dit import DiT
from meanflow_lite.networks.embedding import TIMES, Conditioning
from meanflow_lite.networks.presets import PRESETS, build

PUBLISHED = {"B/4": 131.17, "B/2": 131.09, "M/2": 308.02, "L/2": 459.14, "XL/2": 676.44}
CONDITIONINGS = [("t", "r"), ("t", "t-r"), ("t", "r", "t-r"), ("t-r",)]


def awake(
    name: str = "tiny", seed: int = 0, dtype: torch.dtype = torch.float64, **overrides
) -> DiT:
    """Random weights everywhere: at initialization most of the network is multiplied by zero."""
    torch.manual_seed(seed)
    net = build(name, **overrides).to(dtype)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn_like(p) * (0.5 if p.ndim == 1 else 1.5 * p.shape[-1] ** -0.5))
    return net


def batch(net: DiT, size: int = 5, dtype: torch.dtype = torch.float64, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    shape = (size, net.config.channels, net.config.image_size, net.config.image_size)
    z, v = (torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))
    r, t = torch.rand(2, size, generator=generator, dtype=dtype).sort(dim=0).values
    y = torch.randint((net.config.num_classes or 0) + 1, (size,), generator=generator)
    return z, r, t, v, y


def jvp(u, z, r, t, dz, dr, dt):
    return torch.func.jvp(u, (z, r, t), (dz, dr, dt))


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name):
    with torch.device("meta"):
        net = build(name)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == PUBLISHED[name]


@pytest.mark.parametrize("name", [n for n in PRESETS if n not in PUBLISHED])
def test_starts_as_the_zero_field_with_zero_derivative(name):
    net = build(name).double()
    z, r, t, v, y = batch(net)
    u, dudt = net.forward_with_tangent(z, r, t, v, torch.zeros_like(r), torch.ones_like(t), y)
    assert u.shape == z.shape
    assert not u.any() and not dudt.any()
    assert awake(name)(z, r, t, y).std() > 0.1  # and only at the start


@pytest.mark.parametrize("times", CONDITIONINGS)
@pytest.mark.parametrize("direction", [(1, 0, 1), (0, 1, 0), (1, 0.3, -2)])
def test_tangent_pass_equals_forward_mode(times, direction):
    net = awake(times=times, conditions=("omega",))
    z, r, t, v, y = batch(net)
    dz, dr, dt = (
        v * direction[0],
        torch.full_like(r, direction[1]),
        torch.full_like(t, direction[2]),
    )
    omega = torch.rand_like(t)
    u, du = net.forward_with_tangent(z, r, t, dz, dr, dt, y, omega=omega)
    expected = jvp(partial(net, y=y, omega=omega), z, r, t, dz, dr, dt)
    torch.testing.assert_close((u, du), expected, rtol=1e-11, atol=1e-12)
    assert u.requires_grad and not du.requires_grad
    wrong = jvp(partial(net, y=y, omega=omega), z, r, t, dz, dr, dt + 0.01)[1]
    assert (du - wrong).abs().max() > 1e-4


def test_forward_mode_equals_finite_differences():
    net = awake()
    z, r, t, v, y = batch(net)
    h = 1e-5
    with torch.no_grad():
        slope = (net(z + h * v, r, t + h, y) - net(z - h * v, r, t - h, y)) / (2 * h)
        dudt = net.forward_with_tangent(z, r, t, v, 0 * r, 0 * t + 1, y)[1]
    torch.testing.assert_close(dudt, slope, rtol=1e-6, atol=1e-7)


def meanflow_gradients(net, u_and_dudt, z, r, t, v):
    u, dudt = u_and_dudt(z, r, t, v)
    target = v - (t - r)[:, None, None, None] * dudt
    loss = (u - target.detach()).square().sum(dim=(1, 2, 3)).mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])


def fast(net, y):
    return lambda z, r, t, v: net.forward_with_tangent(z, r, t, v, 0 * r, 0 * t + 1, y)


def textbook(net, y):
    def u_and_dudt(z, r, t, v):
        dudt = jvp(partial(net, y=y), z, r, t, v, 0 * r, 0 * t + 1)[1]
        return net(z, r, t, y), dudt

    return u_and_dudt


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_gradients_of_the_fast_step_equal_the_textbook_step(dtype, tolerance):
    net = awake(dtype=dtype)
    z, r, t, v, y = batch(net, dtype=dtype)
    slow = meanflow_gradients(net, textbook(net, y), z, r, t, v)
    gap = meanflow_gradients(net, fast(net, y), z, r, t, v) - slow
    assert gap.norm() < tolerance * slow.norm()


def test_null_label_is_the_default():
    net = awake()
    z, r, t, _, y = batch(net)
    null = torch.full_like(y, 3)
    torch.testing.assert_close(net(z, r, t), net(z, r, t, null), rtol=0, atol=0)
    assert (net(z, r, t, 0 * y) - net(z, r, t)).abs().max() > 0.01


def test_times_are_told_as_configured():
    told = {"t": lambda r, t: t, "r": lambda r, t: r, "t-r": lambda r, t: t - r}
    assert told.keys() == TIMES.keys()
    r, t = torch.rand(2, 6, dtype=torch.float64)
    for times in CONDITIONINGS:
        embed = Conditioning(8, times).double()
        expected = sum(embed.times[name](told[name](r, t)) for name in times)
        torch.testing.assert_close(embed(r, t), expected)


def test_fused_attention_without_a_tangent_and_explicit_with_one():
    q = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    assert not under_forward_mode()
    seen = []
    torch.func.jvp(lambda x: seen.append(under_forward_mode()) or x, (q,), (q,))
    with forward_ad.dual_level():
        seen.append(under_forward_mode())
    assert seen == [True, True] and not under_forward_mode()


def test_checkpointing_changes_nothing_and_refuses_forward_mode():
    plain, thrifty = awake(), awake(checkpoint=True)
    z, r, t, v, y = batch(plain)
    expected = meanflow_gradients(plain, fast(plain, y), z, r, t, v)
    torch.testing.assert_close(meanflow_gradients(thrifty, fast(thrifty, y), z, r, t, v), expected)
    with pytest.raises(ValueError, match="forward-mode"):
        jvp(partial(thrifty, y=y), z, r, t, v, 0 * r, 0 * t + 1)


# In a process of its own: the annotations that tests check at run time cannot be compiled.
COMPILED = """
import torch
from functools import partial
from meanflow_lite.networks.presets import build

torch.manual_seed(0)
net = build("tiny").double()
for p in net.parameters():
    torch.nn.init.normal_(p, std=0.3)
z, v = torch.randn(2, 4, 2, 4, 4, dtype=torch.float64)
r, t = torch.rand(2, 4, dtype=torch.float64)
y = torch.arange(4)

def fast(z, r, t, v, y):
    return net.forward_with_tangent(z, r, t, v, 0 * r, 0 * t + 1, y)

def plain(z, r, t, v, y):
    return net(z, r, t, y), z

def forward_mode(z, r, t, v, y):
    return torch.func.jvp(partial(net, y=y), (z, r, t), (v, 0 * r, 0 * t + 1))

for step in (fast, plain, forward_mode):
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    pairs = [f(z, r, t, v, y) for f in (compiled, step)]
    torch.testing.assert_close(*pairs)
    gradients = [torch.autograd.grad(u.square().sum(), list(net.parameters())) for u, _ in pairs]
    torch.testing.assert_close(*gradients)
    print(step.__name__, "agrees")
"""


def test_compiled_steps_are_one_graph_and_equal_the_eager_ones():
    run = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert run.stdout.split("\n")[:3] == ["fast agrees", "plain agrees", "forward_mode agrees"], (
        run.stderr
    )


def test_velocity_head_shares_the_trunk_only():
    net = awake(aux_head_depth=1)
    z, r, t, _, y = batch(net)
    u, v = net.with_velocity(z, r, t, y)
    torch.testing.assert_close(u, net(z, r, t, y))
    assert (u - v).abs().max() > 0.1
    reached = torch.autograd.grad(v.sum(), list(net.parameters()), allow_unused=True)
    silent = {
        n.split(".")[0]
        for (n, _), g in zip(net.named_parameters(), reached, strict=True)
        if g is None
    }
    assert silent == {"blocks", "final_layer"}
    with pytest.raises(ValueError, match="aux_head_depth"):
        awake().with_velocity(z, r, t, y)


def unchecked(net, *args):
    """As a user calls it, without the annotations that tests check at run time."""
    return inspect.unwrap(DiT.forward)(net, *args)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net, z, r, t, y: net(z[:, :1], r, t, y), "z must be"),
        (lambda net, z, r, t, y: unchecked(net, z, r[:1], t, y), "r must be"),
        (lambda net, z, r, t, y: unchecked(net, z, r, t, y[:1]), "y must be"),
        (lambda net, z, r, t, y: net(z, r, t, y, omega=t), "conditions"),
        (
            lambda net, z, r, t, y: build("tiny", conditions=("omega",)).double()(z, r, t, y),
            "omega",
        ),
        (lambda net, z, r, t, y: build("tiny", num_classes=None).double()(z, r, t, y), "labels"),
        (lambda net, z, r, t, y: build("tiny", times=("t", "s")), "times"),
        (lambda net, z, r, t, y: build("tiny", width=18), "width"),
        (lambda net, z, r, t, y: build("tiny", patch_size=3), "patch_size"),
        (lambda net, z, r, t, y: build("tiny", colour=3), "no field"),
        (lambda net, z, r, t, y: build("B/3"), "unknown preset"),
    ],
)
def test_wrong_use_is_named(call, message):
    net = awake()
    z, r, t, _, y = batch(net)
    with pytest.raises(ValueError, match=message):
        call(net, z, r, t, y)


COMPILED_CHECKPOINT = """
import torch
from meanflow_lite.networks.dit import DiT, DiTConfig
found = []
for checkpoint in (False, True):
    torch.compiler.reset()
    torch.manual_seed(0)
    net = DiT(DiTConfig(8, 2, 2, 32, 2, 2, num_classes=3, checkpoint=checkpoint))
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    z, v = torch.randn(2, 6, 2, 8, 8)
    t, y = torch.rand(6), torch.arange(6) % 4
    step = torch.compile(net.forward_with_tangent, backend="eager", fullgraph=True)
    u, dudt = step(z, t / 2, t, v[3:], 0 * t[3:], torch.ones(3), y)
    u.sub(dudt.mean()).square().mean().backward()
    grads = [p.grad.flatten() for p in net.parameters()]
    found.append(torch.cat([u.flatten(), dudt.flatten(), *grads]))
torch.testing.assert_close(*found)
"""


@pytest.mark.slow
def test_checkpointed_blocks_compile_to_one_graph_with_their_tangents():
    command = [sys.executable, "-c", COMPILED_CHECKPOINT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("k", [1, 3, 7])
def test_tangents_of_the_last_rows_are_those_of_all(k, checkpoint):
    """And the value is to the last bit that of a pass without tangents."""
    net = awake(checkpoint=checkpoint)
    z, r, t, v, y = batch(net, size=7)
    at = (z, r, t)
    value, all_rows = net.forward_with_tangent(*at, v, 0 * r, 0 * t + 1, y)
    part, last = net.forward_with_tangent(*at, v[-k:], 0 * r[-k:], 0 * t[-k:] + 1, y)
    torch.testing.assert_close(part, value, rtol=0, atol=0)
    torch.testing.assert_close(last, all_rows[-k:])
    other = net.forward_with_tangent(*at, v[:k], 0 * r[-k:], 0 * t[-k:] + 1, y)[1]
    assert k == 7 or (other - last).abs().max() > 1e-3, "the negative control: other rows"
