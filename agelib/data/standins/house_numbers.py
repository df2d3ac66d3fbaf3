"""`house_numbers`: colour digits as on house fronts, with cut-off neighbours; the label is the digit in the centre.

After SynNumbers (Ganin and Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", ICML 2015): a font, two
colours or a photograph behind (of `patches`, in the region of the split), neighbour digits, rotation, shear and perspective,
shadow, light, blur, noise. The classes are equally frequent (SVHN's are not).
"""

from functools import lru_cache
from importlib.resources import files

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from agelib.data.standins import Made, blocks, patches, stream

TOTALS = {"train": 20_000, "test": 4_000}
SIZES = (32,)
CLASS_NAMES = tuple("0123456789")
# Text fonts only: matplotlib's cmex10, cmmi10 and cmsy10 draw other signs where the digits should be.
FONTS = (
    *(f"{face}{style}" for face in ("DejaVuSans", "DejaVuSansMono") for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)
BLOCK = 500  # images drawn together
GLYPH = 48  # pixels: height of a drawn digit before it is warped
STRIP = (240, 72)  # pixels: width, height of the canvas that holds the centre digit and its neighbours
N_PHOTOS = 2_000  # photograph pieces of each split to choose backgrounds from
MIN_CONTRAST = 0.28  # luminance (0-1) of the digit against the mean of what is behind it
_BILINEAR = Image.Resampling.BILINEAR
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@lru_cache(maxsize=1)
def glyphs() -> dict[tuple[str, int], Image.Image]:
    """(font, digit) -> coverage, 8 bit, cropped to the ink, GLYPH pixels high, of natural width."""
    found = {}
    for font in FONTS:
        with (files("matplotlib") / f"mpl-data/fonts/ttf/{font}.ttf").open("rb") as f:
            face = ImageFont.truetype(f, 2 * GLYPH)
        for digit in range(10):
            canvas = Image.new("L", (4 * GLYPH, 4 * GLYPH))
            ImageDraw.Draw(canvas).text((GLYPH, GLYPH // 2), str(digit), fill=255, font=face)
            ink = canvas.crop(canvas.getbbox())
            width = max(1, round(ink.width * GLYPH / ink.height))
            found[font, digit] = ink.resize((width, GLYPH), Image.Resampling.LANCZOS)
    return found


def make(split: str, size: int, n: int) -> Made:
    """Images (n, 3, 32, 32) uint8 RGB, labels (n,) int64 (the centre digit, balanced in every 500), names of the classes."""
    images, labels = np.empty((n, 3, size, size), np.uint8), np.empty(n, np.int64)
    photos = patches.make(split, size, N_PHOTOS)[0]
    for block, here in blocks(n, BLOCK):
        rng = stream("house_numbers", split, block)
        images[here], labels[here] = _block(photos, here.stop - here.start, size, rng)
    return images, labels, CLASS_NAMES


def _block(photos: np.ndarray, k: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The first k of BLOCK images; draws as many random numbers whatever k is."""
    digits = rng.permutation(np.arange(BLOCK) % 10)
    ink = np.empty((BLOCK, 2, size, size), np.float32)  # coverage by digits, by their shadow
    ink[k:] = 0.0
    for i in range(BLOCK):
        draws = rng.random(20)
        if i < k:
            ink[i] = _ink(int(digits[i]), draws, size)
    back, front = _colours(photos, rng)
    digit, shadow = ink[:, None, 0], ink[:, None, 1]  # (B, 1, H, W)
    dark = rng.uniform(0.0, 0.7, (BLOCK, 1, 1, 1)) * (rng.random((BLOCK, 1, 1, 1)) < 0.5)
    image = back * (1.0 - dark.astype(np.float32) * shadow)
    image += digit * (front[:, :, None, None] - image)
    axis = np.linspace(-1.0, 1.0, size, dtype=np.float32)
    slope = rng.normal(0.0, 0.09, (2, BLOCK, 1, 1, 1)).astype(np.float32)  # light that falls off to one side
    image *= 1.0 + slope[0] * axis[:, None] + slope[1] * axis
    image = _blurred(image, rng.uniform(0.05, 1.0, BLOCK))
    image += rng.uniform(0.0, 0.035, (BLOCK, 1, 1, 1)).astype(np.float32) * rng.standard_normal(image.shape, np.float32)
    return (np.clip(image[:k], 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8), digits[:k]


def _ink(digit: int, draws: np.ndarray, size: int) -> np.ndarray:
    """Coverage (2, size, size) float32 in [0, 1] by the digits and by their shadow. draws: (20,) in [0, 1)."""
    uniform = iter(draws)

    def between(low: float, high: float) -> float:
        return low + (high - low) * next(uniform)

    font = FONTS[int(between(0, len(FONTS)))]
    strip = Image.new("L", STRIP)
    middle = glyphs()[font, digit]
    left, top = (STRIP[0] - middle.width) // 2, (STRIP[1] - GLYPH) // 2
    strip.paste(middle, (left, top))
    gap = int(between(3, 9))
    for side in (-1, 1):
        other = glyphs()[font, int(between(0, 10))]
        if between(0, 1) < 0.6:
            strip.paste(other, (left - gap - other.width if side < 0 else left + middle.width + gap, top))
    # From the picture, u and v in [-1, 1], to the strip: (A (u, v) + c) / (1 + p u + q v).
    height, aspect = between(0.62, 0.88), between(0.8, 1.15)  # height: share of the picture's
    turn, shear = between(-0.16, 0.16), between(-0.2, 0.2)  # radians, tangent
    p, q = between(-0.14, 0.14), between(-0.14, 0.14)
    cos, sin, unit = np.cos(turn), np.sin(turn), 0.5 * GLYPH / height
    a, b = unit * (cos / aspect + shear * sin), unit * (-sin / aspect + shear * cos)
    d, e = unit * sin, unit * cos
    x, y = STRIP[0] / 2 + between(-4, 4), STRIP[1] / 2 + between(-3, 3)
    # The centre's place stays put under perspective: add (p, q) times it to the numerators.
    a, b, d, e = a + p * x, b + q * x, d + p * y, e + q * y
    half, scale = size, 1.0 - p - q  # drawn at twice the size, so that a unit is `size` pixels
    warp = (a / half, b / half, x - a - b, d / half, e / half, y - d - e, p / half, q / half)
    warped = strip.transform((2 * size, 2 * size), Image.Transform.PERSPECTIVE, [w / scale for w in warp], _BILINEAR)
    shadow = Image.new("L", warped.size)
    shadow.paste(warped, (int(between(-3, 4)), int(between(0, 4))))
    both = np.stack([warped, shadow]).reshape(2, size, 2, size, 2)
    return both.mean((2, 4), dtype=np.float32) / 255.0


def _colours(photos: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What is behind, (B, 3, H, W), and the digit's colour, (B, 3): float32 in [0, 1], MIN_CONTRAST apart."""
    plain, paint = _muted(rng, BLOCK), _muted(rng, BLOCK, 32)
    chosen = photos[rng.integers(0, len(photos), BLOCK)].astype(np.float32) / 255.0
    chosen = np.where(rng.random((BLOCK, 1, 1, 1)) < 0.5, chosen, chosen[..., ::-1])
    photo = rng.random((BLOCK, 1, 1, 1)) < 0.4
    strength = np.where(photo, rng.uniform(0.35, 0.9, photo.shape), rng.uniform(0.0, 0.12, photo.shape))
    level = np.where(photo, chosen.mean((2, 3), keepdims=True), plain[:, :, None, None])
    back = (level + strength * (chosen - chosen.mean((2, 3), keepdims=True))).clip(0.0, 1.0).astype(np.float32)
    behind = np.einsum("bchw,c->b", back, LUMA) / back[0, 0].size
    far = np.abs(paint @ LUMA - behind[:, None]) >= MIN_CONTRAST * np.where(photo[:, :, 0, 0], 1.3, 1.0)
    front = paint[np.arange(BLOCK), far.argmax(1)]
    lost = ~far.any(1)  # none of the 32 paints: black or white
    front[lost] = (behind[lost] < 0.5)[:, None]
    return back, front


def _muted(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random colours, mostly of low saturation, (*shape, 3) float32 in [0, 1]."""
    hue, value = rng.random(shape)[..., None] * 6.0, rng.uniform(0.05, 1.0, shape)[..., None]
    saturation = 0.9 * rng.beta(1.2, 2.6, shape)[..., None]
    pure = np.clip(np.abs((hue + np.array([0.0, 4.0, 2.0])) % 6.0 - 3.0) - 1.0, 0.0, 1.0)
    return (value * (1.0 - saturation * (1.0 - pure))).astype(np.float32)


def _blurred(images: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Gaussian blur of (B, C, H, W), each image with its own sigma (B,) in pixels; five taps, edges repeated."""
    taps = np.exp(-0.5 * (np.arange(-2, 3) / sigma[:, None]) ** 2)
    taps = (taps / taps.sum(1, keepdims=True)).astype(np.float32)[:, :, None, None, None]  # (B, 5, 1, 1, 1)
    for axis in (2, 3):
        at = np.arange(images.shape[axis])
        images = sum(taps[:, t] * images.take((at + t - 2).clip(0, at[-1]), axis) for t in range(5))
    return images
