"""Reading .npz files that others wrote: no pickles, nothing unpacked before its size is known, errors that name the file."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import psutil

from agelib.data.sets import DataError

MAX_CLASSES = 1 << 16  # where nobody says how many there are


def read(path: Path, key: str, kinds: str, ndim: tuple[int, ...] = (1,), optional: bool = False) -> np.ndarray | None:
    """One array of an .npz, read-only; None if it is absent and optional.

    kinds: the numpy kinds admitted ("u", "iu", "U").  ndim: the numbers of dimensions admitted.  Raises DataError naming
    the file and the array, also for one that would not fit into the memory that is free.
    """
    with _opened(path, key, optional) as f:
        if f is None:
            return None
        shape, fortran, dtype = _header(f)
        if dtype.kind not in kinds or len(shape) not in ndim:
            wanted = f"kind {'/'.join(kinds)} of {' or '.join(map(str, ndim))} dimensions"
            raise DataError(f"{path}: `{key}` is {dtype} {shape}, expected {wanted}")
        size, free = math.prod(shape) * dtype.itemsize, psutil.virtual_memory().available
        if size > free:
            raise DataError(f"{path}: `{key}` would unpack to {size:,} bytes, {free:,} bytes of memory are free")
        data = f.read(size + 1)
        if len(data) != size:
            raise DataError(f"{path}: `{key}` is {dtype} {shape}, {size:,} bytes, but another number is stored")
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def shape(path: Path, key: str) -> tuple[int, ...]:
    """The shape of one array by its header. Raises DataError naming the file."""
    with _opened(path, key) as f:
        return _header(f)[0]


def check_labels(labels: np.ndarray, n: int, n_classes: int | None, what: str) -> np.ndarray:
    """Labels as int64 (n,), every one in 0..n_classes-1 (MAX_CLASSES for None); DataError naming `what` otherwise."""
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu":
        raise DataError(f"{what}: labels are {labels.dtype}, expected integers")
    if labels.shape != (n,):
        raise DataError(f"{what}: labels have shape {labels.shape}, expected ({n},), one an image")
    top = MAX_CLASSES if n_classes is None else n_classes
    if n and (labels.min() < 0 or labels.max() >= top):
        raise DataError(f"{what}: labels lie in {labels.min()}..{labels.max()}, expected 0..{top - 1}")
    return labels.astype(np.int64)


@contextmanager
def _opened(path: Path, key: str, optional: bool = False) -> Iterator[IO[bytes] | None]:
    try:
        if path.exists() and not path.is_file():
            raise OSError("not a plain file")  # opening a fifo would wait for ever
        with zipfile.ZipFile(path) as zf:
            if optional and f"{key}.npy" not in zf.namelist():
                yield None
            else:
                with zf.open(f"{key}.npy") as f:
                    yield f
    except DataError:
        raise
    except Exception as err:  # a damaged file can raise nearly anything
        told = f"{type(err).__name__}: {' '.join(str(err).split())[:200]}"
        raise DataError(f"{path}: cannot read `{key}` ({told}): damaged?") from err


def _header(f: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(f)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = reader(f)
    if dtype.hasobject:
        raise ValueError("pickled objects are refused")
    return shape, fortran, dtype
