"""Figures of notebooks 03 and 05: bars with spreads, small panels of a study, curves with spreads, a confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agelib import plotting

_MARKERS = "osD^vP"


def bars(
    values: Mapping[str, tuple[float, float]],
    *,
    xlabel: str,
    title: str,
    marked: Sequence[str] = (),
    reference: tuple[float, str] | None = None,
) -> plotting.Figure:
    """Horizontal bars with spreads, from the top in the order given. values: label -> (mean, deviation); marked: labels in
    the second colour; reference: a vertical line and its name."""  # fmt: skip
    fig = plotting.blank(900, 90 + 30 * len(values))
    ax = fig.add_subplot()
    at = np.arange(len(values))
    colours = [plotting.ORANGE if name in marked else plotting.BLUE for name in values]
    means, stds = (np.array([v[i] for v in values.values()], dtype=float) for i in (0, 1))
    ax.barh(at, means, xerr=stds, color=colours, height=0.62, error_kw={"ecolor": plotting.INK, "capsize": 3, "lw": 1.2})
    for i, (mean, std) in enumerate(values.values()):
        ax.annotate(f"{mean:.2f}", (mean + std, i), xytext=(6, 0), textcoords="offset points", va="center", fontsize=9)
    if reference is not None:
        ax.axvline(reference[0], color=plotting.INK, lw=1.1, ls=(0, (5, 3)))
        ax.annotate(reference[1], (reference[0], 1), xycoords=("data", "axes fraction"), xytext=(4, -2),
                    textcoords="offset points", va="top", fontsize=8.5)  # fmt: skip
    ax.set_yticks(at, list(values), fontsize=9)
    ax.set_ylim(len(values) - 0.5, -0.5)
    ax.margins(x=0.1)
    ax.set_xlabel(xlabel, fontsize=9)
    ax.set_title(title, fontsize=10.5, loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    fig.tight_layout()
    return fig


def study(
    panels: Mapping[str, Mapping[str, tuple[float, float]]],
    *,
    ylabel: str,
    title: str,
    base: tuple[float, str] | None = None,
) -> plotting.Figure:
    """One small panel a question, points with spreads over its answers. panels: heading -> (answer -> (mean, deviation));
    base: a dashed line through all panels and its name, told in the title. All panels share the y axis."""
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    fig = plotting.blank(290 * columns + 20, 255 * rows + 40)
    axes = np.atleast_1d(fig.subplots(rows, columns, sharey=True, squeeze=False)).ravel()
    for ax, (heading, points) in zip(axes, panels.items(), strict=False):
        at = np.arange(len(points))
        means, stds = (np.array([v[i] for v in points.values()], dtype=float) for i in (0, 1))
        ax.errorbar(at, means, yerr=stds, fmt="o-", color=plotting.BLUE, capsize=3, ms=5, lw=1.2)
        if base is not None:
            ax.axhline(base[0], color=plotting.INK, lw=1, ls=(0, (5, 3)))
        ax.set_xticks(at, list(points), fontsize=8, rotation=20 if max(map(len, points)) > 6 else 0)
        ax.set_xlim(-0.5, len(points) - 0.5)
        ax.set_title(heading, fontsize=9.5, loc="left")
        ax.grid(True, axis="y", color="#e4e4e4", lw=0.7)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    for ax in axes[::columns]:
        ax.set_ylabel(ylabel, fontsize=8.5)
    fig.suptitle(title + (f"; dashed: {base[1]}" if base else ""), fontsize=10.5, x=0.01, ha="left")
    fig.tight_layout()
    return fig


def lines(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    title: str,
    log_x: bool = False,
    log_y: bool = False,
    reference: tuple[float, str] | None = None,
) -> plotting.Figure:
    """Curves with spreads: label -> (x, mean, deviation), at most six. reference: a dashed horizontal line and its name."""
    # fmt: skip
    if len(curves) > len(plotting.SERIES):
        raise ValueError(f"at most {len(plotting.SERIES)} curves, got {len(curves)}")
    fig = plotting.blank(820, 430)
    ax = fig.add_subplot()
    for colour, marker, (label, (x, mean, std)) in zip(plotting.SERIES, _MARKERS, curves.items(), strict=False):
        ax.errorbar(x, mean, yerr=std, color=colour, marker=marker, ms=4.5, lw=1.5, capsize=3, label=label)
    if reference is not None:
        ax.axhline(reference[0], color=plotting.INK, lw=1.1, ls=(0, (5, 3)), label=reference[1])
    if log_x:
        ax.set_xscale("log")
    if log_y:
        ax.set_yscale("log")
    ax.set_xlabel(xlabel, fontsize=9)
    ax.set_ylabel(ylabel, fontsize=9)
    ax.set_title(title, fontsize=10.5, loc="left")
    ax.grid(True, color="#e4e4e4", lw=0.7)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=8.5, frameon=False)
    fig.tight_layout()
    return fig


def confusion(matrix: Any, names: Sequence[str], title: str) -> plotting.Figure:
    """Shares (K, K) as a grey map with numbers in percent; rows are true classes."""
    matrix = np.asarray(matrix, dtype=float)
    K = len(names)
    if matrix.shape != (K, K):
        raise ValueError(f"need a matrix {(K, K)} for {K} names, got {matrix.shape}")
    fig = plotting.blank(560, 540)
    ax = fig.add_subplot()
    ax.imshow(matrix, cmap="Greys", vmin=0, vmax=1)
    for i in range(K):
        for j in range(K):
            colour = "white" if matrix[i, j] > 0.5 else plotting.INK
            ax.text(j, i, f"{100 * matrix[i, j]:.0f}", ha="center", va="center", fontsize=8.5, color=colour)
    ax.set_xticks(range(K), names, fontsize=9)
    ax.set_yticks(range(K), names, fontsize=9)
    ax.set_xlabel("taken for", fontsize=9)
    ax.set_ylabel("true class", fontsize=9)
    ax.set_title(title, fontsize=10.5, loc="left")
    fig.tight_layout()
    return fig
