"""The published one-step generators of ImageNet: where they are, and how they are sampled.

Facts of the official repositories as read in November 2026. Numbers are theirs; none was measured
here.
"""

from __future__ import annotations

from dataclasses import dataclass

VAE = "stabilityai/sd-vae-ft-mse"
#: Per-channel statistics of SD-VAE latents that improved MeanFlow normalizes with.
IMF_MEAN = (0.86488, -0.27787343, 0.21616915, 0.3738409)
IMF_STD = (4.85503674, 5.31922414, 3.93725398, 3.9870003)
#: Factor on latents in MeanFlow, Drifting and SiT.
LATENT_SCALE = 0.18215

#: Licences as far as the repositories state one, by family.
LICENCES = {
    "iMF": "MIT (the code; the repository of the weights names none)",
    "pMF": "MIT (the code; the repository of the weights names none)",
    "MeanFlow": "MIT (the code)",
    "SiT": "MIT (the code)",
    "Drifting": "none stated: ask its authors before you pass it on",
}
REPOSITORIES = {
    "iMF": "https://github.com/Lyy-iiis/imeanflow",
    "pMF": "https://github.com/Lyy-iiis/pMF",
    "MeanFlow": "https://github.com/Gsunshine/meanflow",
    "SiT": "https://github.com/willisma/SiT",
    "Drifting": "https://github.com/lambertae/drifting",
}


@dataclass(frozen=True)
class Published:
    """One set of weights. ``where`` is ``hf:REPO/PATH`` or a page that a person opens.

    ``fid`` is that of the repository with one evaluation, 50,000 samples and its own statistics.
    """

    network: str
    where: str
    fid: float | None = None
    average: str | None = None


_IMF, _PMF = "hf:Lyy0725/iMF/", "hf:Lyy0725/pMF/"
_DRIFT = "hf:Goodeat/drifting/models/gen/jax/"

PUBLISHED: dict[str, Published] = {
    "imf-b2": Published("iMF-B/2", _IMF + "iMF-B-2.zip", 3.37),
    "imf-m2": Published("iMF-M/2", _IMF + "iMF-M-2.zip", 2.27),
    "imf-l2": Published("iMF-L/2", _IMF + "iMF-L-2.zip", 1.85),
    "imf-xl2": Published("iMF-XL/2", _IMF + "iMF-XL-2.zip", 1.70),
    "pmf-b16": Published("pMF-B/16", _PMF + "pMF-B-16.zip", 3.11, "2000"),
    "pmf-l16": Published("pMF-L/16", _PMF + "pMF-L-16.zip", 2.50, "1000"),
    "pmf-h16": Published("pMF-H/16", _PMF + "pMF-H-16.zip", 2.11),
    "pmf-b32": Published("pMF-B/32", _PMF + "pMF-B-32.zip", 3.64, "2000"),
    "pmf-l32": Published("pMF-L/32", _PMF + "pMF-L-32.zip", 2.73, "2000"),
    "pmf-h32": Published("pMF-H/32", _PMF + "pMF-H-32.zip", 2.37),
    "drift-b2": Published("Drift-B/2", _DRIFT + "latent_B_sota", 1.74),
    "drift-l2": Published("Drift-L/2", _DRIFT + "latent_L_sota", 1.53),
    "drift-b16": Published("Drift-B/16", _DRIFT + "pixel_B_sota", 1.73),
    "drift-l16": Published("Drift-L/16", _DRIFT + "pixel_L_sota", 1.62),
    "mf-b4": Published("B/4", "https://github.com/Gsunshine/meanflow (Google Drive)", 11.4),
    "sit-xl2": Published("XL/2", "https://github.com/willisma/SiT (link in its README)"),
}


def of_network(network: str | None, family: str) -> Published | None:
    """What is published for a network of these sizes."""
    for name, published in PUBLISHED.items():
        if published.network == network and (name.startswith("sit") == (family == "SiT")):
            return published
    return None
