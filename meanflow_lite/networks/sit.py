r"""Start from a flow-matching checkpoint: SiT weights as a field of this package, exactly.

SiT runs time the other way: :math:`s = 1 - t`, data at s = 1, velocity :math:`x - \epsilon`. So
:math:`u(z, t, t, y) = -\mathrm{SiT}(z, 1 - t, y)`, which takes three changes of weights and no
change of the network:

* The first time layer reads :math:`\cos(w s), \sin(w s)`. Both are rotations of
  :math:`\cos(w t), \sin(w t)` by the fixed angles :math:`w`, so its weight is rotated instead.
* The final layer is negated, and the half of its outputs that predicts a variance is dropped.
* The embedders of r, t - r and of further conditions start with a zero last layer: they say
  nothing yet. An auxiliary velocity head starts as a copy of the last blocks, so v = u.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from meanflow_lite.networks.dit import DiT, DiTConfig
from meanflow_lite.networks.embedding import TimestepEmbedder, frequencies
from meanflow_lite.networks.presets import PRESETS

# parts of names, ours and SiT's
_NAMES = {
    "conditioning.times.t.": "t_embedder.",
    "conditioning.labels.": "y_embedder.embedding_table.",
    ".modulation.": ".adaLN_modulation.1.",
}
_TIME = "conditioning.times.t.mlp.0.weight"
_OUTPUT = ("final_layer.linear.weight", "final_layer.linear.bias")


def from_sit(state_dict: Mapping[str, Tensor], preset: str | DiTConfig) -> DiT:
    r"""A DiT with :math:`u(z, r, t, y) = -\mathrm{SiT}(z, 1 - t, y)` for every `r`.

    It is the flow-matching field of the checkpoint, ready to be trained by MeanFlow.

    Args:
        state_dict: weights under the names of github.com/willisma/SiT, with or without the sigma
            half of the output; the network takes their dtype.
        preset: the size, a name in `PRESETS` or a `DiTConfig`; its `times` must contain "t".

    Raises:
        ValueError: unknown preset, a conditioning without "t", missing or unexpected keys, or
            sizes that do not fit the preset.

    Source: SiT (arXiv 2401.08740), linear path, velocity prediction.
    """
    if isinstance(preset, str) and preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: choose from {', '.join(PRESETS)}")
    config = PRESETS[preset] if isinstance(preset, str) else preset
    if "t" not in config.times:
        raise ValueError(f"a SiT is told t: times must contain 't', got {config.times}")
    net = DiT(config)
    wanted = net.state_dict()
    sources = {name: _their_name(_copied_from(name, config)) for name in wanted}
    spoken = {name: source for name, source in sources.items() if not _starts_silent(name)}
    missing, unexpected = (
        set(spoken.values()) - state_dict.keys(),
        state_dict.keys() - spoken.values(),
    )
    if missing or unexpected:
        raise ValueError(
            f"state_dict is not that of a SiT of depth {config.depth}: it lacks {_some(missing)}; "
            f"it has besides {_some(unexpected)}"
        )
    converted = {name: _convert(name, state_dict[spoken[name]], config) for name in spoken}
    wrong = [
        f"{spoken[name]} {tuple(value.shape)} for {tuple(wanted[name].shape)}"
        for name, value in converted.items()
        if value.shape != wanted[name].shape
    ]
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError("sizes in state_dict do not fit: " + "; ".join(wrong[:3]) + more)
    net.to(state_dict["pos_embed"].dtype).load_state_dict(converted, strict=False)
    for embedder in net.conditioning.modules():
        if isinstance(embedder, TimestepEmbedder) and embedder is not net.conditioning.times["t"]:
            torch.nn.init.zeros_(embedder.last.weight)
            torch.nn.init.zeros_(embedder.last.bias)
    return net


def _some(names: set[str]) -> str:
    """Three of the names, and how many there are."""
    shown = ", ".join(sorted(names)[:3])
    return f"{shown}, ... ({len(names)})" if len(names) > 3 else shown or "nothing"


def _starts_silent(name: str) -> bool:
    embedder = name.startswith(("conditioning.times.", "conditioning.conditions."))
    return embedder and not name.startswith("conditioning.times.t.")


def _copied_from(name: str, config: DiTConfig) -> str:
    """The auxiliary head's weights are those of the final layer and of the last blocks."""
    if name.startswith("velocity_blocks."):
        _, index, rest = name.split(".", 2)
        return f"blocks.{config.depth - config.aux_head_depth + int(index)}.{rest}"
    return name.replace("velocity_layer.", "final_layer.")


def _their_name(name: str) -> str:
    for ours, theirs in _NAMES.items():
        name = name.replace(ours, theirs)
    return name


def _convert(name: str, value: Tensor, config: DiTConfig) -> Tensor:
    if name == _TIME:
        return _reverse_time(value)
    if name.replace("velocity_layer.", "final_layer.") in _OUTPUT:
        return -_without_sigma(value, config)
    return value


def _reverse_time(weight: Tensor) -> Tensor:
    r"""The layer that reads features of t as `weight` reads those of 1 - t.

    :math:`\cos w(1 - t) = \cos w \cos wt + \sin w \sin wt` and
    :math:`\sin w(1 - t) = \sin w \cos wt - \cos w \sin wt`.
    """
    of_cos, of_sin = weight.double().chunk(2, dim=1)
    w = frequencies(weight.shape[1], of_cos)
    cos, sin = w.cos(), w.sin()
    rotated = torch.cat([of_cos * cos + of_sin * sin, of_cos * sin - of_sin * cos], dim=1)
    return rotated.to(weight.dtype)


def _without_sigma(value: Tensor, config: DiTConfig) -> Tensor:
    """Rows run over the cells of a patch, then over channels: first the velocity, then sigma."""
    cells = config.patch_size**2
    if value.shape[0] != cells * 2 * config.channels:
        return value
    return value.unflatten(0, (cells, -1))[:, : config.channels].flatten(0, 1)
