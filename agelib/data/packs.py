"""Packs, `<dataset>-part<k>.npz`: encoded images in plain arrays, one way to bring data to a machine without a network.

The format is documented in data/README.md. Parts are numbered from 1 and joined in that order; they may lie in
different folders.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from agelib.data import names
from agelib.data.cache import check_labels
from agelib.data.celeba import SIZE as CELEBA_SIZE
from agelib.data.celeba import crop_box
from agelib.data.imageset import DataError, Items, Source, source_line
from agelib.data.pixels import decode, to_array

SPLIT_CODES = {"train": 0, "test": 1, "validation": 2, "extra": 3}
LOSSLESS = ("mnist", "cifar10", "svhn")  # sets whose official files are lossless
JPEG_START = b"\xff\xd8"
LOSSY_NOTE = "JPEG-coded, so not bit for bit the official pixels"
HOLD_OUT_EVERY = 10  # of a pack without test images
_READ_ERRORS = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


def find(name: str, folders: list[Path]) -> list[Path] | None:
    """The parts of a data set's pack in the order of their numbers; None when no folder holds any.

    A part found in two folders is taken from the first.  Raises DataError naming a part that is missing in between.
    """
    stem = names.REAL[name].pack
    pattern = re.compile(re.escape(stem) + r"-part([1-9]\d*)\.npz")
    parts: dict[int, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob(f"{stem}-part*.npz")) if folder.is_dir() else ():
            if match := pattern.fullmatch(path.name):
                parts.setdefault(int(match[1]), path)
    if not parts:
        return None
    if missing := [k for k in range(1, max(parts) + 1) if k not in parts]:
        lacking = ", ".join(f"{stem}-part{k}.npz" for k in missing)
        there = ", ".join(str(parts[k]) for k in sorted(parts))
        raise DataError(f"pack {stem}: {lacking} is missing (found {there}); put it beside the others")
    return [parts[k] for k in sorted(parts)]


def holds(name: str, split: str, parts: list[Path]) -> bool:
    """True if the pack can give this split: it has such images, or it is one that `open_split` divides itself."""
    if name == "stanford_cars":
        return True
    return any((_read(path, "split", "u") == SPLIT_CODES[split]).any() for path in parts)


def open_split(name: str, split: str, parts: list[Path]) -> Source:
    """One split of a pack. The small arrays are read and checked now, the encoded images part by part as they are used.

    Where stanford_cars has no test images in the pack, every tenth image (the last of each ten) is its test split.
    """
    spec = names.REAL[name]
    opened = [_Part(path, spec.n_classes) for path in parts]
    for part in opened[1:]:
        if part.class_names != opened[0].class_names or (part.labels is None) != (opened[0].labels is None):
            raise DataError(f"{part.path}: its labels or class names differ from those of {opened[0].path.name}")
    codes = np.concatenate([part.split for part in opened])
    notes = ["the crop is taken from images squashed to a square"] if name == "celeba" else []
    divided = False
    official, word = spec.official[split], spec.words[split]
    if name == "stanford_cars" and not (codes == SPLIT_CODES["test"]).any():
        tenth = np.arange(len(codes)) % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1
        chosen = tenth if split == "test" else ~tenth
        official, word, divided = 8_144, "training", True
        notes.append("the pack has no test split, so every tenth image is held out as test")
    else:
        chosen = codes == SPLIT_CODES[split]
    if not chosen.any():
        raise DataError(f"pack {', '.join(p.name for p in parts)}: no {split} images (split code {SPLIT_CODES[split]})")
    n = int(chosen.sum())
    labels = None
    if opened[0].labels is not None:
        labels = np.concatenate([part.labels for part in opened])[chosen]

    def items(size: int, channels: int) -> Items:
        position, start = 0, 0
        for part in opened:
            mine = np.flatnonzero(chosen[start : start + part.n])
            start += part.n
            if len(mine) == 0:
                continue
            data = part.data()
            if name in LOSSLESS and bytes(data[:2]) == JPEG_START and LOSSY_NOTE not in notes:
                notes.append(LOSSY_NOTE)
            for i in mine.tolist():
                encoded = data[part.offsets[i] : part.offsets[i + 1]].tobytes()
                im = decode(encoded, f"{part.path}, image {i}", ("JPEG", "PNG"))
                if name == "celeba":
                    im = _celeba_crop(im)
                yield position, to_array(im, size, channels)
                position += 1

    line = source_line("pack", n, official, word)
    class_names = opened[0].class_names or spec.class_names
    # a tenth held out here is not the official split, whatever its size
    return Source(n, items, labels, class_names, spec.n_classes, line, None if divided else official, notes)


def _celeba_crop(im: Image.Image) -> Image.Image:
    """The region of the AGE crop from an aligned image that was squashed to a square."""
    box = crop_box(im)
    return im.convert("RGB").resize((CELEBA_SIZE, CELEBA_SIZE), Image.Resampling.BICUBIC, box=box)


class _Part:
    """One file of a pack, its small arrays read and checked."""

    def __init__(self, path: Path, n_classes: int | None) -> None:
        self.path = path
        self.offsets = _read(path, "offsets", "i")
        self.n = len(self.offsets) - 1
        if self.n < 1:
            raise DataError(f"{path}: holds no images")
        if self.offsets[0] != 0 or (np.diff(self.offsets) <= 0).any():
            raise DataError(f"{path}: offsets must start at 0 and grow with every image")
        self.split = _read(path, "split", "u")
        if self.split.shape != (self.n,) or self.split.max() > max(SPLIT_CODES.values()):
            raise DataError(f"{path}: split must hold {self.n} codes of 0..{max(SPLIT_CODES.values())}")
        labels = _read(path, "labels", "iu", optional=True)
        self.labels = None if labels is None else check_labels(labels, self.n, n_classes, str(path))
        class_names = _read(path, "class_names", "U", optional=True)
        self.class_names = None if class_names is None else tuple(str(c) for c in class_names)
        if self.class_names is not None and n_classes is not None and len(self.class_names) != n_classes:
            raise DataError(f"{path}: {len(self.class_names)} class names, expected {n_classes}")

    def data(self) -> np.ndarray:
        """The encoded images, uint8 (total bytes,)."""
        data = _read(self.path, "images", "u")
        if data.dtype != np.uint8 or len(data) != self.offsets[-1]:
            expected = f"uint8 ({self.offsets[-1]},) as its offsets say"
            raise DataError(f"{self.path}: images are {data.dtype} ({len(data)},), expected {expected}")
        return data


def _read(path: Path, key: str, kinds: str, optional: bool = False) -> np.ndarray | None:
    """One array of one dimension from a pack; `kinds`: the numpy kinds admitted. None if it is absent and optional."""
    try:
        with np.load(path, allow_pickle=False) as z:
            if optional and key not in z.files:
                return None
            array = z[key]
    except _READ_ERRORS as err:
        raise DataError(f"{path}: cannot read `{key}` ({type(err).__name__}: {err}): damaged?") from err
    if array.dtype.kind not in kinds or array.ndim != 1:
        raise DataError(f"{path}: `{key}` is {array.dtype} of {array.ndim} dimensions, expected one dimension")
    return array
