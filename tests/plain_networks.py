"""The networks of iMF, pMF and Drifting written plainly, from a dictionary of parameters.

Nothing of the package is used: rotations are complex numbers, softmax is explicit, images are
channels last, every condition is given. Tests hold the package's networks against these.
"""

import math

import torch


def rms(x, w):
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * w


def silu(x):
    return x / (1 + torch.exp(-x))


def linear(p, name, x):
    y = x @ p[f"{name}.weight"].mT
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def sinusoids(s, features=256):
    half = features // 2
    w = torch.tensor([10000.0 ** (-k / half) for k in range(half)], dtype=s.dtype)
    return torch.cat([torch.cos(s[:, None] * w), torch.sin(s[:, None] * w)], 1)


def embed_number(p, name, s):
    return linear(p, f"{name}.mlp.2", silu(linear(p, f"{name}.mlp.0", sinusoids(s))))


def softmax_attention(q, k, v):  # [B, N, H, d] each
    weights = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
    weights = weights.exp() / weights.exp().sum(-1, keepdim=True)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)


def turn_neighbours(x, angle):  # [B, N, H, d], [N, d / 2]
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)[:, None]).flatten(
        -2
    )


def turn_halves(x, angle):
    a, b = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def cut_patches(image, p):  # [B, H, W, C] to [B, N, p, p, C]
    rows = [
        image[:, i : i + p, j : j + p]
        for i in range(0, image.shape[1], p)
        for j in range(0, image.shape[2], p)
    ]
    return torch.stack(rows, 1)


def lay_patches(tokens, p):  # [B, N, p * p * C] to [B, H, W, C]
    side = math.isqrt(tokens.shape[1])
    cells = tokens.unflatten(-1, (p, p, -1))
    lines = [torch.cat([cells[:, i * side + j] for j in range(side)], 2) for i in range(side)]
    return torch.cat(lines, 1)


def angles(c, prefix, tokens, dtype):  # [N, d / 2]
    head = c.width // c.heads
    if not c.pixels:
        w = torch.tensor([10000 ** (-2 * k / head) for k in range(head // 2)], dtype=dtype)
        return torch.arange(tokens, dtype=dtype)[:, None] * w
    w = torch.tensor([10000 ** (-4 * k / head) for k in range(head // 4)], dtype=dtype)
    angle, side = torch.zeros(tokens, head // 2, dtype=dtype), c.image_size // c.patch_size
    for i in range(side):
        for j in range(side):
            angle[prefix + i * side + j] = torch.cat([i * w, j * w])
    return angle


def in_context(p, c, z, r, t, y, omega, t_min, t_max):
    """(u, v) of the parameters `p` and the config `c`; `z` is [B, C, H, W]."""
    image = z.permute(0, 2, 3, 1)
    told = {
        "label": p["labels.weight"][y],
        "omega": embed_number(p, "embedders.omega", 1 - 1 / omega),
        "t_min": embed_number(p, "embedders.t_min", t_min),
        "t_max": embed_number(p, "embedders.t_max", t_max),
        "time": embed_number(p, "embedders.time", t - r),
    }
    prefix = torch.cat([p[f"tokens.{n}"] + e[:, None] for n, e in told.items()], 1)
    patches = torch.einsum(
        "bnpqc,dcpq->bnd", cut_patches(image, c.patch_size), p["x_embedder.proj.weight"]
    )
    patches = patches + p["x_embedder.proj.bias"]
    if c.pixels:
        patches = linear(p, "x_embedder.expand", patches)
    x = torch.cat([prefix, patches], 1)
    n = prefix.shape[1]
    if c.pixels:
        x = x + p["positions"]
    angle = angles(c, n, x.shape[1], z.dtype)

    def block(name, x):
        h = rms(x, p[f"{name}.norm1.weight"])
        q, k, v = (linear(p, f"{name}.attn.{s}", h).unflatten(-1, (c.heads, -1)) for s in "qkv")
        q, k = (
            turn_neighbours(rms(a, p[f"{name}.attn.{s}_norm.weight"]), angle)
            for a, s in ((q, "q"), (k, "k"))
        )
        x = x + p[f"{name}.attn_scale"] * linear(p, f"{name}.attn.out", softmax_attention(q, k, v))
        h = rms(x, p[f"{name}.norm2.weight"])
        h = silu(linear(p, f"{name}.w1", h)) * linear(p, f"{name}.w3", h)
        return x + p[f"{name}.mlp_scale"] * linear(p, f"{name}.w2", h)

    for i in range(c.depth - c.aux_head_depth):
        x = block(f"trunk.{i}", x)
    out = []
    for which in "uv":
        h = x
        for i in range(c.aux_head_depth):
            h = block(f"{which}_blocks.{i}", h)
        h = linear(p, f"{which}_layer.linear", rms(h, p[f"{which}_layer.norm.weight"]))
        made = lay_patches(h[:, n:], c.patch_size)
        if c.pixels:
            made = (image - made) / t.clamp(min=0.05)[:, None, None, None]
        out.append(made.permute(0, 3, 1, 2))
    return tuple(out)


def drift_generator(p, c, eps, y, omega, noise_labels):
    """The sample [B, C, H, W]."""
    image = eps.permute(0, 2, 3, 1)
    head = c.width // c.heads
    cond = p["labels.weight"][y]
    for i in range(c.noise_coordinates):
        cond = cond + p[f"noise.{i}.weight"][noise_labels[:, i]]
    cond = cond + 0.02 * rms(embed_number(p, "omega", omega), p["omega_norm.weight"])
    patches = linear(p, "x_embedder", cut_patches(image, c.patch_size).flatten(2)) + p["positions"]
    tokens = linear(p, "token", cond)[:, None] + p["tokens"]
    x = torch.cat([tokens, patches], 1)
    w = torch.tensor([10000 ** (-2 * k / head) for k in range(head // 2)], dtype=eps.dtype)
    angle = torch.arange(x.shape[1], dtype=eps.dtype)[:, None] * w

    def shift_and_scale(x, shift, scale):
        return x * (1 + scale[:, None]) + shift[:, None]

    for i in range(c.depth):
        m = linear(p, f"blocks.{i}.modulation", silu(cond)).chunk(6, 1)
        h = shift_and_scale(rms(x, p[f"blocks.{i}.norm1.weight"]), m[0], m[1])
        q, k, v = (
            a.unflatten(-1, (c.heads, -1))
            for a in linear(p, f"blocks.{i}.attn.qkv", h).chunk(3, -1)
        )
        q = turn_halves(rms(q, p[f"blocks.{i}.attn.q_norm.weight"]), angle)
        k = turn_halves(rms(k, p[f"blocks.{i}.attn.k_norm.weight"]), angle)
        h = linear(p, f"blocks.{i}.attn.proj", softmax_attention(q, k, v))
        x = x + m[2][:, None] * h
        h = shift_and_scale(rms(x, p[f"blocks.{i}.norm2.weight"]), m[3], m[4])
        h = silu(linear(p, f"blocks.{i}.gate", h)) * linear(p, f"blocks.{i}.value", h)
        x = x + m[5][:, None] * linear(p, f"blocks.{i}.out", h)
    shift, scale = linear(p, "modulation", silu(cond)).chunk(2, 1)
    x = linear(p, "linear", shift_and_scale(rms(x, p["norm.weight"]), shift, scale))
    return lay_patches(x[:, c.class_tokens :], c.patch_size).permute(0, 3, 1, 2)
