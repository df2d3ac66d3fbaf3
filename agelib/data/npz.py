"""The user's own arrays: npz:PATH with `images` uint8 (N, H, W) or (N, H, W, C), C 1 or 3.

Optional: `labels` integer (N,), `class_names` unicode, `split` uint8 (N,) with 0 train and 1 test.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from agelib.data.cache import check_labels
from agelib.data.imageset import DataError, Source
from agelib.data.own import hold_out, own_line, short_hash
from agelib.data.pixels import raw_items

_READ_ERRORS = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, SyntaxError)


def channels(path: Path) -> int:
    """Default number of channels: those of the images. Reads the array's header only."""
    try:
        with zipfile.ZipFile(path) as zf, zf.open("images.npy") as f:
            version = np.lib.format.read_magic(f)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(f)
    except _READ_ERRORS as err:
        raise DataError(f"{path}: not an .npz with an array `images` ({type(err).__name__}: {err})") from err
    if dtype != np.uint8:
        raise DataError(f"{path}: `images` are {dtype}, expected uint8 (0..255)")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise DataError(f"{path}: `images` have shape {shape}, expected (N, H, W) or (N, H, W, C) with C 1 or 3")
    if 0 in shape:
        raise DataError(f"{path}: `images` are empty, shape {shape}")
    return 1 if len(shape) == 3 else shape[3]


def fingerprint(path: Path) -> str:
    """A key that changes when the file is written to (16 hex digits)."""
    try:
        stat = path.stat()
    except OSError as err:
        raise DataError(f"{path}: no such file ({err.strerror})") from err
    return short_hash(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


def open_split(path: Path, split: str) -> Source:
    """One split: by the array `split`, in the file's order, or by a fixed random hold-out of a tenth."""
    channels(path)
    try:
        with np.load(path, allow_pickle=False) as z:
            images = z["images"]
            labels, codes, class_names = (z[k] if k in z.files else None for k in ("labels", "split", "class_names"))
    except _READ_ERRORS as err:
        raise DataError(f"{path}: not readable ({type(err).__name__}: {err})") from err
    images = images[..., None] if images.ndim == 3 else images  # (N, H, W, C)
    n = len(images)
    if class_names is not None:
        class_names = tuple(str(c) for c in class_names.ravel())
    n_classes = None if class_names is None else len(class_names)
    if labels is not None:
        labels = check_labels(labels, n, n_classes, str(path))
    if codes is None:
        order = hold_out(n, split)
    else:
        codes = check_labels(codes, n, 2, f"{path}, `split`")
        order = np.flatnonzero(codes == ("train", "test").index(split))
    if len(order) == 0:
        raise DataError(f"{path}: no {split} images" + (": one image is too few to hold one out" if n == 1 else ""))
    view = images.transpose(0, 3, 1, 2)
    line = own_line(f"npz {path}", len(order), n, split, held_out=codes is None)
    return Source(
        len(order),
        lambda size, channels: raw_items(view, size, channels, order),
        None if labels is None else labels[order],
        class_names,
        n_classes,
        line,
        None,
    )
