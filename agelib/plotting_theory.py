"""Surfaces, curves and clouds of points, for notebooks 04 and 06. Each returns a Figure and saves nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agelib import plotting


def surfaces(
    panels: Mapping[str, Any], x: Any, y: Any, *, xlabel: str, ylabel: str, marks: Sequence[tuple[float, float]] = (),
    limit: float | None = None,
) -> plotting.Figure:
    """Heat maps of equal axes and one colour scale. panels: heading -> (len(y), len(x)) values.

    x, y: evenly spaced values. marks: points to ring. limit: values above it have the last colour.
    """  # fmt: skip
    fig, axes = _axes(len(panels))
    values = [np.asarray(v, dtype=float) for v in panels.values()]
    top = limit if limit is not None else max(np.nanmax(v) for v in values)
    low = min(0.0, min(np.nanmin(v) for v in values))
    x, y = np.asarray(x), np.asarray(y)
    for ax, heading, v in zip(axes, panels, values, strict=True):
        if v.shape != (len(y), len(x)):
            raise ValueError(f"{heading}: need values of shape {(len(y), len(x))}, got {v.shape}")
        extent = (x[0], x[-1], y[0], y[-1])
        image = ax.imshow(v, origin="lower", aspect="auto", extent=extent, vmin=low, vmax=top, cmap="viridis")
        for at in marks:
            ax.plot(*at, "o", ms=9, mfc="none", mec="white", mew=1.8)
        ax.set_title(heading, fontsize=10)
        ax.set_xlabel(xlabel)
        ax.set_ylabel(ylabel)
        fig.colorbar(image, ax=ax)
    fig.tight_layout()
    return fig


def curves(
    panels: Mapping[str, Mapping[str, tuple[Any, Any]]], *, xlabel: str, ylabel: str = "", log: bool = False,
    log_x: bool = False,
) -> plotting.Figure:
    """Lines. panels: heading -> (label -> (x, y)); at most six lines a panel. log, log_x: logarithmic y, x."""
    fig, axes = _axes(len(panels))
    for ax, (heading, lines) in zip(axes, panels.items(), strict=True):
        if len(lines) > len(plotting.SERIES):
            raise ValueError(f"{heading}: at most {len(plotting.SERIES)} lines, got {len(lines)}")
        for colour, (label, (x, y)) in zip(plotting.SERIES, lines.items(), strict=False):
            ax.plot(x, y, color=colour, lw=1.6, label=label)
        if log:
            ax.set_yscale("log")
        if log_x:
            ax.set_xscale("log")
            at = sorted({float(v) for x, _ in lines.values() for v in x})
            ax.set_xticks(at, [f"{v:g}" for v in at])
            ax.minorticks_off()
        ax.set_title(heading, fontsize=10)
        ax.set_xlabel(xlabel)
        ax.set_ylabel(ylabel)
        ax.legend(fontsize=8, frameon=False)
    fig.tight_layout()
    return fig


def clouds(panels: Mapping[str, Any], centres: Any, span: float = 1.1) -> plotting.Figure:
    """Points of the plane, one panel a set, with the centres of the true modes as crosses. panels: heading -> (n, 2)."""
    fig, axes = _axes(len(panels), height=300)
    for ax, (heading, points) in zip(axes, panels.items(), strict=True):
        points = np.asarray(points)
        ax.plot(points[:, 0], points[:, 1], ".", ms=1.5, alpha=0.5, color=plotting.BLUE, rasterized=True)
        ax.plot(*np.asarray(centres).T, "x", ms=4, color=plotting.ORANGE)
        ax.set(xlim=(-span, span), ylim=(-span, span), aspect="equal", xticks=[], yticks=[])
        ax.set_title(heading, fontsize=10)
    fig.tight_layout()
    return fig


def _axes(n: int, height: int = 330):
    fig = plotting.blank(min(1040, 400 * n), height)
    return fig, np.atleast_1d(fig.subplots(1, n, squeeze=False)).ravel()
