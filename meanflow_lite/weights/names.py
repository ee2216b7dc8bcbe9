"""Which network some leaves belong to, and their names and layouts in this package.

Official kernels are [in, out], convolutions [h, w, in, out]; PyTorch's are the other way. The rules
below rename paths; what is called ``kernel`` is turned, what is called ``weight`` is not, so that
the official JAX trees and their PyTorch ports go the same way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import isqrt
from typing import Any

from torch import Tensor

from meanflow_lite.networks.catalogue import NETWORKS, Config, Network, make
from meanflow_lite.networks.dit import DiTConfig
from meanflow_lite.networks.drift_generator import DriftConfig
from meanflow_lite.networks.in_context import PREFIX, InContextConfig
from meanflow_lite.networks.sit import from_sit
from meanflow_lite.weights.reading import WeightsError

Leaves = Mapping[str, Tensor]
#: What wrappers of PyTorch put in front of every name.
WRAPPERS = ("module/", "_orig_mod/", "net/", "model/")

_COMMON = [("/_flax_linear", ""), ("/_flax_embedding", ""), ("/embedding_table", "")]
_IN_CONTEXT = [
    *_COMMON,
    (r"^shared_blocks[_/]", "trunk/"),
    (r"^([uv])_heads[_/]", r"\1_blocks/"),
    (r"^([uv])_final_layer", r"\1_layer"),
    (r"^h_embedder", "embedders/time"),
    (r"^omega_embedder", "embedders/omega"),
    (r"^cfg_t_start_embedder", "embedders/t_min"),
    (r"^cfg_t_end_embedder", "embedders/t_max"),
    (r"^class_tokens$", "tokens/label"),
    (r"^(omega|t_min|t_max|time)_tokens$", r"tokens/\1"),
    (r"^y_embedder", "labels"),
    (r"^pos_embed$", "positions"),
    (r"/mlp/layers_", "/mlp/"),
    (r"/mlp/(w[123])/", r"/\1/"),
    (r"/(q|k|v|out)_proj/", r"/\1/"),
    (r"/proj1/", "/proj/"),
    (r"/proj2/", "/expand/"),
]
_DRIFT = [
    ("/Dense_0", ""),
    (r"^LightningDiT_0/", ""),
    (r"^Embed_0", "labels"),
    (r"^noise_embeds_(\d+)", r"noise/\1"),
    (r"^TimestepEmbedder_0/TorchLinear_0", "omega/mlp/0"),
    (r"^TimestepEmbedder_0/TorchLinear_1", "omega/mlp/2"),
    (r"^RMSNorm_0", "omega_norm"),
    (r"^TorchLinear_0", "x_embedder"),
    (r"^TorchLinear_1", "token"),
    (r"^pos_embed$", "positions"),
    (r"^cls_embed$", "tokens"),
    (r"^FinalLayer_0/TorchLinear_0", "modulation"),
    (r"^FinalLayer_0/TorchLinear_1", "linear"),
    (r"^FinalLayer_0/RMSNorm_0", "norm"),
    (r"^blocks_(\d+)/TorchLinear_0", r"blocks/\1/modulation"),
    (r"^blocks_(\d+)", r"blocks/\1"),
    (r"/RMSNorm_0", "/norm1"),
    (r"/RMSNorm_1", "/norm2"),
    (r"/Attention_0/TorchLinear_0", "/attn/qkv"),
    (r"/Attention_0/TorchLinear_1", "/attn/proj"),
    (r"/Attention_0", "/attn"),
    (r"/SwiGLUFFN_0/TorchLinear_0", "/gate"),
    (r"/SwiGLUFFN_0/TorchLinear_1", "/value"),
    (r"/SwiGLUFFN_0/TorchLinear_2", "/out"),
]
_MEANFLOW = [
    *_COMMON,
    (r"^t_embedder", "conditioning/times/t"),
    (r"^h_embedder", "conditioning/times/t-r"),
    (r"^y_embedder", "conditioning/labels"),
    (r"/adaLN_modulation/(layers_)?1", "/modulation"),
    (r"/layers_(\d+)", r"/\1"),
]
#: Names of our parameters that are tables: they lose leading axes of size one.
_TABLES = re.compile(r"^(tokens|labels|positions)|labels/weight$")


@dataclass(frozen=True)
class Found:
    """A network with its weights, which family it is of, and what there is to say about it."""

    net: Network
    family: str
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str | None:
        """The preset of these sizes, if there is one."""
        return next((n for n, c in NETWORKS.items() if _sizes(c) == _sizes(self.net.config)), None)


def _sizes(config: Config) -> tuple[object, ...]:
    """What makes two networks the same, whatever is recommended for sampling from them."""
    free = ("omega", "t_min", "t_max", "noise_scale", "checkpoint", "velocity_head", "num_classes")
    own = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in free}
    if isinstance(config, InContextConfig) and not config.pixels:
        del own["bottleneck"]
    return type(config), *own.items()


@dataclass(frozen=True)
class Sizes:
    """What the leaves cannot tell, where it is not that of the published networks."""

    image_size: int | None = None
    heads: int | None = None


AS_PUBLISHED = Sizes()


def recognize(
    leaves: Leaves, metadata: Mapping[str, Any] | None = None, sizes: Sizes = AS_PUBLISHED
) -> Found:
    """The network that these leaves are the weights of.

    Raises:
        WeightsError: of no known family; a leaf is missing, left over, or of another shape; the
            leaves do not tell the size.
    """
    leaves = unwrapped(leaves)
    heads = {name.split("/")[0] for name in leaves}
    if any(head.startswith(("shared_blocks", "u_heads")) for head in heads):
        return _in_context(leaves, sizes)
    if "LightningDiT_0" in heads:
        return _drift(leaves, metadata or {})
    if "h_embedder" in heads:
        return _meanflow(leaves, sizes)
    if {"t_embedder", "y_embedder", "blocks"} <= heads:
        return _sit(leaves, sizes)
    shown = ", ".join(sorted(leaves)[:3])
    raise WeightsError(
        f"these {len(leaves)} leaves are of no network that is known here (iMF, pMF, MeanFlow, "
        f"Drifting, SiT): they begin with {shown}"
    )


def unwrapped(leaves: Leaves) -> Leaves:
    """The same without the names of wrappers in front."""
    for wrapper in WRAPPERS * 2:
        if leaves and all(name.startswith(wrapper) for name in leaves):
            leaves = {name.removeprefix(wrapper): value for name, value in leaves.items()}
    return leaves


def _renamed(leaves: Leaves, rules: list[tuple[str, str]]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in leaves.items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        value = _turned(name, value)
        if _TABLES.search(name) and value.ndim > 2:
            value = value.reshape(value.shape[-2:])
        name = re.sub(r"/(kernel|embedding|scale)$", "/weight", name)
        renamed[name.replace("/", ".")] = value.float() if value.is_floating_point() else value
    return renamed


def _turned(name: str, value: Tensor) -> Tensor:
    if name.endswith("/kernel") and value.ndim == 2:
        value = value.mT
    elif name.endswith("/kernel") and value.ndim == 4:
        value = value.permute(3, 2, 0, 1)
    if name.endswith(("expand/kernel", "expand/weight")):  # a convolution over one cell
        value = value.reshape(value.shape[:2])
    return value.contiguous()


def _count(named: Leaves, prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in named if name.startswith(prefix)})


def _shape(named: Leaves, name: str) -> tuple[int, ...]:
    if name not in named:
        raise WeightsError(f"the checkpoint lacks {name}: it is incomplete, or of another network")
    return tuple(named[name].shape)


def _in_context(leaves: Leaves, sizes: Sizes) -> Found:
    named, notes = _renamed(leaves, _IN_CONTEXT), []
    aux, trunk = _count(named, "u_blocks."), _count(named, "trunk.")
    pixels = "positions" in named
    first, channels, patch, _ = _shape(named, "x_embedder.proj.weight")
    block = "u_blocks.0" if aux else "trunk.0"
    width = _shape(named, "tokens.label")[1]
    side = sizes.image_size or 32
    if pixels:
        side = patch * isqrt(_shape(named, "positions")[0] - PREFIX)
    own_head = "v_blocks.0.attn_scale" in named or (aux == 0 and "v_layer.linear.bias" in named)
    if not own_head and named.pop("v_layer.linear.weight", None) is not None:
        for name in ("v_layer.linear.bias", "v_layer.norm.weight"):
            named.pop(name, None)
        notes.append(
            "the file has the last layer of the velocity head and not its blocks: it is left out"
        )
    elif not own_head:
        notes.append("the file has no velocity head: it is for sampling")
    config = InContextConfig(
        image_size=side,
        patch_size=patch,
        channels=channels,
        width=width,
        depth=aux + trunk,
        heads=width // _shape(named, f"{block}.attn.q_norm.weight")[0],
        num_classes=_shape(named, "labels.weight")[0] - 1,
        aux_head_depth=aux,
        velocity_head=own_head,
        pixels=pixels,
        bottleneck=first if pixels else 128,
    )
    return Found(_filled(_recommended(config), named), "pMF" if pixels else "iMF", notes)


def _recommended(config: InContextConfig) -> InContextConfig:
    """The config with the guidance of the published network of these sizes, if it is one."""
    for known in NETWORKS.values():
        if isinstance(known, InContextConfig) and _sizes(known) == _sizes(config):
            guidance = ("omega", "t_min", "t_max", "noise_scale")
            return replace(config, **{name: getattr(known, name) for name in guidance})
    return config


def _drift(leaves: Leaves, metadata: Mapping[str, Any]) -> Found:
    named = _renamed(leaves, _DRIFT)
    stated = metadata.get("model_config", {})
    for name in ("use_qknorm", "use_swiglu", "use_rope", "use_rmsnorm"):
        if not stated.get(name, True):
            raise WeightsError(f"this generator is built with {name} = false: not known here")
    width = _shape(named, "positions")[1]
    entries, channels = _shape(named, "x_embedder.weight")[1], stated.get("in_channels", 4)
    patch = stated.get("patch_size", isqrt(entries // channels))
    config = DriftConfig(
        image_size=patch * isqrt(_shape(named, "positions")[0]),
        patch_size=patch,
        channels=channels,
        width=width,
        depth=_count(named, "blocks."),
        heads=width // _shape(named, "blocks.0.attn.q_norm.weight")[0],
        condition_width=_shape(named, "labels.weight")[1],
        num_classes=_shape(named, "labels.weight")[0],
        class_tokens=_shape(named, "tokens")[0],
        noise_coordinates=_count(named, "noise."),
        noise_classes=_shape(named, "noise.0.weight")[0],
    )
    known = (c for c in NETWORKS.values() if _sizes(c) == _sizes(config))
    omega = next((c.omega for c in known if isinstance(c, DriftConfig)), config.omega)
    return Found(_filled(replace(config, omega=omega), named), "Drifting")


def _meanflow(leaves: Leaves, sizes: Sizes) -> Found:
    named, notes = _renamed(leaves, _MEANFLOW), []
    extra = sorted({n.split(".")[0] for n in named} & {"projectors", "projector"})
    if extra:
        named = {n: v for n, v in named.items() if n.split(".")[0] not in extra}
        notes.append(f"left out, for they play no part in sampling: {', '.join(extra)}")
    config = _dit_config(named, sizes, "conditioning.labels.weight")
    position = named.pop("pos_embed", None)
    net = make(config)
    if position is None:  # fixed, and in no JAX tree
        named["pos_embed"] = net.state_dict()["pos_embed"]
    else:
        named["pos_embed"] = position.reshape(net.state_dict()["pos_embed"].shape)
    return Found(_filled(config, named, net), "MeanFlow", notes)


def _dit_config(named: Leaves, sizes: Sizes, labels: str) -> DiTConfig:
    width, channels, patch, _ = _shape(named, "x_embedder.proj.weight")
    depth = _count(named, "blocks.")
    published = {(c.width, c.depth): c.heads for c in NETWORKS.values() if isinstance(c, DiTConfig)}
    heads = sizes.heads or published.get((width, depth))
    if heads is None:
        raise WeightsError(
            f"the leaves do not tell the number of heads of a DiT of width {width} and depth "
            f"{depth}: give --heads"
        )
    position = named.get("pos_embed")
    side = sizes.image_size or (patch * isqrt(position.shape[-2]) if position is not None else 32)
    return DiTConfig(side, patch, channels, width, depth, heads, _shape(named, labels)[0] - 1)


def _sit(leaves: Leaves, sizes: Sizes) -> Found:
    named = {name.replace("/", "."): value.float() for name, value in leaves.items()}
    config = _dit_config(named, sizes, "y_embedder.embedding_table.weight")
    try:
        net = from_sit(named, replace(config, times=("t",)))
    except ValueError as error:
        raise WeightsError(str(error)) from error
    return Found(net, "SiT", ["time is turned round: s = 1 - t, and the velocity with it"])


def _filled(config: Config, named: dict[str, Tensor], net: Network | None = None) -> Network:
    """A network with these weights, or one line that says which of them do not fit."""
    net = make(config) if net is None else net
    wanted = net.state_dict()
    missing, left = sorted(wanted.keys() - named.keys()), sorted(named.keys() - wanted.keys())
    wrong = [
        f"{name} is {tuple(named[name].shape)} and should be {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & named.keys())
        if named[name].shape != wanted[name].shape
    ]
    for kind, names in (
        ("lacks", missing),
        ("has, and should not,", left),
        ("does not fit:", wrong),
    ):
        if names:
            more = f" and {len(names) - 2} more" if len(names) > 2 else ""
            raise WeightsError(f"the checkpoint {kind} {', '.join(names[:2])}{more}")
    for name, value in named.items():
        if not value.isfinite().all():
            raise WeightsError(f"{name} in the checkpoint holds NaN or infinity")
    net.load_state_dict(named)
    return net
