"""Charts: learning curves, scores, studies, maps and clouds of points. Each returns a Figure and saves nothing.

A panel is named by its heading; `std` is a deviation, drawn as whiskers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatter

from agelib.plot.figure import BLUE, GREY, INK, LABEL, NOTE, ORANGE, Figure, key, legend_above, panels, series

_DASHED = {"color": INK, "lw": 1.1, "ls": (0, (5, 3))}
_NOTE = {"fontsize": NOTE, "color": INK, "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1}}
_PANELS = {  # heading -> pattern of its columns
    "Divergence of codes from the prior": r"kl_\w+",
    "Gap of the two: a gap that keeps growing is a lost game": "kl_fake - kl_real",
    "Mean variance of a code coordinate": r"var\w*",
    "Adversarial losses, nats": "[dg]_loss",
    "Bound of the likelihood": "neg_elbo",
    "Reconstruction of images": "l_x",
    "Reconstruction of codes": "l_z",
    "Further losses": r"l_(?![xz]$)\w+|loss\w*",
}
_NAMES = {"kl_real": "real: KL(e(x) ‖ Z)", "kl_fake": "fake: KL(e(g(z)) ‖ Z)", "var_real": "real: e(x)"}
_NAMES |= {"var_fake": "fake: e(g(z))", "d_loss": "discriminator", "g_loss": "generator", "l_x": "g(e(x)) against x"}
_NAMES |= {"l_z": "e(g(z)) against z", "neg_elbo": "negative ELBO, nats an image"}


def learning_curves(
    history: Sequence[Mapping[str, Any]], floors: Mapping[str, Any] | None = None, ceilings: Mapping[str, Any] | None = None
) -> Figure:
    """Divergences and reconstruction losses over training steps, with the bounds that theory gives.

    history: rows as fit logs them: step and any columns of _PANELS; kl_fake - kl_real is added. A dotted line where the
    column `stage` changes has the new stage's name. floors, ceilings: column -> (value, name): dashed lines in that column's
    panel, equal ones once. Raises ValueError when nothing can be drawn.
    """
    names = dict.fromkeys(name for row in history for name in row if name != "stage")
    columns = {name: np.array([row.get(name, np.nan) for row in history], dtype=float) for name in names}
    if {"kl_real", "kl_fake"} <= columns.keys():
        columns["kl_fake - kl_real"] = columns["kl_fake"] - columns["kl_real"]
    found = {heading: {n: v for n, v in columns.items() if re.fullmatch(own, n)} for heading, own in _PANELS.items()}
    chosen = {heading: lines for heading, lines in found.items() if lines}
    if "step" not in columns or not chosen:
        raise ValueError(f"nothing to draw: need a step and losses, got {len(history)} rows of {sorted(columns)}")
    step, stage = columns["step"], [row.get("stage") for row in history]
    changes = [(step[i - 1], stage[i]) for i in range(1, len(stage)) if stage[i] != stage[i - 1]]
    fig, axes = panels(chosen, title="Learning curves", ncols=2, width=520, height=285, xlabel="step")
    for ax, lines in zip(axes, chosen.values(), strict=True):
        for name, colour in series(lines).items():
            _line(ax, step, lines[name], colour, _NAMES.get(name, name), "o")
        bounds = dict(given[name] for given in (floors or {}, ceilings or {}) for name in lines if name in given)
        for value, label in bounds.items():
            ax.axhline(value, **_DASHED, label=f"{label} {value:.4g}")
        for at, name in changes:
            ax.axvline(at, color=INK, lw=1.2, ls=":", label=name)
        # The limits hold every bound, and all values but the start-up spike of a long run.
        shown = np.concatenate([v[len(v) // 20 if len(v) >= 40 else 0 :] for v in lines.values()] + [list(bounds)])
        if len(shown := shown[np.isfinite(shown)]):
            room = 0.07 * (np.ptp(shown) or abs(shown[0]) or 1)
            ax.set_ylim(shown.min() - room, shown.max() + room)
        ax.set_xlim(min(0, step.min()), step.max() * 1.01 or 1)
        legend_above(ax)
    return fig


def curves(
    lines: Mapping[str, Mapping[str, Sequence]], *, xlabel: str, ylabel: str = "", title: str | None = None,
    log_x: bool = False, log_y: bool = False,
) -> Figure:  # fmt: skip
    """Lines, at most six a panel. lines: heading -> (label -> (x, y) or (x, y, std)). A logarithmic x axis is marked where
    it was measured, if that is the same for all lines and at most eight values."""
    size = {"width": 820, "height": 430} if len(lines) == 1 else {"width": 400, "height": 340}
    fig, axes = panels(lines, title=title, ncols=3, xlabel=xlabel, ylabel=ylabel, **size)
    for ax, (heading, here) in zip(axes, lines.items(), strict=True):
        for (label, colour), marker in zip(series(here, f"lines in {heading!r}").items(), "os^DvP", strict=False):
            x, y, *std = here[label]
            _line(ax, x, y, colour, label, marker, *std)
        ax.set(xscale="log" if log_x else "linear", yscale="log" if log_y else "linear")
        for axis in [ax.xaxis] * log_x + [ax.yaxis] * log_y:
            axis.set_major_formatter(_Plain())
            axis.set_minor_formatter(_Plain())
        measured = {tuple(map(float, line[0])) for line in here.values()}
        if log_x and len(measured) == 1 and len(at := measured.pop()) <= 8:
            ax.set_xticks(at, [f"{v:g}" for v in at])
            ax.minorticks_off()
        legend_above(ax)
    return fig


def bars(
    values: Mapping[str, tuple[float, float]], *, xlabel: str, title: str | None = None, marked: Sequence[str] = ()
) -> Figure:
    """Horizontal bars, from the top. values: label -> (mean, std); marked: labels of grey bars."""
    fig, (ax,) = panels([""], title=title, width=900, height=70 + 30 * len(values), xlabel=xlabel, grid="x")
    means, stds = np.array(list(values.values()), dtype=float).T
    colours = [GREY if name in marked else BLUE for name in values]
    ax.barh(list(values), means, 0.62, xerr=stds, color=colours, ecolor=INK, capsize=3)
    for i, end in enumerate(means + np.nan_to_num(stds)):
        ax.annotate(f"{means[i]:.2f}", (end, i), (6, 0), textcoords="offset points", va="center", **_NOTE)
    ax.set(ylim=(len(means) - 0.5, -0.5), xmargin=0.1)
    return fig


def study(answers: Mapping[str, Mapping[str, tuple]], *, ylabel: str, title: str, base: tuple[float, str]) -> Figure:
    """A small panel a question, on one y axis. answers: question -> (answer -> (mean, std)); base: a dashed line's value and
    its name, which the title has."""
    fig, axes = panels(answers, title=f"{title}; dashed: {base[1]}", width=290, ylabel=ylabel, grid="y", sharey=True)
    for ax, points in zip(axes, answers.values(), strict=True):
        means, stds = np.array(list(points.values()), dtype=float).T
        _line(ax, range(len(means)), means, BLUE, "", "o", stds)
        ax.axhline(base[0], **_DASHED)
        ax.set_xticks(range(len(means)), list(points), rotation=20 if max(map(len, points)) > 6 else 0)
        ax.set_xlim(-0.5, len(means) - 0.5)
    return fig


def confusion(shares: Any, names: Sequence[str], title: str | None = None) -> Figure:
    """Shares (K, K) in [0, 1] as a grey map with numbers in percent; rows are true classes, with K names."""
    shares = np.asarray(shares, dtype=float)
    fig, (ax,) = panels([""], title=title, width=560, height=520, xlabel="taken for", ylabel="true class", grid=None)
    ax.imshow(shares, cmap="Greys", vmin=0, vmax=1)
    for (i, j), share in np.ndenumerate(shares):
        ax.text(j, i, f"{100 * share:.0f}", ha="center", va="center", fontsize=NOTE, color="white" if share > 0.5 else INK)
    ax.set_xticks(range(shares.shape[1]), names, rotation=90 if max(map(len, names)) > 4 else 0)
    ax.set_yticks(range(shares.shape[0]), names)
    return fig


def points(records: Iterable[Mapping[str, Any]]) -> Figure:
    """One panel for each metric: ours with its spread (filled, grey where not comparable), the published value (hollow
    diamond). records: rows with the keys experiment, model, dataset, metric, comparable, and paper, ours, std, NaN where
    there is none; those without a finite `ours` are left out, and ValueError raised when none is left."""
    groups: dict[str, list[Mapping]] = {}
    for row in records:
        if np.isfinite(row["ours"]):
            groups.setdefault(f"{row['metric']} ({row['experiment']})".replace("_", " "), []).append(row)
    if not groups:
        raise ValueError("no row has a finite value to draw")
    keys = [key("ours", BLUE, "o", True), key("ours, not comparable", GREY, "o", True), key("published", ORANGE, "D")]
    size = {"ncols": 1, "width": 860, "height": [70 + 28 * len(rows) for rows in groups.values()]}
    fig, axes = panels(groups, title="Ours beside the published numbers", keys=keys, grid="x", **size)
    for ax, rows in zip(axes, groups.values(), strict=True):
        for i, row in enumerate(rows):
            colour = BLUE if row["comparable"] else GREY
            ax.errorbar(row["ours"], i, xerr=row["std"], fmt="o", color=colour, ms=6.5, capsize=3, lw=1.4)
            ax.plot(row["paper"], i, marker="D", mfc="white", mec=ORANGE, mew=1.6, ms=7, zorder=1.5)
        ax.set_yticks(range(len(rows)), [f"{row['model']}, {row['dataset']}" for row in rows], fontsize=LABEL)
        ax.tick_params(axis="y", length=0)
        ax.set(ylim=(len(rows) - 0.4, -0.6), xmargin=0.12)
        ax.spines["left"].set_visible(False)
    return fig


def surfaces(
    maps: Mapping[str, np.ndarray], x: Any, y: Any, *, xlabel: str, ylabel: str, marks: Sequence[tuple[float, float]] = (),
    limit: float | None = None,
) -> Figure:  # fmt: skip
    """Heat maps of one colour scale. maps: heading -> (len(y), len(x)) values over x and y, evenly spaced. marks: points to
    ring. limit: values above it have the last colour."""
    shape, extent = (len(y), len(x)), (float(x[0]), float(x[-1]), float(y[0]), float(y[-1]))
    if wrong := [f"{heading}: {v.shape}" for heading, v in maps.items() if v.shape != shape]:
        raise ValueError(f"need values of shape {shape}, got {', '.join(wrong)}")
    scale = {"vmin": min(0.0, *map(np.nanmin, maps.values())), "vmax": limit or max(map(np.nanmax, maps.values()))}
    fig, axes = panels(maps, width=440, height=330, xlabel=xlabel, ylabel=ylabel, grid=None)
    for ax, v in zip(axes, maps.values(), strict=True):
        fig.colorbar(ax.imshow(v, origin="lower", aspect="auto", extent=extent, cmap="viridis", **scale), ax=ax)
        ax.plot(*np.reshape(marks, (-1, 2)).T, "o", ms=9, mfc="none", mec="white", mew=1.8)
    return fig


def sphere_map(theta: Any, phi: Any, colour: np.ndarray, rgb: np.ndarray) -> Figure:
    """What colour each code of the 2-sphere gives. theta: (T,) polar angles, evenly in 0..pi; phi: (P,) azimuths, evenly in
    0..2 pi; colour: (T, P, 2) mean (a, b) in Lab units; rgb: (T, P, 3) uint8, the same as seen at one lightness."""
    if not colour.shape[:2] == rgb.shape[:2] == (len(theta), len(phi)):
        raise ValueError(f"need values for {len(theta)} x {len(phi)} codes, got {colour.shape} and {rgb.shape}")
    names = {"xlabel": "azimuth of z, degrees", "ylabel": "polar angle of z, degrees"}
    fig, axes = panels(["colour", "mean a", "mean b"], width=380, height=300, grid=None, **names)
    limit = max(1.0, np.abs(colour).max())
    look = {"extent": (0, 360, 180, 0), "aspect": "auto", "cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    axes[0].imshow(rgb, **look)
    for ax, mean in zip(axes[1:], np.moveaxis(colour, 2, 0), strict=True):
        fig.colorbar(ax.imshow(mean, **look), ax=ax)
    return fig


def clouds(
    points: Mapping[str, Any], centres: Any = None, *, xlabel: str = "", ylabel: str = "", span: float | None = None,
    title: str | None = None,
) -> Figure:  # fmt: skip
    """Points of the plane, a panel a set, equal axes. points: heading -> (n, 2); centres: (m, 2), true modes to ring; span:
    the axes go from -span to span, without numbers."""
    look = {"width": 270, "height": 290, "xlabel": xlabel, "ylabel": ylabel, "grid": None, "sharex": True, "sharey": True}
    fig, axes = panels(points, title=title, **look)
    centres = np.empty((0, 2)) if centres is None else np.asarray(centres)
    for ax, cloud in zip(axes, points.values(), strict=True):
        ax.plot(*np.asarray(cloud).T, ".", ms=2, color=BLUE, alpha=0.5)
        ax.plot(*centres.T, "o", ms=15 if len(centres) < 10 else 8, mfc="none", mec=ORANGE, mew=1.5)
        ax.set_aspect("equal", "box")
        if span:
            ax.set(xlim=(-span, span), ylim=(-span, span), xticks=[], yticks=[])
    return fig


def _line(ax: Axes, x: Any, y: Any, colour: str, label: str, marker: str, std: Any = None) -> None:
    """A line through (x, y), with markers where the points are few, and whiskers of `std`."""
    few = std is not None or np.isfinite(np.asarray(y, dtype=float)).sum() < 12
    ax.plot(x, y, color=colour, marker=marker if few else "", ms=4.5, lw=1.6, label=label)
    if std is not None:
        ax.errorbar(x, y, yerr=std, fmt="none", ecolor=colour, capsize=3, lw=1.4)


class _Plain(LogFormatter):
    """Numbers of a logarithmic axis where matplotlib puts them, without mathematics, which Figure does not draw."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""
