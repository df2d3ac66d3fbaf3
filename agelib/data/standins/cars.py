"""`cars`: drawn cars; their colour given the lightness comes from a known mixture, to which a colorizer can be held.

A picture is made in CIE Lab (D65). Its lightness L knows nothing of the colour: shape, scene and light are drawn first.
Then a mode k of four is drawn with equal chances and (a, b) ~ N(MODES[k], MODE_STD^2 I), one pair for the whole body,
redrawn beyond MAX_STDS standard deviations (which leaves 2.92 of the 3). At a pixel that the body covers by a share m, ab
is m (a, b) plus the scene's own tint, SKY or GROUND, times the scene's share; tyres, glass and lamps are grey. Body
lightness lies in BODY_L, where each of these colours is inside the sRGB gamut. Rounding to 8 bits moves L and ab by up to
about half a unit.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from agelib.data.standins import Made, blocks, stream

TOTALS = {"train": 8_000, "test": 1_000}
SIZES = (64, 32)  # the same cars
CLASS_NAMES = ("grey", "red", "blue", "green")
MODES = np.array([[0.0, 0.0], [28.0, 18.0], [4.0, -30.0], [-26.0, 26.0]])  # (a, b) of each class
MODE_WEIGHTS = np.full(4, 0.25)
MODE_STD = 3.0  # of a and of b, independent
MAX_STDS = 3.0  # length of the offset (a, b) - MODES[k] at most, in MODE_STD
BODY_L = (40.0, 72.0)
SKY, GROUND = (-1.0, -4.0), (1.0, 4.0)  # (a, b) of what is not car
BLOCK = 250  # images drawn together
FINE = 4  # shapes are drawn this many times larger, then averaged

# From rear to front, x along the car and y from the sill 0 to the roof 1: upper outline (x, y), then upper edge of the side
# glass (x, y); height and length against the sedan's.
STYLES = {
    "sedan": ((0.0, 0.02, 0.15, 0.3, 0.42, 0.54, 0.7, 0.96), (0.34, 0.56, 0.62, 0.96, 1.0, 0.96, 0.6, 0.5),
        (0.2, 0.31, 0.42, 0.53, 0.66), (0.62, 0.9, 0.93, 0.9, 0.6), 1.0, 1.0),
    "hatchback": ((0.0, 0.01, 0.1, 0.24, 0.4, 0.52, 0.7, 0.95), (0.34, 0.6, 0.92, 1.0, 1.0, 0.95, 0.6, 0.5),
        (0.09, 0.16, 0.3, 0.5, 0.65), (0.62, 0.9, 0.93, 0.9, 0.6), 1.1, 0.86),
    "suv": ((0.0, 0.0, 0.05, 0.2, 0.45, 0.58, 0.7, 0.96), (0.34, 0.64, 0.96, 1.0, 1.0, 0.96, 0.66, 0.6),
        (0.06, 0.09, 0.3, 0.56, 0.66), (0.66, 0.91, 0.94, 0.91, 0.66), 1.32, 0.98),
    "coupe": ((0.0, 0.01, 0.12, 0.3, 0.4, 0.5, 0.68, 0.97), (0.36, 0.62, 0.72, 0.97, 1.0, 0.96, 0.62, 0.46),
        (0.24, 0.33, 0.4, 0.49, 0.62), (0.66, 0.9, 0.92, 0.89, 0.62), 0.88, 1.0),
    "pickup": ((0.0, 0.0, 0.36, 0.39, 0.48, 0.58, 0.7, 0.97), (0.36, 0.62, 0.62, 0.97, 1.0, 0.97, 0.64, 0.58),
        (0.42, 0.43, 0.5, 0.57, 0.66), (0.64, 0.91, 0.93, 0.91, 0.64), 1.22, 1.05),
    "van": ((0.0, 0.0, 0.02, 0.2, 0.55, 0.7, 0.86, 0.98), (0.34, 0.7, 0.97, 1.0, 1.0, 0.96, 0.6, 0.5),
        (0.05, 0.06, 0.35, 0.68, 0.8), (0.64, 0.91, 0.93, 0.91, 0.62), 1.5, 0.96),
}  # fmt: skip


def truth(split: str, size: int = 64, n: int | None = None) -> dict[str, np.ndarray]:
    """What the first n pictures of a split (None: all) are drawn from, besides shape and light.

    mode: (n,) int64, index of MODES.  ab: (n, 2) float64, the body's (a, b).  style: (n,) int64, index of STYLES.
    body: (n, size, size) bool, pixels that nothing but the body covers (edges left out).
    """
    found = [_block(split, block, here, size)[1] for block, here in blocks(n or TOTALS[split], BLOCK)]
    joined = {key: np.concatenate([part[key] for part in found]) for key in found[0]}
    return joined | {"body": joined["body"] >= 1.0 - 1e-6}


def make(split: str, size: int, n: int) -> Made:
    """Images (n, 3, size, size) uint8 RGB, labels (n,) int64 (the colour's mode), names of the four modes."""
    from skimage.color import lab2rgb

    images, labels = np.empty((n, 3, size, size), np.uint8), np.empty(n, np.int64)
    for block, here in blocks(n, BLOCK):
        lab, known = _block(split, block, here, size)
        labels[here] = known["mode"]
        images[here] = (lab2rgb(lab, channel_axis=1) * 255.0 + 0.5).astype(np.uint8)
    return images, labels, CLASS_NAMES


def _block(split: str, block: int, here: slice, size: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Of as many of a block as `here` is long: Lab (k, 3, S, S) float32; mode, ab, style and the body's coverage."""
    colour, shape = (stream("cars", split, 2 * block + i) for i in (0, 1))
    mode = colour.choice(len(MODES), BLOCK, p=MODE_WEIGHTS)
    offset = colour.standard_normal((BLOCK, 2))
    while (far := np.hypot(*offset.T) > MAX_STDS).any():
        offset[far] = colour.standard_normal((int(far.sum()), 2))
    ab = MODES[mode] + MODE_STD * offset
    style, draws, k = shape.integers(0, len(STYLES), BLOCK), shape.random((BLOCK, 40)), here.stop - here.start
    lab, body = _scene(style[:k], draws[:k], ab[:k], size)
    return lab, {"mode": mode[:k], "ab": ab[:k], "style": style[:k], "body": body}


def _scene(style: np.ndarray, draws: np.ndarray, ab: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Lab (B, 3, S, S) float32 and the body's coverage (B, S, S). draws: (B, 40) in [0, 1), all but the colour."""
    shapes = list(STYLES.values())
    layers = np.stack([_shapes(shapes[s], d, size) for s, d in zip(style, draws, strict=True)])  # (B, 4, S, S)
    flip = draws[:, 0] < 0.5
    layers[flip] = layers[flip, :, :, ::-1]
    body, other, value, crease = layers.transpose(1, 0, 2, 3)
    y = ((np.arange(size, dtype=np.float32) + 0.5) / size)[:, None]
    x = y.T
    u = draws[:, 22:, None, None].astype(np.float32)
    # Behind: sky, three blocks on the horizon, ground with the car's shadow.
    horizon = 0.50 + 0.14 * u[:, 0]
    scene = 94.0 - 16.0 * u[:, 1] * y / horizon + np.zeros_like(body)
    for i in (2, 5, 8):
        left, wide, tall = u[:, i], 0.12 + 0.4 * u[:, i + 1], 0.06 + 0.26 * u[:, i + 2]
        inside = np.minimum(0.5 * wide - np.abs(x - left), y - (horizon - tall))
        scene += np.clip(0.5 + inside * size, 0.0, 1.0) * (62.0 + 22.0 * u[:, 11 + i // 3] - scene)
    below = np.clip(0.5 + (y - horizon) * size, 0.0, 1.0)
    near = (y - horizon) / (1.0 - horizon)
    scene += below * (48.0 + 22.0 * u[:, 14] + (u[:, 15] * 18.0 - 6.0) * near - scene)
    floor = _floor(draws)[:, None, None]
    scene *= 1.0 - 0.62 * np.exp(-(((x - 0.5) / 0.40) ** 4) - ((y - floor) / 0.028) ** 2) * below
    # The body: its own lightness, brighter above, a slope along it, lines of doors and edges.
    paint = 50.0 + 13.0 * u[:, 16] + (18.0 + 26.0 * u[:, 17]) * (floor - 0.24 - y)
    paint = np.clip(paint + 14.0 * (u[:, 0] - 0.5) * (x - 0.5) + crease, *BODY_L)
    rest = np.clip(1.0 - body - other, 0.0, 1.0)
    tint = [below * GROUND[c] + (1.0 - below) * SKY[c] for c in (0, 1)]
    lab = [rest * scene + value + body * paint, *(rest * tint[c] + body * ab[:, c, None, None] for c in (0, 1))]
    return np.stack(lab, 1).astype(np.float32), body


def _floor(draws: np.ndarray) -> np.ndarray:
    """Height (B,) at which the wheels stand: share of the picture from the top."""
    return (0.74 + 0.06 * draws[..., 1]).astype(np.float32)


def _shapes(style: tuple, draws: np.ndarray, size: int) -> np.ndarray:
    """One car, facing right: coverage by the body and by its other parts, lightness of those, creases; (4, S, S).

    The third is already multiplied by the second; the fourth is added to the body's lightness.  draws: (40,).
    """
    (xs, ys, glass_x, glass_y, tall, long), u, fine = style, draws[2:], FINE * size
    length = 0.82 * long * (0.92 + 0.12 * u[0])
    height = 0.335 * length * tall * (0.92 + 0.16 * u[1])
    radius = length * (0.085 + 0.017 * u[2])
    floor, left = float(_floor(draws)), 0.5 - length / 2 + 0.05 * (u[3] - 0.5)
    sill = floor - 0.62 * radius

    def at(points: np.ndarray | list) -> np.ndarray:
        """From the car's frame (see STYLES) to pixels of the fine canvas, (K, 2)."""
        return fine * (np.array([left, sill]) + np.asarray(points, float) * np.array([length, -height]))

    planes = [Image.new("L", (fine, fine), fill) for fill in (0, 0, 0, 128)]
    draw = [ImageDraw.Draw(im) for im in planes]

    def part(kind: str, where: object, lightness: float, **more: object) -> None:
        """Lay something that is not body over everything before it."""
        for pen, fill in zip(draw, (0, 255, round(2.55 * lightness)), strict=False):
            getattr(pen, kind)(where, fill=fill, **more)

    def box(x: float, y: float, rx: float, ry: float) -> list[float]:
        return [x - rx, y - ry, x + rx, y + ry]

    wobble = np.stack([0.012 * (u[4:12] - 0.5), 0.05 * (u[8:16] - 0.5)], 1)
    wobble[:, 1] *= np.arange(8) < 6  # the bonnet stays level
    outline = [(0.02, 0.0), *(np.stack([xs, ys], 1) + wobble), (0.99, 0.42), (1.0, 0.12), (0.98, 0.0)]
    draw[0].polygon([tuple(p) for p in _spline(at(outline))], fill=255)
    glass = _spline(at(np.stack([glass_x, glass_y], 1)))
    part("polygon", [tuple(p) for p in glass], 24.0 + 14.0 * u[16])
    shine = at([(0.0, 0.80), (1.0, 0.86)])  # the sky in the upper part of the glass
    bright = [(x, y) for x, y in glass if y < shine[:, 1].max()]
    if len(bright) > 2:
        part("polygon", bright, 46.0 + 16.0 * u[16])
    line = max(1, round(0.010 * fine))
    base, middle = glass_y[0], 0.30 + 0.35 * glass_x[2]
    for pen, fill in zip(draw, (255, 0, 0), strict=False):  # the pillar between the side windows
        pen.line([tuple(p) for p in at([(middle, base - 0.02), (middle - 0.005, 0.97)])], fill=fill, width=2 * line)
    for x in (middle - 0.17, middle, middle + 0.20):  # doors
        draw[3].line([tuple(p) for p in at([(x, 0.10), (x, base)])], fill=84, width=line)
    draw[3].line([tuple(p) for p in at([(0.03, 0.50), (0.5, base - 0.07), (0.96, 0.44)])], fill=158, width=2 * line)
    for x in (middle - 0.05, middle + 0.15):  # handles
        draw[3].line([tuple(p) for p in at([(x, base - 0.14), (x - 0.04, base - 0.14)])], fill=70, width=line)
    part("polygon", [tuple(p) for p in at([(0.02, 0.0), (0.98, 0.0), (0.985, 0.07), (0.015, 0.07)])], 20.0)
    part("ellipse", box(*at([(0.965, 0.42)])[0], 0.022 * fine * length / 0.8, 0.016 * fine), 93.0)
    part("rectangle", [*at([(0.005, 0.58)])[0], *at([(0.035, 0.46)])[0]], 30.0)
    part("line", [tuple(p) for p in at([(0.90, 0.16), (0.998, 0.16)])], 24.0, width=2 * line)
    turn = u[17] * np.pi
    for x in (0.185, 0.80):
        cx, cy, r = fine * (left + x * length), fine * (floor - radius), fine * radius
        part("pieslice", box(cx, cy, 1.22 * r, 1.22 * r), 9.0, start=180, end=360)
        part("ellipse", box(cx, cy, r, r), 15.0)
        part("ellipse", box(cx, cy, 0.62 * r, 0.62 * r), 60.0 + 24.0 * u[18])
        for k in range(5):
            end = (cx + 0.6 * r * np.cos(turn + 0.4 * np.pi * k), cy + 0.6 * r * np.sin(turn + 0.4 * np.pi * k))
            part("line", [(cx, cy), end], 34.0, width=line)
        part("ellipse", box(cx, cy, 0.14 * r, 0.14 * r), 45.0)
    layers = np.stack([np.asarray(im.reduce(FINE), np.float32) for im in planes])
    scale, level = np.array([[1 / 255, 1 / 255, 1 / 2.55, 0.2], [0.0, 0.0, 0.0, 128 * 0.2]], np.float32)[..., None, None]
    return layers * scale - level


_T = np.linspace(0.0, 1.0, 8, endpoint=False)[:, None]
_RULE = np.array([[0.0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]])
_CATMULL_ROM = 0.5 * np.concatenate([np.ones_like(_T), _T, _T**2, _T**3], 1) @ _RULE  # (8, 4): of four points, between two


def _spline(points: np.ndarray) -> np.ndarray:
    """A smooth open curve through points (K, 2): (8 (K - 1) + 1, 2)."""
    padded = np.concatenate([points[:1], points, points[-1:]])
    quads = np.stack([padded[i : len(padded) - 3 + i] for i in range(4)], 1)  # (K - 1, 4, 2)
    return np.concatenate([np.einsum("tj,kjc->ktc", _CATMULL_ROM, quads).reshape(-1, 2), points[-1:]])
