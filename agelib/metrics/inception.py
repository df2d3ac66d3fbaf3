"""The Inception network of the published scores, and the scores: numbers from probabilities and features, whatever network
made them.

With the graph of 2015-12-05, in torch-fidelity's port, they are the published Inception Score (from its logits without the
last bias), FID, KID and precision/recall (from its 2,048 pooled features); with another classifier's outputs they are named
after that. The weights of torchvision's Inception are others and give other numbers. The arithmetic is torch-fidelity's.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import pickle
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agelib import tv
from agelib.training.progress import Progress

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
    with open(place, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise WeightsError(f"{place}: sha256 is {digest}, expected {sha256}; {advice}")
    return place


def load(path: str | os.PathLike, *, device: torch.device | str = "cpu") -> Any:
    """The network with the weights of `path`, which is read without running any code that its pickle may hold.

    Raises WeightsError for a file that is no plain dictionary of this network's tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise WeightsError(f"{path}: no plain file of weights, so it is not loaded ({why})") from error
    plain = isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items())
    if not plain or "fc.weight" not in state:
        raise WeightsError(f"{path}: not the weights of this network")
    checked = io.BytesIO()  # the network loads whatever it is given without a check: it gets these tensors, not the file
    torch.save(state, checked)
    checked.seek(0)
    network = _torch_fidelity("feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    try:
        net = network("inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=checked)
    except RuntimeError as error:
        raise WeightsError(f"{path}: not the weights of this network ({str(error).splitlines()[0]})") from error
    return net.to(device)


@torch.no_grad()
def read(net: Any, images: np.ndarray, *, batch_size: int = 50, label: str = "Inception") -> tuple[np.ndarray, np.ndarray]:
    """(class probabilities (N, 1008), features (N, 2048)), float32, of uint8 images (N, 3, H, W); grey images become colour.

    The network enlarges them to 299 x 299 as TensorFlow 1 does; about a quarter of a second an image on one AVX512 core.
    """
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(f"need uint8 images (N, C, H, W), N >= 1, C 1 or 3; got {images.dtype} {images.shape}")
    device = next(net.parameters()).device
    x = np.broadcast_to(images, (len(images), 3, *images.shape[2:]))
    probs, features, line, started = [], [], Progress(), time.monotonic()
    for start in range(0, len(x), batch_size):
        batch = torch.from_numpy(np.array(x[start : start + batch_size])).to(device)
        pooled, logits = net(batch)
        probs.append(logits.double().softmax(1).float().cpu())
        features.append(pooled.cpu())
        line.show(f"{label}: {start + len(batch):,} of {len(x):,} images, {time.monotonic() - started:.0f} s")
    line.done(f"{label}: {len(x):,} images, {time.monotonic() - started:.0f} s")
    return torch.cat(probs).numpy(), torch.cat(features).numpy()


def inception_score(probs: Any, splits: int = 10) -> tuple[float, float]:
    """exp(E_x KL(p(y|x) || p(y))) of each split, (mean, population deviation over splits) (Salimans et al. 2016).

    probs: class probabilities (N, K), N >= splits, rows that sum to 1 (to 1e-3); the splits are contiguous, as in their
    code, which takes 50,000 samples and 10 splits. Between 1, for equal rows, and K. Raises ValueError for anything else,
    naming the reason.
    """
    p = np.asarray(probs)
    if p.ndim != 2 or p.shape[1] < 1:
        raise ValueError(f"need probabilities (N, K), got {p.shape}")
    if splits < 1 or len(p) < splits:
        raise ValueError(f"need at least one image a split: {len(p)} images, {splits} splits")
    if lost := int((~np.isfinite(p)).any(1).sum()):
        raise ValueError(f"{lost} of {len(p)} rows hold values that are not finite")
    sums = p.sum(1, dtype=np.float64)
    if p.min() < 0 or np.abs(sums - 1).max() > 1e-3:
        raise ValueError(f"rows must be probabilities: the least value is {p.min():.3g}, sums are {sums.min():.3g} and more")
    isc, scores = _torch_fidelity("metric_isc"), []
    for i in range(splits):  # one at a time: a tenth of the memory
        part = p[i * len(p) // splits : (i + 1) * len(p) // splits].astype(np.float64)
        logits = torch.from_numpy(np.log(part.clip(np.finfo(np.float64).tiny)))  # 0 log 0 is 0
        scores.append(isc.isc_features_to_metric(logits, splits=1, shuffle=False)[isc.KEY_METRIC_ISC_MEAN])
    return float(np.mean(scores)), float(np.std(scores))


def frechet_distance(a: Any, b: Any) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of two sets of features (N, D) and (M, D), unbiased covariances; >=
    0.

    The FID of Heusel et al. (2017) where the features are Inception's 2,048. Biased upwards for few images: compare equal
    numbers.
    """
    fid = _torch_fidelity("metric_fid")
    a, b = (fid.fid_features_to_statistics(torch.from_numpy(x)) for x in _pair(a, b))
    return max(0.0, fid.fid_statistics_to_metric(a, b, False)[fid.KEY_METRIC_FID])


def kernel_distance(a: Any, b: Any, *, subsets: int = 100, subset_size: int = 1000, seed: int = 2020) -> tuple[float, float]:
    """KID (Binkowski et al. 2018) of features (N, D) and (M, D): (mean, deviation over subsets).

    subset_size is lowered to the smaller set. Unbiased, so it may be a little below 0.
    """
    a, b = (torch.from_numpy(x) for x in _pair(a, b))
    settings = {"kid_subsets": subsets, "kid_subset_size": min(subset_size, len(a), len(b)), "rng_seed": seed}
    kid = _torch_fidelity("metric_kid")
    found = kid.kid_features_to_metric(a, b, **settings, verbose=False)
    return found[kid.KEY_METRIC_KID_MEAN], found[kid.KEY_METRIC_KID_STD]


def precision_recall(made: Any, real: Any, *, neighbours: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019) of features (N, D) and (M, D), each in 0..1.

    precision: the share of `made` within the manifold of `real`; recall: of `real` within that of `made`. A point belongs
    to a set's manifold if it is no farther from some point of the set than that point's neighbours-th neighbour in the set.
    """
    a, b = (torch.from_numpy(x).float() for x in _pair(made, real))
    if min(len(a), len(b)) <= neighbours:
        raise ValueError(f"need more than {neighbours} images of each kind, got {len(a)} and {len(b)}")
    settings = {"prc_neighborhood": neighbours, "prc_batch_size": 2000, "save_cpu_ram": True, "verbose": False}
    prc = _torch_fidelity("metric_prc")
    found = prc.prc_features_to_metric(a, b, **settings)
    return found[prc.KEY_METRIC_PRECISION], found[prc.KEY_METRIC_RECALL]


def _pair(*sets: Any) -> list[np.ndarray]:
    """Two sets of features (N, D), D >= 2, as float64."""
    sets = [np.asarray(x, dtype=np.float64) for x in sets]
    for x in sets:
        if x.ndim != 2 or len(x) < 2 or x.shape[1] < 2:
            raise ValueError(f"need features (N, D), D >= 2, of at least 2 images, got {x.shape}")
        if not np.isfinite(x).all():
            raise ValueError("the features hold values that are not finite")
    if len({x.shape[1] for x in sets}) > 1:
        raise ValueError(f"the features have {sets[0].shape[1]} and {sets[1].shape[1]} dimensions")
    return sets


def _torch_fidelity(name: str) -> Any:
    """torch_fidelity's module `name`, torchvision's import helped where it needs help; none of its operators is used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        tv.import_torchvision()
    return importlib.import_module(f"torch_fidelity.{name}")
