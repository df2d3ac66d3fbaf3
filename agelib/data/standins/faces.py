"""`faces`: drawn faces, framed like aligned CelebA; every picture is a function of factors that are known.

Shapes are signed distances in a head-fixed frame (x to the right, y down, the picture spans -1..1), their edges anti-aliased
analytically, so a face looks the same at each size. Skin is lit as a rounded surface.
"""

from collections.abc import Callable

import numpy as np

from agelib.data.standins import Made, blocks, stream

TOTALS = {"train": 12_000, "test": 1_200}
SIZES = (64, 32)  # the same faces
HAIR_STYLES = ("none", "short", "side parting", "bob", "long", "curly")
HAIR_COLOURS = ("black", "brown", "auburn", "blond", "grey")
EYE_COLOURS = ("brown", "blue", "green", "grey")
BLOCK = 50  # images drawn together: their planes stay in the processor's cache

_SKIN = np.array([[0.98, 0.85, 0.76], [0.92, 0.72, 0.58], [0.78, 0.56, 0.42], [0.58, 0.39, 0.28], [0.38, 0.25, 0.18]])
_HAIR = np.array([[0.09, 0.07, 0.07], [0.30, 0.18, 0.10], [0.50, 0.22, 0.10], [0.84, 0.68, 0.38], [0.66, 0.65, 0.64]])
_IRIS = np.array([[0.32, 0.19, 0.10], [0.25, 0.45, 0.68], [0.30, 0.47, 0.27], [0.47, 0.52, 0.55]])


def factors(split: str, n: int | None = None) -> dict[str, np.ndarray]:
    """What the first n pictures of a split (None: all) are drawn from: name -> array (n,) or, of colours, (n, 3)."""
    rng, k = stream("faces", split), TOTALS[split]
    style = rng.choice(len(HAIR_STYLES), k, p=[0.06, 0.24, 0.2, 0.17, 0.21, 0.12])
    background = rng.uniform(0.1, 0.95, (k, 1)) + rng.normal(0.0, 0.13, (k, 3))
    low = background * rng.uniform(0.55, 1.2, (k, 1)) + rng.normal(0.0, 0.06, (k, 3))
    found = {
        "skin": rng.beta(1.1, 1.5, k),  # 0 (light) to 1 (dark)
        "hair_colour": rng.choice(len(HAIR_COLOURS), k, p=[0.27, 0.28, 0.12, 0.21, 0.12]),  # index
        "hair_style": style,  # index
        "eye_colour": rng.choice(len(EYE_COLOURS), k, p=[0.5, 0.22, 0.14, 0.14]),  # index
        "eye_open": rng.uniform(0.35, 1.0, k) ** 0.7,
        "smile": rng.beta(2.5, 1.5, k) * 2.0 - 1.0,  # -1 to 1
        "mouth_open": rng.uniform(0.0, 1.0, k) * (rng.random(k) < 0.5),
        "brow": rng.uniform(-1.0, 1.0, k),  # -1 (angry) to 1 (surprised)
        "yaw": rng.normal(0.0, 0.45, k).clip(-1.0, 1.0),  # -1: looks to the picture's left
        "roll": rng.normal(0.0, 0.07, k).clip(-0.2, 0.2),  # radians, clockwise
        "width": rng.uniform(0.9, 1.1, k),  # of the head
        "jaw": rng.uniform(0.0, 1.0, k),  # 0 (round) to 1 (pointed)
        "glasses": (rng.random(k) < 0.13).astype(np.int64),
        "beard": ((rng.random(k) < 0.33) & (style <= 2)).astype(np.int64),
        "background": background.clip(0.02, 0.98),  # RGB
        "background_low": low.clip(0.02, 0.98),
        "clothes": (rng.uniform(0.05, 0.9, (k, 1)) + rng.normal(0.0, 0.16, (k, 3))).clip(0.02, 0.98),
        "light": rng.uniform(-1.0, 1.0, k),  # -1: from the left
        "contrast": rng.beta(2.0, 2.0, k),  # 0: flat light
    }
    return {name: values[:n] for name, values in found.items()}


