"""What all figures share: the colours, the page with its title and legend, and the panels of charts.

No global matplotlib state is touched. Figures are laid out for `DPI`; save them at that resolution. The colours are those of
Okabe and Ito, which readers with any common colour vision deficiency can tell apart; markers and labels say the same.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as MplFigure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

DPI = 110
BLUE, ORANGE, GREEN, PURPLE, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#767676", "#222222"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, GREY, INK)  # of lines, models or kinds of pictures, in this order
MARGIN = 14  # pixels around everything
TITLE, HEADING, LABEL, NOTE = 12, 10, 9, 8.5  # font sizes, points
_LINE, _KEYS = 22, 24  # pixels of a line of the title, of a row of the legend


class Figure(MplFigure):
    """A figure that notebooks show in its exact size, without pyplot: as PNG, or where that would exceed 60 kB (photographs)
    as JPEG of quality 60, since a rendered notebook holds it twice, as document and as page."""

    def draw(self, renderer: Any) -> None:
        """matplotlib's draw, but `$` is a plain sign: titles and names come from users."""
        for text in self.findobj(Text):
            text.set_parse_math(False)
        super().draw(renderer)

    def savefig(self, fname: Any, **kwargs: Any) -> None:
        """matplotlib's savefig, of the whole figure: bbox_inches="tight" would shift images off the pixel grid."""
        super().savefig(fname, **kwargs | {"bbox_inches": None})

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, bytes]:
        for kind, options, most in (("png", {}, 60_000), ("jpeg", {"pil_kwargs": {"quality": 60}}, math.inf)):
            self.savefig(buffer := io.BytesIO(), dpi=self.dpi, format=kind, **options)
            if len(buffer.getvalue()) <= most:
                break
        return {f"image/{kind}": buffer.getvalue()}


def series(names: Iterable[str], what: str = "lines") -> dict[str, str]:
    """name -> its colour. Raises ValueError for more names than colours."""
    names = list(names)
    if len(names) > len(SERIES):
        raise ValueError(f"at most {len(SERIES)} {what}, got {len(names)}")
    return dict(zip(names, SERIES, strict=False))


def key(label: str, colour: str, marker: str = "s", filled: bool = False) -> Line2D:
    """An entry of a page's legend: the frame of a picture, or another marker."""
    look = {"ls": "", "marker": marker, "ms": 8.5 if marker == "s" else 6.5, "mec": colour, "mew": 1.8}
    return Line2D([], [], mfc=colour if filled else "white", label=label, **look)


def page(width: int, height: int, title: str | None = None, keys: Sequence[Line2D] = ()) -> tuple[Figure, int]:
    """An empty figure with room of (width, height) pixels below its title and legend, and the pixels above that room."""
    inner, labels = width - 2 * MARGIN, [handle.get_label() for handle in keys]
    lines = wrap(title, TITLE, inner) if title else []
    below = MARGIN + _LINE * len(lines)  # where the legend begins
    top = below + (_KEYS * -(-len(keys) // _columns(labels, inner)) if keys else 0) + (4 if lines or keys else 0)
    height += top
    fig = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(fig)
    for i, line in enumerate(lines):
        fig.text(MARGIN / width, 1 - (MARGIN + i * _LINE) / height, line, fontsize=TITLE, color=INK, va="top")
    if keys:
        _legend(fig, keys, labels, inner, "upper left", (MARGIN / width, 1 - below / height), 1.2)
    return fig, top


def panels(
    headings: Iterable[str], *, title: str | None = None, keys: Sequence[Line2D] = (), ncols: int = 4, width: int = 340,
    height: int | Sequence[int] = 255, xlabel: str = "", ylabel: str = "", grid: str | None = "both", **shared: Any,
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """A page of charts, `ncols` in a row, and its axes, one a heading. width, height: pixels of a panel with its labels
    (height: of all, or of each row). grid: "x", "y", "both" or None. shared: sharex, sharey, as in matplotlib's subplots."""
    headings = list(headings)
    ncols = min(ncols, len(headings))
    heights = [height] * -(-len(headings) // ncols) if isinstance(height, int) else list(height)
    fig, top = page(ncols * width, sum(heights), title, keys)
    fig.set_layout_engine("constrained", rect=(0, 0, 1, 1 - top / fig.bbox.height), w_pad=0.08, h_pad=0.08)
    axes = fig.subplots(len(heights), ncols, squeeze=False, gridspec_kw={"height_ratios": heights}, **shared).ravel()
    for ax in axes[len(headings) :]:
        ax.remove()
    for i, (ax, heading) in enumerate(zip(axes, headings, strict=False)):
        ax.set_title("\n".join(wrap(heading, HEADING, width - 60)), fontsize=HEADING, color=INK, loc="left")
        ax.set_xlabel(xlabel, fontsize=LABEL)
        ax.set_ylabel(ylabel if i % ncols == 0 or not shared else "", fontsize=LABEL)
        ax.tick_params(labelsize=NOTE)
        ax.spines[["top", "right"]].set_visible(False)
        if grid:
            ax.grid(True, axis=grid, color="#e4e4e4", lw=0.7)
            ax.set_axisbelow(True)
    return fig, list(axes[: len(headings)])


def legend_above(ax: Axes) -> None:
    """The legend of a panel, between its heading and its frame, where it lies over nothing."""
    handles, labels = ax.get_legend_handles_labels()
    rows = _legend(ax, handles, labels, ax.figure.bbox.width / ax.get_gridspec().ncols - 80, "lower left", (0, 1.01), 1.8)
    ax.set_title(ax.get_title(loc="left"), fontsize=HEADING, color=INK, loc="left", pad=7 + 14 * rows)


def _legend(target: Any, handles: list, labels: list[str], width: float, loc: str, corner: tuple, length: float) -> int:
    """Draws a legend no wider than `width` pixels, and returns its number of rows."""
    look = {"frameon": False, "borderpad": 0.1, "borderaxespad": 0, "columnspacing": 1.4, "handlelength": length}
    ncols = _columns(labels, width)
    target.legend(handles, labels, loc=loc, bbox_to_anchor=corner, ncols=ncols, fontsize=LABEL, labelcolor=INK, **look)
    return -(-len(labels) // ncols)


def _columns(labels: list[str], width: float) -> int:
    """The most columns of a legend that fit into `width` pixels; matplotlib fills them one after the other."""
    widths = [text_width(label, LABEL) + 50 for label in labels]
    fit = (n for n in range(len(labels), 0, -1) if sum(max(column) for column in np.array_split(widths, n)) <= width)
    return next(fit, 1)


def text_width(text: str, size: float) -> int:
    """Width of a line of text in file pixels; size in points."""
    return math.ceil(text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)[0] * DPI / 72)


def wrap(text: str, size: float, width: float) -> list[str]:
    """Text broken at spaces into lines no wider than `width` pixels (a single longer word stays whole)."""
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
