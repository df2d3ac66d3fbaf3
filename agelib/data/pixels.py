"""From an encoded or raw image to uint8 (C, size, size). Pillow decodes and resizes; nothing here keeps floats."""

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from agelib.data.sets import plain, reading

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


def read_image(
    source: str | Path | bytes, size: int, channels: int, say: Callable[[str], None] | None = None, name: str | None = None
) -> np.ndarray:
    """One image of a usual format as uint8 (channels, size, size), turned upright, squashed to a square.

    source: a path, or the bytes of a file called `name`.  channels: 1 or 3.  Transparency goes over white, 16 bits to 8;
    `say` gets one line on what was changed, if anything was.  Raises DataError, naming the file, for what is not an image.
    """
    name = name or str(source)
    im = decode(source if isinstance(source, bytes) else Path(source), name)
    with reading(name, UNREADABLE):
        im = ImageOps.exif_transpose(im)
        x = to_array(im, size, channels)
    if say is not None and (changes := _changes(im, size, channels)):
        say(f"{Path(name).name}: {'; '.join(changes)}")
    return x


def to_array(im: Image.Image, size: int, channels: int) -> np.ndarray:
    """A Pillow image to uint8 (channels, size, size): grey or RGB, squashed to a square (bilinear, antialiased).

    channels: 1 (luma, ITU-R 601) or 3.  The aspect ratio is not kept, as in the released AGE code.  Transparency goes over
    white, 16 bits by their high byte.  ValueError for floats, since nothing says what their white is.
    """
    if _deep(im):
        grey = np.asarray(im).astype(np.int64)
        if grey.min() < 0 or grey.max() > 0xFFFF:
            raise ValueError(f"grey values {grey.min()}..{grey.max()} do not fit 16 bits")
        im = Image.fromarray((grey >> 8).astype(np.uint8))
    elif im.mode == "F":
        raise ValueError("an image of floats has no defined range; store 8 or 16 bits")
    elif _transparent(im):
        rgba = im.convert("RGBA")
        im = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    im = (im if im.mode in ("1", "L") else im.convert("RGB")).convert("L" if channels == 1 else "RGB")
    x = np.asarray(im if im.size == (size, size) else im.resize((size, size), Image.Resampling.BILINEAR))
    return x[None] if channels == 1 else x.transpose(2, 0, 1)


def from_arrays(raw: Iterable[np.ndarray], size: int, channels: int) -> Iterator[np.ndarray]:
    """`to_array` of raw uint8 images (C, H, W), C in 1, 3."""
    pictures = (Image.fromarray(x[0] if len(x) == 1 else np.ascontiguousarray(x.transpose(1, 2, 0))) for x in raw)
    return (to_array(picture, size, channels) for picture in pictures)


def _changes(im: Image.Image, size: int, channels: int) -> list[str]:
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


def _deep(im: Image.Image) -> bool:
    return im.mode.partition(";")[0] == "I"


def _transparent(im: Image.Image) -> bool:
    return im.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in im.info