def make(split: str, size: int, n: int) -> Made:
    """Images (n, 3, size, size) uint8 RGB, None, None: like CelebA's images these have no class; see `factors`."""
    known, images = factors(split, n), np.empty((n, 3, size, size), np.uint8)
    for block, here in blocks(n, BLOCK):
        image = _draw({name: values[here] for name, values in known.items()}, size)
        grain = stream("faces", split, 1 + block).standard_normal((BLOCK, 1, size, size), np.float32)
        image += 0.012 * grain[: len(image)]
        images[here] = (np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    return images, None, None


class _Canvas:
    """B pictures that shapes are laid on: image (B, 3, S, S) float32, coordinates x, y (B, S, S) of the frame."""

    def __init__(self, image: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
        self.image, self.x, self.y = image, x, y
        self.pixel = 2.0 / image.shape[-1]

    def rows(self, low: float, high: float) -> "_Canvas":
        """The part between two heights in [-1, 1]: most shapes are small, and this is what makes drawing cheap."""
        size = self.image.shape[-1]
        here = slice(max(0, int((low + 1.0) * size / 2)), min(size, int(np.ceil((high + 1.0) * size / 2))))
        return _Canvas(self.image[:, :, here], self.x[:, here], self.y[:, here])

    def cover(self, distance: np.ndarray, soft: float = 1.0) -> np.ndarray:
        """Signed distance (negative inside) -> coverage in [0, 1]; `soft` widens the edge, in pixels."""
        return np.clip(0.5 - distance / (self.pixel * soft), 0.0, 1.0)

    def paint(self, cover: np.ndarray, colour: np.ndarray | float) -> None:
        """Lay a colour, (B, 3), (B, 3, S, S) or a level of grey, over the pictures where cover (B, S, S) is above 0."""
        colour = colour[:, :, None, None] if np.ndim(colour) == 2 else colour
        self.image += cover[:, None] * (colour - self.image)

    def shade(self, cover: np.ndarray, factor: float | np.ndarray) -> None:
        """Multiply what is there by `factor` where cover is 1."""
        self.image *= (1.0 + cover * (factor - 1.0))[:, None]


def _ellipse(x: np.ndarray, y: np.ndarray, rx: np.ndarray | float, ry: np.ndarray | float) -> np.ndarray:
    """Approximate signed distance to an ellipse at the origin: f / |grad f| of f = |(x/rx, y/ry)| - 1."""
    u, v = x / rx, y / ry
    r = np.sqrt(u * u + v * v) + 1e-6
    return (r - 1.0) * r / (np.sqrt((u / rx) ** 2 + (v / ry) ** 2) + 1e-6)


def _draw(known: dict[str, np.ndarray], size: int) -> np.ndarray:
    """Pictures (B, 3, size, size) float32, about [0, 1]; know nothing of randomness."""
    f = {k: v.astype(np.float32)[:, None, None] for k, v in known.items() if v.ndim == 1}
    style, b = known["hair_style"], len(known["skin"])
    axis = (np.arange(size, dtype=np.float32) + 0.5) * 2.0 / size - 1.0
    px, py = np.broadcast_to(axis, (b, size, size)), np.broadcast_to(axis[:, None], (b, size, size))
    cos, sin = np.cos(f["roll"]), np.sin(f["roll"])
    x, y = cos * px + sin * (py - 0.4), cos * (py - 0.4) - sin * px + 0.4  # turns about the chin
    tone = known["skin"] * (len(_SKIN) - 1)
    skin = np.stack([np.interp(tone, np.arange(len(_SKIN)), _SKIN[:, c]) for c in range(3)], 1).astype(np.float32)
    hair, iris = (t[known[k]].astype(np.float32) for t, k in ((_HAIR, "hair_colour"), (_IRIS, "eye_colour")))
    high, low = (known[k].astype(np.float32)[:, :, None, None] for k in ("background", "background_low"))
    on = _Canvas(high + (low - high) * ((py + 1.0 + 0.35 * f["light"] * px) / 2.0)[:, None], x, y)

    # The head: an ellipse that narrows towards the chin.  u, v: 1 at its edge.  turn: how far features move with yaw.
    rx, ry, cy, turn = 0.50 * f["width"], 0.66, 0.06, 0.15 * f["yaw"]
    below = np.clip((y - cy - 0.05) / ry, 0.0, 1.0)
    u, v = x / (rx * (1.0 - (0.10 + 0.22 * f["jaw"]) * below**1.5)), (y - cy) / ry
    r = np.sqrt(u * u + v * v) + 1e-6
    head = (r - 1.0) * rx
    strands = 1.0 + 0.10 * np.sin(38.0 * x + 9.0 * y) + 0.07 * np.sin(23.0 * x - 5.0 * y + 1.0)
    gloss = strands * (1.0 + 0.35 * np.exp(-(((y + 0.62 - 0.25 * x * f["light"]) / 0.14) ** 2)))
    gloss *= 1.0 + 0.22 * f["light"] * np.clip(x, -1.0, 1.0)
    locks = hair[:, :, None, None] * gloss[:, None]

    def styled(*names: str) -> np.ndarray:
        return np.isin(style, [HAIR_STYLES.index(s) for s in names]).astype(np.float32)[:, None, None]

    # Behind the head: long hair, curls.  Then neck, clothes, ears.
    length = 0.45 * styled("bob") + 1.3 * styled("long")
    wide = np.maximum(np.abs(x) - 0.60 * f["width"] - 0.06 * np.clip(y, 0.0, 1.0), y - length) + 0.06 * np.cos(9.0 * x)
    behind = np.where(y < -0.02, _ellipse(x, y + 0.02, 0.61 * f["width"], 0.78), wide)
    on.paint(on.cover(behind, 2.0) * styled("bob", "long"), locks * 0.72)
    curls = _ellipse(x, y + 0.16, 0.70, 0.74) + 0.035 * (np.sin(17.0 * x) + np.cos(19.0 * y + 1.5))
    on.paint(on.cover(curls, 2.0) * styled("curly"), locks * 0.85)
    lower = on.rows(0.30, 1.0)
    lx, ly = lower.x, lower.y
    lower.paint(lower.cover(np.abs(lx) - 0.25 - 0.1 * np.clip(ly - 0.75, 0.0, 1.0)), skin * 0.78)
    lower.paint(lower.cover(_ellipse(lx, ly - 1.26, 0.95, 0.44)), known["clothes"].astype(np.float32))
    lower.paint(lower.cover(_ellipse(lx, ly - 0.80, 0.22, 0.14)), skin * 0.80)
    throat = lower.cover(np.abs(lx) - 0.25) * lower.cover(ly - 0.86, 4.0)
    lower.shade(throat * lower.cover(_ellipse(lx, ly - 0.70, 0.42, 0.16), 8.0), 0.72)  # the chin's shadow
    ears = on.rows(-0.35, 0.5)
    for side in (-1.0, 1.0):
        ear = _ellipse(ears.x - side * (rx + 0.01) + 0.05 * f["yaw"], ears.y - 0.06, 0.075, 0.14)
        ears.paint(ears.cover(ear) * (1.0 - styled("bob", "long")), skin * 0.86)

    # Skin, lit as a rounded surface: normal (u, v, sqrt(1 - u^2 - v^2)).
    nz = np.sqrt(np.clip(1.0 - 0.94 * r * r, 0.0, 1.0))
    lit = 0.80 + f["contrast"] * (0.45 * (0.55 * f["light"] * u - 0.30 * v + 0.75 * nz) - 0.2) + 0.12 * nz
    blush = 0.07 * sum(np.exp(-(((x - s * 0.27 - turn) / 0.16) ** 2) - ((y - 0.25) / 0.13) ** 2) for s in (-1.0, 1.0))
    colour = skin[:, :, None, None] * lit[:, None]
    colour[:, 1:] *= (1.0 - 1.6 * blush)[:, None]
    on.paint(on.cover(head), colour)
    stubble = np.clip((y - 0.30 + 0.25 * np.abs(x) ** 2) / 0.12, 0.0, 1.0) * on.cover(head + 0.02, 3.0)
    bare = _ellipse(x - 1.15 * turn, y - 0.45, 0.15, 0.05)  # around the mouth
    on.paint(stubble * np.clip(bare / 0.06, 0.0, 1.0) * f["beard"] * 0.82, locks * 0.8)

    _eyes(on.rows(-0.45, 0.35), f, turn, skin, hair, iris)
    _nose(on.rows(-0.15, 0.42), f, turn)
    _mouth(on.rows(0.22, 0.68), f, turn, skin)
    _fringe(on.rows(-1.0, 0.30), f, styled, head, locks, u)
    _glasses(on.rows(-0.35, 0.30), f, turn, rx)
    return on.image


def _eyes(on: _Canvas, f: dict, turn: np.ndarray, skin: np.ndarray, hair: np.ndarray, iris: np.ndarray) -> None:
    """Sockets, eyes, lids and brows."""
    for side in (-1.0, 1.0):
        near = 1.0 - 0.12 * side * f["yaw"]  # the far eye is narrower
        ex, ey = on.x - side * 0.205 * (1.0 - 0.10 * np.abs(f["yaw"])) - turn, on.y
        on.shade(np.exp(-((ex / 0.15) ** 2) - ((ey + 0.02) / 0.11) ** 2), 0.84)
        rx, ry = 0.115 * near, 0.062 * f["eye_open"]
        # An almond: two parabolas that meet in the corners.
        almond = np.abs(ey + 0.012 * side * ex / 0.1) - ry * (1.0 - (ex / rx) ** 2)
        opening = on.cover(np.where(np.abs(ex) < rx * 1.1, almond, 1.0), 1.0)
        on.paint(opening, 0.95)
        gaze = ex - 0.03 * f["yaw"]
        on.paint(opening * on.cover(_ellipse(gaze, ey + 0.005, 0.053, 0.053)), iris)
        on.paint(opening * on.cover(_ellipse(gaze, ey + 0.005, 0.025, 0.025)), 0.04)
        on.paint(opening * on.cover(_ellipse(gaze - 0.02 * f["light"], ey + 0.025, 0.014, 0.014)), 0.95)
        lid = np.abs(ey + ry * (1.0 - (ex / rx) ** 2)) - 0.014
        on.paint(on.cover(np.maximum(lid, np.abs(ex) - rx * 1.05)) * 0.85, skin * 0.22)
        crease = np.abs(ey + 0.045 + ry * (1.0 - (ex / rx) ** 2)) - 0.006
        on.paint(on.cover(np.maximum(crease, np.abs(ex) - rx)) * 0.4, skin * 0.5)
        out = side * ex  # > 0 away from the nose
        arch = ey + 0.152 + 0.025 * f["brow"] - 1.6 * out**2 - 0.16 * f["brow"] * out
        thick = 0.024 * (1.0 - 0.45 * np.clip((out + 0.12) / 0.28, 0.0, 1.0))
        on.paint(on.cover(np.maximum(np.abs(arch) - thick, np.abs(ex) - 0.145)) * 0.9, hair * 0.75)


def _nose(on: _Canvas, f: dict[str, np.ndarray], turn: np.ndarray) -> None:
    """A lit ridge, a shaded side, the shadow under the tip, two nostrils."""
    x, y = on.x - turn * (1.0 + 0.5 * np.clip(on.y / 0.3, 0.0, 1.0)), on.y
    along = np.clip(1.0 - np.abs(y - 0.08) / 0.20, 0.0, 1.0)
    side = np.where(f["light"] > 0, -1.0, 1.0)
    spread = 0.045 + 0.05 * np.clip(y / 0.25, 0.0, 1.0)
    on.shade(along * np.exp(-(((x - side * spread) / 0.035) ** 2)), 0.82)
    on.shade(along * np.exp(-((x / 0.028) ** 2)), 1.10)
    on.shade(np.exp(-((x / 0.03) ** 2) - ((y - 0.20) / 0.03) ** 2), 1.10)
    on.shade(np.exp(-((x / 0.085) ** 2) - ((y - 0.268) / 0.022) ** 2), 0.74)
    for s in (-1.0, 1.0):
        on.shade(on.cover(_ellipse(x - s * 0.043, y - 0.250, 0.020, 0.013), 1.6), 0.42)


def _mouth(on: _Canvas, f: dict[str, np.ndarray], turn: np.ndarray, skin: np.ndarray) -> None:
    """Lips along a parabola; when the mouth is open, teeth and dark between them."""
    wide = 0.165 * (1.0 + 0.22 * np.clip(f["smile"], 0.0, 1.0)) * (1.0 - 0.08 * np.abs(f["yaw"]))
    x = on.x - 1.15 * turn
    t = np.clip(1.0 - (x / wide) ** 2, 0.0, 1.0)
    y = on.y - 0.44 - 0.085 * f["smile"] * (t - 0.45)
    gap = 0.062 * f["mouth_open"] * t
    ends = np.abs(x) - wide
    lip = skin * np.array([0.84, 0.56, 0.56], np.float32) + np.array([0.05, 0.0, 0.01], np.float32)
    bow = 0.009 * np.exp(-((x / 0.028) ** 2))  # the dip in the middle of the upper lip
    upper = np.maximum(np.abs(y + 0.5 * gap + 0.016 * t) - (0.019 * t - bow + 0.006), ends)
    lower = np.maximum(np.abs(y - 0.5 * gap - 0.020 * t) - 0.025 * t, ends)
    on.shade(np.exp(-((x / 0.10) ** 2) - ((y - 0.085 - gap) / 0.025) ** 2), 0.86)
    on.paint(on.cover(lower), lip * 1.10)
    on.paint(on.cover(upper), lip * 0.92)
    inside = on.cover(np.maximum(np.abs(y) - 0.5 * gap - 0.004, ends))
    on.paint(inside * 0.85, skin * np.array([0.30, 0.13, 0.13], np.float32))
    teeth = on.cover(np.maximum(np.abs(y + 0.18 * gap) - 0.26 * gap, np.abs(x) - 0.75 * wide))
    on.paint(teeth * np.clip(f["mouth_open"] * 4.0, 0.0, 1.0), 0.93)


def _fringe(on: _Canvas, f: dict, styled: Callable, head: np.ndarray, locks: np.ndarray, u: np.ndarray) -> None:
    """Hair in front of the head: a cap over the skull down to a hairline that the style shapes."""
    rows = on.x.shape[1]
    x, y, head, u, locks = on.x, on.y, head[:, :rows], u[:, :rows], locks[:, :, :rows]
    skull = _ellipse(x, y + 0.10, 0.57 * f["width"], 0.66)
    high = -0.36 + 0.10 * u * u  # bare forehead
    part = np.where(x > -0.22, -0.47 + 0.55 * np.clip(x + 0.22, 0.0, 1.0) ** 1.4, -0.47 + 1.2 * (x + 0.22) ** 2)
    round_ = -0.24 + 0.05 * np.sin(14.0 * x) * u
    sides = -0.50 + 1.25 * np.abs(u) ** 3.2
    curl = -0.33 + 0.04 * np.sin(16.0 * x + 1.0) + 0.15 * u * u
    line = styled("short") * high + styled("side parting") * part + styled("bob") * round_
    line = line + styled("long") * sides + styled("curly") * curl
    temples = np.where(np.abs(u) > 0.86, 0.16, 0.0) * styled("short", "side parting", "curly")
    cap = on.cover(np.maximum(skull, y - line - temples), 1.6) * (1.0 - styled("none"))
    falls = np.maximum(np.maximum(0.80 - np.abs(u), np.abs(u) - 1.16), -y - 0.35)  # strands down the cheeks
    cap = np.maximum(cap, on.cover(falls, 3.0) * np.clip((0.30 - y) / 0.3, 0.0, 1.0) * styled("long", "bob"))
    under = on.cover(np.maximum(head, y - line - temples - 0.06), 4.0) * (1.0 - styled("none"))
    on.shade(under * (1.0 - cap), 0.84)
    on.paint(cap, locks)


def _glasses(on: _Canvas, f: dict[str, np.ndarray], turn: np.ndarray, rx: np.ndarray) -> None:
    """Two rims, a bridge and the temples."""
    x, y = on.x - turn, on.y
    rims = np.minimum(*(np.abs(_ellipse(x - s * 0.205, y - 0.01, 0.158, 0.125)) - 0.013 for s in (-1.0, 1.0)))
    bridge = np.maximum(np.abs(y + 0.02) - 0.013, np.abs(x) - 0.06)
    temples = np.maximum(np.abs(y + 0.02) - 0.012, np.maximum(0.36 - np.abs(x), np.abs(on.x) - rx))
    on.paint(on.cover(np.minimum(np.minimum(rims, bridge), temples), 1.2) * f["glasses"], 0.10)
