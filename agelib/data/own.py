"""The user's own images: folder:PATH (image files) and npz:PATH (arrays).

A folder that holds `train` and `test` (or its like, see TRAIN, HELD_OUT) is divided so; else, and where an npz has no array
`split`, a fixed tenth is held out as test. What is left out is counted in the source line.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from agelib.data import arrays
from agelib.data.pixels import SUFFIXES, raw_blocks, read_image
from agelib.data.sets import Blocks, DataError, Source

SEED = 0  # of the hold-out
TRAIN = ("train", "training")  # names of the training folder, in any case
HELD_OUT = ("test", "testing", "val", "valid", "validation")  # of these the first that is there is the test split


def key(kind: str, path: Path) -> str:
    """Of the prepared cache: kind and 16 hex digits, others when a file is added, removed, renamed or written to."""
    try:
        files, left_out = _list(path) if kind == "folder" else ({"": _marks(path.stat())}, Counter())
    except OSError as err:
        raise DataError(f"{err.filename}: not readable ({err.strerror})") from err
    what = repr((str(path.resolve()), sorted(files.items()), sorted(left_out.items())))
    return f"{kind}-{hashlib.sha256(what.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"


def channels(kind: str, path: Path) -> int:
    """Default number of channels: 3 of a folder, those of the images of an npz (by its header)."""
    return 1 if kind == "npz" and arrays.shape(path, "images")[3:] in ((), (1,)) else 3


def open_split(kind: str, path: Path, split: str) -> Source:
    """One split of a folder (in a fixed random order) or of an npz."""
    return _folder(path, split) if kind == "folder" else _npz(path, split)


def _hold_out(n: int, split: str, path: Path) -> np.ndarray:
    """Indices of a split of n images: a fixed random order, its first tenth (at least one image) is `test`."""
    if n < 2 and split == "test":
        raise DataError(f"{path}: {n} image is too few to hold one out as test")
    order, n_test = np.random.default_rng(SEED).permutation(n), min(max(1, round(n / 10)), n - 1)
    return order[:n_test] if split == "test" else order[n_test:]


def _line(kind: str, path: Path, n: int, total: int, split: str, given: bool) -> str:
    line = f"{kind} {path}, {n:,} of its {total:,} images ({split})"
    return line if given else f"{line}; no split given, so a fixed tenth (seed {SEED}) is held out as test"


def _folder(path: Path, split: str) -> Source:
    files, left_out = _list(path)
    listed, tops = sorted(files), {_top(name) for name in files}
    called = {each.lower(): each for each in tops}
    train, test = (next((called[name] for name in names if name in called), None) for names in (TRAIN, HELD_OUT))
    given = train is not None and test is not None
    if test and not given:
        raise DataError(f"{path}: holds {test}/ but no train/ with images; add it, or rename {test}/ if it is a class")
    if tops == {train}:
        raise DataError(f"{path}: holds nothing but {train}/; give folder:{path / train}, of which a tenth is held out")
    if given:
        of = {each: [name for name in listed if _top(name) == each] for each in tops}
        held = {os.path.realpath(path / name) for name in of[test]}
        shown = [name for name in of[train] if os.path.realpath(path / name) not in held]  # a link to a test image is none
        left_out[f"in {train}/ and in {test}/"] = len(of[train]) - len(shown)
        left_out |= {f"in {each}/" if each else f"beside {train}/": len(of[each]) for each in tops - {train, test}}
        labelled, listed = shown + of[test], shown if split == "train" else of[test]
        order = np.random.default_rng(SEED).permutation(len(listed))
    else:
        below = {folder for name in listed for folder in PurePosixPath(name).parents}
        for folder in sorted(folder for folder in below if folder.name.lower() in TRAIN):
            if any(other.parent == folder.parent and other.name.lower() in HELD_OUT for other in below):
                raise DataError(f"{path}: {folder} lies beside a test folder; give folder:{path / folder.parent}")
        labelled, order = listed, _hold_out(len(files), split, path)
    notes = [_said(left_out)] if left_out.total() else []
    classes, labels, class_names = [name.split("/")[given:-1] for name in labelled], None, None
    if all(classes):
        class_names = tuple(sorted({parts[0] for parts in classes}))  # of both splits, so that an index means the same
        labels = np.array([class_names.index(name.split("/")[given]) for name in listed], np.int64)[order]
    elif any(classes):
        notes.append(f"no labels, since {sum(not parts for parts in classes):,} images lie outside the class folders")

    def blocks(size: int, channels: int) -> Blocks:
        return (read_image(path / listed[i], size, channels) for i in order)

    line = _line("folder", path, len(order), len(files), split, given)
    return Source(len(order), blocks, labels, class_names, line, notes=notes)


def _list(path: Path) -> tuple[dict[str, tuple], Counter]:
    """Image files below `path`, relative with forward slashes, with `_marks`; and the number of files left out by kind, but
    for hidden ones. Links to folders are not followed."""
    if not path.is_dir():
        raise DataError(f"{path}: no such folder")
    found, left_out, todo = {}, Counter(), [""]
    while todo:
        below = todo.pop()
        with os.scandir(path / below) as entries:
            for entry in (entry for entry in entries if not entry.name.startswith(".")):
                name = f"{below}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    todo.append(f"{name}/")
                elif entry.is_dir():
                    left_out["links to folders"] += 1
                elif not entry.is_file():
                    left_out["broken links" if entry.is_symlink() else "not plain files"] += 1
                elif name.lower().endswith(SUFFIXES):
                    found[name] = _marks(entry.stat())
                else:
                    left_out[os.path.splitext(name)[1].lower() or "without a suffix"] += 1
    if not found:
        raise DataError(f"{path}: holds no images ({', '.join(SUFFIXES)}){f'; {_said(left_out)}' if left_out else ''}")
    return found, left_out


def _marks(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _said(left_out: Counter) -> str:
    return f"left out: {', '.join(f'{n:,} {what}' for what, n in sorted(left_out.items()) if n)}"


def _top(name: str) -> str:
    """The first folder of a relative name, "" of a file beside the folders."""
    return name.split("/")[0] if "/" in name else ""


def _npz(path: Path, split: str) -> Source:
    """`images` uint8 (N, H, W) or (N, H, W, C), C 1 or 3; optional `labels`, `class_names`, `split` (0 train, 1 test)."""
    images = arrays.read(path, "images", "biufcU", tuple(range(9)))
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[3:] not in ((), (1,), (3,)) or images.size == 0:
        wanted = "uint8 (N, H, W) or (N, H, W, C) with C 1 or 3"
        raise DataError(f"{path}: `images` are {images.dtype} {images.shape}, expected {wanted}")
    n, what = len(images), f"{path}, `split`"
    codes, (labels, class_names) = arrays.read(path, "split", "iu", optional=True), arrays.classes(path, n, None)
    if codes is None:
        order = _hold_out(n, split, path)
    else:
        order = np.flatnonzero(arrays.check_labels(codes, n, 2, what) == ("train", "test").index(split))
    if len(order) == 0:
        raise DataError(f"{what} has no {split} images (code {('train', 'test').index(split)})")
    view = (images[..., None] if images.ndim == 3 else images).transpose(0, 3, 1, 2)
    line = _line("npz", path, len(order), n, split, codes is not None)
    labels = None if labels is None else labels[order]
    return Source(len(order), partial(raw_blocks, view, order=order), labels, class_names, line)
