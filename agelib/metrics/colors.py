"""How diverse colorizations are, whether they use their code, and how near they come to a known truth.

ab: (N, K, 2, H, W), K colorizations of each of N images, in units of CIE Lab (a, b about -110..110). colour: (N, K, 2), one
(a, b) a colorization, such as the mean over a car's body. Arrays or tensors in, numpy out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial import cKDTree

ELSEWHERE = -1  # of `nearest_mode`


def mean_colour(ab: Any, where: Any = None) -> np.ndarray:
    """Mean (a, b) of each colorization, (N, K, 2), over the pixels of `where` (N, H, W) bool, all by default.

    Raises ValueError for other shapes or an image without a pixel.
    """
    ab = _ab(ab)
    if where is None:
        return ab.mean((3, 4))
    where = np.asarray(where, bool)
    if where.shape != (ab.shape[0], *ab.shape[3:]) or not where.any((1, 2)).all():
        raise ValueError(f"need a mask {(ab.shape[0], *ab.shape[3:])} with a pixel in each image, got {where.shape}")
    weight = where / where.sum((1, 2), keepdims=True)
    return np.einsum("nkchw,nhw->nkc", ab, weight)


def pixel_spread(ab: Any) -> np.ndarray:
    """Per image, the standard deviation (1/K) over the K colorizations of a pixel's a and of its b, averaged over both and
    all pixels; (N,), Lab units. Raises ValueError for K < 2."""
    ab = _ab(ab, least=2)
    return ab.std(1).mean((1, 2, 3))


def pairwise_distance(ab: Any) -> np.ndarray:
    """Per image, the mean over pixels and over all pairs of colorizations of |a - a'| + |b - b'|, halved; (N,), Lab units.

    Raises ValueError for K < 2.
    """
    ab = _ab(ab, least=2)
    K = ab.shape[1]
    pairs = [np.abs(ab[:, i] - ab[:, j]).mean((1, 2, 3)) for i in range(K) for j in range(i)]
    return np.mean(pairs, 0)


def best_of(ab: Any, truth: Any) -> np.ndarray:
    """Per image, the mean absolute difference of a and b to the image's own colours `truth` (N, 2, H, W), for the nearest of
    the K colorizations; (N,), Lab units."""
    ab, truth = _ab(ab), np.asarray(truth, np.float64)
    if truth.shape != (ab.shape[0], *ab.shape[2:]):
        raise ValueError(f"need one truth an image, {(ab.shape[0], *ab.shape[2:])}, got {truth.shape}")
    return np.abs(ab - truth[:, None]).mean((2, 3, 4)).min(1)


def colourfulness(images: Any) -> np.ndarray:
    """Hasler and Suesstrunk's (2003) M3 of images (N, 3, H, W), uint8 or float in [-1, 1]; (N,), 0 for grey, on 0..255 RGB:
    sqrt(var rg + var yb) + 0.3 sqrt(mean rg^2 + mean yb^2), rg = R - G, yb = (R + G)/2 - B."""
    x = np.asarray(images)
    if x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(f"need images (N, 3, H, W), got {x.shape}")
    x = x.astype(np.float64) if x.dtype == np.uint8 else (x.astype(np.float64) + 1) * 127.5
    opponents = np.stack([x[:, 0] - x[:, 1], (x[:, 0] + x[:, 1]) / 2 - x[:, 2]], 1)
    mean, var = opponents.mean((2, 3)), opponents.var((2, 3))
    return np.sqrt(var.sum(1)) + 0.3 * np.sqrt(np.square(mean).sum(1))


def nearest_mode(colour: Any, modes: Any) -> np.ndarray:
    """Which of the modes (m, 2) each colour (N, K, 2) belongs to: the nearest, if nearer than half the smallest distance
    between two modes, else ELSEWHERE. (N, K) int."""
    colour, modes = np.asarray(colour, np.float64), np.asarray(modes, np.float64)
    if modes.ndim != 2 or len(modes) < 2 or colour.shape[-1] != modes.shape[1]:
        raise ValueError(f"need colours (N, K, 2) and at least two modes (m, 2), got {colour.shape} and {modes.shape}")
    between = np.linalg.norm(modes[:, None] - modes, axis=-1)
    reach = between[~np.eye(len(modes), dtype=bool)].min() / 2
    distance = np.linalg.norm(colour[..., None, :] - modes, axis=-1)
    return np.where(distance.min(-1) < reach, distance.argmin(-1), ELSEWHERE)


def mode_shares(mode: np.ndarray, m: int) -> np.ndarray:
    """(N, m): the share of an image's K colorizations that `nearest_mode` put into each of m modes; rows sum to at most
    1."""
    return np.stack([(mode == k).mean(1) for k in range(m)], 1)


def mode_recall(shares: np.ndarray, least: float = 0.05) -> float:
    """The share of images on which every mode is drawn by at least `least` of the codes."""
    return float((shares >= least).all(1).mean())


def mode_divergence(shares: np.ndarray, weights: Any) -> float:
    """KL(modes drawn || true weights) in nats of the shares pooled over images, colours elsewhere left out; infinite if no
    colour lies in any mode."""
    pooled = shares.mean(0)
    if pooled.sum() == 0:
        return float("inf")
    p = pooled / pooled.sum()
    seen = p > 0
    return float((p[seen] * np.log(p[seen] / np.asarray(weights)[seen])).sum())


def knn_divergence(truth: Any, drawn: Any, k: int = 5) -> float:
    """KL(truth || drawn) in nats from samples (n, 2) and (m, 2), by k nearest neighbours (Wang, Kulkarni and Verdu 2009).

    (d/n) sum log(nu_k / rho_k) + log(m / (n - 1)), rho_k and nu_k the distances of a true sample to its k-th neighbour among
    the others and among the drawn. Large where the truth has mass that nothing drawn comes near; equal laws give about 0.
    Distances are floored at 1e-9. An estimate for laws with a density: for a model that draws a single colour it is only
    large, not a divergence.
    """
    truth, drawn = np.asarray(truth, np.float64), np.asarray(drawn, np.float64)
    if truth.ndim != 2 or drawn.ndim != 2 or truth.shape[1] != drawn.shape[1] or min(len(truth) - 1, len(drawn)) < k:
        raise ValueError(f"need samples (n, d) and (m, d), n > k and m >= k = {k}, got {truth.shape} and {drawn.shape}")
    rho = cKDTree(truth).query(truth, k + 1)[0][:, -1]
    nu = cKDTree(drawn).query(truth, k)[0].reshape(len(truth), -1)[:, -1]
    d, n, m = truth.shape[1], len(truth), len(drawn)
    return float(d * np.log(np.maximum(nu, 1e-9) / np.maximum(rho, 1e-9)).mean() + np.log(m / (n - 1)))


def permutation_test(z: Any, colour: Any, n_permutations: int = 999, seed: int = 0) -> tuple[float, float]:
    """(R^2, p): whether the codes z (n, M) say anything of the colours (n, 2), against shuffled codes.

    R^2, 0..1: the share of the colours' variance, both coordinates pooled, that least squares on the codes' coordinates,
    their squares and products explains; 0 where the colours do not vary. p = (1 + shuffles with at least this R^2) /
    (1 + n_permutations), so at least 1 / (1 + n_permutations). Raises ValueError for unequal numbers of both.
    """
    z, y = np.asarray(z, np.float64), np.asarray(colour, np.float64)
    if z.ndim != 2 or y.ndim != 2 or len(z) != len(y):
        raise ValueError(f"need codes (n, M) and colours (n, 2), got {z.shape} and {y.shape}")
    y = y - y.mean(0)
    total, basis, rng = np.square(y).sum(), _basis(z), np.random.default_rng(seed)
    if total == 0:
        return 0.0, 1.0
    found, *shuffled = (
        np.square(basis.T @ each).sum() / total for each in (y, *(y[rng.permutation(len(y))] for _ in range(n_permutations)))
    )
    return float(found), (1 + int(np.sum(np.array(shuffled) >= found - 1e-12))) / (1 + n_permutations)


def _basis(z: np.ndarray) -> np.ndarray:
    """An orthonormal basis (n, r) of the span of 1, z_i and z_i z_j, which on the sphere has no full rank."""
    products = [z[:, i] * z[:, j] for i in range(z.shape[1]) for j in range(i + 1)]
    features = np.column_stack([np.ones(len(z)), z, *products])
    u, s, _ = np.linalg.svd(features, full_matrices=False)
    return u[:, s > 1e-9 * s[0]]


def _ab(ab: Any, least: int = 1) -> np.ndarray:
    ab = np.asarray(ab, np.float64)
    if ab.ndim != 5 or ab.shape[2] != 2 or ab.shape[1] < least or not ab.size:
        raise ValueError(f"need colorizations (N, K, 2, H, W) with K >= {least}, got {ab.shape}")
    return ab
