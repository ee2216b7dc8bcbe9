"""A SiT checkpoint becomes a field: compared with an independent network, written here."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from meanflow_lite.networks.presets import PRESETS, build
from meanflow_lite.networks.sit import from_sit

CONFIG = PRESETS["tiny"]


def modulate(x, shift, scale):
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class SiTAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / math.sqrt(c // self.heads)).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


class SiTMlp(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x), approximate="tanh"))


class SiTBlock(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.attn = SiTAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.mlp = SiTMlp(dim)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(self, x, c):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate1.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift1, scale1))
        return x + gate2.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift2, scale2))


class SiTFinal(nn.Module):
    def __init__(self, dim, outputs):
        super().__init__()
        self.norm_final = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(dim, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def forward(self, x, c):
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class SiT(nn.Module):
    def __init__(self, config, learn_sigma):
        super().__init__()
        dim, patch, channels = config.width, config.patch_size, config.channels
        self.patch, self.channels, self.learn_sigma = patch, channels, learn_sigma
        self.outputs = channels * (2 if learn_sigma else 1)
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(channels, dim, patch, patch)})
        mlp = nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.t_embedder = nn.ModuleDict({"mlp": mlp})
        table = nn.Embedding(config.num_classes + 1, dim)
        self.y_embedder = nn.ModuleDict({"embedding_table": table})
        tokens = (config.image_size // patch) ** 2
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, dim), requires_grad=False)
        self.blocks = nn.ModuleList(SiTBlock(dim, config.heads) for _ in range(config.depth))
        self.final_layer = SiTFinal(dim, patch * patch * self.outputs)

    def forward(self, x, t, y):
        freqs = torch.exp(-math.log(10000) * torch.arange(128, dtype=t.dtype) / 128)
        args = t[:, None] * freqs[None]
        c = self.t_embedder["mlp"](torch.cat([torch.cos(args), torch.sin(args)], dim=-1))
        c = c + self.y_embedder["embedding_table"](y)
        x = self.x_embedder["proj"](x).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            x = block(x, c)
        x = self.final_layer(x, c)
        side = int(x.shape[1] ** 0.5)
        x = x.reshape(len(x), side, side, self.patch, self.patch, self.outputs)
        x = torch.einsum("nhwpqc->nchpwq", x)
        x = x.reshape(len(x), self.outputs, side * self.patch, side * self.patch)
        return x.chunk(2, dim=1)[0] if self.learn_sigma else x


def random_sit(learn_sigma=True):
    torch.manual_seed(0)
    sit = SiT(CONFIG, learn_sigma).double()
    for p in sit.parameters():
        p.data = torch.randn_like(p) * (0.5 if p.ndim == 1 else 1.5 * p.shape[-1] ** -0.5)
    return sit


def batch():
    torch.manual_seed(1)
    z = torch.randn(6, 2, 4, 4, dtype=torch.float64)
    r, t = torch.rand(2, 6, dtype=torch.float64).sort(dim=0).values
    return z, r, t, torch.tensor([0, 1, 2, 3, 0, 3])


@pytest.mark.parametrize("learn_sigma", [True, False])
@pytest.mark.parametrize("times", [("t", "r"), ("t", "t-r"), ("t", "r", "t-r"), ("t",)])
def test_field_is_minus_sit_at_reversed_time(learn_sigma, times):
    sit = random_sit(learn_sigma)
    config = replace(CONFIG, times=times)
    net = from_sit(sit.state_dict(), config)
    z, r, t, y = batch()
    expected = -sit(z, 1 - t, y)
    torch.testing.assert_close(net(z, t, t, y), expected, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(net(z, r, t, y), expected, rtol=1e-10, atol=1e-11)
    for wrong in (sit(z, 1 - t, y), -sit(z, t, y), -sit(z, 1 - t, 0 * y)):
        assert (wrong - expected).abs().max() > 0.1


def test_training_wakes_the_silent_embedder():
    net = from_sit(random_sit().state_dict(), "tiny")
    z, r, t, y = batch()
    net(z, r, t, y).square().sum().backward()
    gradient = net.get_parameter("conditioning.times.t-r.mlp.2.weight").grad
    assert gradient is not None and gradient.any()


def test_head_and_conditions_change_nothing_at_first():
    config = replace(CONFIG, aux_head_depth=1, conditions=("omega",))
    sit = random_sit()
    z, r, t, y = batch()
    u, v = from_sit(sit.state_dict(), config).with_velocity(z, r, t, y, omega=1 + t)
    torch.testing.assert_close(u, -sit(z, 1 - t, y), rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(v, u, rtol=0, atol=0)


def test_fresh_positions_are_the_published_ones():
    side, dim = 4, 16
    grid = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy"))
    omega = 1 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    halves = [torch.outer(g.flatten().double(), omega) for g in grid]
    expected = torch.cat([f(h) for h in halves for f in (torch.sin, torch.cos)], dim=1)
    net = build("tiny", image_size=8)
    torch.testing.assert_close(net.pos_embed[0], expected.float())


def without(state_dict, key):
    return {k: v for k, v in state_dict.items() if k != key}


@pytest.mark.parametrize(
    ("change", "preset", "message"),
    [
        (lambda s: without(s, "pos_embed"), "tiny", "it lacks pos_embed; it has besides nothing"),
        (lambda s: {**s, "extra.weight": s["pos_embed"]}, "tiny", "besides extra.weight"),
        (lambda s: s, "digits-XS", "do not fit|x_embedder"),
        (lambda s: s, "tiniest", "unknown preset"),
        (
            lambda s: {**s, "final_layer.linear.bias": s["pos_embed"]},
            "tiny",
            "final_layer.linear.bias",
        ),
    ],
)
def test_wrong_checkpoints_are_named(change, preset, message):
    with pytest.raises(ValueError, match=message):
        from_sit(change(random_sit().state_dict()), preset)


def test_a_network_without_t_is_refused():
    config = replace(CONFIG, times=("t-r",))
    with pytest.raises(ValueError, match="must contain"):
        from_sit(random_sit().state_dict(), config)
