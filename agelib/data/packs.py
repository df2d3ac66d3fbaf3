"""Packs, `<dataset>-part<k>.npz`: encoded images in plain arrays, for machines without a network; see data/README.md."""

from __future__ import annotations

import filecmp
import itertools
import re
from pathlib import Path

import numpy as np
from PIL import Image

from agelib.data.arrays import classes, read
from agelib.data.official import CARS_CROP, CELEBA_SIZE, celeba_box, divide
from agelib.data.pixels import decode, to_array
from agelib.data.sets import CENTRE_CROP, REAL, Blocks, DataError, Source

SPLIT_CODES = {"train": 0, "test": 1, "validation": 2, "extra": 3}
LOSSLESS = ("mnist", "cifar10", "svhn")  # sets whose official files are lossless
LOSSY_NOTE = "JPEG-coded, so not bit for bit the official pixels"
MAX_SHARED = 0.1  # of a part's images that may be in another part too; real sets hold a few images twice


def find(name: str, folders: list[Path]) -> list[Path]:
    """The parts of a data set's pack in the order of their numbers; empty when no folder holds any.

    Raises DataError naming a part that is missing in between, one that two folders hold with different contents, and a file
    that is nearly called like one (part01).
    """
    stem, parts = REAL[name].pack, {}
    for path in (path for folder in folders if folder.is_dir() for path in sorted(folder.glob(f"{stem}-part*.npz"))):
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


def holds(name: str, split: str, parts: list[Path]) -> bool:
    """True if the pack can give this split: it has such images, or it is one that `open_split` divides itself."""
    return any(name == "stanford_cars" or SPLIT_CODES[split] in read(path, "split", "u") for path in parts)


def open_split(name: str, split: str, parts: list[Path]) -> Source:
    """One split of a pack that `holds` it. The small arrays are read now, the encoded images part by part as they are used.

    Where stanford_cars has no test images in the pack, every tenth image (the last of each ten) is its test split.
    """
    spec = REAL[name]
    opened = [_Part(path, spec.n_classes) for path in parts]
    for part in opened[1:]:
        if part.class_names != opened[0].class_names or (part.labels is None) != (opened[0].labels is None):
            raise DataError(f"{part.path}: its labels or class names differ from those of {opened[0].path.name}")
    _check_shared(opened)
    codes = np.concatenate([part.split for part in opened])
    notes = ["the crop is taken from images squashed to a square"] if name == "celeba" else []
    notes += [f"{CENTRE_CROP}, columns 6 to 94 % and rows 16 to 91 % of each picture"] if name == "stanford_cars" else []
    chosen = np.flatnonzero(codes == SPLIT_CODES[split])
    line, official = spec.line("pack", split, len(chosen)), spec.official[split]
    if name == "stanford_cars" and not (codes == SPLIT_CODES["test"]).any():
        chosen = divide(len(codes), split, pooled=False)
        official = None  # a tenth held out here is not the official split, whatever its size
        line = f"pack, {len(chosen):,} of 8,144 official training images"
        notes.append("the pack has no test split, so every tenth image is held out as test")
    labels = None if opened[0].labels is None else np.concatenate([part.labels for part in opened])[chosen]

    def blocks(size: int, channels: int) -> Blocks:
        start = 0
        for part in opened:
            mine = chosen[(start <= chosen) & (chosen < start + part.n)] - start
            start += part.n
            images = part.images() if len(mine) else []
            if name in LOSSLESS and images and images[0].startswith(b"\xff\xd8") and LOSSY_NOTE not in notes:
                notes.append(LOSSY_NOTE)
            for i in mine.tolist():
                im = decode(images[i], f"{part.path}, image {i}", ("JPEG", "PNG"))
                if name == "celeba":  # the region of the AGE crop
                    im = im.convert("RGB").resize((CELEBA_SIZE,) * 2, Image.Resampling.BICUBIC, box=celeba_box(im))
                whole = name != "stanford_cars"
                yield to_array(im, size, channels, None if whole else tuple(np.multiply(CARS_CROP, im.size * 2)))

    return Source(len(chosen), blocks, labels, opened[0].class_names or spec.class_names, line, official, notes)


def _check_shared(parts: list[_Part]) -> None:
    """Refuse a part that holds the images of another one, as a copied or renumbered file does."""
    seen = [(part, set(map(hash, part.images()))) for part in parts if len(parts) > 1]
    for (other, theirs), (part, mine) in itertools.combinations(seen, 2):
        if (shared := len(mine & theirs)) > MAX_SHARED * min(len(mine), len(theirs)):
            raise DataError(f"{part.path}: {shared:,} of its {part.n:,} images are in {other.path} too; remove one")


class _Part:
    """One file of a pack, its small arrays read and checked."""

    def __init__(self, path: Path, n_classes: int | None) -> None:
        self.path, self.offsets, self.split = path, read(path, "offsets", "i"), read(path, "split", "u")
        self.n = len(self.offsets) - 1
        if self.n < 1 or self.offsets[0] != 0 or (np.diff(self.offsets) <= 0).any():
            raise DataError(f"{path}: offsets must start at 0 and grow with every image, of which there is at least one")
        if self.split.shape != (self.n,) or self.split.max() > max(SPLIT_CODES.values()):
            raise DataError(f"{path}: split must hold {self.n} codes of 0..{max(SPLIT_CODES.values())}")
        self.labels, self.class_names = classes(path, self.n, n_classes)

    def images(self) -> list[bytes]:
        """The encoded images."""
        data, n = read(self.path, "images", "u"), self.offsets[-1]
        if data.dtype != np.uint8 or len(data) != n:
            raise DataError(f"{self.path}: images are {data.dtype} {data.shape}, expected uint8 ({n},) as its offsets say")
        return [data[a:b].tobytes() for a, b in itertools.pairwise(self.offsets)]
