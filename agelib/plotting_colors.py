"""Figures of the colorization notebook: the paper's Figure 4 and what the code says. Each returns a Figure, saves nothing.

Images are uint8 or float in [-1, 1] as in `agelib.plotting`; grey ones (1 channel) may stand beside coloured ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from agelib import plotting


def figure4a(inputs: Any, rows: Mapping[str, Any], title: str | None = None) -> plotting.Figure:
    """Figure 4 (a): for each input, a row of colorizations a model; the input, framed, begins each row.

    inputs: (N, C, H, W), the lightness that the models saw. rows: name -> (N, K, 3, H, W), K equal for all. Names are listed
    in the legend in the order of the rows.
    """
    given = plotting.to_rgb8(inputs)
    made = {name: _many(images, len(given)) for name, images in rows.items()}
    if len({images.shape for images in made.values()}) != 1:
        raise ValueError(f"the models' rows differ in shape: {[images.shape for images in made.values()]}")
    colours = [plotting.ORANGE, plotting.PURPLE, plotting.GREEN, plotting.BLUE]
    tiles, frames = [], []
    for i, image in enumerate(given):
        for (_, images), colour in zip(made.items(), colours, strict=False):
            tiles += [image, *images[i]]
            frames += [colour, *[None] * images.shape[1]]
    ncols = 1 + next(iter(made.values())).shape[1]
    tiles = np.stack(tiles)
    mosaic = plotting.tile_up(tiles, ncols, plotting.zoom_for(tiles, ncols), gap=(1, 3), frames=frames)
    legend = [(f"input to {name}", colour) for name, colour in zip(made, colours, strict=False)]
    return plotting.lay_out([[(None, mosaic)]], title, legend=legend)


def figure4b(sources: Any, targets: Any, transferred: Any, title: str | None = None) -> plotting.Figure:
    """Figure 4 (b): colour transfer as a matrix. Top row: images that lend their colours; left column: lightness that takes
    them; row i, column j: g(e(x_j|L_j)|L_i).

    sources: (S, C, H, W); targets: (T, C, H, W); transferred: (T, S, 3, H, W).
    """
    top, left = plotting.to_rgb8(sources), plotting.to_rgb8(targets)
    inside = _many(transferred, len(left))
    if inside.shape[1] != len(top):
        raise ValueError(f"need {len(top)} colours on each of {len(left)} targets, got {inside.shape[:2]}")
    blank = np.full_like(top[:1], 255)
    tiles = np.concatenate([blank, top, *[np.concatenate([left[i : i + 1], inside[i]]) for i in range(len(left))]])
    frames = [None, *[plotting.BLUE] * len(top)]
    for _ in left:
        frames += [plotting.ORANGE, *[None] * len(top)]
    ncols = 1 + len(top)
    mosaic = plotting.tile_up(tiles, ncols, plotting.zoom_for(tiles, ncols), gap=(1, 3), frames=frames)
    legend = [("colours of this image", plotting.BLUE), ("lightness of this image", plotting.ORANGE)]
    return plotting.lay_out([[(None, mosaic)]], title, legend=legend)


def sphere_map(theta: Any, phi: Any, colour: Any, rgb: Any, title: str | None = None) -> plotting.Figure:
    """What colour each code of the 2-sphere gives, as a map of the sphere by its two angles.

    theta: (T,) polar angles, evenly in 0..pi; phi: (P,) azimuths, evenly in 0..2 pi; colour: (T, P, 2) mean (a, b) in Lab
    units; rgb: (T, P, 3) uint8, the same as seen at one lightness.
    """
    colour, rgb = np.asarray(colour, dtype=np.float64), np.asarray(rgb)
    if colour.shape != (len(theta), len(phi), 2) or rgb.shape != (len(theta), len(phi), 3):
        raise ValueError(f"need values for {len(theta)} x {len(phi)} codes, got {colour.shape} and {rgb.shape}")
    fig = plotting.blank(1150, 330)
    axes = fig.subplots(1, 3)
    extent = (0, 360, 180, 0)
    axes[0].imshow(rgb, extent=extent, aspect="auto")
    axes[0].set_title("colour", fontsize=10)
    limit = max(1.0, np.abs(colour).max())
    for ax, values, name in zip(axes[1:], colour.transpose(2, 0, 1), "ab", strict=True):
        image = ax.imshow(values, extent=extent, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit)
        ax.set_title(f"mean {name}", fontsize=10)
        fig.colorbar(image, ax=ax)
    for ax in axes:
        ax.set_xlabel("azimuth of z, degrees")
        ax.set_ylabel("polar angle of z, degrees")
    if title:
        fig.suptitle(title, fontsize=11)
    fig.tight_layout()
    return fig


def colour_plane(clouds: Mapping[str, Any], modes: Any = None, title: str | None = None) -> plotting.Figure:
    """Each model's colours (n, 2) in the plane of a and b, one panel each, equal axes; modes (m, 2) are ringed."""
    fig = plotting.blank(min(1250, 290 * len(clouds) + 20), 320)
    axes = np.atleast_1d(fig.subplots(1, len(clouds), sharex=True, sharey=True))
    for ax, (name, points) in zip(axes, clouds.items(), strict=True):
        points = np.asarray(points)
        ax.plot(points[:, 0], points[:, 1], ".", ms=2, color=plotting.BLUE, alpha=0.5)
        for a, b in () if modes is None else np.asarray(modes):
            ax.plot(a, b, "o", ms=15, mfc="none", mec=plotting.ORANGE, mew=1.5)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("a")
        ax.set_aspect("equal", "box")
    axes[0].set_ylabel("b")
    if title:
        fig.suptitle(title, fontsize=11)
    fig.tight_layout()
    return fig


def _many(images: Any, n: int) -> np.ndarray:
    """(N, K, C, H, W) images as (N, K, H, W, 3) uint8."""
    images = np.asarray(images)
    if images.ndim != 5 or len(images) != n:
        raise ValueError(f"need (N, K, C, H, W) images for N = {n}, got {images.shape}")
    flat = plotting.to_rgb8(images.reshape(-1, *images.shape[2:]))
    return flat.reshape(n, images.shape[1], *flat.shape[1:])
