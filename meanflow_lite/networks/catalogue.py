"""Every network by name: the DiTs of `presets`, in-context transformers, Drifting's generators."""

from dataclasses import asdict, replace

from meanflow_lite.networks.dit import DiT, DiTConfig
from meanflow_lite.networks.drift_generator import DriftConfig, DriftGenerator
from meanflow_lite.networks.in_context import InContextConfig, InContextTransformer
from meanflow_lite.networks.presets import PRESETS

Config = DiTConfig | InContextConfig | DriftConfig
Network = DiT | InContextTransformer | DriftGenerator

_PIXELS = InContextConfig(image_size=256, patch_size=16, channels=3, pixels=True)
_PIXELS_512 = replace(_PIXELS, image_size=512, patch_size=32)
_B, _L = {"width": 768, "depth": 16, "heads": 12}, {"width": 1024, "depth": 32, "heads": 16}
_H = {"width": 1280, "depth": 48, "heads": 16, "bottleneck": 256}

# Sizes, guidance and noise scales of the published weights (arXiv 2512.02012, 2601.22158 and their
# repositories); for the H sizes no guidance is stated, and omega 1 is no recommendation.
IN_CONTEXT: dict[str, InContextConfig] = {
    "iMF-B/2": InContextConfig(omega=8.0, t_min=0.4, t_max=0.65),
    "iMF-M/2": InContextConfig(depth=24, omega=10.5, t_min=0.4, t_max=0.6),
    "iMF-L/2": InContextConfig(width=1024, depth=32, heads=16, omega=10.5, t_min=0.4, t_max=0.6),
    "iMF-XL/2": InContextConfig(width=1024, depth=48, heads=16, omega=8.0, t_min=0.42, t_max=0.62),
    "pMF-B/16": replace(_PIXELS, **_B, omega=8.5, t_min=0.1, t_max=0.7),
    "pMF-L/16": replace(_PIXELS, **_L, omega=7.0, t_min=0.2, t_max=0.7),
    "pMF-H/16": replace(_PIXELS, **_H),
    "pMF-B/32": replace(_PIXELS_512, **_B, omega=6.5, t_min=0.1, t_max=0.7, noise_scale=2.0),
    "pMF-L/32": replace(_PIXELS_512, **_L, omega=7.5, t_min=0.2, t_max=0.6, noise_scale=4.0),
    "pMF-H/32": replace(_PIXELS_512, **_H),
    "iMF-tiny": InContextConfig(
        image_size=4, channels=2, width=16, depth=3, heads=2, num_classes=3, aux_head_depth=1
    ),
    "pMF-tiny": InContextConfig(
        image_size=8,
        channels=1,
        width=16,
        depth=3,
        heads=2,
        num_classes=10,
        aux_head_depth=1,
        pixels=True,
        bottleneck=6,
    ),
}

_DRIFT_L = DriftConfig(width=1024, depth=24, heads=16, condition_width=1024)

# arXiv 2602.04770 and its repository.
DRIFT: dict[str, DriftConfig] = {
    "Drift-B/2": DriftConfig(omega=1.1),
    "Drift-L/2": _DRIFT_L,
    "Drift-B/16": DriftConfig(image_size=256, patch_size=16, channels=3),
    "Drift-L/16": replace(_DRIFT_L, image_size=256, patch_size=16, channels=3),
    "Drift-tiny": DriftConfig(
        image_size=4,
        channels=2,
        width=16,
        depth=2,
        heads=2,
        condition_width=12,
        num_classes=3,
        class_tokens=2,
        noise_coordinates=3,
        noise_classes=5,
    ),
}

NETWORKS: dict[str, Config] = {**PRESETS, **IN_CONTEXT, **DRIFT}


def make(config: Config) -> Network:
    """A freshly initialized network of this config."""
    if isinstance(config, InContextConfig):
        return InContextTransformer(config)
    return DriftGenerator(config) if isinstance(config, DriftConfig) else DiT(config)


def stored(config: Config) -> dict[str, object]:
    """The config as JSON holds it: its fields, and `kind`."""
    return {"kind": type(config).__name__, **asdict(config)}


def build_any(name: str, **overrides: object) -> Network:
    """The network `name` fresh, fields of its config replaced by `overrides`.

    Raises:
        ValueError: unknown name or field.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}: choose from {', '.join(NETWORKS)}")
    config = NETWORKS[name]
    known = [*type(config).__dataclass_fields__]
    unknown = overrides.keys() - set(known)
    if unknown:
        raise ValueError(
            f"{type(config).__name__} has no field {sorted(unknown)}: choose from {known}"
        )
    return make(replace(config, **overrides))  # pyright: ignore[reportArgumentType]
