"""The Inception network of the published scores: the graph of 2015-12-05, in torch-fidelity's port, and its weights file.

Its logits (without the last bias) give the Inception Score, its 2,048 pooled features FID, KID and precision/recall. The
weights of torchvision's Inception are others and give other numbers.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agelib import tv
from agelib.progress import Progress

FILE = "weights-inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"


class WeightsError(RuntimeError):
    """The weights file is missing, damaged or not what it claims to be; the message says what to put where."""


def cache() -> Path:
    """Where torch keeps downloaded weights: $TORCH_HOME/hub/checkpoints, by default under ~/.cache/torch."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def find_weights(path: str | os.PathLike | None = None, *, download: bool = True, sha256: str = SHA256) -> Path:
    """The weights file, its sha256 checked: `path`, else FILE in `cache()`, else downloaded to there.

    Raises WeightsError for a file that is not there or has another checksum, and where the download fails.
    """
    if path is not None and not Path(path).is_file():
        raise WeightsError(f"{path}: no such file; the Inception Score needs {FILE} from {URL}")
    place = Path(path) if path is not None else cache() / FILE
    advice = f"put {FILE} from {URL} (95 MB, sha256 {sha256}) into {cache()}, or name its path in the parameters"
    if not place.is_file():
        if not download:
            raise WeightsError(f"{place} is not there; {advice}")
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL, str(place), hash_prefix=sha256, progress=False)
        except (OSError, RuntimeError) as error:  # RuntimeError: another checksum; the file is not kept then
            raise WeightsError(f"the download of {URL} failed ({error}); {advice}") from error
    digest = hashlib.sha256()
    with open(place, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    if digest.hexdigest() != sha256:
        raise WeightsError(f"{place}: sha256 is {digest.hexdigest()}, expected {sha256}; {advice}")
    return place


def load(path: str | os.PathLike, *, device: torch.device | str = "cpu") -> Any:
    """The network with the weights of `path`, which is first read without running any code that its pickle may hold.

    Raises WeightsError for a file that is no plain dictionary of this network's tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise WeightsError(
            f"{path}: no plain file of weights, so it is not loaded ({str(error).splitlines()[0]})"
        ) from error
    if (
        not isinstance(state, dict)
        or not all(isinstance(v, torch.Tensor) for v in state.values())
        or "fc.weight" not in state
    ):
        raise WeightsError(f"{path}: not the weights of this network")
    del state
    tv.import_torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:  # it reads the file again, which is known to hold tensors alone by now
        net = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
        )
    except RuntimeError as error:
        raise WeightsError(f"{path}: not the weights of this network ({str(error).splitlines()[0]})") from error
    return net.to(device)


@torch.no_grad()
def read(net: Any, images: np.ndarray, *, batch_size: int = 50, label: str = "Inception") -> tuple[np.ndarray, np.ndarray]:
    """(class probabilities (N, 1008), features (N, 2048)), float32, of uint8 images (N, 3, H, W); grey images become colour.

    The network enlarges them to 299 x 299 as TensorFlow 1 does; about a quarter of a second an image on one AVX512 core.
    """
    device = next(net.parameters()).device
    x = np.broadcast_to(images, (len(images), 3, *images.shape[2:])) if images.shape[1] == 1 else images
    probs, features, line, started = [], [], Progress(), time.monotonic()
    for start in range(0, len(x), batch_size):
        batch = torch.from_numpy(np.array(x[start : start + batch_size])).to(device)
        pooled, logits = net(batch)
        probs.append(logits.double().softmax(1).float().cpu())
        features.append(pooled.cpu())
        line.show(f"{label}: {start + len(batch):,} of {len(x):,} images, {time.monotonic() - started:.0f} s")
    line.done(f"{label}: {len(x):,} images, {time.monotonic() - started:.0f} s")
    return torch.cat(probs).numpy(), torch.cat(features).numpy()
