"""Nearest training images in pixel space, and whether samples lie closer to the training set than unseen images do."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

_BUDGET = 64 * 2**20  # bytes of one block of float32 images or distances
_SPARE = 4  # further candidates whose distances are computed exactly, against rounding in the search


def nearest(
    queries: Any, train: Any, k: int = 1, *, device: str | torch.device = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """The k training images nearest to each query by Euclidean distance of all pixels.

    queries: (N, C, H, W), train: (T, C, H, W), uint8 or float in [-1, 1], arrays (memory maps too) or tensors.
    Returns (distances (N, k) float64, ascending; indices (N, k) int64 into `train`). Distances are on the [0, 1] pixel
    scale: sqrt of the sum over C, H, W of squared differences. The search multiplies matrices block by block in
    float32, a few blocks of 64 MB at a time; the returned distances are recomputed from the differences, so an exact
    copy is at 0. Raises ValueError for unequal image shapes or k outside 1..T.
    """
    if np.ndim(queries) != 4 or tuple(queries.shape[1:]) != tuple(train.shape[1:]):
        raise ValueError(f"need (N, C, H, W) and (T, C, H, W), got {tuple(queries.shape)} and {tuple(train.shape)}")
    n, t = len(queries), len(train)
    if not 1 <= k <= t:
        raise ValueError(f"k must be from 1 to the number of training images, {t}; got {k}")
    pixels = int(np.prod(train.shape[1:]))
    rows = max(1, _BUDGET // (4 * pixels))
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
            difference = _flat(train[order], "cpu") - _flat(queries[q0 + i : q0 + i + 1], "cpu")
            exact = difference.double().norm(dim=1).numpy()
            first = np.argsort(exact, kind="stable")[:k]
            found_d.append(exact[first])
            found_i.append(order[first])
    return np.array(found_d, dtype=np.float64).reshape(n, k), np.array(found_i, dtype=np.int64).reshape(n, k)


def memorisation(samples: Any, held_out: Any, train: Any, *, device: str | torch.device = "cpu") -> dict[str, float]:
    """Does the generator repeat its training images? Distances of samples and of unseen real images to `train`.

    samples: (N, C, H, W); held_out: (K, C, H, W); train: (T, C, H, W), T >= 2; as in `nearest`.
    Returns sample_distance and held_out_distance (medians of the distance to the nearest training image, [0, 1]
    pixels), ratio (the first over the second: near 1 or above for new images, near 0 for copies), share_close
    (samples nearer to the training set than all but 1 % of the held-out images are; 0.01 expected of new images of
    the same sharpness) and share_copied (samples at less than a third of the distance to their second nearest
    training image, which copies of a single image are and blends are not).
    Smooth or blurred samples lie closer to everything: read ratio and share_close together with share_copied.
    """
    d = nearest(samples, train, k=2, device=device)[0]
    unseen = nearest(held_out, train, device=device)[0][:, 0]
    a, b = float(np.median(d[:, 0])), float(np.median(unseen))
    return {
        "sample_distance": a,
        "held_out_distance": b,
        "ratio": a / b if b > 0 else float("inf") if a > 0 else 1.0,
        "share_close": float((d[:, 0] < np.quantile(unseen, 0.01)).mean()),
        "share_copied": float((d[:, 0] < d[:, 1] / 3).mean()),
    }


def _flat(images: Any, device: str | torch.device) -> Tensor:
    """(n, C, H, W) uint8 or float in [-1, 1] as float32 (n, C*H*W) in [0, 1]."""
    x = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
    x = x.detach().to(device)
    if x.dtype == torch.uint8:
        return x.float().flatten(1).div_(255)
    if not x.is_floating_point():
        raise ValueError(f"need uint8 or floating point images, got {x.dtype}")
    return x.float().flatten(1).add(1).div_(2)
