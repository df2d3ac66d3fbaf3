"""Small image sets made from what the dependencies ship, without a download: `agelib.data.sets.STANDINS`, a module each.

They show that a pipeline works and let methods be compared with each other, not with published numbers. A set is a function
of (name, split, size), whatever numpy's global random state is. Equal versions of the dependencies give equal bytes; another
Pillow, numpy or FreeType may move single grey levels.
"""

import importlib
import zlib
from collections.abc import Iterable

import numpy as np

VERSION = "1"  # a new one makes every cache draw its images anew
Made = tuple[np.ndarray, np.ndarray | None, tuple[str, ...] | None]  # images, labels, class names


def make(name: str, split: str, size: int | None = None, n: int | None = None) -> Made:
    """Draw one split: images (N, C, size, size) uint8 (RGB; digits grey), labels (N,) int64, class names (None for faces).

    size: one of the module's SIZES (else ValueError), default the first.  n: the first n of TOTALS[split], default all.
    """
    module = importlib.import_module(f"{__name__}.{name}")
    size, n = size or module.SIZES[0], n or module.TOTALS[split]
    if size not in module.SIZES:
        raise ValueError(f"{name} has no size {size!r}: expected one of {', '.join(map(str, sorted(module.SIZES)))}")
    return module.make(split, size, n)


def stream(name: str, split: str, block: int = 0) -> np.random.Generator:
    """The random numbers of one block of one split: equal arguments give equal streams, others independent ones."""
    return np.random.default_rng([zlib.crc32(name.encode()), ("train", "test").index(split), 0, block])


def blocks(n: int, length: int) -> Iterable[tuple[int, slice]]:
    """(block number, its images) for n images in blocks of `length`; the last may be shorter."""
    return ((i // length, slice(i, min(i + length, n))) for i in range(0, n, length))
