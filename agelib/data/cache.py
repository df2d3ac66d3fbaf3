"""Prepared sets: uint8 arrays on disk, memory-mapped when read, with a manifest that says what they are.

    <root>/prepared/<key>-<C>x<size>/<split>-images.npy   uint8 (N, C, size, size)
                                     <split>-labels.npy   int64 (N,), where there are labels
                                     manifest.json        per split: shape, bytes and sha256 of both files, source, ...

A split is written into a folder beside the final one, synced, renamed file by file, and only then entered in the
manifest: what the manifest names is whole, whatever killed the writer. A lock file admits one writer at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np

from agelib.data.imageset import DataError, Source

FORMAT = 1  # of the manifest and of the preparation; another number makes the cache prepare anew
LOCK_TIMEOUT_S = 3600.0
_CHUNK = 1 << 22  # bytes hashed at a time


@dataclass(frozen=True)
class Prepared:
    """One prepared split as read back; see ImageSet for the arrays."""

    images: np.ndarray
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None
    source: str
    official: int | None
    complete: bool
    sha256: str


def folder(root: Path, key: str, channels: int, size: int) -> Path:
    """Where a prepared set lives: <root>/prepared/<key>-<C>x<size>."""
    return root / "prepared" / f"{key}-{channels}x{size}"


def read(where: Path, split: str, recipe: str, *, verify: bool = False) -> Prepared | None:
    """A prepared split, or None when it is not there or was made by another recipe.

    recipe: version of whatever made the images.  Size, dtype and shape of the files are always checked against the
    manifest, their sha256 with verify=True.  Raises DataError naming the file that is damaged.
    """
    entry = _manifest(where).get(split)
    try:
        if entry is None or entry["recipe"] != recipe:
            return None
        shape = tuple(entry["shape"])
        images = _open(where / f"{split}-images.npy", entry["images"], shape, np.uint8, verify, mmap=True)
        labels = None
        if entry["labels"] is not None:
            labels = _open(where / f"{split}-labels.npy", entry["labels"], shape[:1], np.int64, verify, mmap=False)
            labels.setflags(write=False)
        names = entry["class_names"]
        return Prepared(
            images,
            labels,
            None if names is None else tuple(names),
            entry["source"],
            entry["official"],
            entry["complete"],
            entry["sha256"],
        )
    except (KeyError, TypeError) as err:
        raise DataError(f"{where / 'manifest.json'}: damaged ({err!r}); delete the folder to prepare it anew") from err


def has(where: Path, split: str) -> bool:
    """True if the manifest in `where` names this split and its images are there. No file is opened but the manifest."""
    try:
        return split in _manifest(where) and (where / f"{split}-images.npy").is_file()
    except DataError:
        return False


@contextmanager
def locked(where: Path) -> Iterator[None]:
    """Hold the writer's lock of a prepared folder; waits for another writer, at most an hour.

    Raises DataError after that hour, and when the folder cannot be written to (also while the lock is held).
    """
    try:
        where.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(where.parent / f".{where.name}.lock", timeout=LOCK_TIMEOUT_S):
            yield
    except filelock.Timeout as err:
        raise DataError(f"{where}: another process has been preparing it for an hour; stop it, then try again") from err
    except OSError as err:
        raise DataError(f"{where}: cannot be prepared ({err}); $AGELIB_DATA names another data root") from err


def write(where: Path, split: str, recipe: str, source: Source, size: int, channels: int) -> None:
    """Prepare one split; call it inside `locked(where)`. Streams: one block of images is in memory at a time.

    Raises DataError when the source fails, is empty, or gives an image or label that does not fit; the temporary
    folder is removed then, and an older version of the split is left as it was.
    """
    if source.n < 1:
        raise DataError(f"{source.line}: no images")
    labels = None if source.labels is None else check_labels(source.labels, source.n, source.n_classes, source.line)
    partial = where.parent / f".{where.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a writer that was killed: we hold the lock
    partial.mkdir()
    try:
        shape = (source.n, channels, size, size)
        needed, free = int(np.prod(shape, dtype=np.int64)), shutil.disk_usage(partial).free
        if needed > free:  # writing a memory map on a full disk would kill the process
            raise DataError(f"{where}: needs {needed >> 20:,} MiB, the disk has {free >> 20:,} MiB free")
        path = partial / f"{split}-images.npy"
        digest = _write_images(path, source, shape)
        entry = {
            "recipe": recipe,
            "shape": list(shape),
            "images": _file_entry(path),
            "labels": None,
            "class_names": None if source.class_names is None else list(source.class_names),
            "source": "; ".join([source.line, *source.notes]),
            "official": source.official,
            "complete": source.official is not None and source.n == source.official,
        }
        if labels is not None:
            path = partial / f"{split}-labels.npy"
            np.save(path, labels)
            _sync(path)
            entry["labels"] = _file_entry(path)
            digest.update(labels.astype("<i8").tobytes())
        entry["sha256"] = digest.hexdigest()
        _publish(partial, where, split, entry)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_labels(labels: np.ndarray, n: int, n_classes: int | None, what: str) -> np.ndarray:
    """Labels as int64 (n,), every one in 0..n_classes-1 (no upper end for None); DataError naming `what` otherwise."""
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu":
        raise DataError(f"{what}: labels are {labels.dtype}, expected integers")
    if labels.shape != (n,):
        raise DataError(f"{what}: labels have shape {labels.shape}, expected ({n},), one an image")
    if n and (labels.min() < 0 or (n_classes is not None and labels.max() >= n_classes)):
        top = "" if n_classes is None else n_classes - 1
        raise DataError(f"{what}: labels lie in {labels.min()}..{labels.max()}, expected 0..{top}")
    return labels.astype(np.int64)


def content_sha256(images: np.ndarray, labels: np.ndarray | None) -> str:
    """sha256 (hex) of the image bytes in C order, then of the labels as little-endian int64."""
    digest = hashlib.sha256()
    _hash_images(digest, images)
    if labels is not None:
        digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()


def _manifest(where: Path) -> dict:
    path = where / "manifest.json"
    try:
        manifest = json.loads(path.read_text("utf-8"))
        return dict(manifest["splits"]) if manifest["format"] == FORMAT else {}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, KeyError, TypeError) as err:
        raise DataError(f"{path}: damaged ({err!r}); delete the folder to prepare it anew") from err


def _open(path: Path, entry: dict, shape: tuple, dtype: type, verify: bool, mmap: bool) -> np.ndarray:
    advice = f"delete {path.parent} to prepare it anew"
    try:
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise DataError(f"{path}: {size:,} bytes, expected {entry['bytes']:,}: truncated or changed; {advice}")
        array = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as err:
        raise DataError(f"{path}: not readable ({err}); {advice}") from err
    if array.dtype != dtype or array.shape != shape:
        raise DataError(
            f"{path}: {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape} as its manifest says; {advice}"
        )
    if verify and _file_sha256(path) != entry["sha256"]:
        raise DataError(f"{path}: its sha256 differs from the manifest's: the file was damaged or changed; {advice}")
    return array


def _write_images(path: Path, source: Source, shape: tuple[int, int, int, int]) -> hashlib._Hash:
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    written = np.zeros(shape[0], np.uint8)
    for where, x in source.items(shape[2], shape[1]):
        expected = shape[1:] if isinstance(where, int) else (len(range(*where.indices(shape[0]))), *shape[1:])
        if x.dtype != np.uint8 or x.shape != expected:
            raise DataError(f"{source.line}: an image is {x.dtype} {x.shape}, expected uint8 {expected}")
        out[where] = x
        written[where] += 1
    if not (written == 1).all():
        raise DataError(f"{source.line}: {int((written != 1).sum())} of {shape[0]} images missing or given twice")
    out.flush()
    digest = hashlib.sha256()
    _hash_images(digest, out)
    del out
    _sync(path)
    return digest


def _hash_images(digest: hashlib._Hash, images: np.ndarray) -> None:
    step = max(1, _CHUNK // max(1, images[:1].nbytes))
    for a in range(0, len(images), step):
        digest.update(np.ascontiguousarray(images[a : a + step]))


def _publish(partial: Path, where: Path, split: str, entry: dict) -> None:
    where.mkdir(exist_ok=True)
    splits = _manifest(where)
    if splits.pop(split, None) is not None:
        _write_manifest(where, splits)
    for kind in ("images", "labels"):
        target = where / f"{split}-{kind}.npy"
        if entry[kind] is None:
            target.unlink(missing_ok=True)
        else:
            os.replace(partial / target.name, target)
    _write_manifest(where, splits | {split: entry})


def _write_manifest(where: Path, splits: dict) -> None:
    path = where / ".manifest.json.partial"
    path.write_text(json.dumps({"format": FORMAT, "splits": splits}, indent=1) + "\n", "utf-8")
    _sync(path)
    os.replace(path, where / "manifest.json")
    _sync(where)


def _file_entry(path: Path) -> dict:
    return {"bytes": path.stat().st_size, "sha256": _file_sha256(path)}


def _file_sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # a folder cannot be opened there
    fd = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
