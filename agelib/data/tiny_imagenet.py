"""Tiny ImageNet (200 classes, 64 x 64) from tiny-imagenet-200.zip or the folder extracted from it.

Its test images carry no labels, so its validation split is `test` here. Class index = rank of the WordNet id in
sorted order, as in the packs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from agelib.data import files, names
from agelib.data.archive import open_zip
from agelib.data.imageset import DataError, Items, Source, source_line
from agelib.data.pixels import decode, to_array

ARCHIVE = "tiny-imagenet-200.zip"
FOLDER = "tiny-imagenet-200"
SEED = 0  # of the order inside the training split, which the files keep by class


def needed(split: str) -> tuple[str, ...]:
    """The official files of a split."""
    return (ARCHIVE,)


def present(root: Path, split: str) -> bool:
    """True if the archive or its extracted folder is there."""
    return any(files.find(root, "tiny_imagenet", file) is not None for file in (ARCHIVE, FOLDER))


def open_split(root: Path, split: str) -> Source:
    """One split of Tiny ImageNet: 64 x 64 RGB, 200 classes; the training images in a fixed random order."""
    spec = names.REAL["tiny_imagenet"]
    archive = files.find(root, "tiny_imagenet", ARCHIVE)
    if archive is not None:
        files.check_md5(archive)
    with _reader(root, archive) as (what, there, read):
        ids = sorted(_text(read("wnids.txt"), f"{what}, wnids.txt").split())
        if len(ids) != spec.n_classes or len(set(ids)) != len(ids):
            raise DataError(f"{what}, wnids.txt: {len(set(ids))} WordNet ids, expected {spec.n_classes}")
        rank = {wnid: k for k, wnid in enumerate(ids)}
        listed = _train(there, rank, what) if split == "train" else _val(read, rank, what)
    labels = np.array([label for _, label in listed], np.int64)

    def items(size: int, channels: int) -> Items:
        with _reader(root, archive) as (what, there, read):
            if lacking := [name for name, _ in listed if name not in there]:
                raise DataError(f"{what}: {len(lacking):,} of {len(listed):,} images missing, first {lacking[0]}")
            for i, (name, _) in enumerate(listed):
                yield i, to_array(decode(read(name), f"{what}, {name}", ("JPEG", "PNG")), size, channels)

    line = source_line("official files", len(listed), spec.official[split], spec.words[split])
    return Source(len(listed), items, labels, tuple(ids), spec.n_classes, line, spec.official[split])


def _train(there: set[str], rank: dict[str, int], what: Path) -> list[tuple[str, int]]:
    listed = []
    for name in sorted(there):
        if match := re.fullmatch(r"train/(n\d+)/images/[^/]+\.JPEG", name):
            if match[1] not in rank:
                raise DataError(f"{what}: {name} is of class {match[1]}, which wnids.txt does not name")
            listed.append((name, rank[match[1]]))
    if not listed:
        raise DataError(f"{what}: no images under train/")
    return [listed[i] for i in np.random.default_rng(SEED).permutation(len(listed))]


def _val(read: Callable[[str], bytes], rank: dict[str, int], what: Path) -> list[tuple[str, int]]:
    listed, file = [], "val/val_annotations.txt"
    for line in _text(read(file), f"{what}, {file}").splitlines():
        image, wnid, *_ = [*line.split("\t"), ""]
        if not re.fullmatch(r"[^/\\]+\.JPEG", image) or wnid not in rank:
            raise DataError(f"{what}, {file}: {line[:60]!r} does not name an image and one of the 200 classes")
        listed.append((f"val/images/{image}", rank[wnid]))
    if not listed:
        raise DataError(f"{what}, {file}: names no image")
    return listed


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode("ascii")
    except ValueError as err:
        raise DataError(f"{what}: not a text file ({err})") from err


@contextmanager
def _reader(root: Path, archive: Path | None) -> Iterator[tuple[Path, set[str], Callable[[str], bytes]]]:
    """(what, names below tiny-imagenet-200, read one by name) of the archive or of the folder."""
    if archive is not None:
        with open_zip(archive) as (members, read):
            prefix = f"{FOLDER}/"
            yield archive, {m.removeprefix(prefix) for m in members}, lambda name: read(prefix + name)
    else:
        folder = files.find(root, "tiny_imagenet", FOLDER)

        def read_file(name: str) -> bytes:
            try:
                return (folder / name).read_bytes()
            except OSError as err:
                raise DataError(f"{folder / name}: not readable ({err})") from err

        yield folder, {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}, read_file
