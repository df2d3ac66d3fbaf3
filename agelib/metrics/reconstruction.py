"""How far reconstructions are from their images: L1, MSE, PSNR and SSIM, one value an image.

Every function takes two arrays or tensors (N, C, H, W) of equal shape, uint8 or float in [-1, 1], each in its own
form: uint8 v stands for v / 127.5 - 1. It returns float64 (N,). Averages and spreads are taken over images by
`summary`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from skimage.metrics import structural_similarity

_CHUNK = 256  # images converted to float64 at a time


def l1(x: Any, gex: Any) -> np.ndarray:
    """Mean absolute difference over C, H and W with pixels in [-1, 1], in 0..2: what the released AGE code logs as
    L_X."""
    return _each(x, gex, lambda a, b: np.abs(a - b).mean((1, 2, 3)))


def mse(x: Any, gex: Any) -> np.ndarray:
    """Mean squared difference over C, H and W with pixels in [0, 1], in 0..1."""
    return _each(x, gex, lambda a, b: np.square((a - b) / 2).mean((1, 2, 3)))


def psnr(x: Any, gex: Any) -> np.ndarray:
    """Peak signal-to-noise ratio in dB, -10 log10(mse) for pixels in [0, 1]; infinite for equal images."""
    with np.errstate(divide="ignore"):
        return -10 * np.log10(mse(x, gex))


def ssim(x: Any, gex: Any) -> np.ndarray:
    """Structural similarity (Wang et al. 2004), at most 1: Gaussian window of sd 1.5 (11 px), K1 0.01, K2 0.03, biased
    covariances, pixels in [0, 1], mean over positions and channels.

    Raises ValueError for images smaller than the window.
    """
    shape = np.shape(x)
    if len(shape) == 4 and min(shape[2:]) < 11:
        raise ValueError(f"SSIM needs images of >= 11 x 11 pixels, got {shape[2]} x {shape[3]}")
    settings = {"channel_axis": 0, "data_range": 1.0, "gaussian_weights": True, "use_sample_covariance": False}

    def chunk(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = (a + 1) / 2, (b + 1) / 2
        return np.array([structural_similarity(p, q, sigma=1.5, **settings) for p, q in zip(a, b, strict=True)])

    return _each(x, gex, chunk)


METRICS = {"l1": l1, "mse": mse, "psnr": psnr, "ssim": ssim}


def summary(x: Any, gex: Any) -> dict[str, tuple[float, float]]:
    """{"l1", "mse", "psnr", "ssim"} -> (mean, standard deviation (1/N)) over the N images.

    Units: l1 on [-1, 1] pixels, mse on [0, 1] pixels, psnr in dB (the mean of the images' values, not the value of the
    mean error; infinite, with a spread of NaN, if any image is reproduced exactly).
    """
    out = {}
    for name, metric in METRICS.items():
        values = metric(x, gex)
        finite = np.isfinite(values).all()
        out[name] = (float(values.mean()), float(values.std()) if finite else float("nan"))
    return out


def _each(x: Any, gex: Any, per_chunk: Any) -> np.ndarray:
    return np.concatenate([per_chunk(a, b) for a, b in _chunks(x, gex)])


def _chunks(x: Any, gex: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Both arrays as float64 in [-1, 1], _CHUNK images at a time."""
    x, gex = _array(x), _array(gex)
    if x.shape != gex.shape or x.ndim != 4 or 0 in x.shape:
        raise ValueError(f"need two equal shapes (N, C, H, W), nothing empty; got {x.shape} and {gex.shape}")
    for start in range(0, len(x), _CHUNK):
        yield _unit(x[start : start + _CHUNK]), _unit(gex[start : start + _CHUNK])


def _array(images: Any) -> np.ndarray:
    if hasattr(images, "detach"):  # a torch tensor; numpy has no bfloat16
        images = images.detach().cpu()
        images = (images.float() if images.is_floating_point() else images).numpy()
    return np.asarray(images)


def _unit(images: np.ndarray) -> np.ndarray:
    if images.dtype == np.uint8:
        return images / 127.5 - 1
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"need uint8 or floating point images, got {images.dtype}")
    images = images.astype(np.float64)
    if not np.isfinite(images).all() or np.abs(images).max() > 1.01:
        raise ValueError("float images must be finite and in [-1, 1]")
    return images
