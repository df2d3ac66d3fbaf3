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
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from agelib.data.sets import DataError, Source

FORMAT = 2  # of the folder and of the preparation; another number makes the cache prepare anew
WHOLE = 1 << 28  # bytes: images up to this size are hashed whole once a process (0.3 s), larger ones by a sample
_KINDS = {"source": str, "class_names": list | None, "official": int | None, "sha256": str, "sample": str, "mtime_ns": int}
_checked: set[tuple] = set()


def read(folder: Path, recipe: str) -> tuple[np.ndarray, np.ndarray | None, dict] | None:
    """Images, labels and the content of about.json; None when the split is not there or was made by another recipe.

    recipe: version of whatever made the images.  Once a process the content is compared with the sha256 it was written
    with: whole up to 256 MiB, and where the time of the file has changed; else 256 images spread over the file.
    Raises DataError naming the file that is damaged.
    """
    path = folder / "about.json"
    advice = f"delete {folder} to prepare it anew"
    for each in (path, folder / "images.npy", folder / "labels.npy"):
        if each.exists() and not each.is_file():  # opening a fifo would wait for ever
            raise DataError(f"{each}: not a plain file; {advice}")
    try:
        about = json.loads(path.read_text("utf-8"))
        if about["format"] != FORMAT or about["recipe"] != recipe:
            return None
        for key, kind in _KINDS.items():
            if not isinstance(about[key], kind):
                raise ValueError(f"{key} is {about[key]!r}")
        path = folder / "images.npy"
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        if images.dtype != np.uint8 or list(images.shape) != about["shape"]:
            raise ValueError(f"{images.dtype} {images.shape}, expected uint8 {about['shape']}")
        mtimes, labels = [path.stat().st_mtime_ns], None
        if about["labels"]:
            path = folder / "labels.npy"
            labels = np.load(path, allow_pickle=False)
            if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
                raise ValueError(f"{labels.dtype} {labels.shape}, expected int64 ({len(images)},)")
            labels.setflags(write=False)
            mtimes.append(path.stat().st_mtime_ns)
        if (key := (str(folder), about["sha256"], *mtimes)) not in _checked:
            path = folder / "images.npy"
            whole = images.nbytes <= WHOLE or mtimes[0] != about["mtime_ns"]
            found = content_sha256(images, labels) if whole else _sample(images, labels)
            if found != about["sha256" if whole else "sample"]:
                raise ValueError("the sha256 of images and labels differs from the one they were written with")
            _checked.add(key)
        return images, labels, about
    except (FileNotFoundError, NotADirectoryError) as err:
        if not folder.is_dir():
            return None
        raise DataError(f"{path}: missing; {advice}") from err
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RecursionError) as err:
        detail = f"has no {err}" if isinstance(err, KeyError) else str(err)
        raise DataError(f"{path}: damaged ({detail}); {advice}") from err


def write(folder: Path, recipe: str, source: Source, size: int, channels: int) -> None:
    """Prepare one split. Streams: one block of images is in memory at a time.

    Raises DataError when the source fails, is empty, or gives an image that does not fit, and where the disk is full or
    cannot be written to; nothing is left behind then.
    """
    shape = (source.n, channels, size, size)
    if source.n < 1:
        raise DataError(f"{source.line}: no images")
    try:
        with aside(folder) as partial:
            needed, free = int(np.prod(shape, dtype=object)), shutil.disk_usage(partial).free
            if needed > free:
                raise DataError(f"{folder}: needs {needed >> 20:,} MiB, the disk has {free >> 20:,} MiB free")
            digest = _write_images(partial / "images.npy", source, shape)
            if source.labels is not None:
                np.save(partial / "labels.npy", source.labels)
                digest.update(source.labels.astype("<i8").tobytes())
            about = {
                "format": FORMAT,
                "recipe": recipe,
                "source": "; ".join([source.line, *source.notes]),
                "official": source.official,
                "class_names": None if source.class_names is None else list(source.class_names),
                "shape": list(shape),
                "labels": source.labels is not None,
                "sha256": digest.hexdigest(),
                "sample": _sample(np.load(partial / "images.npy", mmap_mode="r"), source.labels),
                "mtime_ns": (partial / "images.npy").stat().st_mtime_ns,
            }
            (partial / "about.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")
            for path in (*partial.iterdir(), partial):
                _sync(path)
            if folder.exists() and read(folder, recipe) is None:  # of another recipe
                os.rename(folder, partial / "former")
            try:
                os.rename(partial, folder)
            except OSError:
                if read(folder, recipe) is None:  # else another process was faster
                    raise
            _sync(folder.parent)
            shutil.rmtree(folder / "former", ignore_errors=True)
    except OSError as err:
        raise DataError(f"{folder}: cannot be prepared ({err}); $AGELIB_DATA names another data root") from err


@contextmanager
def aside(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`, to be filled and renamed; removed at the end if it is still there.

    What killed processes of this machine left there is removed first.
    """
    mark = f"-{socket.gethostname()}-"
    target.parent.mkdir(parents=True, exist_ok=True)
    for path in target.parent.glob(f".*{mark}*"):
        pid = path.name.rpartition(mark)[2].partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(path, ignore_errors=True)
    partial = target.parent / f".{target.name}{mark}{os.getpid()}-{uuid.uuid4().hex[:8]}"
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def content_sha256(images: np.ndarray, labels: np.ndarray | None) -> str:
    """sha256 (hex) of the image bytes in C order, then of the labels as little-endian int64."""
    digest = hashlib.sha256()
    step = max(1, (1 << 22) // max(1, images[:1].nbytes))
    for a in range(0, len(images), step):
        digest.update(np.ascontiguousarray(images[a : a + step]))
    if labels is not None:
        digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()


def _sample(images: np.ndarray, labels: np.ndarray | None) -> str:
    return content_sha256(images[:: max(1, len(images) // 256)], labels)


def _write_images(path: Path, source: Source, shape: tuple[int, int, int, int]) -> hashlib._Hash:
    digest, n = hashlib.sha256(), 0
    with path.open("wb") as f:
        np.lib.format.write_array_header_1_0(f, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for x in source.blocks(shape[2], shape[1]):
            if x.dtype != np.uint8 or x.ndim not in (3, 4) or x.shape[-3:] != shape[1:]:
                raise DataError(f"{source.line}: an image is {x.dtype} {x.shape}, expected uint8 {shape[1:]}")
            x = np.ascontiguousarray(x)
            f.write(x.data)
            digest.update(x.data)
            n += 1 if x.ndim == 3 else len(x)
    if n != shape[0]:
        raise DataError(f"{source.line}: gave {n:,} images, {shape[0]:,} were announced")
    return digest


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # a folder cannot be opened there
    fd = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
