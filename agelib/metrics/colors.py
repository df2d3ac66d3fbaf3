"""How diverse colorizations are, whether they use their code, and how near they come to a known truth.

ab: (N, K, 2, H, W), K colorizations of each of N images, in units of CIE Lab (a, b about -110..110). colour: (N, K, 2), one
(a, b) a colorization, such as the mean over a car's body. Arrays or tensors in, numpy out; ValueError for other shapes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
import scipy.stats
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist

ELSEWHERE = -1  # of `nearest_mode`
CHROMA = 5.0  # Lab units, sqrt(a^2 + b^2), from which a colour has a hue
APART = 30.0  # degrees from which two hues are distinct


def mean_colour(ab: Any, where: Any = None) -> np.ndarray:
    """Mean (a, b) of each colorization, (N, K, 2), over the pixels of `where` (N, H, W) bool, at least one in each image;
    over all by default."""
    ab = _ab(ab)
    where = np.ones((ab.shape[0], *ab.shape[3:]), bool) if where is None else np.asarray(where, bool)
    if where.shape != (ab.shape[0], *ab.shape[3:]) or not where.any((1, 2)).all():
        raise ValueError(f"need a mask {(ab.shape[0], *ab.shape[3:])} with a pixel in each image, got {where.shape}")
    return np.einsum("nkchw,nhw->nkc", ab, where / where.sum((1, 2), keepdims=True))


def ellipse(N: int, H: int, W: int, height: float, width: float) -> np.ndarray:
    """The pixels (N, H, W) bool, alike in all N, whose centres lie in an ellipse about the middle of the picture with these
    shares of its height and width as axes."""
    y, x = ((np.arange(n) + 0.5) / n - 0.5 for n in (H, W))
    return np.broadcast_to((2 * y[:, None] / height) ** 2 + (2 * x / width) ** 2 <= 1, (N, H, W))


def pixel_spread(ab: Any, where: Any = None) -> np.ndarray:
    """Per image, the standard deviation (1/K) over the K >= 2 colorizations of a pixel's a and of its b, averaged over both
    and the pixels of `where`, as in `mean_colour`; (N,), Lab units."""
    return mean_colour(_ab(ab, least=2).std(1)[:, None], where).mean((1, 2))


def pairwise_distance(ab: Any) -> np.ndarray:
    """Per image, the mean over pixels and over all pairs of its K >= 2 colorizations of |a - a'| + |b - b'|, halved; (N,),
    Lab units."""
    return np.array([pdist(each.reshape(len(each), -1), "cityblock").mean() / each[0].size for each in _ab(ab, least=2)])


def best_of(ab: Any, truth: Any) -> np.ndarray:
    """Per image, the mean absolute difference of a and b to the image's own colours `truth` (N, 2, H, W), for the nearest of
    the K colorizations; (N,), Lab units."""
    ab, truth = _ab(ab), np.asarray(truth, np.float64)
    if truth.shape != (ab.shape[0], *ab.shape[2:]):
        raise ValueError(f"need one truth an image, {(ab.shape[0], *ab.shape[2:])}, got {truth.shape}")
    return np.abs(ab - truth[:, None]).mean((2, 3, 4)).min(1)


def colourfulness(images: np.ndarray) -> np.ndarray:
    """Hasler and Suesstrunk's (2003) M3 of uint8 images (N, 3, H, W); (N,), 0 for grey, on 0..255 RGB:
    sqrt(var rg + var yb) + 0.3 sqrt(mean rg^2 + mean yb^2), rg = R - G, yb = (R + G)/2 - B."""
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8:
        raise ValueError(f"need uint8 images (N, 3, H, W), got {images.dtype} {images.shape}")
    r, g, b = images.astype(np.float64).swapaxes(0, 1)
    opponents = np.stack([r - g, (r + g) / 2 - b], 1)
    mean, var = opponents.mean((2, 3)), opponents.var((2, 3))
    return np.sqrt(var.sum(1)) + 0.3 * np.sqrt(np.square(mean).sum(1))


def hue_distance(colour: Any, other: Any) -> np.ndarray:
    """Degrees, 0..180, between the hues, directions in the (a, b) plane, of colours (..., 2)."""
    hues = [np.arctan2(c[..., 1], c[..., 0]) for c in (np.asarray(colour), np.asarray(other))]
    return np.abs(np.rad2deg(np.angle(np.exp(1j * (hues[0] - hues[1])))))


def distinct_hues(colour: Any, least: float = CHROMA, apart: float = APART) -> np.ndarray:
    """Per image, how many of its K colours (N, K, 2) can be picked with hues pairwise at least `apart` degrees from one
    another, greys, of a chroma below `least`, left out; (N,) int."""
    found = []
    for each in np.asarray(colour):
        vivid = each[np.hypot(*each.T) >= least]
        hues = np.sort(np.rad2deg(np.arctan2(vivid[:, 1], vivid[:, 0])) % 360)
        most = 0
        for first in hues:  # from each in turn the next far enough, as long as the first is too
            picked, last = 1, 0.0
            for turn in np.sort((hues - first) % 360):
                if turn - last >= apart and 360 - turn >= apart:
                    picked, last = picked + 1, turn
            most = max(most, picked)
        found.append(most)
    return np.array(found)


def nearest_mode(colour: Any, modes: Any) -> np.ndarray:
    """Which of the m >= 2 modes (m, 2) each colour (N, K, 2) belongs to: the nearest, if nearer than half the smallest
    distance between two modes, else ELSEWHERE. (N, K) int."""
    if len(modes) < 2:
        raise ValueError(f"need at least two modes (m, 2), got {np.shape(modes)}")
    found = cKDTree(modes).query(colour, distance_upper_bound=pdist(modes).min() / 2)[1]  # m where none is so near
    return np.where(found < len(modes), found, ELSEWHERE)


def mode_shares(mode: np.ndarray, m: int) -> np.ndarray:
    """(N, m): the share of an image's K colorizations that `nearest_mode` put into each of m modes; rows sum to <= 1."""
    return np.stack([(mode == k).mean(1) for k in range(m)], 1)


