"""From an encoded or raw image to uint8 (C, size, size). Pillow decodes and resizes; nothing here keeps floats."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from agelib.data.sets import Blocks, plain, reading

BLOCK = 512  # raw images handled at a time
MAX_PIXELS = 1 << 26  # of one picture, before it is decoded: 8192 x 8192
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")  # Pillow's names
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")  # of files in these formats
UNREADABLE = "not a readable image"


def decode(source: bytes | Path, what: str, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Decode one image (the first frame of an animation) from its bytes or from a path.

    what: how an error names the image.  formats: the Pillow formats admitted.  Raises DataError for anything that is not
    a whole image, has more than MAX_PIXELS or is not a plain file.
    """
    with reading(what, UNREADABLE):
        opened = io.BytesIO(source) if isinstance(source, bytes) else plain(source)
        with Image.open(opened, formats=formats) as im:
            if im.width * im.height > MAX_PIXELS:
                raise ValueError(f"{im.width} x {im.height} pixels, at most {MAX_PIXELS:,} are decoded")
            im.load()
            return im.copy() if im.format == "GIF" else im


def read_image(path: str | os.PathLike, size: int, channels: int, say: Callable[[str], None] | None = None) -> np.ndarray:
    """One image file of a usual format as uint8 (channels, size, size), turned upright, squashed to a square.

    channels: 1 or 3.  Transparency goes over white, 16 bits to 8; `say` gets one line on what was changed, if anything was.
    Raises DataError, naming the file, for anything that is not an image.
    """
    return decode_image(Path(path), str(path), size, channels, say)


def decode_image(
    content: bytes | Path, name: str, size: int, channels: int, say: Callable[[str], None] | None = None
) -> np.ndarray:
    """`read_image` for the bytes of a file called `name`, as an upload brings them."""
    im = decode(content, name)
    with reading(name, UNREADABLE):
        im = ImageOps.exif_transpose(im)
        x = to_array(im, size, channels)
    if say is not None and (changes := changed(im, size, channels)):
        say(f"{Path(name).name}: {'; '.join(changes)}")
    return x


def changed(im: Image.Image, size: int, channels: int) -> list[str]:
    """What `to_array` does to an image besides copying its pixels, in words."""
    grey, form = im.mode in ("1", "L", "LA", "La") or _deep(im), "palette" if im.mode in ("P", "PA") else im.mode
    found = {
        "transparency laid over white": _transparent(im),
        "16 bits cut to 8": _deep(im),
        f"{form} turned into RGB": im.mode in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV"),
        "grey: it has lightness but no colours": grey and channels == 3,
        "colours dropped": not grey and channels == 1,
        f"{im.width} x {im.height} {'resized' if im.width == im.height else 'squashed'} to {size} x {size}":
            im.size != (size, size),
    }  # fmt: skip
    return [what for what, so in found.items() if so]


def flatten(im: Image.Image) -> Image.Image:
    """Any Pillow mode to "L" or "RGB" of 8 bits: transparency over white, 16 bits by their high byte. Floats raise
    ValueError, since nothing says what their white is."""
    if im.mode == "1" or (im.mode == "L" and not _transparent(im)):
        return im.convert("L")
    if _deep(im):
        grey = np.asarray(im).astype(np.int64)
        if grey.min() < 0 or grey.max() > 0xFFFF:
            raise ValueError(f"grey values {grey.min()}..{grey.max()} do not fit 16 bits")
        return Image.fromarray((grey >> 8).astype(np.uint8))
    if im.mode.startswith("F"):
        raise ValueError("an image of floats has no defined range; store 8 or 16 bits")
    if _transparent(im):
        rgba = im.convert("RGBA")
        im = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
    return im.convert("RGB")


def _deep(im: Image.Image) -> bool:
    return im.mode.partition(";")[0] == "I"


def _transparent(im: Image.Image) -> bool:
    return im.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in im.info


def to_array(im: Image.Image, size: int, channels: int, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    """A Pillow image to uint8 (channels, size, size): grey or RGB, squashed to a square (bilinear, antialiased).

    channels: 1 (luma, ITU-R 601) or 3.  box: (left, upper, right, lower) in pixels, the part to take.  The aspect ratio is
    not kept, as in the released AGE code.
    """
    im = flatten(im).convert("L" if channels == 1 else "RGB")
    if box or im.size != (size, size):
        im = im.resize((size, size), Image.Resampling.BILINEAR, box=box)
    x = np.asarray(im)  # (H, W) or (H, W, 3)
    return x[None] if channels == 1 else x.transpose(2, 0, 1)


def raw_blocks(raw: np.ndarray, size: int, channels: int, order: np.ndarray | None = None) -> Blocks:
    """Raw uint8 images (N, C, H, W), C in 1, 3, in blocks of the wanted shape; `order` picks and sorts them first.

    Blocks are copied as they are when shape and channels already fit, else each image passes through `to_array`.
    """
    raw_channels, *sides = raw.shape[1:]
    for a in range(0, len(raw) if order is None else len(order), BLOCK):
        block = raw[a : a + BLOCK] if order is None else raw[order[a : a + BLOCK]]
        if sides != [size, size] or raw_channels not in (1, channels):
            pictures = block[:, 0] if raw_channels == 1 else block.transpose(0, 2, 3, 1)
            block = np.stack([to_array(Image.fromarray(np.ascontiguousarray(x)), size, channels) for x in pictures])
        yield block if block.shape[1] == channels else np.repeat(block, channels, axis=1)
