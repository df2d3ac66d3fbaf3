"""Data sets by name: `load("cifar10", "train")` returns uint8 images (N, C, H, W) and labels.

Names: the real sets mnist, cifar10, svhn, celeba, tiny_imagenet, stanford_cars; the stand-ins digits, house_numbers,
patches, faces, cars, made from what the dependencies ship; and your own images, folder:PATH (image files) and npz:PATH
(arrays). A set is looked for in this order: the prepared cache in the data root, packs, official files placed by hand,
download. data/README.md says where each file comes from and where it goes.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from agelib.data import cache, official, own, packs
from agelib.data.pixels import decode_image, raw_blocks, read_image
from agelib.data.sets import NAMES, REAL, STANDINS, DataError, ImageSet, Source, splits

__all__ = ["NAMES", "DataError", "ImageSet", "available", "data_root", "decode_image", "load", "pack_folders", "read_image"]

RECIPE = "2"  # of the readers and of pixels.py: a new number makes every cache prepare anew


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
    is_own = kind in ("folder", "npz") and path != ""
    if not is_own and name not in NAMES:
        raise ValueError(f"unknown data set {name!r}: expected one of {', '.join(NAMES)}, folder:PATH or npz:PATH")
    if split not in splits(name):
        raise ValueError(f"{name} has no split {split!r}: expected one of {', '.join(splits(name))}")
    for what, value, admitted, wanted in (
        ("size", size, range(4, 1025), "from 4 to 1024 pixels"),
        ("channels", channels, (1, 3), "1 or 3"),
        ("limit", limit, range(1, 1 << 62), "of at least 1"),
    ):
        if value is not None and (type(value) is not int or value not in admitted):
            raise ValueError(f"{what} must be an integer {wanted}, got {value!r}")
    key, recipe, stands_for, where = name, RECIPE, None, Path(os.path.expanduser(path))
    if is_own:
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
            source = Source(len(drawn), partial(raw_blocks, drawn), labels, class_names, line)
        else:
            source = own.open_split(kind, where, split) if is_own else _open(name, split, download)
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
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "data").is_dir():
            return folder / "data"
    return Path("data")


def pack_folders() -> list[Path]:
    """Where packs are searched: packs/ in the data root, then the folders of $AGELIB_PACKS (separated as in PATH)."""
    return [data_root() / "packs", *(Path(p) for p in os.environ.get("AGELIB_PACKS", "").split(os.pathsep) if p)]


def _where(name: str) -> str:
    spec, both = REAL[name], ("train", "test")
    prepared = data_root() / "prepared" / f"{name}-{spec.channels}x{spec.size}"
    if all((prepared / split / "about.json").is_file() for split in both):
        return "prepared"
    try:
        if packs.find(name, pack_folders()):
            return "pack"
    except DataError as err:
        return f"missing: {err}"
    if all(official.present(name, split, [data_root(), *pack_folders()]) for split in both):
        return "official files"
    files = dict.fromkeys(file for split in both for file in official.needed(name, split))
    return f"missing: {spec.pack}-part<k>.npz in a packs folder, or {', '.join(files)} in the data root"


def _open(name: str, split: str, download: bool) -> Source:
    """The first source of a real set that has the split; DataError saying what belongs where when none has."""
    root, folders = data_root(), pack_folders()
    parts, bases, failure = packs.find(name, folders), [root, *folders], "downloads are switched off (download=False)"
    if packs.holds(name, split, parts):
        return packs.open_split(name, split, parts)
    if not official.present(name, split, bases) and download:
        failure = official.fetch(name, split, bases)
    if official.present(name, split, bases):
        return official.open_split(name, split, bases)
    lines = [f"{name}: no {split} images at hand, and {failure}."]
    lines.append(f"Put the official files into {(root / official.FOLDERS[name][0]).resolve()}:")
    for file in official.needed(name, split):
        place = f", {official.URLS[name][0]}/{file}" if name in official.URLS else ""
        lines.append(f"  {file} (md5 {official.SUMS[file][0]}{place})")
    lines.append(f"or packs {REAL[name].pack}-part<k>.npz into {' or '.join(map(str, folders))}. See data/README.md.")
    raise DataError("\n".join(lines))