def mode_recall(shares: np.ndarray, least: float = 0.05) -> float:
    """The share of images on which every mode is drawn by at least `least` of the codes."""
    return float((shares >= least).all(1).mean())


def mode_divergence(shares: np.ndarray, weights: Any) -> float:
    """KL(modes drawn || true weights) in nats of the shares pooled over images, colours elsewhere left out; infinite if no
    colour lies in any mode."""
    pooled = shares.mean(0)
    return float(scipy.stats.entropy(pooled, weights)) if pooled.any() else float("inf")


def knn_divergence(truth: Any, drawn: Any, k: int = 5) -> float:
    """KL(truth || drawn) in nats from samples (n, 2) and (m, 2), by k nearest neighbours (Wang, Kulkarni and Verdu 2009).

    (d/n) sum log(nu_k / rho_k) + log(m / (n - 1)), rho_k and nu_k the distances of a true sample to its k-th neighbour among
    the others and among the drawn. Large where the truth has mass that nothing drawn comes near; equal laws give about 0.
    Distances are floored at 1e-9. An estimate for laws with a density: for a model that draws a single colour it is only
    large, not a divergence.
    """
    (n, d), m = np.shape(truth), len(drawn)
    if min(n - 1, m) < k:
        raise ValueError(f"need n > k and m >= k = {k} samples, got {n} and {m}")
    rho = cKDTree(truth).query(truth, [k + 1])[0]
    nu = cKDTree(drawn).query(truth, [k])[0]
    return float(d * np.log(np.maximum(nu, 1e-9) / np.maximum(rho, 1e-9)).mean() + np.log(m / (n - 1)))


def permutation_test(z: np.ndarray, colour: np.ndarray, n_permutations: int = 999, seed: int = 0) -> tuple[float, float]:
    """(R^2, p): whether the codes z (n, M) say anything of the colours (n, 2), against shuffled codes.

    R^2, 0..1: the share of the colours' variance, both coordinates pooled, that least squares on the codes' coordinates,
    their squares and products explains; 0 where the colours do not vary. p = (1 + shuffles with at least this R^2) /
    (1 + n_permutations).
    """
    y = colour - np.mean(colour, 0, dtype=np.float64)
    total, rng = np.square(y).sum(), np.random.default_rng(seed)
    if total == 0:
        return 0.0, 1.0
    i, j = np.tril_indices(z.shape[1])
    features = np.column_stack([np.ones(len(z)), z, z[:, i] * z[:, j]])
    basis = scipy.linalg.orth(features, rcond=1e-9)  # on the sphere they have no full rank
    orders = [np.arange(len(y)), *(rng.permutation(len(y)) for _ in range(n_permutations))]
    found, *shuffled = (np.square(basis.T @ y[order]).sum() / total for order in orders)
    return float(found), (1 + int(np.sum(np.array(shuffled) >= found - 1e-12))) / (1 + n_permutations)


def _ab(ab: Any, least: int = 1) -> np.ndarray:
    ab = np.asarray(ab, np.float64)
    if ab.ndim != 5 or ab.shape[2] != 2 or ab.shape[1] < least or not ab.size:
        raise ValueError(f"need colorizations (N, K, 2, H, W) with K >= {least}, got {ab.shape}")
    return ab
