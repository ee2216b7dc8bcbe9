"""Inception's features, from torch-fidelity; its weights are read as data, never as code."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from meanflow_lite.files.read import plain

FILE = "weights-inception-2015-12-05-6726825d.pth"


class Inception:
    """2,048 features of images in bytes ``[B, 1 or 3, H, W]``; gray is repeated thrice.

    ``weights`` is a local file of torch-fidelity's weights; without it they are downloaded once.
    ``digest`` is the start of their SHA-256, to be written beside a number. The network scales
    images to 299 pixels by the bilinear rule of TensorFlow 1, as FID has been computed since 2017.

    Raises:
        ValueError: if the file is damaged, of another network, or would run code when it is read.
        OSError: if the weights cannot be fetched.
    """

    def __init__(self, weights: Path | str | None = None, device: str = "cpu") -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        state = _fetched() if weights is None else read_weights(weights)
        self.digest, self.device = _digest(state), device
        # the extractor itself would unpickle any object: hand it what was read as plain tensors
        safe = io.BytesIO()
        torch.save(state, safe)
        safe.seek(0)
        try:
            network = FeatureExtractorInceptionV3(
                "inception",
                ["2048", "logits_unbiased"],
                safe,  # pyright: ignore[reportArgumentType]
            )
        except RuntimeError as error:
            raise ValueError(
                f"{weights or FILE} holds weights of another network than torch-fidelity's "
                f"Inception, {FILE}"
            ) from error
        self.network = network.to(device)

    def __call__(self, images: Tensor) -> Float[Tensor, " b 2048"]:
        """The features of a Frechet distance."""
        return self.with_logits(images)[0]

    @torch.no_grad()
    def with_logits(
        self, images: Tensor
    ) -> tuple[Float[Tensor, " b 2048"], Float[Tensor, " b 1008"]]:
        """Features, and the logits without bias of an Inception score."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                "Inception takes images in bytes [B, 1 or 3, H, W]: got "
                f"{images.dtype} {tuple(images.shape)}"
            )
        features, logits = self.network(images.expand(-1, 3, -1, -1).to(self.device))
        return features, logits


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """A state dict from a file, by PyTorch's reader of plain tensors.

    Raises:
        ValueError: if it is damaged, or holds anything but tensors.
    """
    try:
        with plain(path) as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is damaged, or holds more than tensors and would run code when it is read: "
            f"it was not. Fetch {FILE} from torch-fidelity's release v0.2.0 again"
        ) from error
    except (RuntimeError, EOFError, KeyError, IndexError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is damaged ({reason}): fetch {FILE} again") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} is no state dict of tensors: fetch {FILE}")
    return state


def _fetched() -> dict[str, Any]:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return torch.hub.load_state_dict_from_url(URL_INCEPTION_V3, progress=True, weights_only=True)


def _digest(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(state[name].detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]
