"""What a set of pictures is like, without looking at any other: how sharp, how different from one another."""

from __future__ import annotations

from typing import Any

import numpy as np

_LUMA = np.array([0.299, 0.587, 0.114])


def sharpness(images: Any) -> np.ndarray:
    """Variance of the Laplacian of each image's luma, pixels in [0, 1]: (N, C, H, W) uint8, C 1 or 3 -> (N,) float64.

    The Laplacian is the sum of the four neighbours less four times the pixel, inside the image. Blurring lowers it, noise
    and checkerboards raise it: read it beside the value of real images.
    """
    y = _luma(images)
    laplacian = y[:, :-2, 1:-1] + y[:, 2:, 1:-1] + y[:, 1:-1, :-2] + y[:, 1:-1, 2:] - 4 * y[:, 1:-1, 1:-1]
    return laplacian.var((1, 2))


def pairwise_l1(images: Any, *, n_pairs: int = 2000, seed: int = 0) -> tuple[float, float]:
    """(mean, standard deviation (1/N)) over n_pairs random pairs of different images of their mean absolute difference.

    images: (N, C, H, W) uint8, N >= 2; pixels in [-1, 1], so 0..2. 0 for a set of equal images: a generator that has
    collapsed. Read it beside the value of real images.
    """
    x = np.asarray(images)
    if x.ndim != 4 or x.dtype != np.uint8 or len(x) < 2:
        raise ValueError(f"need uint8 (N, C, H, W) with N >= 2, got {x.dtype} {x.shape}")
    rng = np.random.default_rng(seed)
    a = rng.integers(0, len(x), n_pairs)
    b = (a + rng.integers(1, len(x), n_pairs)) % len(x)
    each = [np.abs(x[i].astype(np.float64) - x[j]).mean() / 127.5 for i, j in zip(a, b, strict=True)]
    return float(np.mean(each)), float(np.std(each))


def _luma(images: Any) -> np.ndarray:
    x = np.asarray(images)
    if x.ndim != 4 or x.dtype != np.uint8 or x.shape[1] not in (1, 3) or min(x.shape[2:]) < 3 or not len(x):
        raise ValueError(f"need uint8 (N, C, H, W), C 1 or 3, H and W >= 3, got {x.dtype} {x.shape}")
    weights = np.ones(1) if x.shape[1] == 1 else _LUMA
    return np.tensordot(x.astype(np.float64) / 255, weights, axes=([1], [0]))
