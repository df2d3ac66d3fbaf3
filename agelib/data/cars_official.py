"""Stanford Cars from its official files, both halves pooled: 16,000 training images, 185 held out.

The paper trains on "16,000 images", nearly all of the 16,185 there are, so the official halves (8,144 + 8,041) are
joined and 185 images drawn with a fixed seed are `test`. With the training half alone, every tenth image is `test`.
Two layouts are read, as archives or extracted: cars_train, cars_test, devkit and cars_test_annos_withlabels.mat; or
the later car_ims with cars_annos.mat (the same images under other numbers, so the draw falls on other images).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from agelib.data import files, names
from agelib.data.archive import tar_files
from agelib.data.imageset import DataError, Items, Source
from agelib.data.mat import integers, read_mat, strings
from agelib.data.pixels import decode, to_array

SEED = 0  # of the held-out draw
HELD_OUT = 185
TRAIN_HALF = 8_144
POOLED = 16_185
TEST_LABELS = "cars_test_annos_withlabels.mat"


@dataclass(frozen=True)
class _Half:
    """Images of one folder or archive: file names in the order of the annotations, labels 0..195."""

    stem: str
    files: list[str]
    labels: np.ndarray


def needed(split: str) -> tuple[str, ...]:
    """The official files; both splits come from all of them."""
    return ("cars_train.tgz", "cars_test.tgz", "car_devkit.tgz", TEST_LABELS)


def present(root: Path, split: str) -> bool:
    """True if a half with its annotations is there, or the combined archive with its own."""
    halves = _images(root, "cars_train") is not None and _devkit(root) is not None
    return halves or (_images(root, "car_ims") is not None and _find(root, "cars_annos.mat") is not None)


def open_split(root: Path, split: str) -> Source:
    """One split of the pooled images: 64 x 64 RGB by default, 196 classes; grey images are converted and counted."""
    halves, class_names = _annotations(root)
    if len(class_names) != names.REAL["stanford_cars"].n_classes:
        raise DataError(f"{root}: the annotations name {len(class_names)} classes of cars, expected 196")
    labels = np.concatenate([half.labels for half in halves])
    n_all = len(labels)
    pooled = len(halves) == 2 or halves[0].stem == "car_ims"
    chosen = divide(n_all, split, pooled)
    if len(chosen) == 0:
        raise DataError(f"{_images(root, halves[0].stem)}: {n_all} images are too few to hold any out")
    notes: list[str] = []

    def items(size: int, channels: int) -> Items:
        position = {int(i): k for k, i in enumerate(chosen)}
        start, grey = 0, 0
        for half in halves:
            index = {file: start + i for i, file in enumerate(half.files)}
            start += len(half.files)
            for what, file, data in _read(_images(root, half.stem)):
                if (k := position.get(index.pop(file, -1))) is not None:
                    im = decode(data, what, ("JPEG", "PNG"))
                    grey += im.mode in ("1", "L", "LA")
                    yield k, to_array(im, size, channels)
            if index:
                where = _images(root, half.stem)
                raise DataError(f"{where}: {len(index):,} annotated images missing, first {min(index)}")
        if grey:
            notes.append(f"{grey} grey images converted to RGB")

    if pooled:
        held_out = _held_out(n_all)
        notes.append(f"{n_all - held_out:,} train / {held_out} held out of the pooled halves, seed {SEED}")
        amount = "all" if n_all == POOLED else f"from {n_all:,} of the official {POOLED:,}:"
        line, official = f"official files, {amount} {len(chosen):,} {split} images", len(chosen)
        official = official if n_all == POOLED else None
    else:
        notes.append("only the official training half is there, so every tenth image is held out as test")
        line, official = f"official files, {len(chosen):,} of {TRAIN_HALF:,} official training images", None
    return Source(len(chosen), items, labels[chosen], tuple(class_names), len(class_names), line, official, notes)


def divide(n: int, split: str, pooled: bool) -> np.ndarray:
    """Indices of a split. pooled: the seeded draw, training images in its random order; else every tenth is test."""
    if not pooled:
        tenth = np.arange(n) % 10 == 9
        return np.flatnonzero(tenth if split == "test" else ~tenth)
    order = np.random.default_rng(SEED).permutation(n)
    held_out = _held_out(n)
    return order[n - held_out :] if split == "test" else order[: n - held_out]


def _held_out(n: int) -> int:
    return min(HELD_OUT, n // 10)


def _annotations(root: Path) -> tuple[list[_Half], list[str]]:
    """The halves that are there and the class names."""
    if _images(root, "cars_train") is None or _devkit(root) is None:
        path = _find(root, "cars_annos.mat")
        annos, class_names = read_mat(path, "annotations", "class_names")
        return [_half("car_ims", annos, "relative_im_path", path)], strings(class_names)
    devkit = _devkit(root)
    path, data = _devkit_file(devkit, "cars_meta.mat")
    class_names = strings(read_mat(path, "class_names", data=data)[0])
    path, data = _devkit_file(devkit, "cars_train_annos.mat")
    halves = [_half("cars_train", read_mat(path, "annotations", data=data)[0], "fname", path)]
    if _images(root, "cars_test") is not None:
        path = _find(root, TEST_LABELS) or (devkit / TEST_LABELS if (devkit / TEST_LABELS).is_file() else None)
        if path is None:
            where, md5 = _images(root, "cars_test"), files.OFFICIAL[TEST_LABELS].md5
            raise DataError(f"{where}: its labels are missing: put {TEST_LABELS} (md5 {md5}) beside it")
        halves.append(_half("cars_test", read_mat(files.check_md5(path), "annotations")[0], "fname", path))
    return halves, class_names


def _half(stem: str, annos: np.ndarray, name_field: str, path: Path) -> _Half:
    fields = annos.dtype.names or ()
    if name_field not in fields or "class" not in fields:
        raise DataError(f"{path}: its annotations lack `{name_field}` or `class`")
    try:
        listed = [PurePosixPath(name).name for name in strings(annos[name_field])]
        labels = integers(annos["class"])
    except (ValueError, TypeError) as err:
        raise DataError(f"{path}: its annotations are not as expected ({err})") from err
    if not listed or len(set(listed)) != len(listed):
        raise DataError(f"{path}: its annotations name no image, or one twice")
    if labels.min() < 1 or labels.max() > 196:
        raise DataError(f"{path}: classes lie in {labels.min()}..{labels.max()}, expected 1..196")
    return _Half(stem, listed, labels - 1)


def _find(root: Path, file: str) -> Path | None:
    return files.find(root, "stanford_cars", file)


def _images(root: Path, stem: str) -> Path | None:
    return _find(root, stem) or _find(root, f"{stem}.tgz")


def _devkit(root: Path) -> Path | None:
    return _find(root, "devkit") or _find(root, "car_devkit.tgz")


def _devkit_file(devkit: Path, file: str) -> tuple[Path, bytes | None]:
    """Path for messages and bytes (None: read the path itself) of one annotation file."""
    if devkit.is_dir():
        if not (devkit / file).is_file():
            raise DataError(f"{devkit / file}: missing; extract car_devkit.tgz again")
        return devkit / file, None
    files.check_md5(devkit)
    for name, data in tar_files(devkit, lambda name: PurePosixPath(name).name == file):
        return Path(f"{devkit}, {name}"), data
    raise DataError(f"{devkit}: has no {file}")


def _read(where: Path) -> Iterator[tuple[str, str, bytes]]:
    """(name for messages, file name, bytes) of every .jpg in a folder or an archive."""
    if where.is_dir():
        for path in sorted(where.glob("*.jpg")):
            yield str(path), path.name, path.read_bytes()
    else:
        files.check_md5(where)
        for name, data in tar_files(where, lambda name: name.endswith(".jpg")):
            yield f"{where}, {name}", PurePosixPath(name).name, data
