"""What `agelib.data.load` returns, what a source hands to the cache, and the one error of the data layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np


class DataError(RuntimeError):
    """A data set is missing, damaged or not what it claims to be. The message names the file and what to do."""


@dataclass(frozen=True)
class ImageSet:
    """One split of one data set, ready for training.

    images: uint8 (N, C, H, W), values 0..255, a read-only memory map or array.  labels: int64 (N,), class index
    from 0, or None.  class_names: one name a class, or None.  source: one printable line saying where the images
    came from and how much of the official split they are.  stand_in_for: the data set an embedded one replaces
    ("MNIST"), None for real data.  complete: True if this is the whole official split.  sha256: hex digest of the
    image bytes (N, C, H, W order) followed by the label bytes (little-endian int64), 64 characters.
    """

    name: str
    split: str
    images: np.ndarray
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None
    source: str
    stand_in_for: str | None
    complete: bool
    sha256: str

    def __len__(self) -> int:
        return len(self.images)

    def describe(self) -> dict:
        """The fields of this set that belong in a results file: everything but the arrays, plus `n` and `shape`."""
        return {
            "name": self.name,
            "split": self.split,
            "n": len(self.images),
            "shape": list(self.images.shape[1:]),
            "source": self.source,
            "stand_in_for": self.stand_in_for,
            "complete": self.complete,
            "sha256": self.sha256,
        }


# (position, image): an index and a (C, S, S) image, or a slice and a (k, C, S, S) block; any order, each index once.
Items = Iterator[tuple["int | slice", np.ndarray]]


@dataclass(frozen=True)
class Source:
    """One split as a source offers it; `cache.write` turns it into a prepared set.

    n: number of images.  items: `items(size, channels)` yields (position, uint8 image (C, size, size)) or (slice,
    uint8 block (k, C, size, size)).  labels: int64 (n,) or None.  n_classes: labels lie in 0..n_classes-1; None
    leaves the upper end open.  line: the printable source line.  official: images in the official split, None where
    there is no such thing.  notes: further remarks for the line; `items` may append to it while it runs.
    """

    n: int
    items: Callable[[int, int], Items]
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None
    n_classes: int | None
    line: str
    official: int | None
    notes: list[str] = field(default_factory=list)


def source_line(kind: str, n: int, official: int, word: str) -> str:
    """'pack, 24,152 of 162,770 official training images', or 'pack, all 50,000 official training images'."""
    amount = f"all {n:,}" if n == official else f"{n:,} of {official:,}"
    return f"{kind}, {amount} official {word} images"
