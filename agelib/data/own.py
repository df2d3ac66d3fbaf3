"""The user's own images: folder:PATH (image files) and npz:PATH (arrays).

A folder that holds `train` and `test` (or its like, see TRAIN, HELD_OUT) is divided so; else, and where an npz has no array
`split`, a fixed tenth is held out as test. What is left out is counted in the source line.
"""

import hashlib
import os
import zipfile
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from agelib.data import arrays
from agelib.data.pixels import SUFFIXES, from_arrays, read_image
from agelib.data.sets import DataError, Source, plain, reading

SEED = 0  # of the hold-out
TRAIN = ("train", "training")  # names of the training folder, in any case
HELD = f"; no split given, so a fixed tenth (seed {SEED}) is held out as test"
HELD_OUT = ("test", "testing", "val", "valid", "validation")  # of these the first that is there is the test split


def key(kind: str, path: Path) -> str:
    """Of the prepared cache: kind and 16 hex digits, others when a file is added, removed, renamed or written to."""
    with reading(path):
        files, left_out = _list(path) if kind == "folder" else ({"": path.stat()}, {})
    marks = [(name, (found.st_size, found.st_mtime_ns, found.st_ctime_ns)) for name, found in sorted(files.items())]
    what = repr((str(path.resolve()), marks, sorted(left_out.items())))
    return f"{kind}-{hashlib.sha256(what.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"


def channels(kind: str, path: Path) -> int:
    """Default number of channels: 3 of a folder, those of the images of an npz (by its header)."""
    if kind == "folder":
        return 3
    with reading(f"{path}, `images`"), zipfile.ZipFile(plain(path)) as zf, zf.open("images.npy") as f:
        np.lib.format.read_magic(f)
        return 1 if np.lib.format.read_array_header_1_0(f)[0][3:] in ((), (1,)) else 3


def _folder(path: Path, split: str) -> Source:
    """One split of a folder, in a fixed random order; classes are the first subfolders, where every image lies in one."""
    files, left_out = _list(path)
    tops = defaultdict(list)  # first folder, "" of files beside the folders -> its files
    for name in sorted(files):
        tops[name.rpartition("/")[0].partition("/")[0]].append(name)
    called = {top.lower(): top for top in tops}
    train, test = (next((called[name] for name in names if name in called), None) for names in (TRAIN, HELD_OUT))
    given, notes = train is not None and test is not None, []
    if given:
        held = {os.path.realpath(path / name) for name in tops[test]}
        shown = [name for name in tops[train] if os.path.realpath(path / name) not in held]  # a link to a test image is none
        left_out[f"in {train}/ and in {test}/"] = len(tops[train]) - len(shown)
        left_out |= {f"in {top}/" if top else f"beside {train}/": len(tops[top]) for top in set(tops) - {train, test}}
        labelled, mine = shown + tops[test], shown if split == "train" else tops[test]
        order = np.random.default_rng(SEED).permutation(len(mine))
    else:
        below = {(folder.parent, folder.name.lower()) for name in files for folder in PurePosixPath(name).parents}
        divided = [top for top, called in below if called in TRAIN and any((top, other) in below for other in HELD_OUT)]
        if divided or test or set(tops) == {train}:  # else test images could train
            what = f"{min(divided)}/ in it is divided" if divided else f"holds {test or train}/ alone"
            raise DataError(f"{path}: {what}; give the folder that holds train/ and test/, or rename one that is a class")
        labelled = mine = sorted(files)
        order = _hold_out(len(mine), split, path)
    mine = [mine[i] for i in order]
    if left_out.total():
        notes.append(_said(left_out))
    classes, labels, class_names = [name.split("/")[given:-1] for name in labelled], None, None
    if all(classes):
        class_names = tuple(sorted({folders[0] for folders in classes}))  # of both splits, so that an index means the same
        labels = np.array([class_names.index(name.split("/")[given]) for name in mine], np.int64)
    elif any(classes):
        notes.append(f"no labels, since {classes.count([]):,} images lie outside the class folders")
    line = f"folder {path}, {len(mine):,} of its {len(files):,} images ({split}){'' if given else HELD}"
    return Source(
        len(mine), lambda *shape: (read_image(path / name, *shape) for name in mine), labels, class_names, line, notes=notes
    )


def _npz(path: Path, split: str) -> Source:
    """`images` uint8 (N, H, W) or (N, H, W, C), C 1 or 3; optional `labels`, `class_names`, `split` (0 train, 1 test)."""
    images = arrays.read(path, "images", "u", (3, 4))
    if images.dtype != np.uint8 or images.shape[3:] not in ((), (1,), (3,)) or images.size == 0:
        wanted = "uint8 (N, H, W) or (N, H, W, C) with C 1 or 3"
        raise DataError(f"{path}: `images` is {images.dtype} {images.shape}, expected {wanted}")
    n, what = len(images), f"{path}, `split`"
    codes, (labels, class_names) = arrays.read(path, "split", "iu", optional=True), arrays.classes(path, n, None)
    if codes is None:
        order = _hold_out(n, split, path)
    elif len(order := np.flatnonzero(arrays.check_labels(codes, n, 2, what) == (split == "test"))) == 0:
        raise DataError(f"{what} has no {split} images")
    view = (images[..., None] if images.ndim == 3 else images).transpose(0, 3, 1, 2)
    line = f"npz {path}, {len(order):,} of its {n:,} images ({split}){HELD if codes is None else ''}"
    labels = None if labels is None else labels[order]
    return Source(len(order), partial(from_arrays, [view[i] for i in order]), labels, class_names, line)


def _hold_out(n: int, split: str, path: Path) -> np.ndarray:
    """Indices of a split of n images: a fixed random order, its first tenth (at least one image) is `test`."""
    if n < 2 and split == "test":
        raise DataError(f"{path}: {n} image is too few to hold one out as test")
    order, n_test = np.random.default_rng(SEED).permutation(n), min(max(1, round(n / 10)), n - 1)
    return order[:n_test] if split == "test" else order[n_test:]


def _list(path: Path) -> tuple[dict[str, os.stat_result], Counter]:
    """Image files below `path`, relative with forward slashes; and the number of what is left out by kind. Links to folders
    are not followed."""
    found, left_out, todo = {}, Counter(), [""]
    while todo:
        below = todo.pop()
        with os.scandir(path / below) as entries:
            for entry in entries:
                name, suffix = f"{below}{entry.name}", os.path.splitext(entry.name)[1].lower()
                if entry.name.startswith("."):
                    left_out["hidden"] += 1
                elif entry.is_dir(follow_symlinks=False):
                    todo.append(f"{name}/")
                elif entry.is_dir():
                    left_out["links to folders"] += 1
                elif not entry.is_file():
                    left_out["broken links" if entry.is_symlink() else "not plain files"] += 1
                elif suffix in SUFFIXES:
                    found[name] = entry.stat()
                else:
                    left_out[suffix or "without a suffix"] += 1
    if not found:
        raise DataError(f"{path}: holds no images ({', '.join(SUFFIXES)}){f'; {_said(left_out)}' if left_out else ''}")
    return found, left_out


def _said(left_out: Counter) -> str:
    return f"left out: {', '.join(f'{n:,} {what}' for what, n in sorted(left_out.items()) if n)}"


OPEN = {"folder": _folder, "npz": _npz}
