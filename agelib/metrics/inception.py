"""The Inception network of the published scores, and the scores: torch-fidelity's arithmetic on probabilities and features.

With the graph of 2015-12-05, in torch-fidelity's port, they are the published Inception Score (from its logits without the
last bias), FID, KID and precision/recall (from its 2,048 pooled features); with another classifier's outputs they are named
after that. The weights of torchvision's Inception are others and give other numbers.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import os
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
    """The weights file is missing or not what it claims to be; the message says what to put where."""


def load(path: str | os.PathLike | None = None, *, device: torch.device | str = "cpu", sha256: str = SHA256) -> Any:
    """The network with the weights of `path`, else of FILE where torch keeps downloads ($TORCH_HOME/hub/checkpoints, by
    default under ~/.cache/torch), else downloaded to there. Raises WeightsError where that fails, or for another checksum,
    before anything is unpickled."""
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    place = cache / FILE if path is None else Path(path)
    advice = f"put {FILE} from {URL} (95 MB, sha256 {sha256}) into {cache}, or name its path in the parameters"
    if path is None and not place.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL, str(place), hash_prefix=sha256, progress=False)
        except (OSError, RuntimeError) as error:  # RuntimeError: another checksum; the file is not kept then
            raise WeightsError(f"the download of {URL} failed ({error}); {advice}") from error
    if not place.is_file():
        raise WeightsError(f"{place}: no such file; {advice}")
    content = place.read_bytes()  # once: what is checked is what is loaded
    if (digest := hashlib.sha256(content).hexdigest()) != sha256:
        raise WeightsError(f"{place}: sha256 is {digest}, expected {sha256}; {advice}")
    network = _torch_fidelity("feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    outputs = ["2048", "logits_unbiased"]
    return network("inception-v3-compat", outputs, feature_extractor_weights_path=io.BytesIO(content)).to(device)


@torch.no_grad()
def read(net: Any, images: np.ndarray, *, batch_size: int = 50, label: str = "Inception") -> tuple[np.ndarray, np.ndarray]:
    """(class probabilities (N, 1008), features (N, 2048)), float32, of uint8 images (N, 3, H, W); grey images become colour.

    The network enlarges them to 299 x 299 as TensorFlow 1 does; about a quarter of a second an image on one AVX512 core.
    """
    device, found, line, started = next(net.parameters()).device, [], Progress(), time.monotonic()
    for start in range(0, len(images), batch_size):
        batch = torch.from_numpy(np.array(images[start : start + batch_size])).to(device)
        pooled, logits = net(batch.expand(-1, 3, -1, -1))
        found.append((logits.double().softmax(1).float().cpu(), pooled.cpu()))
        line.show(f"{label}: {start + len(batch):,} of {len(images):,} images, {time.monotonic() - started:.0f} s")
    line.done(f"{label}: {len(images):,} images, {time.monotonic() - started:.0f} s")
    probs, features = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    return probs, features


def inception_score(probs: Any, splits: int = 10) -> tuple[float, float]:
    """exp(E_x KL(p(y|x) || p(y))) of each split, (mean, population deviation over splits) (Salimans et al. 2016).

    probs: class probabilities (N, K), N >= splits, rows that sum to 1 (to 1e-3), else ValueError; the splits are contiguous,
    as in their code, which takes 50,000 samples and 10 splits. Between 1, for equal rows, and K.
    """
    p = np.asarray(probs)
    if p.ndim != 2 or not 1 <= splits <= len(p):
        raise ValueError(f"need probabilities (N, K) and 1 to N splits, got {p.shape} and {splits}")
    sums = p.sum(1, dtype=np.float64)
    if not (p.min() >= 0 and np.abs(sums - 1).max() <= 1e-3):  # NaN too
        raise ValueError(f"rows must be probabilities: the least value is {p.min():.3g}, sums are {sums.min():.3g} and more")
    score, scores = _torch_fidelity("metric_isc").isc_features_to_metric, []
    for i in range(splits):  # one at a time: a tenth of the memory
        part = p[i * len(p) // splits : (i + 1) * len(p) // splits].astype(np.float64)
        logits = torch.from_numpy(np.log(part.clip(np.finfo(np.float64).tiny)))  # 0 log 0 is 0
        scores.append(score(logits, splits=1, shuffle=False)["inception_score_mean"])
    return float(np.mean(scores)), float(np.std(scores))


def frechet_distance(a: Any, b: Any) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) >= 0 of two sets of features (N, D), (M, D), unbiased covariances.

    The FID of Heusel et al. (2017) where the features are Inception's. Biased upwards for few images: compare equal numbers.
    """
    fid = _torch_fidelity("metric_fid")
    statistics = [fid.fid_features_to_statistics(x) for x in _pair(a, b)]
    return max(0.0, fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"])


def kernel_distance(a: Any, b: Any, *, subsets: int = 100) -> tuple[float, float]:
    """KID (Binkowski et al. 2018) of features (N, D) and (M, D): (mean, deviation over subsets of 1,000, or of the smaller
    set). Unbiased, so it may be a little below 0."""
    a, b = _pair(a, b)
    settings = {"kid_subsets": subsets, "kid_subset_size": min(1000, len(a), len(b)), "rng_seed": 2020, "verbose": False}
    found = _torch_fidelity("metric_kid").kid_features_to_metric(a, b, **settings)
    return found["kernel_inception_distance_mean"], found["kernel_inception_distance_std"]


def precision_recall(made: Any, real: Any) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019) of features (N, D) and (M, D), each in 0..1.

    precision: the share of `made` within the manifold of `real`; recall: of `real` within that of `made`. A point belongs
    to a set's manifold if it is no farther from some point of the set than that point's third neighbour in the set.
    """
    a, b = (x.float() for x in _pair(made, real, least=4))
    settings = {"prc_neighborhood": 3, "prc_batch_size": 2000, "save_cpu_ram": True, "verbose": False}
    found = _torch_fidelity("metric_prc").prc_features_to_metric(a, b, **settings)
    return found["precision"], found["recall"]


def _pair(*sets: Any, least: int = 2) -> list[torch.Tensor]:
    """Two sets of features (N, D), D >= 2, as float64."""
    a, b = arrays = [np.asarray(x, dtype=np.float64) for x in sets]
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or a.shape[1] < 2 or min(len(a), len(b)) < least:
        raise ValueError(f"need features (N, D) and (M, D), D >= 2, of >= {least} images each, got {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("the features hold values that are not finite")
    return [torch.from_numpy(x) for x in arrays]


def _torch_fidelity(name: str) -> Any:
    """torch_fidelity's module `name`, torchvision's import helped where it needs help; none of its operators is used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        tv.import_torchvision()
    return importlib.import_module(f"torch_fidelity.{name}")
