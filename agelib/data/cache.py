"""Prepared sets: uint8 arrays on disk, memory-mapped when read, and a page that says what they are.

    <root>/prepared/<key>-<C>x<size>/<split>/images.npy   uint8 (N, C, size, size)
                                             labels.npy   int64 (N,), where there are labels
                                             about.json   recipe, source line, class names, sha256, ...

A split is written into a folder beside, synced and renamed in one step: what bears its name is whole, whatever killed
the writer. Of two writers at once the slower one throws its work away.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from agelib.data.sets import DataError, Source, plain, reading

FORMAT = 2  # of the folder and of the preparation; another number makes the cache prepare anew
_KINDS = {"source": str, "class_names": list | None, "official": int | None, "sha256": str, "labels": bool, "shape": list}
_checked: set[tuple] = set()


def read(folder: Path, recipe: str) -> tuple[np.ndarray, np.ndarray | None, dict] | None:
    """Images, labels and the content of about.json; None when the split is not there or was made by another recipe.

    Once a process, and again where the time of a file has changed, the content is compared with the sha256 it was written
    with.  Raises DataError naming the file that is damaged.
    """
    if not folder.is_dir():
        return None
    page, pixels, classes = (folder / name for name in ("about.json", "images.npy", "labels.npy"))
    labels, advice = None, f"; delete {folder} to prepare it anew"
    with reading(page, "damaged", advice):
        about = json.loads(plain(page).read_text("utf-8"))
        if (about["format"], about["recipe"]) != (FORMAT, recipe):
            return None
        if wrong := [key for key, kind in _KINDS.items() if not isinstance(about[key], kind)]:
            raise ValueError(f"{wrong[0]} is {about[wrong[0]]!r}")
    with reading(pixels, "damaged", advice):
        images = np.load(plain(pixels), mmap_mode="r", allow_pickle=False)
        if images.dtype != np.uint8 or list(images.shape) != about["shape"]:
            raise ValueError(f"{images.dtype} {images.shape}, expected uint8 {about['shape']}")
        stamps = [pixels.stat().st_mtime_ns]
    if about["labels"]:
        with reading(classes, "damaged", advice):
            labels = np.load(plain(classes), allow_pickle=False)
            if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
                raise ValueError(f"{labels.dtype} {labels.shape}, expected int64 ({len(images)},)")
            labels.setflags(write=False)
            stamps.append(classes.stat().st_mtime_ns)
    if (state := (str(folder), about["sha256"], *stamps)) not in _checked:
        if content_sha256(images, labels) != about["sha256"]:
            raise DataError(f"{pixels}: damaged (the sha256 of images and labels differs from the one written){advice}")
        _checked.add(state)
    return images, labels, about


def write(folder: Path, recipe: str, source: Source, size: int, channels: int) -> None:
    """Prepare one split, one block of images in memory at a time.

    Raises DataError when the source fails or gives other images than it announced, and where the disk is full or cannot be
    written to; nothing is left behind then.
    """
    try:
        with aside(folder) as partial:
            images = _written(partial / "images.npy", source, (source.n, channels, size, size))
            if source.labels is not None:
                np.save(partial / "labels.npy", source.labels)
            about = {"format": FORMAT, "recipe": recipe, "source": "; ".join([source.line, *source.notes])}
            about |= {"official": source.official, "class_names": source.class_names, "shape": images.shape}
            about |= {"labels": source.labels is not None, "sha256": content_sha256(images, source.labels)}
            (partial / "about.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")
            for path in (*partial.iterdir(), partial):
                _sync(path)
            if folder.exists() and read(folder, recipe) is None:  # of another recipe
                shutil.rmtree(folder)
            try:
                os.rename(partial, folder)
            except OSError:
                if read(folder, recipe) is None:  # else another process was faster
                    raise
            _sync(folder.parent)
    except OSError as err:
        raise DataError(f"{folder}: cannot be prepared ({err}); $AGELIB_DATA names another data root") from err


@contextmanager
def aside(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`, to be filled and renamed; removed at the end, as is what killed processes left."""
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = f"-{socket.gethostname()}-"
    for path in target.parent.glob(f".*{mark}*"):
        pid = path.name.rpartition(mark)[2].partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(path, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}{mark}{os.getpid()}-", dir=target.parent))
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def content_sha256(images: np.ndarray, labels: np.ndarray | None) -> str:
    """sha256 (hex) of the image bytes in C order, then of the labels as little-endian int64."""
    digest = hashlib.sha256()
    for a in range(0, len(images), 1024):
        digest.update(np.ascontiguousarray(images[a : a + 1024]))
    if labels is not None:
        digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()


def _written(path: Path, source: Source, shape: tuple[int, int, int, int]) -> np.ndarray:
    n = 0
    with path.open("wb") as f:
        np.lib.format.write_array_header_1_0(f, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for x in source.blocks(shape[2], shape[1]):
            if x.dtype != np.uint8 or x.shape[-3:] != shape[1:]:
                raise DataError(f"{source.line}: an image is {x.dtype} {x.shape}, expected uint8 {shape[1:]}")
            f.write(np.ascontiguousarray(x).data)
            n += len(x) if x.ndim == 4 else 1
    if n != shape[0] or n == 0:
        raise DataError(f"{source.line}: gave {n:,} images, {shape[0]:,} were announced")
    return np.load(path, mmap_mode="r")


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # a folder cannot be opened there
    fd = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
