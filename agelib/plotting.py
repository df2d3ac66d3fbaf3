"""Figures: image grids, pairs of pictures and reconstructions, learning curves, comparisons with the paper.

Every function takes arrays and returns a `Figure`; nothing is saved and no global matplotlib state is touched. Images
are (N, C, H, W) with C = 1 or 3, either uint8 or float in [-1, 1] (numpy arrays or torch tensors). They are enlarged
by a whole factor with nearest-neighbour sampling, so that one pixel of the image is a square of equal pixels in the
file. Figures are laid out for `DPI`; save them at that resolution to keep the factor whole. Pixel values are drawn in
steps of 4 (an error of at most 2 of 255, below what the eye sees), which makes the files a third smaller.

Colours are those of Okabe and Ito, which readers with any common colour vision deficiency can tell apart; line styles
and labels carry the same information.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as MplFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from matplotlib.transforms import Bbox

DPI = 110
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
GREY, INK = "#767676", "#222222"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, GREY, INK)  # of lines in one panel, in this order
REAL_COLOUR, MADE_COLOUR = BLUE, ORANGE
_MARGIN = 14  # pixels around everything
_BETWEEN = 24  # pixels between panels side by side
_TILE_PX = 100  # an enlarged image is at most this wide, unless it is larger already
_WIDTH_PX = 1180  # a figure of one panel is at most this wide, unless its images at factor 1 need more
_FIGURE2_PX = 1350  # a figure of three panels likewise


class Figure(MplFigure):
    """A matplotlib figure that notebooks show in its exact size, without pyplot or a magic command.

    A notebook keeps a PNG; where that would exceed 60 kB (photographs), a JPEG of quality 60 instead: a rendered notebook
    holds it twice, as document and as page.
    """

    def savefig(self, fname: Any, **kwargs: Any) -> None:
        """matplotlib's savefig; a PNG is compressed as well as the format allows."""
        target = kwargs.get("format") or (Path(fname).suffix[1:] if isinstance(fname, str | Path) else "png")
        if target.lower() == "png":
            kwargs = {"pil_kwargs": {"optimize": True}} | kwargs
        super().savefig(fname, **kwargs)

    def get_tightbbox(self, *args: Any, **kwargs: Any) -> Bbox:
        """The whole figure, in inches. Its margins belong to the layout: bbox_inches="tight" would shift the images off
        the pixel grid, so here it changes nothing."""
        pad = rcParams["savefig.pad_inches"]  # what savefig adds again
        width, height = self.get_size_inches()
        return Bbox([[pad, pad], [width - pad, height - pad]])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        png = self._encoded(format="png")
        if len(png) <= 60_000:
            return {"image/png": png}
        return {"image/jpeg": self._encoded(format="jpeg", pil_kwargs={"quality": 60})}

    def _encoded(self, **kwargs: Any) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, dpi=self.dpi, **kwargs)
        return buffer.getvalue()


# ---------------------------------------------------------------------------------------------------- images


