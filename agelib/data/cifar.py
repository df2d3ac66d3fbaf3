"""CIFAR-10 from its official Python batches: the archive cifar-10-python.tar.gz or the folder extracted from it.

The batches are pickles. They are read by an unpickler that can build arrays and plain containers and nothing else.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from agelib.data import files, names
from agelib.data.archive import tar_files
from agelib.data.cache import check_labels
from agelib.data.imageset import DataError, Items, Source, source_line
from agelib.data.pixels import raw_items

ARCHIVE = "cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"
BATCHES = {"train": tuple(f"data_batch_{k}" for k in range(1, 6)), "test": ("test_batch",)}


def needed(split: str) -> tuple[str, ...]:
    """The official files of a split."""
    return (ARCHIVE,)


def present(root: Path, split: str) -> bool:
    """True if the archive or its extracted folder is there."""
    return any(files.find(root, "cifar10", file) is not None for file in (ARCHIVE, FOLDER))


def open_split(root: Path, split: str) -> Source:
    """One split of CIFAR-10: 32 x 32 RGB, labels 0..9, batches in the order of their numbers."""
    spec = names.REAL["cifar10"]
    batches = _batches(root, split)
    images = [x for x, _ in batches]
    labels = np.concatenate([y for _, y in batches])

    def items(size: int, channels: int) -> Items:
        start = 0
        for x in images:
            for where, block in raw_items(x, size, channels):
                yield slice(start + where.start, start + where.stop), block
            start += len(x)

    line = source_line("official files", len(labels), spec.official[split], spec.words[split])
    return Source(len(labels), items, labels, spec.class_names, spec.n_classes, line, spec.official[split])


def parse_batch(data: bytes, what: str) -> tuple[np.ndarray, np.ndarray]:
    """One pickled batch: uint8 images (n, 3, 32, 32) and int64 labels (n,). `what` names it in a DataError."""
    try:
        batch = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except DataError as err:
        raise DataError(f"{what}: {err}") from err
    except Exception as err:  # a damaged pickle can raise nearly anything
        raise DataError(f"{what}: not a readable batch ({type(err).__name__}: {err})") from err
    if not isinstance(batch, dict):
        raise DataError(f"{what}: holds a {type(batch).__name__}, expected a dict")
    batch = {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in batch.items()}
    x, y = batch.get("data"), batch.get("labels")
    if not isinstance(x, np.ndarray) or x.dtype != np.uint8 or x.ndim != 2 or x.shape[1] != 3072:
        found = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise DataError(f"{what}: `data` is {found}, expected uint8 (n, 3072)")
    if not isinstance(y, list) or not all(isinstance(label, int) for label in y):
        raise DataError(f"{what}: `labels` must be a list of integers")
    return x.reshape(-1, 3, 32, 32), check_labels(np.array(y, np.int64), len(x), 10, what)


class _Unpickler(pickle.Unpickler):
    """Admits what a pickled array needs; a pickle that names anything else is refused before it is called."""

    ADMITTED = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _encode
        if (module, name) not in self.ADMITTED:
            raise DataError(f"its pickle asks for {module}.{name}, which no CIFAR batch needs; refused")
        return self.ADMITTED[module, name]


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes into a pickle that Python 2 can read; only this encoding."""
    if encoding not in ("latin1", "latin-1"):
        raise DataError(f"its pickle asks for the encoding {encoding!r}; refused")
    return text.encode("latin1")


def _batches(root: Path, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """The parsed batches of a split in the order of their numbers; one pickle is in memory at a time."""
    archive = files.find(root, "cifar10", ARCHIVE)
    if archive is None:
        folder = files.find(root, "cifar10", FOLDER)
        paths = [folder / batch for batch in BATCHES[split]]
        if lacking := [str(path) for path in paths if not path.is_file()]:
            raise DataError(f"{', '.join(lacking)}: missing; extract {ARCHIVE} again")
        return [parse_batch(path.read_bytes(), str(path)) for path in paths]
    files.check_md5(archive)
    members = [f"{FOLDER}/{batch}" for batch in BATCHES[split]]
    found = {}
    for name, data in tar_files(archive, lambda name: name in members):
        found[name] = parse_batch(data, f"{archive}, {name}")
    if lacking := [member for member in members if member not in found]:
        raise DataError(f"{archive}: has no {', '.join(lacking)}")
    return [found[member] for member in members]
