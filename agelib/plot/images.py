"""Pictures of images: grids, pairs, and the layouts of the paper's Figures 2 to 4. Each returns a Figure and saves nothing.

Images are (N, C, H, W) with C = 1 or 3, uint8 or float in [-1, 1], arrays or tensors. They are enlarged by a whole factor
with nearest-neighbour sampling, so that one pixel of the image is a square of equal pixels in a file saved at `DPI`. Values
are drawn in steps of 4 (an error of at most 2 of 255, below what the eye sees), which makes the files a third smaller.
Frames are blue around real images and orange around made ones, unless the legend says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.lines import Line2D
from torch import Tensor

from agelib.images import to_uint8
from agelib.plot.figure import BLUE, HEADING, INK, MARGIN, ORANGE, Figure, key, page, series, text_width

_PAIR_KEYS = (key("real x", BLUE), key("reconstruction g(e(x))", ORANGE))
_BETWEEN = 24  # pixels between panels side by side
_TILE_PX, _SMALL_PX = 100, 64  # largest enlarged image, in a figure of one panel and of several
_WIDTH_PX, _WIDE_PX = 1180, 1350  # widest figure of one panel, of several, unless their images at factor 1 need more


def to_rgb8(images: Any, lead: int = 1) -> np.ndarray:
    """Images (N, C, H, W), uint8 or float in [-1, 1], C 1 or 3, as (N, H, W, 3) uint8; lead: number of axes before C.

    Raises ValueError for another shape, another dtype, values that are not finite or outside [-1, 1] (tolerance 0.01).
    """
    x = images.detach().cpu() if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
    if x.ndim != lead + 3 or x.shape[lead] not in (1, 3) or 0 in x.shape:
        axes = ", ".join("NK"[:lead])
        raise ValueError(f"need images of shape ({axes}, C, H, W) with C 1 or 3 and nothing empty, got {tuple(x.shape)}")
    if x.dtype != torch.uint8 and not (x.is_floating_point() and x.min() >= -1.01 and x.max() <= 1.01):
        raise ValueError(f"need uint8 images or floats in [-1, 1], got {x.dtype} from {x.min():.3g} to {x.max():.3g}")
    x = np.moveaxis(to_uint8(x) if x.is_floating_point() else x.numpy(), lead, -1)
    return np.broadcast_to(x, (*x.shape[:-1], 3))


def grid(images: Any, ncols: int = 8, title: str | None = None) -> Figure:
    """All images (N, C, H, W), row by row, `ncols` to a row."""
    return _lay_out([[("", _mosaic(to_rgb8(images), ncols, gap=(2, 2)))]], title)


def real_reconstruction(x: Any, gex: Any, title: str | None = None) -> Figure:
    """Odd columns real images x, even columns their reconstructions g(e(x)), as in Figures 2 and 3 of the paper. x, gex:
    (N, C, H, W) of equal shape."""
    return _lay_out([[("", _pairs(x, gex, 16))]], title, _PAIR_KEYS)


def figure2(samples: Any, x: Any, gex: Any, real: Any, *, nrows: int = 6, title: str | None = None) -> Figure:
    """The layout of the paper's Figure 2: (a) real images, (b) samples g(z), (c) pairs of x and g(e(x)); at most `nrows`
    rows of 6 of each. samples, real: (N, C, H, W); x, gex: (K, C, H, W) of equal shape; all of one size."""
    ncols, n = 6, 6 * nrows
    shown = {"(a) real images": to_rgb8(real[:n]), "(b) samples g(z)": to_rgb8(samples[:n])}
    _check_equal({"x": to_rgb8(x[:1])} | {name: tiles[:1] for name, tiles in shown.items()})
    zoom = max(1, _SMALL_PX // real.shape[2])
    row = [(name, _mosaic(tiles, ncols, zoom, gap=(1, 4), frames=[None] * n)) for name, tiles in shown.items()]
    row.append(("(c) x and g(e(x)) in turn", _pairs(x[: n // 2], gex[: n // 2], ncols, zoom)))
    return _lay_out([row], title, _PAIR_KEYS)


def figure3(
    x: Any, reconstructions: Mapping[str, Any], samples: Mapping[str, Any] | None = None, *, title: str | None = None
) -> Figure:
    """The layout of the paper's Figure 3: held-out images x (N, C, H, W) in the first column, then each model's
    reconstructions of them, of equal shape, as many such blocks of 6 rows side by side as fit; below, samples (K, C, H, W)
    of each model."""
    columns = {"x": to_rgb8(x)} | {name: to_rgb8(images) for name, images in reconstructions.items()}
    _check_equal(columns)
    n, height, width = columns["x"].shape[:3]
    zoom = max(1, _SMALL_PX // height)
    needed = sum(max(zoom * width + 4, text_width(name, HEADING)) + _BETWEEN for name in columns)
    blocks = max(1, min((_WIDE_PX - 2 * MARGIN) // needed, n // 6))
    rows = [[]]
    for start in range(0, blocks * 6, 6):
        for name, tiles in columns.items():
            part = tiles[start : start + 6]
            rows[0].append((name, _mosaic(part, 1, zoom, frames=[BLUE if name == "x" else ORANGE] * len(part))))
    if samples:
        ncols = max(2, (_WIDE_PX // len(samples) - _BETWEEN) // (zoom * width + 2))
        made = {name: to_rgb8(images[: 3 * ncols]) for name, images in samples.items()}
        rows.append([(f"samples: {name}", _mosaic(tiles, ncols, zoom)) for name, tiles in made.items()])
    return _lay_out(rows, title, [key("held-out image", BLUE), key("reconstruction", ORANGE)])


def figure4a(inputs: Any, rows: Mapping[str, Any], title: str | None = None) -> Figure:
    """The paper's Figure 4 (a): for each input, a row of colorizations a model, in the legend's order; the input, framed,
    begins each row. inputs: (N, C, H, W), the lightness that the models saw. rows: name -> (N, K, 3, H, W), at most six."""
    given, made = to_rgb8(inputs), {name: to_rgb8(images, 2) for name, images in rows.items()}
    _check_equal(made)
    _check_equal({"inputs": given, "each model's first": next(iter(made.values()))[:, 0]})
    tiles = [tile for i, image in enumerate(given) for images in made.values() for tile in (image, *images[i])]
    K = len(tiles) // (len(given) * len(made)) - 1
    colours = series(made, "models")
    frames = [frame for colour in colours.values() for frame in (colour, *[None] * K)] * len(given)
    keys = [key(f"input to {name}", colour) for name, colour in colours.items()]
    return _lay_out([[("", _mosaic(np.stack(tiles), 1 + K, gap=(1, 3), frames=frames))]], title, keys)


def figure4b(sources: Any, targets: Any, transferred: Any, title: str | None = None) -> Figure:
    """The paper's Figure 4 (b): colour transfer as a matrix. Top row: sources (S, C, H, W), which lend their colours; left
    column: targets (T, C, H, W), lightness that takes them; transferred (T, S, 3, H, W): row i, column j g(e(x_j|L_j)|L_i).
    """
    top, left, inside = to_rgb8(sources), to_rgb8(targets), to_rgb8(transferred, 2)
    S, T = len(top), len(left)
    if inside.shape[:2] != (T, S):
        raise ValueError(f"need {S} colours on each of {T} targets, got {inside.shape[:2]}")
    tiles = [np.full_like(top[0], 255), *top, *[tile for i in range(T) for tile in (left[i], *inside[i])]]
    frames = [None, *[BLUE] * S, *[ORANGE, *[None] * S] * T]
    keys = [key("colours of this image", BLUE), key("lightness of this image", ORANGE)]
    return _lay_out([[("", _mosaic(np.stack(tiles), 1 + S, gap=(1, 3), frames=frames))]], title, keys)


def interpolations(rows: Iterable[Any]) -> Figure:
    """One row of pictures for each path: images (K, C, H, W), K >= 2, equal for all; the ends, framed, are what it joins."""
    tiles = to_rgb8(np.stack(list(rows)), 2)
    R, K = tiles.shape[:2]
    frames = [BLUE, *[None] * (K - 2), BLUE] * R
    mosaic = _mosaic(tiles.reshape(-1, *tiles.shape[2:]), K, gap=(1, 4), frames=frames)
    return _lay_out([[("", mosaic)]], "Interpolations between two codes along the sphere", [key("ends of a path", BLUE)])


def neighbours(samples: Any, nearest: Any) -> Figure:
    """Samples (N, C, H, W) above the training image nearest to each, of equal shape."""
    tiles = {"samples": to_rgb8(samples), "nearest": to_rgb8(nearest)}
    _check_equal(tiles)
    N = len(tiles["samples"])
    mosaic = _mosaic(np.concatenate([*tiles.values()]), N, frames=[ORANGE] * N + [BLUE] * N)
    keys = [key("sample g(z)", ORANGE), key("nearest training image", BLUE)]
    return _lay_out([[("", mosaic)]], "Samples and their nearest training images", keys)


def _check_equal(groups: Mapping[str, np.ndarray]) -> None:
    if len({tiles.shape for tiles in groups.values()}) > 1:
        shapes = ", ".join(f"{name} {tiles.shape}" for name, tiles in groups.items())
        raise ValueError(f"images differ in number or size: {shapes}")


def _pairs(x: Any, gex: Any, ncols: int, zoom: int | None = None) -> np.ndarray:
    real, made = to_rgb8(x), to_rgb8(gex)
    _check_equal({"x": real, "g(e(x))": made})
    tiles = np.stack([real, made], axis=1).reshape(-1, *real.shape[1:])
    return _mosaic(tiles, ncols, zoom, gap=(1, 4), group=2, frames=[BLUE, ORANGE] * len(real))


def _mosaic(
    tiles: np.ndarray, ncols: int, zoom: int | None = None, *, gap: tuple[int, int] = (1, 1), group: int = 10**9,
    frames: Sequence[str | None] = (),
) -> np.ndarray:  # fmt: skip
    """(N, H, W, 3) uint8 tiles as one uint8 picture, at most `ncols` in a row, values in steps of 4.

    zoom: a whole factor, or None: the largest at which the row fits the page. gap: white pixels between columns and between
    rows. group: 6 more after every `group` columns. frames: a colour or None for each tile: 2 pixels outside the tile.
    """
    ncols, border = max(1, min(ncols, len(tiles))), 2 if frames else 0
    fit = (_WIDTH_PX - 2 * MARGIN - 6 * ncols) // (ncols * tiles.shape[2])
    zoom = zoom or max(1, min(_TILE_PX // max(tiles.shape[1:3]), fit))
    tiles = np.minimum((tiles.astype(np.int16) + 2) // 4 * 4, 255).astype(np.uint8)
    h, w = tiles.shape[1] * zoom + 2 * border, tiles.shape[2] * zoom + 2 * border
    wide = ncols * (w + gap[0]) - gap[0] + 6 * ((ncols - 1) // group)
    out = np.full((-(-len(tiles) // ncols) * (h + gap[1]) - gap[1], wide, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        row, col = divmod(i, ncols)
        y, x = row * (h + gap[1]), col * (w + gap[0]) + 6 * (col // group)
        if frames and frames[i]:
            out[y : y + h, x : x + w] = list(bytes.fromhex(frames[i][1:]))
        out[y + border : y + h - border, x + border : x + w - border] = tile.repeat(zoom, 0).repeat(zoom, 1)
    return out


def _lay_out(rows: list[list[tuple[str, np.ndarray]]], title: str | None, keys: Sequence[Line2D] = ()) -> Figure:
    """Rows of (heading, picture) panels under a title and a legend, one file pixel a pixel."""
    widths = [[max(picture.shape[1], text_width(name, HEADING)) + _BETWEEN for name, picture in row] for row in rows]
    heads = [24 if row[0][0] else 0 for row in rows]
    heights = [head + max(picture.shape[0] for _, picture in row) + 12 for head, row in zip(heads, rows, strict=True)]
    width = max(300, *(sum(w) - _BETWEEN for w in widths)) + 2 * MARGIN
    fig, y = page(width, sum(heights) - 12 + MARGIN, title, keys)
    height = fig.bbox.height
    for i, row in enumerate(rows):
        for j, (name, picture) in enumerate(row):
            x, (h, w) = MARGIN + sum(widths[i][:j]), picture.shape[:2]
            if name:
                fig.text(x / width, 1 - (y + 2) / height, name, fontsize=HEADING, color=INK, va="top")
            ax = fig.add_axes((x / width, 1 - (y + heads[i] + h) / height, w / width, h / height))
            ax.imshow(picture, interpolation="none", aspect="auto")
            ax.set_axis_off()
        y += heights[i]
    return fig
