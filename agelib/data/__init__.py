"""Data sets by name: `load("cifar10", "train")` returns uint8 images (N, C, H, W) and labels.

Names: the real sets mnist, cifar10, svhn, celeba, tiny_imagenet, stanford_cars; the stand-ins digits, house_numbers,
patches, faces, cars, made from what the dependencies ship; and your own images, folder:PATH (image files) and npz:PATH
(arrays). A set is looked for in this order: the prepared cache in the data root, packs, official files placed by hand,
download. data/README.md says where each file comes from and where it goes.
"""

import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from agelib.data import cache, official, own, packs
from agelib.data.pixels import from_arrays, read_image
from agelib.data.sets import NAMES, REAL, STANDINS, DataError, ImageSet, Source

__all__ = ["NAMES", "DataError", "ImageSet", "available", "data_root", "load", "pack_folders", "read_image"]

RECIPE = "1"  # of the readers and of pixels.py: a new number makes every cache prepare anew


def load(
    name: str,
    split: str = "train",
    *,
    size: int | None = None,
    channels: int | None = None,
    limit: int | None = None,
    download: bool = True,
) -> ImageSet:
    """Load one split; the first call prepares it (decodes, resizes, stores), later ones map it into memory.

    name: see the module. split: train or test; celeba also validation, svhn also extra. size: H = W in pixels, default 28
    for mnist and digits, 64 for celeba, tiny_imagenet, stanford_cars, faces and cars, 32 otherwise. channels: 1 (luma) or
    3, default what the set has. limit: keep at most the first `limit` images. download: allow the network.
    Raises DataError when the set is in none of the places (the message says which files, which checksums, which folder) or a
    file of it is damaged; ValueError for a name, split or number that is not valid.
    """
    kind, _, path = str(name).partition(":")
    if name not in NAMES and not (kind in ("folder", "npz") and path):
        raise ValueError(f"unknown data set {name!r}: expected one of {', '.join(NAMES)}, folder:PATH or npz:PATH")
    if split not in (splits := tuple(REAL[name].official) if name in REAL else ("train", "test")):
        raise ValueError(f"{name} has no split {split!r}: expected one of {', '.join(splits)}")
    admitted = {"size": range(4, 1025), "channels": (1, 3), "limit": range(1, sys.maxsize)}
    for what, value in (("size", size), ("channels", channels), ("limit", limit)):
        if value is not None and (type(value) is not int or value not in admitted[what]):
            raise ValueError(f"{what} must be an integer in {admitted[what]}, got {value!r}")
    key, recipe, stands_for, where = name, RECIPE, None, Path(os.path.expanduser(path))
    if path:
        key, recipe, default = own.key(kind, where), f"{RECIPE}, own 2", (32, own.channels(kind, where))
    elif name in STANDINS:
        from agelib.data import standins

        stands_for, *default = STANDINS[name]
        recipe = f"{RECIPE}, embedded {standins.VERSION}"
    else:
        default = REAL[name].size, REAL[name].channels
    size, channels = size or default[0], channels or default[1]
    folder = data_root() / "prepared" / f"{key}-{channels}x{size}" / split
    if (found := cache.read(folder, recipe)) is None:
        if stands_for:
            drawn, labels, class_names = standins.make(name, split, size)
            line = f"embedded, {len(drawn):,} {split} images, a stand-in for {stands_for}"
            source = Source(len(drawn), partial(from_arrays, drawn), labels, class_names, line)
        else:
            source = own.OPEN[kind](where, split) if path else _open(name, split, download)
        cache.write(folder, recipe, source, size, channels)
        found = cache.read(folder, recipe)
    images, labels, about = found
    class_names = None if about["class_names"] is None else tuple(about["class_names"])
    complete = about["official"] == len(images)
    whole = ImageSet(name, split, images, labels, class_names, about["source"], stands_for, complete, about["sha256"])
    if limit is None or limit >= len(whole):
        return whole
    images, labels = images[:limit], None if labels is None else labels[:limit]
    source, sha256 = f"{whole.source}; the first {limit:,} of them", cache.content_sha256(images, labels)
    return replace(whole, images=images, labels=labels, source=source, complete=False, sha256=sha256)


def available() -> dict[str, str]:
    """Where each named set would come from: "embedded", "pack", "official files", "missing: ..." or "prepared" (training and
    test split are in the cache at their default shape). Looks at file names only."""
    return {name: "embedded" if name in STANDINS else _where(name) for name in NAMES}


def data_root() -> Path:
    """$AGELIB_DATA; else `data` beside the nearest pyproject.toml at or above the working folder; else ./data."""
    if chosen := os.environ.get("AGELIB_DATA"):
        return Path(chosen)
    roots = (folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "pyproject.toml").is_file())
    return next((root / "data" for root in roots if (root / "data").is_dir()), Path("data"))


def pack_folders() -> list[Path]:
    """Where packs are searched: packs/ in the data root, then the folders of $AGELIB_PACKS (separated as in PATH)."""
    return [data_root() / "packs", *(Path(p) for p in os.environ.get("AGELIB_PACKS", "").split(os.pathsep) if p)]


def _where(name: str) -> str:
    prepared = data_root() / "prepared" / f"{name}-{REAL[name].channels}x{REAL[name].size}"
    if all((prepared / split / "about.json").is_file() for split in ("train", "test")):
        return "prepared"
    try:
        if packs.find(name, pack_folders()):
            return "pack"
    except DataError as err:
        return f"missing: {err}"
    if all(official.present(name, split, [data_root(), *pack_folders()]) for split in ("train", "test")):
        return "official files"
    return f"missing: {_wanted(name, 'train', 'test')}"


def _open(name: str, split: str, download: bool) -> Source:
    """The first source of a real set that has the split; DataError saying what belongs where when none has."""
    bases, failure = [data_root(), *pack_folders()], "downloads are switched off (download=False)"
    if source := packs.open_split(name, split, packs.find(name, pack_folders())):
        return source
    if download and not official.present(name, split, bases):
        failure = official.fetch(name, split, bases)
    if official.present(name, split, bases):
        return getattr(official, name)(split, bases)
    raise DataError(f"{name}: no {split} images at hand, and {failure}. Needed: {_wanted(name, split)}; see data/README.md")


def _wanted(name: str, *wanted: str) -> str:
    """The files of some splits, and where they belong."""
    files = dict.fromkeys(file for split in wanted for file in official.needed(name, split))
    place = (data_root() / official.FOLDERS[name][0]).resolve()
    url = f", {official.URLS[name][0]}" if name in official.URLS else ""
    listed = ", ".join(f"{file} (md5 {official.SUMS[file][0]}{url})" for file in files)
    return f"{listed} in {place}, or {REAL[name].pack}-part<k>.npz in {' or '.join(map(str, pack_folders()))}"
