"""Named sizes of the DiT."""

from dataclasses import replace

from meanflow_lite.networks.dit import DiT, DiTConfig

_DIGITS = DiTConfig(image_size=8, patch_size=2, channels=1, num_classes=10)

# The first five are those of MeanFlow (arXiv 2505.13447, appendix) for latents of ImageNet 256;
# digits are 8 x 8 gray images; crops are latents of 64 x 64 pixels; tiny is for tests.
PRESETS: dict[str, DiTConfig] = {
    "B/4": DiTConfig(patch_size=4, width=768, depth=12, heads=12),
    "B/2": DiTConfig(patch_size=2, width=768, depth=12, heads=12),
    "M/2": DiTConfig(patch_size=2, width=1024, depth=16, heads=16),
    "L/2": DiTConfig(patch_size=2, width=1024, depth=24, heads=16),
    "XL/2": DiTConfig(patch_size=2, width=1152, depth=28, heads=16),
    "digits-XS": replace(_DIGITS, width=32, depth=2, heads=2),
    "digits-S": replace(_DIGITS, width=64, depth=3, heads=4),
    "digits-M": replace(_DIGITS, width=96, depth=4, heads=4),
    "digits-L": replace(_DIGITS, width=128, depth=6, heads=4),
    "crops": DiTConfig(image_size=8, width=64, depth=3, heads=4, num_classes=2),
    "tiny": DiTConfig(image_size=4, channels=2, width=16, depth=2, heads=2, num_classes=3),
}


def build(name: str, **overrides: object) -> DiT:
    """A freshly initialized DiT: the preset `name`, fields of its config replaced by `overrides`.

    Raises:
        ValueError: unknown preset or field.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: choose from {', '.join(PRESETS)}")
    unknown = overrides.keys() - DiTConfig.__dataclass_fields__.keys()
    if unknown:
        raise ValueError(
            f"DiTConfig has no field {sorted(unknown)}: "
            f"choose from {list(DiTConfig.__dataclass_fields__)}"
        )
    return DiT(replace(PRESETS[name], **overrides))  # pyright: ignore[reportArgumentType]
