"""Data sets by name: `load("cifar10", "train")` returns uint8 images (N, C, H, W) and labels.

Names: the real sets mnist, cifar10, svhn, celeba, tiny_imagenet, stanford_cars; the embedded stand-ins digits,
house_numbers, patches, faces, cars, made from what the dependencies ship; and your own images, folder:PATH (image
files) and npz:PATH (arrays). A set is looked for in this order: the prepared cache in the data root, packs, official
files placed by hand, download. data/README.md says where each file comes from and where it goes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agelib.data import cache, official, own
from agelib.data import packs as _packs
from agelib.data.pixels import decode_image, raw_blocks, read_image
from agelib.data.sets import NAMES, REAL, STANDINS, DataError, ImageSet, Source, splits

__all__ = ["NAMES", "DataError", "ImageSet", "available", "data_root", "decode_image", "load", "pack_folders", "read_image"]

RECIPE = "1"  # of the readers and of pixels.py: a new number makes every cache prepare anew
PathLike = str | os.PathLike


def load(
    name: str,
    split: str = "train",
    *,
    size: int | None = None,
    channels: int | None = None,
    limit: int | None = None,
    root: PathLike | None = None,
    packs: PathLike | Sequence[PathLike] | None = None,
    download: bool = True,
) -> ImageSet:
    """Load one split; the first call prepares it (decodes, resizes, stores), later ones map it into memory.

    name: see the module.  split: train or test; celeba also validation, svhn also extra.  size: H = W in pixels,
    default 28 for mnist and digits, 64 for celeba, tiny_imagenet, stanford_cars, faces and cars, 32 otherwise.
    channels: 1 (luma) or 3; default what the set has.  limit: keep the first `limit` images (at most all of them).
    root: the data root, default `data_root()`.  packs: folders with packs, default `pack_folders(root)`.  download:
    allow the network.

    Returns an ImageSet, whose content was compared with its sha256 (see `cache.read`).  Raises DataError when the set is
    in none of the places (the message says which files, which checksums, which folder) or a file of it is damaged;
    ValueError for a name, split or number that is not valid.
    """
    kind, _, path = name.partition(":") if isinstance(name, str) else ("", "", "")
    is_own = kind in ("folder", "npz") and path != ""
    if not is_own and name not in NAMES:
        raise ValueError(f"unknown data set {name!r}: expected one of {', '.join(NAMES)}, folder:PATH or npz:PATH")
    if split not in splits(name):
        raise ValueError(f"{name} has no split {split!r}: expected one of {', '.join(splits(name))}")
    for what, value, low, high in (("size", size, 4, 1024), ("channels", channels, 1, 3), ("limit", limit, 1, None)):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and low <= value <= (high or value) and (what, value) != ("channels", 2)):
            wanted = {"size": "from 4 to 1024 pixels", "channels": "1 or 3", "limit": "of at least 1"}[what]
            raise ValueError(f"{what} must be an integer {wanted}, got {value!r}")
    base, where, key, recipe = data_root() if root is None else Path(root), Path(path).expanduser(), name, RECIPE
    if is_own:
        key, default = own.key(kind, where), (32, own.channels(kind, where))
    else:
        spec = STANDINS.get(name) or REAL[name]
        default = (spec.size, spec.channels)
    if name in STANDINS:
        from agelib.data import standins

        recipe = f"{RECIPE}, embedded {standins.VERSION}"
    size, channels = size or default[0], channels or default[1]
    folder = base / "prepared" / f"{key}-{channels}x{size}" / split
    if (found := cache.read(folder, recipe)) is None:
        if is_own:
            source = own.open_split(kind, where, split)
        elif name in STANDINS:
            source = _embedded(name, split, size)
        else:
            source = _open(name, split, base, _pack_dirs(packs, base), download)
        cache.write(folder, recipe, source, size, channels)
        found = cache.read(folder, recipe)
    images, labels, about = found
    class_names = None if about["class_names"] is None else tuple(about["class_names"])
    stands_for = STANDINS[name].stands_for if name in STANDINS else None
    complete = about["official"] == len(images)
    whole = ImageSet(name, split, images, labels, class_names, about["source"], stands_for, complete, about["sha256"])
    return whole if limit is None or limit >= len(whole) else _first(whole, limit)


def available(root: PathLike | None = None, packs: PathLike | Sequence[PathLike] | None = None) -> dict[str, str]:
    """Where each named set would come from: "embedded", "prepared", "pack", "official files" or "missing: ...".

    Looks at file names only: nothing is read, prepared or downloaded.  "prepared" means that the training and the test
    split are both in the cache at their default shape.
    """
    base = data_root() if root is None else Path(root)
    dirs = _pack_dirs(packs, base)
    return {name: "embedded" if name in STANDINS else _where(name, base, dirs) for name in NAMES}


def data_root() -> Path:
    """$AGELIB_DATA; else `data` beside the nearest pyproject.toml at or above the working folder; else ./data."""
    if chosen := os.environ.get("AGELIB_DATA"):
        return Path(chosen)
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "data").is_dir():
            return folder / "data"
    return Path("data")


def pack_folders(root: PathLike | None = None) -> list[Path]:
    """Where packs are searched: <root>/packs, then the folders of $AGELIB_PACKS (separated as in PATH)."""
    base = data_root() if root is None else Path(root)
    return [base / "packs", *(Path(p) for p in os.environ.get("AGELIB_PACKS", "").split(os.pathsep) if p)]


def _pack_dirs(packs: PathLike | Sequence[PathLike] | None, root: Path) -> list[Path]:
    if packs is None:
        return pack_folders(root)
    return [Path(packs)] if isinstance(packs, str | os.PathLike) else [Path(p) for p in packs]


def _where(name: str, root: Path, pack_dirs: list[Path]) -> str:
    spec, both = REAL[name], ("train", "test")
    prepared = root / "prepared" / f"{name}-{spec.channels}x{spec.size}"
    if all((prepared / split / "about.json").is_file() for split in both):
        return "prepared"
    try:
        if _packs.find(name, pack_dirs):
            return "pack"
    except DataError as err:
        return f"missing: {err}"
    if all(official.present(name, split, [root, *pack_dirs]) for split in both):
        return "official files"
    files = dict.fromkeys(file for split in both for file in official.needed(name, split))
    return f"missing: {spec.pack}-part<k>.npz in a packs folder, or {', '.join(files)} in the data root"


def _open(name: str, split: str, root: Path, pack_dirs: list[Path], download: bool) -> Source:
    """The first source of a real set that has the split; DataError saying what belongs where when none has."""
    parts = _packs.find(name, pack_dirs)
    if _packs.holds(name, split, parts):
        return _packs.open_split(name, split, parts)
    bases, failure = [root, *pack_dirs], "downloads are switched off (download=False)"
    if not official.present(name, split, bases) and download:
        failure = official.fetch(name, split, bases)
    if official.present(name, split, bases):
        return official.open_split(name, split, bases)
    target = (root / official.FOLDERS[name][0]).resolve()
    lines = [f"{name}: no {split} images at hand, and {failure}.", f"Put the official files into {target}:"]
    for file in official.needed(name, split):
        place = f", {official.URLS[name][0]}/{file}" if name in official.URLS else ""
        lines.append(f"  {file} (md5 {official.SUMS[file][0]}{place})")
    folders = " or ".join(map(str, pack_dirs))
    lines.append(f"or packs {REAL[name].pack}-part<k>.npz into {folders}. data/README.md has the details.")
    raise DataError("\n".join(lines))


def _embedded(name: str, split: str, size: int) -> Source:
    from agelib.data import standins

    images, labels, class_names = standins.make(name, split, size)
    line = f"embedded, {len(images):,} {split} images, a stand-in for {STANDINS[name].stands_for}"
    return Source(len(images), lambda size, channels: raw_blocks(images, size, channels), labels, class_names, line)


def _first(whole: ImageSet, limit: int) -> ImageSet:
    images = whole.images[:limit]
    labels = None if whole.labels is None else whole.labels[:limit]
    source, sha256 = f"{whole.source}; the first {limit:,} of them", cache.content_sha256(images, labels)
    return replace(whole, images=images, labels=labels, source=source, complete=False, sha256=sha256)
