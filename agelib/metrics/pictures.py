"""Numbers from pictures alone: how far reconstructions are from their images, how sharp and how different a set of pictures
is, and whether samples lie closer to the training set than unseen images do.

Images are arrays (memory maps too) or tensors (N, C, H, W), uint8 or float in [-1, 1]: uint8 v stands for v / 127.5 - 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from torch import Tensor

_LUMA = np.array([0.299, 0.587, 0.114])
_BUDGET = 64 * 2**20  # bytes of one block of float32 images or distances
_SPARE = 4  # further candidates whose distances are computed exactly, against rounding in the search


def reconstruction(x: Any, gex: Any) -> dict[str, np.ndarray]:
    """{"l1", "mse", "psnr", "ssim"} -> (N,) float64, one value an image, of two sets of equal shape.

    l1: mean absolute difference over C, H and W with pixels in [-1, 1], in 0..2, what the released AGE code logs as L_X.
    mse: mean squared difference with pixels in [0, 1]. psnr: dB, -10 log10(mse); infinite for equal images. ssim: at most 1
    (Wang et al. 2004): Gaussian window of sd 1.5 (11 px), K1 0.01, K2 0.03, biased covariances, pixels in [0, 1], mean over
    positions and channels. The last three are scikit-image's. Raises ValueError for unequal shapes, images smaller than
    SSIM's window, and floats that are not finite or not in [-1, 1].
    """
    if np.shape(x) != np.shape(gex) or np.ndim(x) != 4 or 0 in np.shape(x):
        raise ValueError(f"need two equal shapes (N, C, H, W), nothing empty; got {np.shape(x)} and {np.shape(gex)}")
    if min(np.shape(x)[2:]) < 11:
        raise ValueError(f"SSIM needs images of >= 11 x 11 pixels, got {x.shape[2]} x {x.shape[3]}")
    window = {"channel_axis": 0, "data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    found = []
    for i in range(len(x)):
        a, b = (_unit(images[i : i + 1], torch.float64)[0].numpy() for images in (x, gex))
        with np.errstate(divide="ignore"):
            psnr = peak_signal_noise_ratio(a, b, data_range=1.0)
        found.append((2 * np.abs(a - b).mean(), mean_squared_error(a, b), psnr, structural_similarity(a, b, **window)))
    return dict(zip(("l1", "mse", "psnr", "ssim"), np.array(found, np.float64).T, strict=True))


def summary(x: Any, gex: Any) -> dict[str, tuple[float, float]]:
    """`reconstruction` as {"l1", "mse", "psnr", "ssim"} -> (mean, standard deviation (1/N)) over the N images.

    psnr is the mean of the images' values, not the value of the mean error; infinite, with a spread of NaN, if any image is
    reproduced exactly.
    """
    found = reconstruction(x, gex)
    return {k: (float(v.mean()), float(v.std()) if np.isfinite(v).all() else float("nan")) for k, v in found.items()}


def sharpness(images: Any) -> np.ndarray:
    """Variance of the Laplacian of each image's luma, pixels in [0, 1]: (N, C, H, W) uint8, C 1 or 3 -> (N,) float64.

    The Laplacian is the sum of the four neighbours less four times the pixel, inside the image. Blurring lowers it, noise
    and checkerboards raise it: read it beside the value of real images.
    """
    x = np.asarray(images)
    if x.ndim != 4 or x.dtype != np.uint8 or x.shape[1] not in (1, 3) or min(x.shape[2:]) < 3 or not len(x):
        raise ValueError(f"need uint8 (N, C, H, W), C 1 or 3, H and W >= 3, got {x.dtype} {x.shape}")
    y = np.tensordot(x.astype(np.float64) / 255, np.ones(1) if x.shape[1] == 1 else _LUMA, axes=([1], [0]))  # (N, H, W)
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


def nearest(queries: Any, train: Any, k: int = 1, *, device: str | torch.device = "cpu") -> tuple[np.ndarray, np.ndarray]:
    """The k training images nearest to each query by Euclidean distance of all pixels.

    queries: (N, C, H, W), train: (T, C, H, W). Returns (distances (N, k) float64, ascending; indices (N, k) int64 into
    `train`, of equal ones the lower first). Distances are on the [0, 1] pixel scale: sqrt of the sum over C, H, W of squared
    differences. The search multiplies matrices block by block in float32, a few blocks of 64 MB at a time; the returned
    distances are recomputed from the differences, so an exact copy is at 0. Raises ValueError for unequal image shapes or k
    outside 1..T.
    """
    if np.ndim(queries) != 4 or tuple(queries.shape[1:]) != tuple(train.shape[1:]):
        raise ValueError(f"need (N, C, H, W) and (T, C, H, W), got {tuple(queries.shape)} and {tuple(train.shape)}")
    n, t = len(queries), len(train)
    if not 1 <= k <= t:
        raise ValueError(f"k must be from 1 to the number of training images, {t}; got {k}")
    rows = max(1, _BUDGET // (4 * int(np.prod(train.shape[1:]))))
    centre = _flat(train[: min(t, rows)], device).mean(0)  # smaller numbers round less
    found_d, found_i = [], []
    for q0 in range(0, n, rows):
        q = _flat(queries[q0 : q0 + rows], device) - centre
        best_d = torch.empty(len(q), 0, device=device)
        best_i = torch.empty(len(q), 0, dtype=torch.int64, device=device)
        step = max(1, min(rows, _BUDGET // (4 * len(q))))
        for t0 in range(0, t, step):
            block = _flat(train[t0 : t0 + step], device) - centre
            d2 = (q.square().sum(1, keepdim=True) + block.square().sum(1)).addmm_(q, block.T, alpha=-2.0)
            ids = torch.arange(t0, t0 + len(block), device=device).expand_as(d2)
            best_d, best_i = torch.cat([best_d, d2], 1), torch.cat([best_i, ids], 1)
            keep = best_d.topk(min(k + _SPARE, best_d.shape[1]), largest=False).indices
            best_d, best_i = best_d.gather(1, keep), best_i.gather(1, keep)
        for i, candidates in enumerate(best_i.cpu().numpy()):
            order = np.sort(candidates)  # ties go to the lower index; memory maps like ascending reads
            exact = (_flat(train[order]) - _flat(queries[q0 + i : q0 + i + 1])).double().norm(dim=1).numpy()
            first = np.argsort(exact, kind="stable")[:k]
            found_d.append(exact[first])
            found_i.append(order[first])
    return np.array(found_d, dtype=np.float64).reshape(n, k), np.array(found_i, dtype=np.int64).reshape(n, k)


def memorisation(samples: Any, held_out: Any, train: Any, *, device: str | torch.device = "cpu") -> dict[str, float]:
    """Does the generator repeat its training images? Distances of samples and of unseen real images to `train`.

    samples: (N, C, H, W); held_out: (K, C, H, W); train: (T, C, H, W), T >= 2; as in `nearest`.
    Returns n (the samples counted), n_held_out, sample_distance and held_out_distance (medians of the distance to the
    nearest training image, [0, 1] pixels), ratio (the first over the second: near 1 or above for new images, near 0 for
    copies), share_close (samples nearer to the training set than all but 1 % of the held-out images are; 0.01 expected of
    new images of the same sharpness) and share_copied (samples at less than a third of the distance to their second nearest
    training image, which copies of a single image are and blends are not).
    Smooth or blurred samples lie closer to everything: read ratio and share_close together with share_copied.
    """
    if not len(samples) or not len(held_out):
        raise ValueError(f"need samples and held-out images, got {len(samples)} and {len(held_out)}")
    d = nearest(samples, train, k=2, device=device)[0]
    unseen = nearest(held_out, train, device=device)[0][:, 0]
    a, b = float(np.median(d[:, 0])), float(np.median(unseen))
    return {
        "n": len(d),
        "n_held_out": len(unseen),
        "sample_distance": a,
        "held_out_distance": b,
        "ratio": a / b if b > 0 else float("inf") if a > 0 else 1.0,
        "share_close": float((d[:, 0] < np.quantile(unseen, 0.01)).mean()),
        "share_copied": float((d[:, 0] < d[:, 1] / 3).mean()),
    }


def _unit(images: Any, dtype: torch.dtype, device: str | torch.device = "cpu") -> Tensor:
    """Images as floats in [0, 1] on `device`."""
    x = (images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))).detach().to(device)
    if x.dtype == torch.uint8:
        return x.to(dtype).div_(255)
    if not x.is_floating_point():
        raise ValueError(f"need uint8 or floating point images, got {x.dtype}")
    if not bool((x.abs() <= 1.01).all()):  # NaN too
        raise ValueError("float images must be finite and in [-1, 1]")
    return x.to(dtype).add(1).div_(2)


def _flat(images: Any, device: str | torch.device = "cpu") -> Tensor:
    """float32 (n, C H W) in [0, 1]."""
    return _unit(images, torch.float32, device).flatten(1)
