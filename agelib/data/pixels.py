"""From an encoded or raw image to uint8 (C, size, size). Pillow decodes and resizes; nothing here keeps floats."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from agelib.data.imageset import DataError, Items

BLOCK = 512  # raw images handled at a time

DECODE_ERRORS = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    TypeError,
    OverflowError,
    MemoryError,
)


def decode(data: bytes | str | os.PathLike, what: str, formats: tuple[str, ...] | None = None) -> Image.Image:
    """Decode one image (the first frame of an animation) from its bytes or from a path.

    what: how an error names the image.  formats: the Pillow formats admitted, None for all.  Raises DataError for
    anything that is not a whole image.
    """
    try:
        im = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=formats)
        with im:
            im.load()
            return im.copy() if im.format == "GIF" else im
    except DECODE_ERRORS as err:
        raise DataError(f"{what}: not a readable image ({type(err).__name__}: {err})") from err


def read_file(
    path: str | os.PathLike,
    size: int,
    channels: int,
    formats: tuple[str, ...] | None = None,
    *,
    content: bytes | None = None,
    say: Callable[[str], None] | None = None,
) -> np.ndarray:
    """One image file, turned upright as its EXIF says, through `to_array`. Raises DataError that names the file.

    content: its bytes, where they are not to be read from `path`. say: gets a line that tells what was changed.
    """
    im = ImageOps.exif_transpose(decode(path if content is None else content, str(path), formats))
    try:
        x = to_array(im, size, channels)
    except ValueError as err:
        raise DataError(f"{path}: {err}") from err
    changes = changed(im, size, channels)
    if say is not None and changes:
        say(f"{os.path.basename(path)}: {'; '.join(changes)}")
    return x


def changed(im: Image.Image, size: int, channels: int) -> list[str]:
    """What `to_array` does to an image besides copying its pixels, in words."""
    found = []
    if im.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in im.info:
        found.append("transparency laid over white")
    if im.mode == "I" or im.mode.startswith("I;"):
        found.append("16 bits cut to 8")
    grey = im.mode in ("1", "L", "LA", "La", "I") or im.mode.startswith("I;")
    if im.mode in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV"):
        found.append(f"{'palette' if im.mode in ('P', 'PA') else im.mode} turned into RGB")
    if grey and channels == 3:
        found.append("grey: it has lightness but no colours")
    if not grey and channels == 1:
        found.append("colours dropped")
    if im.size != (size, size):
        found.append(f"{im.width} x {im.height} {'resized' if im.width == im.height else 'squashed'} to {size} x {size}")
    return found


def flatten(im: Image.Image) -> Image.Image:
    """Any Pillow mode to "L" or "RGB" of 8 bits: transparency over white, 16 bits by their high byte.

    1, L, and 16-bit or 32-bit integer grey become "L"; palette, CMYK, YCbCr, LAB and HSV become "RGB"; a mode of
    floats raises ValueError, since nothing says what its white is.
    """
    if im.mode in ("L", "RGB"):
        if "transparency" not in im.info:
            return im
        im = im.convert("RGBA")
    if im.mode == "1":
        return im.convert("L")
    if im.mode == "I" or im.mode.startswith("I;"):
        grey = np.asarray(im).astype(np.int64)
        if grey.min() < 0 or grey.max() > 0xFFFF:
            raise ValueError(f"grey values {grey.min()}..{grey.max()} do not fit 16 bits")
        return Image.fromarray((grey >> 8).astype(np.uint8))
    if im.mode.startswith("F"):
        raise ValueError("an image of floats has no defined range; store 8 or 16 bits")
    if im.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in im.info:
        rgba = im.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return im.convert("RGB")


def to_array(im: Image.Image, size: int, channels: int) -> np.ndarray:
    """A Pillow image to uint8 (channels, size, size): grey or RGB, squashed to a square (bilinear, antialiased).

    channels: 1 (luma, ITU-R 601) or 3.  The aspect ratio is not kept, as in the released AGE code.
    """
    im = flatten(im)
    mode = "L" if channels == 1 else "RGB"
    if im.mode != mode:
        im = im.convert(mode)
    if im.size != (size, size):
        im = im.resize((size, size), Image.Resampling.BILINEAR)
    x = np.asarray(im)  # (H, W) or (H, W, 3)
    return x[None] if channels == 1 else x.transpose(2, 0, 1)


def raw_items(raw: np.ndarray, size: int, channels: int, order: np.ndarray | None = None) -> Items:
    """Raw uint8 images (N, C, H, W), C in 1, 3, to (slice, block) pairs; `order` picks and sorts them first.

    Blocks are copied as they are when shape and channels already fit, else each image passes through `to_array`.
    """
    n = len(raw) if order is None else len(order)
    c, h, w = raw.shape[1:]
    for a in range(0, n, BLOCK):
        b = min(a + BLOCK, n)
        block = raw[a:b] if order is None else raw[order[a:b]]
        if (h, w) != (size, size) or c not in (1, channels):
            block = np.stack([to_array(im, size, channels) for im in _pil(block)])
        elif c != channels:  # grey to three equal channels
            block = np.repeat(block, channels, axis=1)
        yield slice(a, b), block


def _pil(block: np.ndarray) -> Iterator[Image.Image]:
    for x in block:  # (C, H, W)
        yield Image.fromarray(np.ascontiguousarray(x[0] if len(x) == 1 else x.transpose(1, 2, 0)))
