"""CelebA, aligned and cropped: img_align_celeba.zip or the folder extracted from it, and list_eval_partition.txt.

The AGE crop (as in ALI): resize the 178 x 218 image to 64 wide x 78 high (antialiased Lanczos) and keep rows 7..70.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from agelib.data import files, names
from agelib.data.archive import open_zip
from agelib.data.imageset import DataError, Items, Source, source_line
from agelib.data.pixels import decode, to_array

SIZE = 64  # width and height of the crop
HEIGHT = 78  # of the resized image, of which rows TOP..TOP + SIZE - 1 are kept
TOP = 7
# The same region as fractions (left, top, right, bottom) of an image of any shape.
BOX = (0.0, TOP / HEIGHT, 1.0, (TOP + SIZE) / HEIGHT)

ARCHIVE = "img_align_celeba.zip"
FOLDER = "img_align_celeba"
PARTITION = "list_eval_partition.txt"
CODES = {"train": 0, "validation": 1, "test": 2}


def needed(split: str) -> tuple[str, ...]:
    """The official files of a split."""
    return (ARCHIVE, PARTITION)


def present(root: Path, split: str) -> bool:
    """True if the partition file and the images (archive or folder) are there."""
    images = any(files.find(root, "celeba", file) is not None for file in (ARCHIVE, FOLDER))
    return images and files.find(root, "celeba", PARTITION) is not None


def open_split(root: Path, split: str) -> Source:
    """One split of CelebA by the official partition, in the order of the image numbers; no labels."""
    spec = names.REAL["celeba"]
    chosen = read_partition(files.find(root, "celeba", PARTITION), CODES[split])
    archive = files.find(root, "celeba", ARCHIVE)
    if archive is not None:
        files.check_md5(archive)

    def items(size: int, channels: int) -> Items:
        with _reader(root, archive) as (what, there, read):
            if lacking := [name for name in chosen if name not in there]:
                raise DataError(f"{what}: {len(lacking):,} of {len(chosen):,} images missing, first {lacking[0]}")
            for i, name in enumerate(chosen):
                im = decode(read(name), f"{what}, {name}", ("JPEG", "PNG"))
                yield i, to_array(age_crop(im, size), size, channels)

    line = source_line("official files", len(chosen), spec.official[split], spec.words[split])
    return Source(len(chosen), items, None, None, None, line, spec.official[split])


def age_crop(im: Image.Image, size: int = SIZE) -> Image.Image:
    """The AGE crop of an aligned 178 x 218 image: RGB, 64 x 64, or size x size if `size` is above 64.

    For sizes below 64 the 64 x 64 crop is returned, to be resized by the caller.
    """
    im = im.convert("RGB")
    if size <= SIZE:
        return im.resize((SIZE, HEIGHT), Image.Resampling.LANCZOS).crop((0, TOP, SIZE, TOP + SIZE))
    return im.resize((size, size), Image.Resampling.LANCZOS, box=crop_box(im))


def crop_box(im: Image.Image) -> tuple[float, float, float, float]:
    """The region of the AGE crop in pixels of `im`, an aligned image or one that was squashed to another shape."""
    w, h = im.size
    return (BOX[0] * w, BOX[1] * h, BOX[2] * w, BOX[3] * h)


def read_partition(path: Path, code: int) -> list[str]:
    """File names with this code (0 train, 1 validation, 2 test) in list_eval_partition.txt, sorted."""
    chosen = []
    try:
        lines = path.read_text("ascii").split("\n")
    except (OSError, ValueError) as err:
        raise DataError(f"{path}: not readable ({err})") from err
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if not (match := re.fullmatch(r"(\d+\.(?:jpg|png))\s+([012])\s*", line)):
            raise DataError(f"{path}: line {number} is {line[:60]!r}, expected '000001.jpg 0'")
        if int(match[2]) == code:
            chosen.append(match[1])
    if not chosen:
        raise DataError(f"{path}: names no image of code {code}")
    if len(set(chosen)) != len(chosen):
        raise DataError(f"{path}: names an image twice")
    return sorted(chosen)


@contextmanager
def _reader(root: Path, archive: Path | None) -> Iterator[tuple[Path, set[str], Callable[[str], bytes]]]:
    """(what, names that are there, read one by name) of the archive or of the folder."""
    if archive is not None:
        with open_zip(archive) as (members, read):
            prefix = f"{FOLDER}/"
            yield archive, {m.removeprefix(prefix) for m in members}, lambda name: read(prefix + name)
    else:
        folder = files.find(root, "celeba", FOLDER)
        yield folder, {p.name for p in folder.iterdir()}, lambda name: (folder / name).read_bytes()
