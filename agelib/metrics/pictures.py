"""Numbers from pictures alone: how far reconstructions are from their images, how sharp and how different a set of pictures
is, and whether samples lie closer to the training set than unseen images do.

Images are uint8 arrays (N, C, H, W), memory maps too. On [-1, 1] a byte v is v / 127.5 - 1, on [0, 1] it is v / 255.
ValueError for anything else.
"""

from __future__ import annotations

import numpy as np
import scipy.ndimage
import torch
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from torch import Tensor

_LUMA = np.array([0.299, 0.587, 0.114])
_BUDGET = 64 * 2**20  # bytes of one block of float64 images or distances


def summary(x: np.ndarray, gex: np.ndarray) -> dict[str, tuple[float, float]]:
    """{"l1", "mse", "psnr", "ssim"} -> (mean, standard deviation (1/N)) over the N images x of their difference from gex.

    l1: mean absolute difference, pixels in [-1, 1], so 0..2; what the released AGE code logs as L_X. The others are
    scikit-image's, pixels in [0, 1]: mse; psnr in dB, infinite for equal images (and its deviation NaN); ssim, at most 1
    (Wang et al. 2004: Gaussian window of sd 1.5, 11 px, biased covariances), mean over positions and channels.
    """
    _check(x), _check(gex)
    if x.shape != gex.shape or min(x.shape[2:]) < 11:
        raise ValueError(f"need two equal shapes of >= 11 x 11 pixels (SSIM's window), got {x.shape} and {gex.shape}")
    window = {"channel_axis": 0, "data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    found = []
    for a, b in ((a / 255, b / 255) for a, b in zip(x, gex, strict=True)):
        with np.errstate(divide="ignore"):
            psnr = peak_signal_noise_ratio(a, b, data_range=1.0)
        found.append((2 * np.abs(a - b).mean(), mean_squared_error(a, b), psnr, structural_similarity(a, b, **window)))
    values = zip(("l1", "mse", "psnr", "ssim"), np.array(found).T, strict=True)
    return {k: (float(v.mean()), float(v.std()) if np.isfinite(v).all() else float("nan")) for k, v in values}


def sharpness(images: np.ndarray) -> np.ndarray:
    """Variance of the Laplacian of each image's luma, pixels in [0, 1]; C 1 or 3, H and W >= 3; (N,) float64.

    The Laplacian is the sum of the four neighbours less four times the pixel, inside the image. Blurring lowers it, noise
    and checkerboards raise it: read it beside the value of real images.
    """
    _check(images)
    if images.shape[1] not in (1, 3) or min(images.shape[2:]) < 3:
        raise ValueError(f"need C 1 or 3, H and W >= 3, got {images.shape}")
    y = np.tensordot(images / 255, np.ones(1) if images.shape[1] == 1 else _LUMA, axes=([1], [0]))  # (N, H, W)
    return np.array([scipy.ndimage.laplace(each)[1:-1, 1:-1].var() for each in y])


def pairwise_l1(images: np.ndarray) -> tuple[float, float]:
    """(mean, standard deviation (1/N)) over 2,000 random pairs of different images (N >= 2) of their mean absolute
    difference, pixels in [-1, 1], so 0..2. 0 for a set of equal images: a generator that has collapsed."""
    _check(images, least=2)
    rng, n = np.random.default_rng(0), len(images)
    a = rng.integers(0, n, 2000)
    b = (a + rng.integers(1, n, 2000)) % n
    each = [np.abs(images[i].astype(np.float64) - images[j]).mean() / 127.5 for i, j in zip(a, b, strict=True)]
    return float(np.mean(each)), float(np.std(each))


def nearest(queries: np.ndarray, train: np.ndarray, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The k of the T training images nearest to each of N queries by Euclidean distance of all pixels, on [0, 1].

    Returns (distances (N, k) float64, ascending; indices (N, k) int64 into `train`, of equal ones the lower first). Matrix
    products of whole numbers in float64, so exact: a copy is at 0; a few blocks of 64 MB at a time.
    """
    _check(queries), _check(train)
    if queries.shape[1:] != train.shape[1:] or not 1 <= k <= len(train):
        raise ValueError(f"need images of one size and k in 1..T, got {queries.shape}, {train.shape} and k = {k}")
    T, rows, found = len(train), max(1, _BUDGET // (8 * train[0].size)), []
    for q in (_flat(queries[i : i + rows]) for i in range(0, len(queries), rows)):
        best, step = torch.empty(len(q), 0), max(1, min(rows, _BUDGET // (8 * len(q))))
        for start in range(0, T, step):
            t = _flat(train[start : start + step])
            d2 = q.square().sum(1, keepdim=True) + t.square().sum(1) - 2 * q @ t.T
            both = torch.cat([best, d2 * T + torch.arange(start, start + len(t))], 1)  # one number: distance, then index
            best = both.topk(min(k, both.shape[1]), largest=False).values
        found.append(best.numpy())
    d2, index = np.divmod(np.concatenate(found), T)
    return np.sqrt(d2) / 255, index.astype(np.int64)


def memorisation(samples: np.ndarray, held_out: np.ndarray, train: np.ndarray) -> dict[str, float]:
    """Does the generator repeat its training images? Distances of samples and of unseen real images to `train`, T >= 2.

    n, n_held_out: images counted. ratio: median distance of samples to the nearest training image over that of held-out
    images, near 1 or above for new images, near 0 for copies, low for blurred ones too. share_copied: of samples at less
    than a third of the distance to their second nearest training image, which copies of an image are and blends are not.
    """
    d, unseen = nearest(samples, train, k=2)[0], nearest(held_out, train)[0]
    a, b = float(np.median(d[:, 0])), float(np.median(unseen))
    ratio = a / b if b > 0 else float("inf") if a > 0 else 1.0
    return {"n": len(d), "n_held_out": len(unseen), "ratio": ratio, "share_copied": float((d[:, 0] < d[:, 1] / 3).mean())}


def _check(x: np.ndarray, least: int = 1) -> None:
    if x.dtype != np.uint8 or x.ndim != 4 or len(x) < least:
        raise ValueError(f"need uint8 images (N, C, H, W), N >= {least}, got {x.dtype} {x.shape}")


def _flat(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(images)).flatten(1).double()
