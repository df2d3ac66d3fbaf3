"""What held-out images are painted by each colour method, and rows for metrics.json: how diverse the colours are, how good,
whether the code is used, and how near they come to a known truth.

The paper gives no number for colorization: all of these are the suite's own. ab is in units of CIE Lab.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.ndimage import binary_dilation

import agelib
from agelib import conditional, sphere
from agelib.data import read_image
from agelib.data.standins import cars
from agelib.metrics import colors
from agelib.plot.figure import SERIES
from suite import params
from suite.rows import Rows, make, values

RECALL_LEAST = 0.05  # a mode counts as recalled on an image from this share of its codes
HELD = {"mode recall": 0.9, "cars of 4 hues": 0.5}  # what AGE needs at least, or the claim has failed
FEWEST = 14  # held-out images: 8 lend colours and 6 take them in Figure 4 (b)
INSIDE, OUTSIDE = (0.5, 0.7), (1.0, 1.0)  # axes of ellipses that a body fills, and that holds it; of height and width
OTHERS, RIVAL = "other images' colours", "pix2pix + noise"
SPREAD, R2, (RECALL, MANY) = "ab std per pixel", "R2 of colour by z", HELD
RATIO = "inside / outside"
APART, M3 = "mean |difference| of a and b, Lab units", "Hasler and Suesstrunk M3, 0..255 RGB"


class HeldOut(NamedTuple):
    """Images to paint. images: uint8 (N, 3, H, W); lightness: theirs, uint8 (N, 1, H, W); own: their ab, (N, 2, H, W); body:
    (N, H, W) bool, where a picture's mean colour is taken, and outside, where no body is; mask: in words. true: (N, 2), the
    ab which the body was given, drawn from the mixture of cars.MODES; of embedded `cars` alone."""

    images: np.ndarray
    lightness: np.ndarray
    own: np.ndarray
    body: np.ndarray
    outside: np.ndarray
    mask: str
    true: np.ndarray | None = None


class Painted(NamedTuple):
    """K colorizations of each of N images by one model. z: (K, M), the same for all; ab: (N, K, 2, H, W); pictures: uint8
    (N, K, 3, H, W); clipped: share of their pixels; colour: mean ab of each over the body, (N, K, 2)."""

    z: np.ndarray
    ab: np.ndarray
    pictures: np.ndarray
    clipped: float
    colour: np.ndarray


def check(p: Any, learn: np.ndarray) -> None:
    """ValueError, or DataError of a picture, before any training, for parameters `p` of notebook 02 that the images `learn`
    (N, 3, H, W) or a later cell can't take."""
    method = p.models["AGE"].get("method", "conditional") if "AGE" in p.models else None
    if method != "conditional":
        raise ValueError(f"models: AGE must be there, as conditional AGE; got {list(p.models)}, AGE with method {method}")
    if len(p.models) > len(SERIES) or p.n_codes < 2:
        raise ValueError(f"models are {len(SERIES)} at most, n_codes at least 2; got {len(p.models)} and {p.n_codes}")
    for path in filter(None, (p.picture, p.target)):
        read_image(path, p.size, 3)
    params.trainable({f"models.{label}": settings for label, settings in p.models.items()}, learn, "conditional")


def held_out(test: agelib.data.ImageSet, n: int) -> HeldOut:
    """The first n images of `test` that have colour, with the truth where it is known. ValueError for fewer than FEWEST."""
    kept = np.flatnonzero(conditional.coloured_only(test.images, test.name))[:n]
    if len(kept) < FEWEST:
        raise ValueError(f"{test.name}: {len(kept)} held-out images, need at least {FEWEST}; n_images is {n}")
    images, (H, W) = test.images[kept], test.images.shape[2:]
    seen = images, lightness(images), conditional.colours(images)
    if test.name != "cars":
        inside, around = (colors.ellipse(len(kept), H, W, *axes) for axes in (INSIDE, OUTSIDE))
        told = "an ellipse of {:.0%} of the height and {:.0%} of the width".format(*INSIDE)
        return HeldOut(*seen, inside, ~around, f"inside {told}, outside one of the whole picture")
    known = cars.truth("test", H, n=int(kept[-1]) + 1)
    away = ~binary_dilation(known["body"][kept], np.ones((1, 5, 5)))
    return HeldOut(*seen, known["body"][kept], away, "the true body; two pixels and more from it", known["ab"][kept])


def lightness(images: np.ndarray) -> np.ndarray:
    """L of uint8 images as grey pictures, L/100 of 255, (N, 1, H, W) uint8."""
    return ((conditional.lightness(images).numpy() + 1) / 2 * 255).astype(np.uint8)


