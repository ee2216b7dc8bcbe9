"""iMF's, pMF's and Drifting's networks are the published ones; tangents are derivatives."""

from dataclasses import replace
from functools import partial

import plain_networks as plain
import pytest
import torch

from meanflow_lite.networks import rules
from meanflow_lite.networks.catalogue import DRIFT, IN_CONTEXT, build_any, make
from meanflow_lite.networks.drift_generator import DriftConfig
from meanflow_lite.networks.in_context import InContextConfig
from meanflow_lite.networks.tangent import Dual

#: Parameters of the published inference weights, in millions.
PUBLISHED = {
    "iMF-B/2": 88.95,
    "iMF-M/2": 173.92,
    "iMF-L/2": 409.07,
    "iMF-XL/2": 610.43,
    "pMF-B/16": 118.23,
    "pMF-L/16": 410.32,
    "pMF-H/16": 954.96,
    "pMF-B/32": 120.30,
    "pMF-L/32": 412.98,
    "pMF-H/32": 958.50,
}
#: Other shapes than those of the presets: odd depths, classes, patches, a trunk of no block.
CONFIGS = {
    "imf": InContextConfig(6, 3, 2, 24, 4, 3, 5, 2),
    "imf-no-trunk": InContextConfig(4, 1, 3, 16, 2, 2, 1, 2),
    "imf-no-head": InContextConfig(4, 2, 1, 8, 2, 1, 7, 0),
    "pmf": InContextConfig(8, 4, 3, 32, 3, 2, 4, 1, pixels=True, bottleneck=5),
    "pmf-wide": InContextConfig(6, 2, 1, 24, 2, 3, 9, 1, pixels=True, bottleneck=40),
    "drift": DriftConfig(6, 3, 2, 24, 3, 3, 20, 5, 4, 2, 7),
    "drift-few": DriftConfig(4, 2, 1, 16, 1, 2, 16, 2, 1, 5, 3),
}
IN_CONTEXT_ONLY = [n for n in CONFIGS if not n.startswith("drift")]


def awake(config, seed=0, dtype=torch.float64):
    """Random weights everywhere: at first much of the network is multiplied by zero."""
    torch.manual_seed(seed)
    net = make(config).to(dtype)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn_like(p) * (0.5 if p.ndim == 1 else 1.2 * p.shape[-1] ** -0.5))
    if dtype == torch.float64:  # the buffers were made in float32
        for module in net.modules():
            if isinstance(module, rules.Rotation):
                exact = rotation_of(config, net)
                module.cos, module.sin = exact.cos, exact.sin
    return net


def rotation_of(config, net):
    torch.set_default_dtype(torch.float64)
    try:
        return make(config).rotation
    finally:
        torch.set_default_dtype(torch.float32)


def batch(config, size=5, seed=1, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    shape = (size, config.channels, config.image_size, config.image_size)
    z, v = (torch.randn(shape, generator=g, dtype=dtype) for _ in range(2))
    r, t = torch.rand(2, size, generator=g, dtype=dtype).sort(dim=0).values
    y = torch.randint(config.num_classes, (size,), generator=g)
    cond = {"omega": 1 + 7 * torch.rand(size, generator=g, dtype=dtype)}
    if isinstance(config, DriftConfig):
        shape = (size, config.noise_coordinates)
        cond["noise_labels"] = torch.randint(config.noise_classes, shape, generator=g)
    else:
        cond["t_min"] = 0.5 * torch.rand(size, generator=g, dtype=dtype)
        cond["t_max"] = 0.5 + 0.5 * torch.rand(size, generator=g, dtype=dtype)
        y[0] = config.num_classes  # the null class
        t[0] = 0.03  # below the smallest divisor of pMF
        r[0] = 0.01
    return z, r, t, v, y, cond


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name):
    with torch.device("meta"):
        net = build_any(name, velocity_head=False)
        whole = build_any(name)
    count = sum(p.numel() for p in net.parameters())
    if name.startswith("iMF"):  # these files hold the last layer of the velocity head alone
        count += sum(p.numel() for p in whole.v_layer.parameters())
    assert round(count / 1e6, 2) == PUBLISHED[name]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", IN_CONTEXT_ONLY)
