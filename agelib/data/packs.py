"""Packs, `<dataset>-part<k>.npz`: encoded images in plain arrays, for machines without a network; see data/README.md."""

import filecmp
import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from agelib.data.arrays import classes, read
from agelib.data.official import CELEBA_SIZE, celeba_box, divide
from agelib.data.pixels import decode, to_array
from agelib.data.sets import REAL, DataError, Source

SPLIT_CODES = {"train": 0, "test": 1, "validation": 2, "extra": 3}
LOSSLESS = ("mnist", "cifar10", "svhn")  # sets whose official files are lossless
MAX_SHARED = 0.1  # of a part's images that may be in another part too; real sets hold a few images twice


def find(name: str, folders: list[Path]) -> list[Path]:
    """The parts of a data set's pack in the order of their numbers; empty when no folder holds any.

    Raises DataError naming a part that is missing in between, one that two folders hold with different contents, and a file
    that is nearly called like one (part01).
    """
    stem, parts = REAL[name].pack, {}
    for path in (path for folder in folders for path in sorted(folder.glob(f"{stem}-part*.npz"))):
        if not (match := re.fullmatch(r"([1-9]\d*)", path.name[len(stem) + 5 : -4])):
            raise DataError(f"{path}: not a part's name; parts are called {stem}-part1.npz, {stem}-part2.npz, ...")
        first = parts.setdefault(int(match[1]), path)
        if not first.samefile(path) and not filecmp.cmp(first, path, shallow=False):
            raise DataError(f"{path}: another content than {first}, which has the same number; remove one")
    missing = next(k for k in itertools.count(1) if k not in parts)
    if missing <= len(parts):
        there = ", ".join(str(parts[k]) for k in sorted(parts))
        raise DataError(f"pack {stem}: {stem}-part{missing}.npz is missing (found {there}); put it beside the others")
    return [parts[k] for k in sorted(parts)]


def open_split(name: str, split: str, parts: list[Path]) -> Source | None:
    """One split of a pack; None if it has no such images. Of cars without test images every tenth is `test`."""
    spec, opened, notes = REAL[name], [_read(path, REAL[name].n_classes) for path in parts], []
    for other, part in itertools.combinations(opened, 2):
        if part.class_names != other.class_names or (part.labels is None) != (other.labels is None):
            raise DataError(f"{part.path}: its labels or class names differ from those of {other.path.name}")
        n, shared = len(part.images), len(set(part.images) & set(other.images))
        if shared > MAX_SHARED * min(n, len(other.images)):  # a copied or renumbered file
            raise DataError(f"{part.path}: {shared:,} of its {n:,} images are in {other.path} too; remove one")
    codes = np.concatenate([part.split for part in opened] or [[]])
    chosen = np.flatnonzero(codes == SPLIT_CODES[split])
    undivided = name == "stanford_cars" and len(codes) > 0 and SPLIT_CODES["test"] not in codes
    if undivided:
        chosen = divide(len(codes), split, pooled=False)
        notes.append("the pack has no test split, so every tenth image is held out as test")
    if len(chosen) == 0:
        return None
    encoded = [(f"{part.path}, image {i}", content) for part in opened for i, content in enumerate(part.images)]
    if name in LOSSLESS and any(encoded[i][1].startswith(b"\xff\xd8") for i in chosen):
        notes.append("JPEG-coded, so not bit for bit the official pixels")
    if name == "celeba":
        notes.append("the crop is taken from images squashed to a square")

    def images(size: int, channels: int) -> Iterator[np.ndarray]:
        for i in chosen:
            what, content = encoded[i]
            im = decode(content, what, ("JPEG", "PNG"))
            if name == "celeba":  # the region of the AGE crop
                im = im.convert("RGB").resize((CELEBA_SIZE,) * 2, Image.Resampling.BICUBIC, box=celeba_box(im))
            yield to_array(im, size, channels)

    labels = None if opened[0].labels is None else np.concatenate([part.labels for part in opened])[chosen]
    source = spec.source("pack", split, len(chosen), notes, images, labels, opened[0].class_names)
    if undivided:  # a tenth held out here is not the official split, whatever its size
        return replace(source, line=f"pack, {len(chosen):,} of 8,144 official training images", official=None)
    return source


class _Part(NamedTuple):
    path: Path
    images: list[bytes]  # encoded
    split: np.ndarray
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None


def _read(path: Path, n_classes: int | None) -> _Part:
    """One file of a pack, checked."""
    data, offsets, split = read(path, "images", "u"), read(path, "offsets", "i"), read(path, "split", "u")
    n, top = len(offsets) - 1, max(SPLIT_CODES.values())
    if n < 1 or offsets[0] != 0 or (np.diff(offsets) <= 0).any():
        raise DataError(f"{path}: offsets must start at 0 and grow with every image, of which there is at least one")
    if data.dtype != np.uint8 or len(data) != offsets[-1]:
        raise DataError(f"{path}: images are {data.dtype} {data.shape}, expected uint8 ({offsets[-1]},) as its offsets say")
    if split.shape != (n,) or split.max() > top:
        raise DataError(f"{path}: split must hold {n} codes of 0..{top}")
    return _Part(path, [data[a:b].tobytes() for a, b in itertools.pairwise(offsets)], split, *classes(path, n, n_classes))
