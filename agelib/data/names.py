"""The catalogue: every named data set with its default shape, its splits and how large the official ones are."""

from __future__ import annotations

from dataclasses import dataclass

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TEN_DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Spec:
    """size: default H = W in pixels.  channels: default.  official: split -> images in the official split.

    words: split -> how a source line calls it.  pack: stem of the pack files, `<pack>-part<k>.npz`.  n_classes: None
    where the set has no labels.  class_names: None where the files bring them.
    """

    size: int
    channels: int
    official: dict[str, int]
    words: dict[str, str]
    pack: str
    n_classes: int | None
    class_names: tuple[str, ...] | None = None


_TWO = {"train": "training", "test": "test"}

REAL: dict[str, Spec] = {
    "mnist": Spec(28, 1, {"train": 60_000, "test": 10_000}, _TWO, "mnist", 10, TEN_DIGITS),
    "cifar10": Spec(32, 3, {"train": 50_000, "test": 10_000}, _TWO, "cifar10", 10, CIFAR10_CLASSES),
    "svhn": Spec(
        32,
        3,
        {"train": 73_257, "test": 26_032, "extra": 531_131},
        _TWO | {"extra": "extra"},
        "svhn",
        10,
        TEN_DIGITS,
    ),
    "celeba": Spec(
        64,
        3,
        {"train": 162_770, "test": 19_962, "validation": 19_867},
        _TWO | {"validation": "validation"},
        "celeba64",
        None,
    ),
    "tiny_imagenet": Spec(
        64, 3, {"train": 100_000, "test": 10_000}, {"train": "training", "test": "validation"}, "tiny_imagenet64", 200
    ),
    # 16,185 images in all; pooled and divided anew, see cars_official.py
    "stanford_cars": Spec(64, 3, {"train": 16_000, "test": 185}, _TWO, "cars64", 196),
}

# Default channels of the embedded sets; the rest is said by the package that makes them.
EMBEDDED: dict[str, int] = {"digits": 1, "house_numbers": 3, "patches": 3, "faces": 3, "cars": 3}

NAMES: tuple[str, ...] = (*REAL, *EMBEDDED)


def splits(name: str) -> tuple[str, ...]:
    """The splits that `load(name, split)` knows; train and test for embedded sets, folder: and npz:."""
    return tuple(REAL[name].official) if name in REAL else ("train", "test")
