"""Inception Score, Frechet distance, kernel distance, precision and recall: numbers from arrays, whatever network made them.

With the 2015 Inception graph's outputs (`agelib.metrics.inception`) these are the published IS, FID, KID and
precision/recall; with another classifier's they are named after that.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from agelib import tv


def inception_score(probs: Any, splits: int = 10) -> tuple[float, float]:
    """exp(E_x KL(p(y|x) || p(y))) of each split, (mean, population deviation over splits) (Salimans et al. 2016).

    probs: class probabilities (N, K), N >= splits, rows that sum to 1 (to 1e-3); the splits are contiguous, as in their
    code, which takes 50,000 samples and 10 splits. Between 1, for equal rows, and K. Raises ValueError for anything else,
    naming the reason.
    """
    p = np.asarray(probs, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] < 1:
        raise ValueError(f"need probabilities (N, K), got {p.shape}")
    if splits < 1 or len(p) < splits:
        raise ValueError(f"need at least one image a split: {len(p)} images, {splits} splits")
    if not np.isfinite(p).all():
        raise ValueError(f"{int((~np.isfinite(p)).any(1).sum())} of {len(p)} rows hold values that are not finite")
    if p.min() < 0 or np.abs(p.sum(1) - 1).max() > 1e-3:
        raise ValueError(
            f"rows must be probabilities: the least value is {p.min():.3g}, sums are {p.sum(1).min():.3g} and more"
        )
    scores = []
    for part in (p[i * len(p) // splits : (i + 1) * len(p) // splits] for i in range(splits)):
        tiny = np.finfo(np.float64).tiny  # 0 log 0 is 0
        kl = part * (np.log(part.clip(tiny)) - np.log(part.mean(0).clip(tiny)))
        scores.append(np.exp(kl.sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def frechet_distance(a: Any, b: Any) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of two sets of features (N, D) and (M, D), unbiased covariances; >=
    0.

    The FID of Heusel et al. (2017) where the features are Inception's 2,048. Biased upwards for few images: compare equal
    numbers.
    """
    a, b = _features(a), _features(b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"the features have {a.shape[1]} and {b.shape[1]} dimensions")
    S_a, S_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = np.linalg.eigh(S_a)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ S_b @ root).clip(0)).sum()  # those of S_a S_b are the same
    difference = a.mean(0) - b.mean(0)
    return max(0.0, float(difference @ difference + np.trace(S_a) + np.trace(S_b) - 2 * cross))


def kernel_distance(a: Any, b: Any, *, subsets: int = 100, subset_size: int = 1000, seed: int = 2020) -> tuple[float, float]:
    """torch-fidelity's KID (Binkowski et al. 2018) of features (N, D) and (M, D): (mean, deviation over subsets).

    subset_size is lowered to the smaller set. Unbiased, so it may be a little below 0.
    """
    a, b = (torch.from_numpy(_features(x)) for x in (a, b))
    size = min(subset_size, len(a), len(b))
    kid = _torch_fidelity("metric_kid")
    found = kid.kid_features_to_metric(a, b, kid_subsets=subsets, kid_subset_size=size, rng_seed=seed, verbose=False)
    return found[kid.KEY_METRIC_KID_MEAN], found[kid.KEY_METRIC_KID_STD]


def precision_recall(made: Any, real: Any, *, neighbours: int = 3) -> tuple[float, float]:
    """torch-fidelity's improved precision and recall (Kynkaanniemi et al. 2019) of features (N, D), each in 0..1.

    precision: the share of `made` within the manifold of `real`; recall: of `real` within that of `made`. A point belongs
    to a set's manifold if it is no farther from some point of the set than that point's neighbours-th neighbour in the set.
    """
    a, b = (torch.from_numpy(_features(x)).float() for x in (made, real))
    if min(len(a), len(b)) <= neighbours:
        raise ValueError(f"need more than {neighbours} images of each kind, got {len(a)} and {len(b)}")
    prc = _torch_fidelity("metric_prc")
    found = prc.prc_features_to_metric(
        a, b, prc_neighborhood=neighbours, prc_batch_size=2000, save_cpu_ram=True, verbose=False
    )
    return found[prc.KEY_METRIC_PRECISION], found[prc.KEY_METRIC_RECALL]


def _features(x: Any) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or len(x) < 2 or not x.shape[1]:
        raise ValueError(f"need features (N, D) of at least 2 images, got {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("the features hold values that are not finite")
    return x


def _torch_fidelity(name: str) -> Any:
    """torch_fidelity's module `name`, torchvision's import helped where it needs help; none of its operators is used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        tv.import_torchvision()
    import torch_fidelity.metric_kid
    import torch_fidelity.metric_prc

    return getattr(torch_fidelity, name)
