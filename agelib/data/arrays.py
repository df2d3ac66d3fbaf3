"""Reading .npz files that others wrote: no pickles, nothing too large for the memory, errors that name file and array."""

from pathlib import Path

import numpy as np
import psutil
from numpy.lib.npyio import NpzFile

from agelib.data.sets import DataError, plain, reading

MAX_CLASSES = 1 << 16  # where nobody says how many there are


def read(path: Path, key: str, kinds: str, ndim: tuple[int, ...] = (1,), optional: bool = False) -> np.ndarray | None:
    """One array of an .npz; None if it is absent and optional.

    kinds: the numpy kinds admitted ("u", "iu", "U").  ndim: the numbers of dimensions admitted.
    """
    with reading(f"{path}, `{key}`"), NpzFile(plain(path), allow_pickle=False) as npz:
        if optional and key not in npz:
            return None
        size, free = npz.zip.getinfo(f"{key}.npy").file_size, psutil.virtual_memory().available
        if size > free:
            raise ValueError(f"it would unpack to {size:,} bytes, {free:,} bytes of memory are free")
        found = npz[key]
    if found.dtype.kind not in kinds or found.ndim not in ndim:
        wanted = f"kind {'/'.join(kinds)} of {' or '.join(map(str, ndim))} dimensions"
        raise DataError(f"{path}: `{key}` is {found.dtype} {found.shape}, expected {wanted}")
    return found


def classes(path: Path, n: int, n_classes: int | None) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """`labels`, int64 (n,), and `class_names` of an .npz, each None if it is absent. n_classes: None if nobody says it."""
    labels, names = read(path, "labels", "iu", optional=True), read(path, "class_names", "U", optional=True)
    names = None if names is None else tuple(map(str, names))
    n_classes = len(names) if n_classes is None and names is not None else n_classes
    if names is not None and len(names) != n_classes:
        raise DataError(f"{path}: {len(names)} class names, expected {n_classes}")
    return None if labels is None else check_labels(labels, n, n_classes, path), names


def check_labels(labels: np.ndarray, n: int, n_classes: int | None, what: object) -> np.ndarray:
    """Labels as int64 (n,), every one in 0..n_classes-1 (MAX_CLASSES for None); DataError naming `what` otherwise."""
    low, high, top = labels.min(initial=0), labels.max(initial=0), (MAX_CLASSES if n_classes is None else n_classes) - 1
    if labels.shape != (n,) or low < 0 or high > top:
        raise DataError(f"{what}: labels {labels.shape} lie in {low}..{high}, expected ({n},), one an image, in 0..{top}")
    return labels.astype(np.int64)
