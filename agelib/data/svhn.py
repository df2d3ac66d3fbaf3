"""SVHN, cropped digits (format 2), from its official .mat files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from agelib.data import files, names
from agelib.data.cache import check_labels
from agelib.data.imageset import DataError, Items, Source, source_line
from agelib.data.mat import read_mat
from agelib.data.pixels import raw_items


def needed(split: str) -> tuple[str, ...]:
    """The official files of a split."""
    return (f"{split}_32x32.mat",)


def present(root: Path, split: str) -> bool:
    """True if the file of the split is there."""
    return files.find(root, "svhn", *needed(split)) is not None


def open_split(root: Path, split: str) -> Source:
    """One split of SVHN: 32 x 32 RGB, labels 0..9 (the file writes the digit 0 as 10)."""
    spec = names.REAL["svhn"]
    path = files.check_md5(files.find(root, "svhn", *needed(split)))
    x, y = read_mat(path, "X", "y")  # (32, 32, 3, N) uint8 and (N, 1), 1..10
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or x.shape[:3] != (32, 32, 3):
        raise DataError(f"{path}: X is {x.dtype} {x.shape}, expected uint8 (32, 32, 3, N)")
    x = x.reshape(32, 32, 3, -1)  # MATLAB drops the last axis of a single image
    y = check_labels(y.reshape(-1), x.shape[3], 11, str(path))
    if (y == 0).any():
        raise DataError(f"{path}: a label is 0, expected 1..10 (10 for the digit 0)")
    images = x.transpose(3, 2, 0, 1)  # (N, 3, 32, 32), a view

    def items(size: int, channels: int) -> Items:
        return raw_items(images, size, channels)

    line = source_line("official files", len(images), spec.official[split], spec.words[split])
    return Source(len(images), items, y % 10, spec.class_names, spec.n_classes, line, spec.official[split])
