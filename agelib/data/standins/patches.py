"""`patches`: 32x32 pieces, at five scales, of ten photographs that scikit-image and scikit-learn ship.

The label says which photograph a piece is from, so that ten classes exist as in CIFAR-10. A vertical band of every
photograph is the test split's alone, with a gap on either side; train and test pixels never overlap. Nearly flat pieces
(sky, black space, blurred backgrounds) are left out. Terms of use: the docstrings of `skimage.data`, and scikit-learn's
`datasets/images/README.txt` (CC BY 2.0).
"""

from functools import lru_cache
from importlib.resources import files

import numpy as np
from PIL import Image

from agelib.data.standins import Made, stream

TOTALS = {"train": 20_000, "test": 2_000}
SIZES = (32, 64)  # the pieces of 64 are others
# name -> package, file inside it, left edge of the test band as a share of the width
PHOTOS = {
    "astronaut": ("skimage", "data/astronaut.png", 0.38),
    "cat": ("skimage", "data/chelsea.png", 0.38),
    "coffee": ("skimage", "data/coffee.png", 0.40),
    "rocket": ("skimage", "data/rocket.jpg", 0.55),
    "motorcycle": ("skimage", "data/motorcycle_left.png", 0.45),
    "tissue": ("skimage", "data/ihc.png", 0.40),
    "retina": ("skimage", "data/retina.jpg", 0.30),
    "galaxies": ("skimage", "data/hubble_deep_field.jpg", 0.40),
    "pagoda": ("sklearn", "datasets/images/china.jpg", 0.40),
    "flower": ("sklearn", "datasets/images/flower.jpg", 0.45),
}
CLASS_NAMES = tuple(PHOTOS)
BAND = 0.25  # width of the test band, share of the photograph's
GAP = 8  # pixels of the full photograph left unused on either side of the band
MAX_WIDTH = 720  # larger photographs are reduced to this width first: their finest level is blur
N_SCALES = 5
MIN_STD = 9.0  # of a piece's grey values, 0-255: below it the piece is flat


@lru_cache(maxsize=1)
def photos() -> dict[str, np.ndarray]:
    """name -> uint8 (H, W, 3) RGB. Raises FileNotFoundError naming what a package does not ship."""
    found = {}
    for name, (package, path, _) in PHOTOS.items():
        with Image.open(files(package) / path) as im:
            im = im.convert("RGB")
        if im.width > MAX_WIDTH:
            im = im.resize((MAX_WIDTH, round(im.height * MAX_WIDTH / im.width)), Image.Resampling.LANCZOS)
        found[name] = np.asarray(im)
    return found


def band(name: str) -> tuple[int, int]:
    """First and one-past-last column of the test band in `photos()[name]`."""
    width = photos()[name].shape[1]
    left = round(PHOTOS[name][2] * width)
    return left, left + round(BAND * width)


@lru_cache(maxsize=40)
def levels(name: str, split: str, size: int) -> tuple[np.ndarray, ...]:
    """The parts of one photograph that belong to a split, at N_SCALES scales: each uint8 (h, w, 3), h and w >= size.

    From full resolution down, in equal ratios, to where the test band is 9/8 of a piece wide. Every part is cut out
    before it is reduced, so that no pixel of one split is mixed into the other.
    """
    photo, (left, right) = photos()[name], band(name)
    parts = [photo[:, left:right]] if split == "test" else [photo[:, : left - GAP], photo[:, right + GAP :]]
    smallest = min(1.0, max(1.125 * size / (right - left), 1.125 * size / photo.shape[0]))
    found = []
    for scale in np.geomspace(1.0, smallest, N_SCALES):
        for part in parts:
            h, w = round(part.shape[0] * scale), round(part.shape[1] * scale)
            if min(h, w) >= size:
                found.append(np.asarray(Image.fromarray(part).resize((w, h), Image.Resampling.LANCZOS)))
    return tuple(found)


def pieces(name: str, split: str, size: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """n different pieces of one photograph, none of them flat: uint8 (n, 3, size, size). Each scale is equally likely."""
    views = [np.lib.stride_tricks.sliding_window_view(x, (size, size), (0, 1)) for x in levels(name, split, size)]
    shares = np.array([v.shape[1] ** 0.5 for v in views])  # of two parts of one level the wider is drawn more often
    seen, kept = set(), []
    for _ in range(400):
        which = rng.choice(len(views), size=256, p=shares / shares.sum())  # 256 whatever n is: the first are the same
        for i, (u, v) in zip(which, rng.random((256, 2)), strict=True):
            key = (int(i), int(u * views[i].shape[0]), int(v * views[i].shape[1]))
            piece = views[i][key[1:]]
            if key not in seen and piece[:, ::2, ::2].mean(0).std() >= MIN_STD:  # a quarter of the pixels tells enough
                kept.append(piece)
                if len(kept) == n:
                    return np.stack(kept)
            seen.add(key)
    raise ValueError(f"patches: {name} has too few different {size}x{size} pieces in its {split} region")


def make(split: str, size: int, n: int) -> Made:
    """Images (n, 3, size, size) uint8 RGB, labels (n,) int64 (the photograph), names of the ten photographs.

    Balanced, to within one image where n is no multiple of ten; see `standins.make`.
    """
    k, images = len(CLASS_NAMES), np.empty((n, 3, size, size), np.uint8)
    order = stream("patches", split, block=k)
    labels = np.concatenate([order.permutation(k) for _ in range(-(-n // k))])[:n].astype(np.int64)
    for c, name in enumerate(CLASS_NAMES):
        if len(mine := np.flatnonzero(labels == c)):
            images[mine] = pieces(name, split, size, len(mine), stream("patches", split, block=c))
    return images, labels, CLASS_NAMES