def to_rgb8(images: Any) -> np.ndarray:
    """Images (N, C, H, W), uint8 or float in [-1, 1], C 1 or 3, as (N, H, W, 3) uint8.

    Raises ValueError for another shape, another dtype, values that are not finite or outside [-1, 1] (tolerance 0.01).
    """
    x = _array(images)
    if x.ndim != 4 or x.shape[1] not in (1, 3) or 0 in x.shape:
        raise ValueError(f"need images of shape (N, C, H, W) with C 1 or 3 and nothing empty, got {x.shape}")
    if x.dtype != np.uint8:
        if not np.issubdtype(x.dtype, np.floating):
            raise ValueError(f"need uint8 or floating point images, got {x.dtype}")
        if not np.isfinite(x).all():
            raise ValueError("images hold values that are not finite")
        if x.min() < -1.01 or x.max() > 1.01:
            raise ValueError(f"float images must lie in [-1, 1], got [{x.min():.3g}, {x.max():.3g}]")
        x = np.rint((x.astype(np.float32).clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return np.broadcast_to(x, (x.shape[0], 3, *x.shape[2:])).transpose(0, 2, 3, 1)


def grid(images: Any, ncols: int = 8, title: str | None = None) -> Figure:
    """All images, row by row, `ncols` to a row.

    images: (N, C, H, W), uint8 or float in [-1, 1].
    """
    tiles = to_rgb8(images)
    ncols = max(1, min(ncols, len(tiles)))
    mosaic = tile_up(tiles, ncols, zoom_for(tiles, ncols), gap=(2, 2))
    return lay_out([[(None, mosaic)]], title)


def real_reconstruction(x: Any, gex: Any, ncols: int = 16, title: str | None = None) -> Figure:
    """Odd columns real images x, even columns their reconstructions g(e(x)), as in Figures 2 and 3 of the paper.

    x, gex: (N, C, H, W) of equal shape, uint8 or float in [-1, 1]; image i of `gex` reconstructs image i of `x`.
    ncols: images in a row, even. Real images have a blue frame, reconstructions an orange one.
    Raises ValueError when the shapes differ or `ncols` is odd.
    """
    tiles = _interleave(x, gex)
    if ncols < 2 or ncols % 2:
        raise ValueError(f"pairs need an even number of columns, got {ncols}")
    ncols = min(ncols, len(tiles))
    mosaic = tile_up(tiles, ncols, zoom_for(tiles, ncols), gap=(1, 4), group=2, frames=_pair_frames(len(tiles)))
    return lay_out([[(None, mosaic)]], title, legend=_PAIR_LEGEND)


def figure2(
    samples: Any, x: Any, gex: Any, real: Any, *, ncols: int = 6, nrows: int = 6, title: str | None = None
) -> Figure:
    """The layout of the paper's Figure 2: (a) real images, (b) samples g(z), (c) pairs of x and g(e(x)).

    samples, real: (N, C, H, W); x, gex: (K, C, H, W) of equal shape; all uint8 or float in [-1, 1] and of one size.
    Each panel shows at most `nrows` rows of `ncols` images (`ncols` even: panel c holds ncols / 2 pairs in a row).
    """
    if ncols < 2 or ncols % 2:
        raise ValueError(f"pairs need an even number of columns, got {ncols}")
    pairs = _interleave(x, gex)
    panels = {"(a) real images": to_rgb8(real), "(b) samples g(z)": to_rgb8(samples)}
    panels["(c) x and g(e(x)) in turn"] = pairs
    shapes = {tiles.shape[1:] for tiles in panels.values()}
    if len(shapes) > 1:
        raise ValueError(f"the panels' images differ in size: {sorted(shapes)}")
    zoom = zoom_for(pairs, 3 * ncols, width=_FIGURE2_PX - 2 * _BETWEEN)
    drawn = []
    for name, tiles in panels.items():
        tiles, paired = tiles[: ncols * nrows], name.startswith("(c)")
        frames = _pair_frames(len(tiles)) if paired else [None] * len(tiles)
        drawn.append((name, tile_up(tiles, ncols, zoom, gap=(1, 4), group=2 if paired else 0, frames=frames)))
    return lay_out([drawn], title, legend=_PAIR_LEGEND)


def figure3(
    x: Any, reconstructions: Mapping[str, Any], samples: Mapping[str, Any] | None = None, *, nrows: int = 6,
    title: str | None = None,
) -> Figure:
    """The layout of the paper's Figure 3: held-out images in the first column, then each model's reconstructions of them,
    as many such blocks side by side as fit; below, samples of each model.

    x and each of `reconstructions`: (N, C, H, W) of equal shape; each of `samples`: (K, C, H, W). Keys are the headings.
    """  # fmt: skip
    columns = {"x": to_rgb8(x)} | {name: to_rgb8(images) for name, images in reconstructions.items()}
    shapes = {tiles.shape for tiles in columns.values()}
    if len(shapes) > 1:
        raise ValueError(f"x and its reconstructions differ in shape (N, H, W, colours): {sorted(shapes)}")
    zoom = max(1, 64 // columns["x"].shape[1])
    widths = [max(zoom * tiles.shape[2] + 4, _text_width(name, 10)) + _BETWEEN for name, tiles in columns.items()]
    blocks = max(1, min((_FIGURE2_PX - 2 * _MARGIN) // sum(widths), len(columns["x"]) // nrows))
    top = []
    for block in range(blocks):
        for name, tiles in columns.items():
            part = tiles[block * nrows : (block + 1) * nrows]
            frames = [REAL_COLOUR if name == "x" else MADE_COLOUR] * len(part)
            column = tile_up(part, 1, zoom, gap=(1, 1), frames=frames)
            room = max(0, _text_width(name, 10) + 4 - column.shape[1])
            top.append((name, np.pad(column, ((0, 0), (0, room), (0, 0)), constant_values=255)))
    rows = [top]
    if samples:
        ncols = max(2, (_FIGURE2_PX // len(samples) - _BETWEEN) // (zoom * columns["x"].shape[2] + 2))
        made = {f"samples: {name}": to_rgb8(images)[: 3 * ncols] for name, images in samples.items()}
        rows.append([(name, tile_up(tiles, ncols, zoom, gap=(1, 1))) for name, tiles in made.items()])
    return lay_out(rows, title, legend=[("held-out image", REAL_COLOUR), ("reconstruction", MADE_COLOUR)])


def interpolations(rows: Any, title: str | None = "Interpolations between two codes along the sphere") -> Figure:
    """One row of pictures for each path; the two framed ends are the codes that the path joins.

    rows: (R, K, C, H, W) or a sequence of R arrays (K, C, H, W), K >= 2, uint8 or float in [-1, 1].
    """
    paths = [to_rgb8(row) for row in rows]
    if not paths or len({p.shape for p in paths}) != 1 or len(paths[0]) < 2:
        raise ValueError(f"need rows of equal shape with >= 2 images each, got {[p.shape for p in paths]}")
    tiles, k = np.concatenate(paths), len(paths[0])
    frames: list[str | None] = [BLUE if i % k in (0, k - 1) else None for i in range(len(tiles))]
    mosaic = tile_up(tiles, k, zoom_for(tiles, k), gap=(1, 4), frames=frames)
    return lay_out([[(None, mosaic)]], title, legend=[("ends of a path", BLUE)])


def neighbours(
    samples: Any, nearest: Any, ncols: int = 12, title: str | None = "Samples and their nearest training images"
) -> Figure:
    """Samples (orange frame) above the training images nearest to them (blue frame, nearest first).

    samples: (N, C, H, W); nearest: (N, k, C, H, W), or (N, C, H, W) for k = 1; uint8 or float in [-1, 1].
    """
    made = to_rgb8(samples)
    near = _array(nearest)
    near = near[:, None] if near.ndim == 4 else near
    if near.ndim != 5 or len(near) != len(made):
        raise ValueError(f"need (N, k, C, H, W) neighbours of {len(made)} samples, got {near.shape}")
    k = near.shape[1]
    flat = to_rgb8(near.reshape(-1, *near.shape[2:]))
    if flat.shape[1:] != made.shape[1:]:
        raise ValueError(f"samples are {made.shape[1:]}, their neighbours {flat.shape[1:]} (H, W, colours)")
    # (N, 1 + k, H, W, 3)
    columns = np.concatenate([made[:, None], flat.reshape(len(made), k, *flat.shape[1:])], axis=1)
    ncols = min(ncols, len(made))
    zoom = zoom_for(made, ncols)
    blocks = []
    for start in range(0, len(made), ncols):
        block = columns[start : start + ncols].swapaxes(0, 1)  # (1 + k, n, H, W, 3)
        n = block.shape[1]
        frames = [MADE_COLOUR] * n + [REAL_COLOUR] * (n * k)
        blocks.append([(None, tile_up(block.reshape(-1, *block.shape[2:]), n, zoom, gap=(1, 1), frames=frames))])
    legend = [("sample g(z)", MADE_COLOUR), ("nearest training images, nearest first", REAL_COLOUR)]
    return lay_out(blocks, title, legend=legend)


# ---------------------------------------------------------------------------------------------------- curves


_NAMES = {
    "kl_real": "real: KL(e(x) ‖ Z)",
    "kl_fake": "fake: KL(e(g(z)) ‖ Z)",
    "var_real": "real: e(x)",
    "var_fake": "fake: e(g(z))",
    "l_x": "‖g(e(x)) − x‖",
    "l_z": "e(g(z)) against z",
    "d_loss": "discriminator",
    "g_loss": "generator",
    "neg_elbo": "negative ELBO, nats an image",
}
_COLOURS = {"kl_real": BLUE, "kl_fake": ORANGE, "l_x": GREEN, "l_z": PURPLE}
_COLOURS |= {"d_loss": BLUE, "g_loss": ORANGE, "neg_elbo": GREEN, "var_real": BLUE, "var_fake": ORANGE}
_AXES = ("step", "epoch", "seconds")


def learning_curves(
    history: Any, floors: Mapping[str, Any] | None = None, ceilings: Mapping[str, Any] | None = None,
    title: str | None = "Learning curves",
) -> Figure:
    """Divergences and reconstruction losses over training steps, with the bounds that theory gives.

    history: a mapping from column to values (a data frame too), a sequence of rows as dicts, or the path of a
        history.csv. Columns as fit logs them: step, then any of kl_real, kl_fake (one panel, and their difference in a
        second), l_x, l_z (a panel each), var_* (one panel), further losses `l_*` or `loss*` (a panel each). Other
        columns are ignored.
    floors, ceilings: column -> value, or column -> (value, label): dashed lines in that column's panel. Lines of equal
        value in one panel are drawn once.
    Values that are not finite leave a gap, and the panel says at which step the first one was.
    Raises ValueError when nothing can be drawn.
    """
    columns = _columns(history)
    if "step" not in columns:
        raise ValueError(f"a history needs a column 'step', got {sorted(columns)}")
    step = columns["step"]
    panels = _curve_panels(columns)
    if not panels or not len(step):
        raise ValueError(f"nothing to draw in a history of {len(step)} rows with columns {sorted(columns)}")
    nrows = math.ceil(len(panels) / 2)
    top = 34 if title else 0
    fig = blank(1040, top + 275 * nrows)
    axes = np.atleast_1d(fig.subplots(nrows, min(2, len(panels)), squeeze=False)).ravel()
    for ax, (heading, names) in zip(axes, panels, strict=False):
        _curve_panel(ax, heading, step, {n: columns[n] for n in names}, floors or {}, ceilings or {})
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    if title:
        fig.text(_MARGIN / fig.bbox.width, 1 - _MARGIN / fig.bbox.height, title, fontsize=12, color=INK, va="top")
    fig.tight_layout(rect=(0, 0, 1, 1 - top / fig.bbox.height), h_pad=1.6, w_pad=2.2)
    return fig


def _curve_panels(columns: dict[str, np.ndarray]) -> list[tuple[str, list[str]]]:
    """(heading, columns) of each panel; adds the column kl_fake - kl_real."""
    panels = []
    divergences = [n for n in columns if n.startswith("kl_")]
    if divergences:
        panels.append(("Divergence of codes from the prior", divergences))
    if {"kl_real", "kl_fake"} <= columns.keys():
        columns["kl_fake - kl_real"] = columns["kl_fake"] - columns["kl_real"]
        panels.append(("Gap of the two: a gap that keeps growing is a lost game", ["kl_fake - kl_real"]))
    variances = [n for n in columns if n.startswith("var")]
    if variances:
        panels.append(("Mean variance of a code coordinate", variances))
    if {"d_loss", "g_loss"} <= columns.keys():
        panels.append(("Adversarial losses, nats", ["d_loss", "g_loss"]))
    headings = {"neg_elbo": "Bound of the likelihood", "l_x": "Reconstruction of images", "l_z": "Reconstruction of codes"}
    panels += [(headings[n], [n]) for n in headings if n in columns]
    panels += [(n, [n]) for n in columns if n.startswith(("l_", "loss")) and n not in headings]
    return panels


def _curve_panel(
    ax: Any, heading: str, step: np.ndarray, lines: dict[str, np.ndarray], floors: Mapping, ceilings: Mapping
) -> None:
    bounds: dict[tuple[str, float], str] = {}
    lost = None
    for kind, given in (("floor", floors), ("ceiling", ceilings)):
        for name in lines:
            if name in given:
                value, label = given[name] if isinstance(given[name], tuple) else (given[name], kind)
                bounds.setdefault((kind, float(value)), f"{label} {float(value):.4g}")
    if any("-" in n for n in lines):
        ax.axhline(0, color=GREY, lw=0.8)
    for name, values in lines.items():
        label, colour = _NAMES.get(name, name), _COLOURS.get(name, INK)
        finite = np.isfinite(values)
        marker = "o" if finite.sum() < 12 else None
        ax.plot(step, np.where(finite, values, np.nan), color=colour, marker=marker, ms=3.5, label=label, lw=1.6)
        begins = int(finite.argmax())  # a column may begin later than the others
        if not finite[begins:].all() and lost is None:
            at = lost = step[begins + int(np.argmin(finite[begins:]))]
            ax.axvline(at, color=INK, lw=1, ls=":")
            side, ha = (-4, "right") if at > step.mean() else (4, "left")
            ax.annotate(f"not finite at step {at:g}", (at, 0.5), xycoords=("data", "axes fraction"), fontsize=8.5,
                        xytext=(side, 0), textcoords="offset points", ha=ha, va="center", color=INK,
                        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1})
    for (kind, value), label in bounds.items():
        floor = kind == "floor"
        ax.axhline(value, color=INK, lw=1.1, ls=(0, (5, 3)) if floor else (0, (2, 2)))
        at, ha, va, dy = (0.005, "left", "top", -2) if floor else (0.995, "right", "bottom", 2)
        ax.annotate(label, (at, value), xycoords=("axes fraction", "data"), xytext=(0, dy), textcoords="offset points",
                    ha=ha, va=va, fontsize=8.5, color=INK)
    _limits(ax, list(lines.values()), bounds)
    ax.set_xlim(min(0, step.min()), step.max() * 1.01 or 1)
    ax.set_title(heading, fontsize=10, color=INK, loc="left")
    ax.set_xlabel("step", fontsize=9)
    ax.tick_params(labelsize=8.5)
    ax.grid(True, color="#e4e4e4", lw=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=8.5, frameon=True, framealpha=0.85, edgecolor="none", loc="best")


def _limits(ax: Any, lines: list[np.ndarray], bounds: Mapping[tuple[str, float], str]) -> None:
    """Limits that hold every bound, its label outside it, and all values but the first twentieth of a long run (the
    start-up spike)."""
    shown = [v[len(v) // 20 if len(v) >= 40 else 0 :] for v in lines]
    values = np.concatenate([v[np.isfinite(v)] for v in shown] + [np.array([value for _, value in bounds])])
    if not len(values):
        return
    low, high = float(values.min()), float(values.max())
    room = (high - low) or abs(high) or 1.0
    kinds = {kind for kind, _ in bounds}
    ax.set_ylim(low - (0.16 if "floor" in kinds else 0.06) * room, high + (0.16 if "ceiling" in kinds else 0.08) * room)


def _columns(history: Any) -> dict[str, np.ndarray]:
    if isinstance(history, str | Path):
        with open(history, newline="", encoding="utf-8") as file:
            history = list(csv.DictReader(file))
    if not hasattr(history, "keys"):
        rows = list(history)
        names = list(dict.fromkeys(n for row in rows for n in row))
        history = {n: [row.get(n) for row in rows] for n in names}
    out: dict[str, np.ndarray] = {}
    for name in history.keys():  # noqa: SIM118  a data frame iterates over columns only through keys()
        try:
            out[str(name)] = np.asarray([math.nan if v in (None, "") else float(v) for v in history[name]])
        except (TypeError, ValueError):
            continue  # a column of text
    return out


# ------------------------------------------------------------------------------------------------ comparison


def points(comparison: Any, title: str | None = "Ours beside the published numbers") -> Figure:
    """One panel for each metric: ours with its spread (filled), the published value (hollow diamond).

    comparison: rows with the keys experiment, model, dataset, metric, paper, ours, std, comparable (a data frame from
        tables.compare, or a sequence of dicts). Rows without a finite `ours` are left out. Ours is drawn in grey where
        it is not comparable with the published value.
    Raises ValueError when no row can be drawn.
    """
    if hasattr(comparison, "to_dict"):
        comparison = comparison.to_dict("records")
    rows = [r for r in comparison if _finite(r.get("ours"))]
    if not rows:
        raise ValueError("no row has a finite value to draw")
    panels: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        panels.setdefault((str(row["experiment"]), str(row["metric"])), []).append(row)
    heights = [10 + 28 * len(p) for p in panels.values()]
    top, between, bottom = 76 if title else 58, 62, 34
    width, height = 860, top + sum(heights) + between * (len(panels) - 1) + bottom
    fig = blank(width, height)
    y = top
    left = min(380, 26 + max(_text_width(f"{r['model']}, {r['dataset']}", 9) for r in rows))
    for ((experiment, metric), group), h in zip(panels.items(), heights, strict=True):
        labels = [f"{r['model']}, {r['dataset']}" for r in group]
        ax = fig.add_axes((left / width, 1 - (y + h) / height, (width - left - 24) / width, h / height))
        _points_panel(ax, group, labels, f"{metric} ({experiment})".replace("_", " "))
        y += h + between
    if title:
        fig.text(_MARGIN / width, 1 - _MARGIN / height, title, fontsize=12, color=INK, va="top")
    handles = [
        Line2D([], [], marker="o", ls="", color=BLUE, label="ours"),
        Line2D([], [], marker="o", ls="", color=GREY, label="ours, not comparable"),
        Line2D([], [], marker="D", ls="", mfc="white", mec=ORANGE, mew=1.6, label="published"),
    ]
    fig.legend(handles=handles, loc="upper right", ncols=3, fontsize=9, frameon=False, borderaxespad=0.75)
    return fig


def _points_panel(ax: Any, group: list[dict], labels: list[str], heading: str) -> None:
    for i, row in enumerate(group):
        colour = BLUE if row.get("comparable") else GREY
        spread = row["std"] if _finite(row.get("std")) else None
        ax.errorbar(row["ours"], i, xerr=spread, fmt="o", color=colour, ms=6.5, capsize=3, lw=1.4)
        if _finite(row.get("paper")):
            ax.plot(row["paper"], i, marker="D", mfc="white", mec=ORANGE, mew=1.6, ms=7, zorder=1.5)
    ax.set_yticks(range(len(group)), labels, fontsize=9)
    ax.set_ylim(len(group) - 0.4, -0.6)
    ax.margins(x=0.12)
    ax.set_title(heading, fontsize=9.5, color=INK, loc="left", pad=5)
    ax.tick_params(axis="x", labelsize=8.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(True, axis="x", color="#e4e4e4", lw=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)


# ---------------------------------------------------------------------------------------------------- layout


_PAIR_LEGEND = [("real x", REAL_COLOUR), ("reconstruction g(e(x))", MADE_COLOUR)]


def _array(images: Any) -> np.ndarray:
    if hasattr(images, "detach"):  # a torch tensor; numpy has no bfloat16
        images = images.detach().cpu()
        images = images.float() if images.is_floating_point() else images
        images = images.numpy()
    return np.asarray(images)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def _interleave(x: Any, gex: Any) -> np.ndarray:
    real, made = to_rgb8(x), to_rgb8(gex)
    if real.shape != made.shape:
        raise ValueError(f"x is {real.shape}, its reconstructions are {made.shape} (N, H, W, colours)")
    return np.stack([real, made], axis=1).reshape(-1, *real.shape[1:])


def _pair_frames(n: int) -> list[str | None]:
    return [MADE_COLOUR if i % 2 else REAL_COLOUR for i in range(n)]


def zoom_for(tiles: np.ndarray, ncols: int, width: int = _WIDTH_PX) -> int:
    """The largest whole factor at which `ncols` images fit into `width` pixels, none above _TILE_PX; at least 1."""
    side = max(tiles.shape[1:3])
    room = width - 2 * _MARGIN - 6 * ncols
    return max(1, min(_TILE_PX // side, room // (ncols * tiles.shape[2])))


def tile_up(
    tiles: np.ndarray,
    ncols: int,
    zoom: int,
    *,
    gap: tuple[int, int],
    group: int = 0,
    frames: Sequence[str | None] | None = None,
) -> np.ndarray:
    """(N, H, W, 3) uint8 tiles as one uint8 picture, values in steps of 4.

    gap: white pixels between columns and between rows. group: 6 more after every `group` columns.
    frames: a colour or None for each tile: a frame of 2 pixels outside the tile (room is kept for it on every tile).
    """
    tiles = (np.minimum((tiles.astype(np.int16) + 2) // 4 * 4, 255)).astype(np.uint8)
    n, h, w = len(tiles), tiles.shape[1] * zoom, tiles.shape[2] * zoom
    border = 2 if frames else 0
    nrows = math.ceil(n / ncols)
    step_x, step_y = w + 2 * border + gap[0], h + 2 * border + gap[1]
    breaks = 6 * ((ncols - 1) // group) if group else 0
    out = np.full((nrows * step_y - gap[1], ncols * step_x - gap[0] + breaks, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        row, col = divmod(i, ncols)
        y, x = row * step_y, col * step_x + (6 * (col // group) if group else 0)
        if frames and frames[i]:
            out[y : y + h + 2 * border, x : x + w + 2 * border] = _rgb(frames[i])
        out[y + border : y + border + h, x + border : x + border + w] = tile.repeat(zoom, 0).repeat(zoom, 1)
    return out


def _rgb(colour: str | None) -> np.ndarray:
    text = (colour or "#ffffff").lstrip("#")
    return np.array([int(text[i : i + 2], 16) for i in (0, 2, 4)], np.uint8)


def lay_out(
    rows: list[list[tuple[str | None, np.ndarray]]], title: str | None, legend: Sequence[tuple[str, str]] = ()
) -> Figure:
    """Rows of (heading, picture) panels under a title and a legend of coloured squares, one file pixel a pixel."""
    panel_widths = [sum(p.shape[1] for _, p in row) + _BETWEEN * (len(row) - 1) for row in rows]
    legend_width = sum(26 + _text_width(label, 9) + 22 for label, _ in legend)
    content = max(max(panel_widths), legend_width, 300)
    width = content + 2 * _MARGIN
    lines = _wrap(title, 12, content) if title else []
    top = _MARGIN + 22 * len(lines) + (24 if legend else 0) + (4 if lines or legend else 0)
    row_heights = [max(p.shape[0] for _, p in row) + (24 if any(name for name, _ in row) else 0) for row in rows]
    height = top + sum(row_heights) + 12 * (len(rows) - 1) + _MARGIN
    fig = blank(width, height)
    y = _MARGIN
    for line in lines:
        fig.text(_MARGIN / width, 1 - y / height, line, fontsize=12, color=INK, va="top")
        y += 22
    if legend:
        _legend(fig, legend, y)
        y += 24
    y = top
    for row, row_height in zip(rows, row_heights, strict=True):
        x, heading = _MARGIN, 24 if any(name for name, _ in row) else 0
        for name, picture in row:
            if name:
                fig.text(x / width, 1 - (y + 2) / height, name, fontsize=10, color=INK, va="top")
            h, w = picture.shape[:2]
            ax = fig.add_axes((x / width, 1 - (y + heading + h) / height, w / width, h / height))
            ax.imshow(picture, interpolation="none", aspect="auto")
            ax.set_axis_off()
            x += w + _BETWEEN
        y += row_height + 12
    return fig


def _legend(fig: Figure, legend: Sequence[tuple[str, str]], y: int) -> None:
    width, height = fig.bbox.width, fig.bbox.height
    x = _MARGIN
    for label, colour in legend:
        square = Rectangle((x / width, 1 - (y + 15) / height), 13 / width, 13 / height, transform=fig.transFigure,
                           facecolor="white", edgecolor=colour, linewidth=2.2)
        fig.add_artist(square)
        fig.text((x + 20) / width, 1 - (y + 1) / height, label, fontsize=9, color=INK, va="top")
        x += 26 + _text_width(label, 9) + 22


def blank(width: int, height: int) -> Figure:
    """An empty figure of so many file pixels."""
    fig = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(fig)
    return fig


def _text_width(text: str, points_size: float) -> int:
    """Width of a line of text in file pixels."""
    if not text.strip():
        return 0
    return math.ceil(TextPath((0, 0), text.replace("$", r"\$"), size=points_size).get_extents().x1 * DPI / 72)


def _wrap(text: str, points_size: float, width: int) -> list[str]:
    """Text broken at spaces into lines no wider than `width` pixels (a single longer word stays whole)."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _text_width(longer, points_size) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
