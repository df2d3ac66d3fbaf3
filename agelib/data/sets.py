"""The catalogue of named sets, what `agelib.data.load` returns, what a source hands to the cache, and the one error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


class DataError(RuntimeError):
    """A data set is missing, damaged or not what it claims to be. The message names the file and what to do."""


@contextmanager
def reading(what: object, problem: str = "not readable", advice: str = "") -> Iterator[None]:
    """Whatever a library raises on a damaged file, as a DataError of one line: "<what>: <problem> (<error>)<advice>"."""
    try:
        yield
    except DataError:
        raise
    except Exception as err:
        told = f"{type(err).__name__}: {' '.join(str(err).split())[:200]}"
        raise DataError(f"{what}: {problem} ({told}){advice}") from err


def plain(path: Path) -> Path:
    """`path`; OSError if it is a fifo, a folder or the like: opening a fifo would wait for ever."""
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a plain file")
    return path


@dataclass(frozen=True)
class ImageSet:
    """One split of one data set, ready for training.

    images: uint8 (N, C, H, W), values 0..255, a read-only memory map.  labels: int64 (N,), class index from 0, or None.
    source: one line saying where the images came from, how much of the official split they are and what was left out.
    stand_in_for: the data set that an embedded one replaces ("MNIST"), None for real data.  complete: True if this is the
    whole official split.  sha256: hex digest of the image bytes, then the labels as little-endian int64.
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


@dataclass(frozen=True)
class Source:
    """One split as its files give it, for `cache.write`: `images(size, channels)` yields n uint8 (channels, size, size).

    labels: int64 (n,) or None.  line: the source line, to which `notes` are added; `images` may append to them while it
    runs.  official: images in the official split, None where there is no such thing.
    """

    n: int
    images: Callable[[int, int], Iterator[np.ndarray]]
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None
    line: str
    official: int | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Spec:
    """A real set."""

    size: int  # default H = W in pixels
    channels: int
    official: dict[str, int]  # split -> images in the official split
    pack: str  # stem of the pack files, `<pack>-part<k>.npz`
    n_classes: int | None  # None: no labels
    class_names: tuple[str, ...] | None = None  # None: the files bring them
    test_is: str = "test"  # official name of its test split

    def source(self, kind: str, split: str, n: int, notes: list[str], images, labels=None, class_names=None) -> Source:
        """Its line: 'pack, 24,152 of 162,770 official training images', or 'pack, all 10,000 official test images'."""
        official, called = self.official[split], {"train": "training", "test": self.test_is}.get(split, split)
        amount = f"all {n:,}" if n == official else f"{n:,} of {official:,}"
        line = f"{kind}, {amount} official {called} images"
        return Source(n, images, labels, class_names or self.class_names, line, official, notes)


_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_DIGITS = tuple("0123456789")
REAL: dict[str, Spec] = {
    "mnist": Spec(28, 1, {"train": 60_000, "test": 10_000}, "mnist", 10, _DIGITS),
    "cifar10": Spec(32, 3, {"train": 50_000, "test": 10_000}, "cifar10", 10, _CIFAR10),
    "svhn": Spec(32, 3, {"train": 73_257, "test": 26_032, "extra": 531_131}, "svhn", 10, _DIGITS),
    "celeba": Spec(64, 3, {"train": 162_770, "test": 19_962, "validation": 19_867}, "celeba64", None),
    "tiny_imagenet": Spec(64, 3, {"train": 100_000, "test": 10_000}, "tiny_imagenet64", 200, test_is="validation"),
    # 16,185 images in all; pooled and divided anew, see official.py
    "stanford_cars": Spec(64, 3, {"train": 16_000, "test": 185}, "cars64", 196),
}
STANDINS: dict[str, tuple[str, int, int]] = {  # what it stands in for, default size in pixels, channels
    "digits": ("MNIST", 28, 1),
    "house_numbers": ("SVHN", 32, 3),
    "patches": ("CIFAR-10 and Tiny ImageNet", 32, 3),
    "faces": ("CelebA", 64, 3),
    "cars": ("Stanford Cars", 64, 3),
}
NAMES: tuple[str, ...] = (*REAL, *STANDINS)
