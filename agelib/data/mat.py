"""MATLAB files by scipy, with errors that name the file."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from agelib.data.imageset import DataError

# scipy has no error class of its own for a damaged file; RuntimeError includes its refusal of the HDF5 form (v7.3)
_READ_ERRORS = (
    OSError, ValueError, TypeError, KeyError, RuntimeError, IndexError, AttributeError, EOFError, OverflowError,
    MemoryError, zlib.error, struct.error,
)  # fmt: skip


def read_mat(path: Path, *keys: str, data: bytes | None = None) -> list[Any]:
    """The variables `keys` of a .mat file, axes of length 1 dropped except in SVHN's (see svhn.py).

    data: the file's bytes where it lies in an archive; `path` then only names it.  Raises DataError naming the file.
    """
    try:
        content = scipy.io.loadmat(path if data is None else io.BytesIO(data), variable_names=list(keys))
    except _READ_ERRORS as err:
        raise DataError(f"{path}: not a readable MATLAB file ({type(err).__name__}: {err})") from err
    if lacking := [key for key in keys if key not in content]:
        raise DataError(f"{path}: has no variable {', '.join(lacking)}")
    return [content[key] for key in keys]


def strings(cells: np.ndarray) -> list[str]:
    """A MATLAB cell array of strings, of any nesting scipy gives it, as a flat list."""
    return [str(np.asarray(cell).item()) if np.asarray(cell).size == 1 else "" for cell in np.asarray(cells).ravel()]


def integers(cells: np.ndarray) -> np.ndarray:
    """A MATLAB cell or struct array of single numbers as int64 (n,)."""
    return np.array([int(np.asarray(cell).item()) for cell in np.asarray(cells).ravel()], np.int64)