def paint(model: agelib.Model, held: HeldOut, K: int, seed: int = 0) -> Painted:
    """K colorizations of each held-out image; codes, and what else the model draws, are those of `seed`."""
    torch.manual_seed(seed)  # of pix2pix's dropout
    z = model.codes(K, seed)
    ab = conditional.paint(model, held.images, z)
    return Painted(z.numpy(), ab, *conditional.pictures(held.images, ab), colors.mean_colour(ab, held.body))


def over_sphere(model: agelib.Model, held: HeldOut, n: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each direction of z means, for M = 3: (theta (13,), phi (24,), mean ab (13, 24, 2) over n images)."""
    theta, phi = np.linspace(0, np.pi, 13), np.linspace(0, 2 * np.pi, 24)
    z = sphere.from_angles(torch.from_numpy(theta)[:, None], torch.from_numpy(phi)[None]).float()
    ab = conditional.paint(model, held.images[:n], z.reshape(-1, 3))
    mean = colors.mean_colour(ab, held.body[:n]).mean(0)
    return theta, phi, mean.reshape(len(theta), len(phi), 2)


def clouds(held: HeldOut, painted: Mapping[str, Painted], most: int = 2000) -> dict[str, np.ndarray]:
    """Mean colours (n, 2) of the held-out images and of each model's colorizations, at most so many."""
    own = colors.mean_colour(held.own[:, None], held.body)[:, 0]
    return {"held-out images": own} | {label: each.colour.reshape(-1, 2)[:most] for label, each in painted.items()}


def numbers(models: Mapping[str, agelib.Model], held: HeldOut, painted: Mapping[str, Painted], seed: int = 0) -> Rows:
    """All rows: of other images' colours, the scale; of each model; of the held-out images."""
    rng, N = np.random.default_rng(seed), len(held.own)
    K = max((each.ab.shape[1] for each in painted.values()), default=10)
    others = np.stack([held.own[rng.choice(N, min(K, N), replace=False)] for _ in range(N)])  # in place of colorizations
    rows = diversity(OTHERS, others, held) + hues(OTHERS, colors.mean_colour(others, held.body), held)
    for label, each in painted.items():
        own = diversity(label, each.ab, held) + hues(label, each.colour, held) + quality(label, each, held, seed)
        own += against_truth(label, each.colour, held.true) if held.true is not None else []
        if (model := models[label]).e is not None:
            apart = np.abs(conditional.reconstruct(model, held.images) - held.own).mean((1, 2, 3))
            own += make(label, {"reconstruction of ab, L1": apart}, APART, N) + transfer(label, model, held)
        game = conditional.game(model.config) if model.method == "conditional" else ""
        rows += [row | {"note": game} for row in own]
    return rows + make("held-out images", {"colourfulness": colors.colourfulness(held.images)}, M3, N)


def diversity(label: str, ab: np.ndarray, held: HeldOut) -> Rows:
    """Per-pixel deviation and mean pairwise distance of ab (N, K, 2, H, W) over the K codes of an image; the deviation on
    the car and off it, and how often the second goes into the first."""
    found = {SPREAD: colors.pixel_spread(ab), "ab pairwise": colors.pairwise_distance(ab)}
    parts = {"inside": colors.pixel_spread(ab, held.body), "outside": colors.pixel_spread(ab, held.outside)}
    protocol = f"ab in Lab units, over {ab.shape[1]} codes of each held-out image"
    masked = {f"{SPREAD}, {part}": value for part, value in parts.items()}
    masked[RATIO] = parts["inside"].mean() / max(parts["outside"].mean(), 1e-9)
    return make(label, found, protocol, len(ab)) + make(label, masked, f"{protocol}; {held.mask}", len(ab))


def hues(label: str, colour: np.ndarray, held: HeldOut) -> Rows:
    """How many hues the body takes over the codes, from its mean colours (N, K, 2)."""
    found, (N, K) = colors.distinct_hues(colour), colour.shape[:2]
    protocol = f"of {K} mean colours a car those of chroma >= {colors.CHROMA:g} with hues {colors.APART:g} degrees apart"
    rows = make(label, {"distinct body hues": found}, f"{protocol}; {held.mask}", N)
    return rows + make(label, {MANY: (found >= 4).mean()}, f"share of images with 4 or more; {protocol}", N)


def transfer(label: str, model: agelib.Model, held: HeldOut, n: int = 20) -> Rows:
    """Figure 4 (b) as a number: how far the body's hue is from its source's, by at most n sources that have one and as many
    targets; beside it the same for other sources' hues, what chance gives."""
    own = colors.mean_colour(held.own[:, None], held.body)[:, 0]
    vivid = np.flatnonzero(np.hypot(*own.T) >= colors.CHROMA)[:n]
    rest = np.setdiff1d(np.arange(len(own)), vivid)[:n]
    if len(vivid) < 2 or not len(rest):
        return []
    ab = conditional.transfer(model, held.images[vivid], held.images[rest])
    painted = colors.mean_colour(ab, held.body[rest])[:, :, None]  # (targets, sources, 1, 2)
    apart = colors.hue_distance(painted, own[vivid]).mean(0)  # of the colours of source i to the hue of source j
    same = np.eye(len(vivid), dtype=bool)
    protocol = f"degrees between the body's hue and the source's, {len(vivid)} sources of chroma >= {colors.CHROMA:g}"
    found = {"hue distance of transfer": apart[same], "hue distance to other sources": apart[~same]}
    return make(label, found, f"{protocol} on {len(rest)} other images; {held.mask}", len(vivid))


def quality(label: str, each: Painted, held: HeldOut, seed: int = 0) -> Rows:
    """Of the first 10 codes: the best colorization against the image's own colours, colourfulness, clipped pixels. Of all:
    whether they say anything of the mean colours, R^2 and p."""
    ab, pictures = each.ab[:, :10], each.pictures[:, :10]
    (N, K), n = ab.shape[:2], each.colour[..., 0].size
    rows = make(label, {f"best of {K}, L1": colors.best_of(ab, held.own)}, APART, N)
    rows += make(label, {"colourfulness": colors.colourfulness(pictures.reshape(-1, *pictures.shape[2:]))}, M3, N * K)
    rows += make(label, {"out of gamut": each.clipped}, "share of pixels clipped to sRGB", N * K)
    used = colors.permutation_test(np.tile(each.z, (N, 1)), each.colour.reshape(-1, 2), seed=seed)
    protocol = "the body's mean ab by a quadratic in z; permutation of codes over all colorizations"
    return rows + make(label, dict(zip((R2, "p, z unused"), used, strict=True)), protocol, n)


def against_truth(label: str, colour: np.ndarray, true: np.ndarray) -> Rows:
    """Mode recall, and two divergences, of the body colours (N, K, 2) from the mixture of which `true` (n, 2) are draws."""
    (N, K), n = colour.shape[:2], colour[..., 0].size
    shares = colors.mode_shares(colors.nearest_mode(colour, cars.MODES), len(cars.MODES))
    rule = f"body colour within half the smallest distance of modes, {K} codes of each image"
    recalled = f"images on which each mode has >= {RECALL_LEAST:.0%} of the codes; {rule}"
    rows = make(label, {RECALL: colors.mode_recall(shares, RECALL_LEAST)}, recalled, N)
    rows += make(label, {"colours of no mode": 1 - shares.sum(1).mean()}, rule, n)
    divergence = colors.mode_divergence(shares, cars.MODE_WEIGHTS)
    rows += make(label, {"KL of modes": divergence}, f"nats, drawn over true; {rule}", n)
    told = f"nats, true over drawn, 5 nearest neighbours, {n:,} drawn"
    rows += make(label, {"KL to the mixture": colors.knn_divergence(true, colour.reshape(-1, 2))}, told, len(true))
    return rows + make(label, {"rarest mode": shares.mean(0).min()}, rule, n)


def verdict(rows: Rows) -> str:
    """What the numbers of one run say of the paper's claim, in sentences. AGE's rows must be there, the rival's may."""
    spread, recall, ratio, said = values(rows, SPREAD), values(rows, RECALL), values(rows, RATIO), []
    for label, r2 in values(rows, R2).items():
        line = f"{label}: colorizations of an image differ by {spread[label]:.2f} Lab units, "
        line += f"{spread[label] / spread[OTHERS]:.0%} of what other images' colours do; its code explains {r2:.0%} of the "
        true = f"; all four true colours on {recall[label]:.0%} of the images" if label in recall else ""
        said.append(f"{line}body's colour{true}; {ratio[label]:.1f} times as much on the car as off it.")
    metric = RECALL if "AGE" in recall else MANY
    found = values(rows, metric)
    ours, theirs = found["AGE"], found.get(RIVAL)
    held = "holds" if ours >= HELD[metric] and (theirs is None or ours > theirs) else "does NOT hold"
    beside = f"{RIVAL} has {theirs:.2f}" if theirs is not None else f"{RIVAL} is not beside it"
    return "\n".join([*said, f"The claim {held} in this run: {metric} of AGE is {ours:.2f}, {beside}."])