def test_in_context_networks_equal_the_plain_writing(name, seed):
    config = CONFIGS[name]
    net = awake(config, seed)
    z, r, t, _, y, cond = batch(config, seed=seed + 5)
    expected = plain.in_context(net.state_dict(), config, z, r, t, y, **cond)
    torch.testing.assert_close(net.with_velocity(z, r, t, y, **cond), expected)
    torch.testing.assert_close(net(z, r, t, y, **cond), expected[0])
    assert (expected[0] - expected[1]).abs().max() > 1e-3


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ["drift", "drift-few"])
def test_the_drifting_generator_equals_the_plain_writing(name, seed):
    config = CONFIGS[name]
    net = awake(config, seed)
    z, r, t, _, y, cond = batch(config, seed=seed + 5)
    expected = plain.drift_generator(net.state_dict(), config, z, y, **cond)
    torch.testing.assert_close(net.generate(z, y, **cond), expected)
    torch.testing.assert_close(z - net(z, r, t, y, **cond), expected)
    other = {**cond, "noise_labels": (cond["noise_labels"] + 1) % config.noise_classes}
    assert (net.generate(z, y, **other) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("wrong", ["pairs", "order", "scale", "norm"])
def test_the_plain_writing_notices_a_wrong_network(wrong, monkeypatch):
    config = CONFIGS["imf"]
    net = awake(config)
    z, r, t, _, y, cond = batch(config)
    expected = plain.in_context(net.state_dict(), config, z, r, t, y, **cond)[0]
    if wrong == "pairs":
        net.rotation.halves = True
    elif wrong == "order":
        net.rotation.cos = net.rotation.cos.flip(0)
    elif wrong == "scale":
        cond["omega"] = 1 / cond["omega"]
    else:
        for block in net.trunk.children():
            block.attn.q_norm.eps = 0.1
    assert (net(z, r, t, y, **cond) - expected).abs().max() > 1e-3


def jvp(net, z, r, t, dz, dr, dt, **cond):
    return torch.func.jvp(partial(net, **cond), (z, r, t), (dz, dr, dt))


@pytest.mark.parametrize("direction", [(1, 0, 1), (0, 1, 0), (1, 0.3, -2)])
@pytest.mark.parametrize("name", CONFIGS)
def test_tangent_pass_equals_forward_mode(name, direction):
    config = CONFIGS[name]
    net = awake(config)
    z, r, t, v, y, cond = batch(config)
    a, b, c = direction
    dz, dr, dt = a * v, torch.full_like(r, b), torch.full_like(t, c)
    u, du = net.forward_with_tangent(z, r, t, dz, dr, dt, y, **cond)
    expected = jvp(net, z, r, t, dz, dr, dt, y=y, **cond)
    torch.testing.assert_close((u, du), expected, rtol=1e-10, atol=1e-11)
    assert u.requires_grad and not du.requires_grad
    if a:
        wrong = jvp(net, z, r, t, 1.01 * dz, dr, dt, y=y, **cond)[1]
        assert (du - wrong).abs().max() > 1e-4


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("name", ["imf", "pmf", "drift"])
def test_tangents_of_the_last_rows_alone(name, k):
    config = CONFIGS[name]
    net = awake(config)
    z, r, t, v, y, cond = batch(config)
    one, none = torch.ones_like(t), torch.zeros_like(r)
    u, du = net.forward_with_tangent(z, r, t, v, none, one, y, **cond)
    some = net.forward_with_tangent(z, r, t, v[-k:], none[-k:], one[-k:], y, **cond)
    torch.testing.assert_close(some, (u, du[-k:]), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", ["imf", "pmf"])
def test_forward_mode_equals_finite_differences(name):
    config = CONFIGS[name]
    net = awake(config)
    z, r, t, v, y, cond = batch(config)
    h = 1e-6
    with torch.no_grad():
        up, down = (net(z + s * h * v, r, t + s * h, y, **cond) for s in (1, -1))
        du = net.forward_with_tangent(z, r, t, v, 0 * r, 0 * t + 1, y, **cond)[1]
    torch.testing.assert_close(du, (up - down) / (2 * h), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["imf", "pmf", "drift"])
def test_gradients_are_those_of_the_textbook_step(name):
    config = CONFIGS[name]
    net = awake(config)
    z, r, t, v, y, cond = batch(config)
    one, none = torch.ones_like(t), torch.zeros_like(r)

    def gradient(u, du):
        target = v - (t - r)[:, None, None, None] * du.detach()
        loss = (u - target).square().sum()
        grads = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
        return torch.cat([g.flatten() for g in grads if g is not None])

    slow = gradient(net(z, r, t, y, **cond), jvp(net, z, r, t, v, none, one, y=y, **cond)[1])
    fast = gradient(*net.forward_with_tangent(z, r, t, v, none, one, y, **cond))
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)


def keeping(kept, run):
    """What `run` returns; the tensors that its backward pass needs are put into `kept`."""

    def pack(x):
        kept.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        return run()


@pytest.mark.parametrize("name", ["imf", "pmf", "drift"])
def test_checkpointing_changes_memory_and_nothing_else(name):
    config = CONFIGS[name]
    plain_net, saving = awake(config), awake(replace(config, checkpoint=True))
    z, r, t, v, y, cond = batch(config)
    made = []
    for net in (plain_net, saving):
        u, du = net.forward_with_tangent(z, r, t, v, 0 * r, 0 * t + 1, y, **cond)
        kept: list[torch.Tensor] = []
        again = keeping(kept, lambda net=net: net(z, r, t, y, **cond))
        grads = torch.autograd.grad((u * v).sum() + again.sum(), net.labels.weight)
        made.append((u, du, *grads, len(kept)))
    torch.testing.assert_close(made[0][:3], made[1][:3], rtol=1e-10, atol=1e-11)
    assert made[1][3] < made[0][3] / 2


@pytest.mark.parametrize("name", ["iMF-tiny", "Drift-tiny", "pMF-tiny"])
def test_under_bfloat16_autocast(name):
    config = (IN_CONTEXT | DRIFT)[name]
    net = awake(config, dtype=torch.float32)
    z, r, t, v, y, cond = batch(config, dtype=torch.float32)
    t, r = t.clamp(min=0.3), r.clamp(max=0.3)
    exact = net.forward_with_tangent(z, r, t, v, 0 * r, 0 * t + 1, y, **cond)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net.forward_with_tangent(z, r, t, v, 0 * r, 0 * t + 1, y, **cond)
    for a, b in zip(exact, rough, strict=True):
        error = (a - b.float()).norm() / a.norm()
        assert 0 < error < 0.1


@pytest.mark.parametrize("name", ["iMF-tiny", "pMF-tiny", "Drift-tiny"])
def test_starts_without_attention_and_with_the_published_output(name):
    net = build_any(name)
    config = net.config
    z, r, t, _, y, cond = batch(config, dtype=torch.float32)
    expected = torch.zeros_like(z)
    if name == "pMF-tiny":  # the data is predicted: zero at first
        expected = z / t.clamp(min=0.05)[:, None, None, None]
    elif name == "Drift-tiny":
        expected = z
    torch.testing.assert_close(net(z, r, t, y, **cond), expected)


def test_conditions_that_are_left_out_have_the_recommended_values():
    config = CONFIGS["imf"]
    net = awake(InContextConfig(6, 3, 2, 24, 4, 3, 5, 2, omega=6.0, t_min=0.2, t_max=0.9))
    z, r, t, _, _, _ = batch(config)
    named = {"omega": 6.0, "t_min": 0.2, "t_max": 0.9}
    rows = {n: torch.full_like(t, s) for n, s in named.items()}
    null = torch.full(t.shape, config.num_classes)
    torch.testing.assert_close(net(z, r, t), net(z, r, t, null, **rows))
    assert not torch.allclose(net(z, r, t), net(z, r, t, null, **rows | {"omega": rows["t_max"]}))


def test_a_row_depends_on_itself_alone():
    for name in ("imf", "pmf", "drift"):
        config = CONFIGS[name]
        net = awake(config)
        z, r, t, _, y, cond = batch(config)
        whole = net(z, r, t, y, **cond)
        part = net(z[2:4], r[2:4], t[2:4], y[2:4], **{n: c[2:4] for n, c in cond.items()})
        torch.testing.assert_close(part, whole[2:4])


def test_noise_labels_that_are_left_out_are_drawn():
    net = awake(CONFIGS["drift"])
    z, r, t, _, y, _ = batch(CONFIGS["drift"])
    torch.manual_seed(3)
    first = net(z, r, t, y)
    torch.manual_seed(3)
    torch.testing.assert_close(net(z, r, t, y), first)
    assert not torch.allclose(net(z, r, t, y), first)


def test_what_does_not_fit_is_refused():
    net, drift = awake(CONFIGS["imf"]), awake(CONFIGS["drift"])
    z, r, t, _, y, cond = batch(CONFIGS["imf"])
    with pytest.raises(ValueError, match=r"z must be \[B, 2, 6, 6\]"):
        net(z[..., 1:], r, t, y)
    with pytest.raises(ValueError, match=r"omega must be \[B\] with B = 5, got \(4,\)"):
        net(z, r, t, y, omega=cond["omega"][1:])
    with pytest.raises(ValueError, match=r"takes the conditions .*got \('kappa',\)"):
        net(z, r, t, y, kappa=t)
    with pytest.raises(ValueError, match="no velocity head"):
        build_any("iMF-tiny", velocity_head=False).with_velocity(z, r, t, y)
    with pytest.raises(ValueError, match="no null class"):
        drift(z, r, t)
    with pytest.raises(ValueError, match=r"noise_labels must be \(5, 2\), got \(5,\)"):
        drift(z, r, t, y, noise_labels=y)
    with pytest.raises(ValueError, match="aux_head_depth must lie in"):
        InContextConfig(depth=2, aux_head_depth=3)
    with pytest.raises(ValueError, match="heads of an even size"):
        InContextConfig(width=9, heads=3)
    with pytest.raises(ValueError, match="unknown network 'iMF-B/4': choose from"):
        build_any("iMF-B/4")
    with pytest.raises(ValueError, match=r"InContextConfig has no field \['size'\]"):
        build_any("iMF-tiny", size=3)


@pytest.mark.parametrize("tangent", [True, False])
def test_rules_in_half_the_rows(tangent):
    torch.manual_seed(0)
    x, dx = torch.randn(4, 3, 8), torch.randn(2, 3, 8) if tangent else None
    norm = rules.RMSNorm(8)
    y = norm(Dual(x, dx))
    if dx is not None:
        expected = torch.func.jvp(lambda p: norm(Dual(p)).primal, (x[2:],), (dx,))[1]
        torch.testing.assert_close(y.tangent, expected)
    else:
        assert y.tangent is None
