"""Data sets by name: `load("cifar10", "train")` returns uint8 images (N, C, H, W) and labels.

Names: the real sets mnist, cifar10, svhn, celeba, tiny_imagenet, stanford_cars; the embedded stand-ins digits,
house_numbers, patches, faces, cars, made from what the dependencies ship; and your own images, folder:PATH (image
files) and npz:PATH (arrays). A set is looked for in this order: the prepared cache in the data root, packs, official
files placed by hand, download. data/README.md says where each file comes from and where it goes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from agelib.data import cache, names, pixels, search
from agelib.data import packs as _packs
from agelib.data.imageset import DataError, ImageSet

__all__ = ["NAMES", "DataError", "ImageSet", "available", "data_root", "decode_image", "load", "pack_folders", "read_image"]

NAMES = names.NAMES
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
    verify: bool = False,
) -> ImageSet:
    """Load one split; the first call prepares it (decodes, resizes, stores), later ones map it into memory.

    name: see the module.  split: train or test; celeba also validation, svhn also extra.  size: H = W in pixels,
    default 28 for mnist and digits, 64 for celeba, tiny_imagenet, stanford_cars, faces and cars, 32 otherwise.
    channels: 1 (luma) or 3; default what the set has.  limit: keep the first `limit` images (at most all of them).
    root: the data root, default `data_root()`.  packs: folders with packs, default `pack_folders(root)`.  download:
    allow the network.  verify: also check the sha256 of the prepared files.

    Returns an ImageSet.  Raises DataError when the set is in none of the places (the message says which files, which
    checksums, which folder) or a file of it is damaged; ValueError for a name, split or number that is not valid.
    """
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit must be a positive integer or None, got {limit!r}")
    base = data_root() if root is None else Path(root)
    asked = search.plan(name, split, size, channels)
    where = cache.folder(base, asked.key, asked.channels, asked.size)
    found = cache.read(where, split, asked.recipe, verify=verify)
    if found is None:
        open_source = search.opener(asked, base, _pack_dirs(packs, base), download)
        with cache.locked(where):
            if cache.read(where, split, asked.recipe) is None:  # another process may have been faster
                cache.write(where, split, asked.recipe, open_source(), asked.size, asked.channels)
        found = cache.read(where, split, asked.recipe, verify=verify)
    whole = ImageSet(
        name,
        split,
        found.images,
        found.labels,
        found.class_names,
        found.source,
        asked.stand_in_for,
        found.complete,
        found.sha256,
    )
    return whole if limit is None or limit >= len(whole) else _first(whole, limit)


def available(root: PathLike | None = None, packs: PathLike | Sequence[PathLike] | None = None) -> dict[str, str]:
    """Where each named set would come from: "embedded", "prepared", "pack", "official files" or "missing: ...".

    Looks at file names only: nothing is read, prepared or downloaded.  "prepared" means that the training and the test
    split are both in the cache at their default shape.
    """
    base = data_root() if root is None else Path(root)
    dirs = _pack_dirs(packs, base)
    return {name: _where(name, base, dirs) for name in NAMES}


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
    if name in names.EMBEDDED:
        return "embedded"
    spec = names.REAL[name]
    prepared = cache.folder(root, name, spec.channels, spec.size)
    if all(cache.has(prepared, split) for split in ("train", "test")):
        return "prepared"
    try:
        if _packs.find(name, pack_dirs):
            return "pack"
    except DataError as err:
        return f"missing: {err}"
    official = search.OFFICIAL[name]
    if all(official.present(root, split) for split in ("train", "test")):
        return "official files"
    needed = dict.fromkeys(file for split in ("train", "test") for file in official.needed(split))
    return f"missing: {spec.pack}-part<k>.npz in a packs folder, or {', '.join(needed)} in the data root"


def _first(whole: ImageSet, limit: int) -> ImageSet:
    images = whole.images[:limit]
    labels = None if whole.labels is None else whole.labels[:limit]
    return replace(
        whole,
        images=images,
        labels=labels,
        source=f"{whole.source}; the first {limit:,} of them",
        complete=False,
        sha256=cache.content_sha256(images, labels),
    )


def read_image(path: PathLike, size: int, channels: int, say: Callable[[str], None] | None = None) -> np.ndarray:
    """One image file of any usual format as uint8 (channels, size, size), squashed to a square; channels 1 or 3.

    Transparency goes over white, 16 bits to 8; `say` gets one line on what was changed, if anything was. Raises DataError,
    naming the file, for anything that is not an image.
    """
    return pixels.read_file(path, size, channels, say=say)


def decode_image(
    content: bytes, name: str, size: int, channels: int, say: Callable[[str], None] | None = None
) -> np.ndarray:
    """`read_image` for the bytes of a file called `name`, as an upload brings them."""
    return pixels.read_file(name, size, channels, content=content, say=say)
