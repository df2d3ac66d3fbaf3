"""MNIST from its four official IDX files, plain or gzipped (http://yann.lecun.com/exdb/mnist, last section)."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from agelib.data import files, names
from agelib.data.imageset import DataError, Items, Source, source_line
from agelib.data.pixels import raw_items

STEMS = {"train": "train", "test": "t10k"}


def needed(split: str) -> tuple[str, ...]:
    """The official files of a split."""
    return (f"{STEMS[split]}-images-idx3-ubyte.gz", f"{STEMS[split]}-labels-idx1-ubyte.gz")


def present(root: Path, split: str) -> bool:
    """True if both files of the split are there, gzipped or plain."""
    return all(_locate(root, file) is not None for file in needed(split))


def open_split(root: Path, split: str) -> Source:
    """One split of MNIST: 28 x 28 grey, labels 0..9."""
    spec = names.REAL["mnist"]
    images_file, labels_file = (_locate(root, file) for file in needed(split))
    images = read_idx(images_file, 3)
    labels = read_idx(labels_file, 1)
    if len(images) != len(labels):
        raise DataError(f"{labels_file}: {len(labels):,} labels for {len(images):,} images in {images_file.name}")

    def items(size: int, channels: int) -> Items:
        return raw_items(images[:, None], size, channels)

    line = source_line("official files", len(images), spec.official[split], spec.words[split])
    return Source(len(images), items, labels, spec.class_names, spec.n_classes, line, spec.official[split])


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """A uint8 array of `ndim` dimensions from an IDX file (.gz or plain).

    Raises DataError naming the file if the magic number, the type or the number of bytes is not right.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as f:
            header = f.read(4 + 4 * ndim)
            if len(header) < 4 + 4 * ndim or header[:2] != b"\0\0":
                raise DataError(f"{path}: not an IDX file")
            if header[2] != 0x08:
                raise DataError(f"{path}: IDX type {header[2]:#04x}, expected 0x08 (unsigned bytes)")
            if header[3] != ndim:
                raise DataError(f"{path}: {header[3]} dimensions, expected {ndim}")
            shape = struct.unpack(f">{ndim}I", header[4:])
            size = 1
            for length in shape:
                size *= length
            if size == 0:
                raise DataError(f"{path}: empty, shape {shape}")
            if size > 1 << 34:
                raise DataError(f"{path}: its header asks for {size:,} bytes: damaged")
            body = f.read(size + 1)
    except (OSError, EOFError, zlib.error) as err:
        raise DataError(f"{path}: not readable ({type(err).__name__}: {err})") from err
    if len(body) != size:
        found = f"only {len(body):,}" if len(body) < size else "more"
        raise DataError(f"{path}: {found} bytes of data, expected {size:,} for shape {shape}")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _locate(root: Path, file: str) -> Path | None:
    return files.find(root, "mnist", file) or files.find(root, "mnist", file.removesuffix(".gz"))
