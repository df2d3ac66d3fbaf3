"""The user's own images: folder:PATH. Every image file below PATH, each class a subfolder when all lie in subfolders.

Where PATH holds nothing but `train` and `test`, those are the splits and the classes are their subfolders.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from agelib.data.imageset import DataError, Items, Source
from agelib.data.own import hold_out, own_line, short_hash
from agelib.data.pixels import read_file

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")


def channels(path: Path) -> int:
    """Default number of channels: RGB."""
    return 3


def fingerprint(path: Path) -> str:
    """A key that changes when a file below `path` is added, removed, renamed, or written to (16 hex digits)."""
    try:
        stats = [(name, (path / name).stat()) for name in _list(path)]
    except OSError as err:
        raise DataError(f"{err.filename}: not readable ({err.strerror})") from err
    return short_hash(str(path.resolve()), [(name, s.st_size, s.st_mtime_ns) for name, s in stats])


def open_split(path: Path, split: str) -> Source:
    """One split of the images below `path`, in a fixed random order."""
    listed = _list(path)
    total = len(listed)
    given = {name.split("/")[0] for name in listed} == {"train", "test"}
    if given:
        listed = [name for name in listed if name.startswith(f"{split}/")]
        order = np.random.default_rng(0).permutation(len(listed))
    else:
        order = hold_out(len(listed), split)
    if len(order) == 0:
        raise DataError(f"{path}: {total} image is too few to hold one out as test")
    tops = [name.split("/")[given:-1] for name in listed]
    class_names = labels = None
    if all(tops):
        class_names = _classes(path, given)
        labels = np.array([class_names.index(top[0]) for top in tops], np.int64)[order]

    def items(size: int, channels: int) -> Items:
        for position, i in enumerate(order.tolist()):
            yield position, read_file(path / listed[i], size, channels, FORMATS)

    line = own_line(f"folder {path}", len(order), total, split, held_out=not given)
    n_classes = None if class_names is None else len(class_names)
    return Source(len(order), items, labels, class_names, n_classes, line, None)


def _classes(path: Path, given: bool) -> tuple[str, ...]:
    """Sorted names of the class folders; of both splits together, so that an index means the same in both."""
    return tuple(sorted({name.split("/")[int(given)] for name in _list(path)}))


def _list(path: Path) -> list[str]:
    """Image files below `path`, relative with forward slashes, sorted; hidden files and folders left out."""
    if not path.is_dir():
        raise DataError(f"{path}: no such folder")
    found = []
    for folder, subfolders, files in os.walk(path):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                found.append((Path(folder) / name).relative_to(path).as_posix())
    if not found:
        raise DataError(f"{path}: holds no images ({', '.join(SUFFIXES)})")
    return sorted(found)
