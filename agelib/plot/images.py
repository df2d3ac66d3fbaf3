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
from torch import Tensor

from agelib.images import to_uint8
from agelib.plot.figure import BLUE, HEADING, INK, MARGIN, ORANGE, Figure, key, page, series, text_width

_PAIR = {"real x": BLUE, "reconstruction g(e(x))": ORANGE}
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
    return _lay_out([[("", _pairs(x, gex, 16))]], title, _PAIR)


def figure2(samples: Any, x: Any, gex: Any, real: Any, *, nrows: int = 6, title: str | None = None) -> Figure:
    """The layout of the paper's Figure 2: (a) real images, (b) samples g(z), (c) pairs of x and g(e(x)); at most `nrows`
    rows of 6 of each. samples, real: (N, C, H, W); x, gex: (K, C, H, W) of equal shape."""
    ncols, n, zoom = 6, 6 * nrows, max(1, _SMALL_PX // real.shape[2])
    shown = {"(a) real images": real, "(b) samples g(z)": samples}
    look = {"zoom": zoom, "gap": (1, 4), "frames": [None] * n}
    row = [(name, _mosaic(to_rgb8(images[:n]), ncols, **look)) for name, images in shown.items()]
    row.append(("(c) x and g(e(x)) in turn", _pairs(x[: n // 2], gex[: n // 2], ncols, zoom)))
    return _lay_out([row], title, _PAIR)


def figure3(
    x: Any, reconstructions: Mapping[str, Any], samples: Mapping[str, Any] | None = None, *, title: str | None = None
) -> Figure:
    """The layout of the paper's Figure 3: held-out images x (N, C, H, W) in the first column, then each model's
    reconstructions of them, of equal shape, as many such blocks of 6 rows side by side as fit; below, samples (K, C, H, W)
    of each model."""
    names, columns = ["x", *reconstructions], np.stack([to_rgb8(images) for images in (x, *reconstructions.values())])
    n, height, width = columns.shape[1:4]
    zoom = max(1, _SMALL_PX // height)
    needed = sum(max(zoom * width + 4, text_width(name, HEADING)) + _BETWEEN for name in names)
    blocks = max(1, min((_WIDE_PX - 2 * MARGIN) // needed, n // 6))
    rows = [[]]
    for start in range(0, blocks * 6, 6):
        for name, tiles in zip(names, columns[:, start : start + 6], strict=True):
            rows[0].append((name, _mosaic(tiles, 1, zoom, frames=[BLUE if name == "x" else ORANGE] * 6)))
    if samples:
        ncols = max(2, (_WIDE_PX // len(samples) - _BETWEEN) // (zoom * width + 2))
        made = {name: to_rgb8(images[: 3 * ncols]) for name, images in samples.items()}
        rows.append([(f"samples: {name}", _mosaic(tiles, ncols, zoom)) for name, tiles in made.items()])
    return _lay_out(rows, title, {"held-out image": BLUE, "reconstruction": ORANGE})


def figure4a(inputs: Any, rows: Mapping[str, Any], title: str | None = None) -> Figure:
    """The paper's Figure 4 (a): for each input, a row of colorizations a model, in the legend's order; the input, framed,
    begins each row. inputs: (N, C, H, W), the lightness that the models saw. rows: name -> (N, K, 3, H, W), at most six."""
    given = to_rgb8(inputs)[:, None]
    cells = np.stack([np.concatenate([given, to_rgb8(images, 2)], 1) for images in rows.values()], 1)
    colours = series(rows, "models")  # cells: (N, models, 1 + K, H, W, 3)
    frames = [frame for colour in colours.values() for frame in (colour, *[None] * (cells.shape[2] - 1))] * len(given)
    return _table(cells.reshape(-1, *cells.shape[2:]), frames, title, {f"input to {k}": v for k, v in colours.items()})


def figure4b(sources: Any, targets: Any, transferred: Any, title: str | None = None) -> Figure:
    """The paper's Figure 4 (b): colour transfer as a matrix. Top row: sources (S, C, H, W), which lend their colours; left
    column: targets (T, C, H, W), lightness that takes them; transferred (T, S, 3, H, W): row i, column j g(e(x_j|L_j)|L_i).
    """
    top, left = to_rgb8(sources), to_rgb8(targets)
    below = np.concatenate([left[:, None], to_rgb8(transferred, 2)], 1)
    cells = np.concatenate([[[np.full_like(top[0], 255), *top]], below])  # (1 + T, 1 + S, H, W, 3)
    frames = [None, *[BLUE] * len(top), *[ORANGE, *[None] * len(top)] * len(left)]
    return _table(cells, frames, title, {"colours of this image": BLUE, "lightness of this image": ORANGE})


def interpolations(rows: Iterable[Any]) -> Figure:
    """One row of pictures for each path: images (K, C, H, W), K >= 2, equal for all; the ends, framed, are what it joins."""
    cells = to_rgb8(np.stack(list(rows)), 2)
    frames = [BLUE, *[None] * (cells.shape[1] - 2), BLUE] * len(cells)
    return _table(cells, frames, "Interpolations between two codes along the sphere", {"ends of a path": BLUE})


def neighbours(samples: Any, nearest: Any) -> Figure:
    """Samples (N, C, H, W) above the training image nearest to each, of equal shape."""
    cells, N = np.stack([to_rgb8(samples), to_rgb8(nearest)]), len(samples)
    keys = {"sample g(z)": ORANGE, "nearest training image": BLUE}
    return _table(cells, [ORANGE] * N + [BLUE] * N, "Samples and their nearest training images", keys)


def _pairs(x: Any, gex: Any, ncols: int, zoom: int | None = None) -> np.ndarray:
    tiles = np.stack([to_rgb8(x), to_rgb8(gex)], axis=1)  # (N, 2, H, W, 3)
    return _mosaic(tiles.reshape(-1, *tiles.shape[2:]), ncols, zoom, gap=(1, 4), group=2, frames=[BLUE, ORANGE] * len(x))


def _table(cells: np.ndarray, frames: list[str | None], title: str | None, keys: dict[str, str]) -> Figure:
    """Tiles (R, K, H, W, 3), K to a row; frames: R K colours or None."""
    mosaic = _mosaic(cells.reshape(-1, *cells.shape[2:]), cells.shape[1], gap=(1, 3), frames=frames)
    return _lay_out([[("", mosaic)]], title, keys)


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


def _lay_out(rows: list[list[tuple[str, np.ndarray]]], title: str | None, keys: Mapping[str, str] | None = None) -> Figure:
    """Rows of (heading, picture) panels under a title and a legend (label -> colour of a frame), one file pixel a pixel."""
    widths = [[max(picture.shape[1], text_width(name, HEADING)) + _BETWEEN for name, picture in row] for row in rows]
    heads = [24 if row[0][0] else 0 for row in rows]
    heights = [head + max(picture.shape[0] for _, picture in row) + 12 for head, row in zip(heads, rows, strict=True)]
    width = max(300, *(sum(w) - _BETWEEN for w in widths)) + 2 * MARGIN
    fig, y = page(width, sum(heights) - 12 + MARGIN, title, [key(*entry) for entry in (keys or {}).items()])
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
