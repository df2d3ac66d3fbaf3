"""The catalogue of named sets, what `agelib.data.load` returns, what a source hands to the cache, and the one error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


class DataError(RuntimeError):
    """A data set is missing, damaged or not what it claims to be. The message names the file and what to do."""


@dataclass(frozen=True)
class ImageSet:
    """One split of one data set, ready for training.

    images: uint8 (N, C, H, W), values 0..255, a read-only memory map or array.  labels: int64 (N,), class index
    from 0, or None.  class_names: one name a class, or None.  source: one printable line saying where the images
    came from, how much of the official split they are and what was left out.  stand_in_for: the data set that an
    embedded one replaces ("MNIST"), None for real data.  complete: True if this is the whole official split.  sha256:
    hex digest of the image bytes (N, C, H, W order) followed by the label bytes (little-endian int64), 64 characters.
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

    @property
    def caption(self) -> str:
        """For titles: "mnist", "digits, a stand-in for MNIST"; of one's own images the last part of the path."""
        if self.stand_in_for:
            return f"{self.name}, a stand-in for {self.stand_in_for}"
        return self.name if self.name in NAMES else Path(self.name.partition(":")[2]).name or self.name

    def describe(self) -> dict:
        """The fields of this set that belong in a results file: everything but the arrays, plus `n` and `shape`."""
        fields = ("name", "split", "source", "stand_in_for", "complete", "sha256")
        return {"n": len(self), "shape": list(self.images.shape[1:])} | {key: getattr(self, key) for key in fields}


Blocks = Iterator[np.ndarray]  # uint8 (C, S, S) or (k, C, S, S), in the order of the split


@dataclass(frozen=True)
class Source:
    """One split as a source offers it; `cache.write` turns it into a prepared set.

    n: number of images.  blocks: `blocks(size, channels)` yields them in order.  labels: int64 (n,) or None.
    line: the printable source line.  official: images in the official split, None where there is no such thing.
    notes: further remarks for the line; `blocks` may append to it while it runs.
    """

    n: int
    blocks: Callable[[int, int], Blocks]
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None
    line: str
    official: int | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Spec:
    """size: default H = W in pixels.  channels: default.  official: split -> images in the official split.

    pack: stem of the pack files, `<pack>-part<k>.npz`.  n_classes: None where the set has no labels.  class_names: None
    where the files bring them.  words: split -> how a source line calls it, where not by its own name.
    """

    size: int
    channels: int
    official: dict[str, int]
    pack: str
    n_classes: int | None
    class_names: tuple[str, ...] | None = None
    words: dict[str, str] = field(default_factory=lambda: {"train": "training"})

    def line(self, kind: str, split: str, n: int) -> str:
        """'pack, 24,152 of 162,770 official training images', or 'pack, all 50,000 official training images'."""
        official = self.official[split]
        amount = f"all {n:,}" if n == official else f"{n:,} of {official:,}"
        return f"{kind}, {amount} official {self.words.get(split, split)} images"


_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_DIGITS = tuple("0123456789")
REAL: dict[str, Spec] = {
    "mnist": Spec(28, 1, {"train": 60_000, "test": 10_000}, "mnist", 10, _DIGITS),
    "cifar10": Spec(32, 3, {"train": 50_000, "test": 10_000}, "cifar10", 10, _CIFAR10),
    "svhn": Spec(32, 3, {"train": 73_257, "test": 26_032, "extra": 531_131}, "svhn", 10, _DIGITS),
    "celeba": Spec(64, 3, {"train": 162_770, "test": 19_962, "validation": 19_867}, "celeba64", None),
    "tiny_imagenet": Spec(
        64, 3, {"train": 100_000, "test": 10_000}, "tiny_imagenet64", 200,
        words={"train": "training", "test": "validation"},
    ),
    # 16,185 images in all; pooled and divided anew, see official.py
    "stanford_cars": Spec(64, 3, {"train": 16_000, "test": 185}, "cars64", 196),
}  # fmt: skip


@dataclass(frozen=True)
class StandIn:
    """An embedded set: what it stands in for, its default size in pixels and channels."""

    stands_for: str
    size: int
    channels: int


STANDINS: dict[str, StandIn] = {
    "digits": StandIn("MNIST", 28, 1),
    "house_numbers": StandIn("SVHN", 32, 3),
    "patches": StandIn("CIFAR-10 and Tiny ImageNet", 32, 3),
    "faces": StandIn("CelebA", 64, 3),
    "cars": StandIn("Stanford Cars", 64, 3),
}
NAMES: tuple[str, ...] = (*REAL, *STANDINS)


def splits(name: str) -> tuple[str, ...]:
    """The splits that `load(name, split)` knows; train and test for embedded sets, folder: and npz:."""
    return tuple(REAL[name].official) if name in REAL else ("train", "test")
