"""Where a data set can come from, in order: packs, official files placed by hand, download; own files; embedded."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agelib.data import cars_official, celeba, cifar, download, files, folder, idx, names, npz, packs, svhn
from agelib.data import tiny_imagenet as tiny
from agelib.data.imageset import DataError, Items, Source
from agelib.data.pixels import raw_items

# Readers of the official files; each has needed(split), present(root, split), open_split(root, split).
OFFICIAL = {
    "mnist": idx,
    "cifar10": cifar,
    "svhn": svhn,
    "celeba": celeba,
    "tiny_imagenet": tiny,
    "stanford_cars": cars_official,
}
OWN = {"folder": folder, "npz": npz}  # the user's own; each has fingerprint(path), open_split(path, split)
RECIPE = "1"  # of the readers and of pixels.py: a new number makes every cache prepare anew

Opener = Callable[[], Source]


@dataclass(frozen=True)
class Plan:
    """A request with its defaults filled in. key, recipe: of the prepared cache."""

    name: str
    split: str
    size: int
    channels: int
    key: str
    recipe: str
    stand_in_for: str | None


def plan(name: str, split: str, size: int | None, channels: int | None) -> Plan:
    """Check a request and fill in its defaults. Raises ValueError for what is not valid, DataError for own files."""
    kind, _, path = name.partition(":")
    own = kind in OWN and path != ""
    if not own and name not in names.NAMES:
        known = ", ".join(names.NAMES)
        raise ValueError(f"unknown data set {name!r}: expected one of {known}, folder:PATH or npz:PATH")
    if split not in names.splits(name):
        raise ValueError(f"{name} has no split {split!r}: expected one of {', '.join(names.splits(name))}")
    key, recipe, stand_in_for = name, RECIPE, None
    if own:
        key = f"{kind}-{OWN[kind].fingerprint(Path(path))}"
        default = (32, OWN[kind].channels(Path(path)))
    elif name in names.EMBEDDED:
        from agelib.data import embedded

        default = (embedded.DEFAULT_SIZE[name], names.EMBEDDED[name])
        recipe, stand_in_for = f"{RECIPE}, embedded {embedded.VERSION}", embedded.STAND_IN_FOR[name]
    else:
        default = (names.REAL[name].size, names.REAL[name].channels)
    size = default[0] if size is None else size
    channels = default[1] if channels is None else channels
    if not isinstance(size, int) or not 4 <= size <= 1024:
        raise ValueError(f"size must be an integer from 4 to 1024 pixels, got {size!r}")
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, got {channels!r}")
    return Plan(name, split, size, channels, key, recipe, stand_in_for)


def opener(asked: Plan, root: Path, pack_dirs: list[Path], may_download: bool) -> Opener:
    """The first source that has the split, as a function that opens it; little work is done before it is called.

    Raises DataError saying which files, which checksums and which folder when no source has it.
    """
    name, split = asked.name, asked.split
    kind, _, path = name.partition(":")
    if name in names.EMBEDDED:
        return lambda: _embedded(asked)
    if name not in names.REAL:
        return lambda: OWN[kind].open_split(Path(path), split)
    if parts := packs.find(name, pack_dirs):
        if packs.holds(name, split, parts):
            return lambda: packs.open_split(name, split, parts)
    official = OFFICIAL[name]
    if official.present(root, split):
        return lambda: official.open_split(root, split)
    if may_download:
        failure = download.fetch(name, official.needed(split), root / files.FOLDERS[name][0])
        if failure is None:
            return lambda: official.open_split(root, split)
    else:
        failure = "downloads are switched off (download=False)"
    raise DataError(missing(name, split, root, pack_dirs, failure))


def missing(name: str, split: str, root: Path, pack_dirs: list[Path], failure: str) -> str:
    """The message for a set that is nowhere: what was tried, which files are needed, where they belong."""
    target = (root / files.FOLDERS[name][0]).resolve()
    lines = [f"{name}: no {split} images at hand, and {failure}.", f"Put the official files into {target}:"]
    for file in OFFICIAL[name].needed(split):
        known = files.OFFICIAL[file]
        checksum = "no published md5" if known.md5 is None else f"md5 {known.md5}"
        where = f", {known.urls[0]}" if known.urls else ""
        lines.append(f"  {file} ({checksum}{where})")
    folders = " or ".join(os.fspath(p) for p in pack_dirs)
    lines.append(f"or packs {names.REAL[name].pack}-part<k>.npz into {folders}. data/README.md has the details.")
    return "\n".join(lines)


def _embedded(asked: Plan) -> Source:
    from agelib.data import embedded

    images, labels, class_names = embedded.SETS[asked.name](asked.name, asked.split, asked.size)
    n_classes = None if class_names is None else len(class_names)
    line = f"embedded, {len(images):,} {asked.split} images, a stand-in for {asked.stand_in_for}"

    def items(size: int, channels: int) -> Items:
        return raw_items(images, size, channels)

    return Source(len(images), items, labels, class_names, n_classes, line, None)
