"""Prepared sets: uint8 arrays on disk, memory-mapped when read, and a page that says what they are.

    <root>/prepared/<key>-<C>x<size>/<split>/images.npy   uint8 (N, C, size, size)
                                             labels.npy   int64 (N,), where there are labels
                                             about.json   recipe, source line, class names, sha256, ...

A split is written into a folder beside, synced and renamed in one step: what bears its name is whole, whatever killed
the writer. Of two writers at once the second waits and finds the work done.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import numpy as np

from agelib.data.sets import DataError, Source, plain, reading

FORMAT = 2  # of the folder and of the preparation; another number makes the cache prepare anew
_checked: set[tuple] = set()


def read(folder: Path, recipe: str) -> tuple[np.ndarray, np.ndarray | None, dict] | None:
    """Images, labels and the content of about.json; None when the split is not there or was made by another recipe.

    Once a process, and again where the time of a file has changed, the content is compared with the sha256 it was written
    with.  Raises DataError naming the file that is damaged.
    """
    if not folder.is_dir():
        return None
    labels, advice = None, f"; delete {folder} to prepare it anew"
    with reading(page := folder / "about.json", "damaged", advice):
        about = json.loads(plain(page).read_text("utf-8"))
        if (about["format"], about["recipe"]) != (FORMAT, recipe):
            return None
        about = {key: about[key] for key in ("source", "official", "class_names", "labels", "sha256")}
    with reading(pixels := folder / "images.npy", "damaged", advice):
        images = np.load(plain(pixels), mmap_mode="r", allow_pickle=False)
    if about["labels"]:
        with reading(classes := folder / "labels.npy", "damaged", advice):
            labels = np.load(plain(classes), allow_pickle=False)
            labels.setflags(write=False)
    state = (folder, about["sha256"], *(path.stat().st_mtime_ns for path in sorted(folder.glob("*.npy"))))
    if state not in _checked and content_sha256(images, labels) != about["sha256"]:
        raise DataError(f"{pixels}: damaged (the sha256 of images and labels differs from the one written){advice}")
    _checked.add(state)
    return images, labels, about


def write(folder: Path, recipe: str, source: Source, size: int, channels: int) -> None:
    """Prepare one split, one image in memory at a time.

    Raises DataError when the source fails or gives another number of images than it announced, and where the disk is full
    or cannot be written to; nothing is left behind then.
    """
    try:
        with aside(folder) as partial:
            if read(folder, recipe) is not None:  # another process was faster
                return
            head = {"descr": "|u1", "fortran_order": False, "shape": (source.n, channels, size, size)}
            with (partial / "images.npy").open("wb") as f:  # no memory map: that answers a full disk with a signal
                np.lib.format.write_array_header_1_0(f, head)
                n = sum(f.write(x.tobytes()) > 0 for x in source.images(size, channels))
            if n != source.n or n == 0:
                raise DataError(f"{folder}: {source.line}: gave {n:,} images, {source.n:,} were announced")
            images = np.load(partial / "images.npy", mmap_mode="r")
            if source.labels is not None:
                np.save(partial / "labels.npy", source.labels)
            about = {"format": FORMAT, "recipe": recipe, "source": "; ".join([source.line, *source.notes])}
            about |= {"official": source.official, "class_names": source.class_names, "shape": images.shape}
            about |= {"labels": source.labels is not None, "sha256": content_sha256(images, source.labels)}
            (partial / "about.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")
            for path in partial.iterdir():
                with path.open("rb") as f:
                    os.fsync(f)
            shutil.rmtree(folder, ignore_errors=True)  # of another recipe
            os.rename(partial, folder)
    except OSError as err:
        raise DataError(f"{folder}: cannot be prepared ({err}); $AGELIB_DATA names another data root") from err


@contextmanager
def aside(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`, to be filled and renamed; of one process at a time, removed at the end."""
    partial = target.with_name(f".{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(target.parent / ".lock"):
        shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
        partial.mkdir()
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
