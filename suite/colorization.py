"""What held-out images are painted by each colour method, and rows for metrics.json: how diverse the colours are, how good,
whether the code is used, and how near they come to a known truth.

The paper gives no number for colorization: all of these are the suite's own. ab is in units of CIE Lab.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

import agelib
from agelib import conditional, sphere
from agelib.data.standins import cars
from agelib.metrics import colors

RECALL_LEAST = 0.05  # a mode counts as recalled on an image from this share of its codes
HELD = 0.9  # mode recall of AGE below which the claim has failed
FEWEST = 14  # held-out images: 8 lend colours and 6 take them in Figure 4 (b)
OTHERS = "other images' colours"
SPREAD, R2, RECALL = "ab std per pixel", "R2 of colour by z", "mode recall"


@dataclass(frozen=True)
class Truth:
    """What is known of embedded `cars`. body: (N, H, W) bool, where to look; ab: (n, 2) true body colours of held-out cars;
    modes: (m, 2) and weights (m,) of the mixture they were drawn from."""

    body: np.ndarray
    ab: np.ndarray
    modes: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class HeldOut:
    """Images to paint. images: uint8 (N, 3, H, W); lightness: theirs, uint8 (N, 1, H, W); own: their ab, (N, 2, H, W)."""

    images: np.ndarray
    lightness: np.ndarray
    own: np.ndarray
    truth: Truth | None

    @property
    def body(self) -> np.ndarray | None:
        """Where a picture's mean colour is taken, (N, H, W) bool; None: everywhere."""
        return self.truth and self.truth.body


@dataclass(frozen=True)
class Painted:
    """K colorizations of each of N images by one model. z: (K, M), the same for all; ab: (N, K, 2, H, W); pictures: uint8
    (N, K, 3, H, W); clipped: share of their pixels; colour: mean ab of each, (N, K, 2), over the body where it is known."""

    z: np.ndarray
    ab: np.ndarray
    pictures: np.ndarray
    clipped: float
    colour: np.ndarray


def check(models: Mapping[str, dict]) -> None:
    """Raise ValueError unless one of `models`, label -> settings, is labelled AGE, and is conditional AGE."""
    method = models["AGE"].get("method", "conditional") if "AGE" in models else None
    if method != "conditional":
        raise ValueError(f"models: AGE must be there, as conditional AGE; got {list(models)}, AGE with method {method}")


def held_out(test: agelib.data.ImageSet, n: int) -> HeldOut:
    """The first n images of `test` that have colour, with the truth where they are embedded `cars`. Raises ValueError for
    fewer than FEWEST."""
    kept = np.flatnonzero(conditional.coloured_only(test.images, test.name))[:n]
    if len(kept) < FEWEST:
        raise ValueError(f"{test.name}: {len(kept)} held-out images, need at least {FEWEST}; n_images is {n}")
    truth, images = None, test.images[kept]
    if test.name == "cars":
        known = cars.truth("test", images.shape[-1], n=int(kept[-1]) + 1)
        truth = Truth(known["body"][kept], known["ab"][kept], cars.MODES, cars.MODE_WEIGHTS)
    return HeldOut(images, lightness(images), conditional.colours(images), truth)


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
    mean = colors.mean_colour(ab, None if held.body is None else held.body[:n]).mean(0)
    return theta, phi, mean.reshape(len(theta), len(phi), 2)


def clouds(held: HeldOut, painted: Mapping[str, Painted], most: int = 2000) -> dict[str, np.ndarray]:
    """Mean colours (n, 2) of the held-out images and of each model's colorizations, at most so many."""
    own = colors.mean_colour(held.own[:, None], held.body)[:, 0]
    return {"held-out images": own} | {label: each.colour.reshape(-1, 2)[:most] for label, each in painted.items()}


def numbers(models: Mapping[str, agelib.Model], held: HeldOut, painted: Mapping[str, Painted], seed: int = 0) -> list[dict]:
    """All rows: of other images' colours, the scale; of each model; of the held-out images."""
    found = {OTHERS: diversity(other_images(held.own, len(held.own), min(10, len(held.own)), seed))}
    for label, each in painted.items():
        found[label] = diversity(each.ab) + quality(each.ab[:, :10], held.own, each.pictures[:, :10], each.clipped)
        found[label] += use_of_code(each.z, each.colour, seed)
        if held.truth:
            found[label] += against_truth(each.colour, held.truth)
        if models[label].e is not None:
            found[label] += reconstruction(conditional.reconstruct(models[label], held.images), held.own)
    found["held-out images"] = colourfulness(held.images)
    return [{"model": label} | row for label, rows in found.items() for row in rows]


def other_images(own: np.ndarray, n: int, K: int, seed: int = 0) -> np.ndarray:
    """The data's own spread as a scale: K random images' colours in place of colorizations. own: (T, 2, H, W), T >= K.

    Returns (n, K, 2, H, W); no image twice in a row of K.
    """
    rng = np.random.default_rng(seed)
    return np.stack([own[rng.choice(len(own), K, replace=False)] for _ in range(n)])


def diversity(ab: np.ndarray) -> list[dict]:
    """Per-pixel deviation and mean pairwise distance of ab (N, K, 2, H, W) over the K codes of an image."""
    about = {"n": len(ab), "protocol": f"ab in Lab units, over {ab.shape[1]} codes of each held-out image"}
    found = {SPREAD: colors.pixel_spread(ab), "ab pairwise": colors.pairwise_distance(ab)}
    return [_row(metric, values) | about for metric, values in found.items()]


def quality(ab: np.ndarray, own: np.ndarray, pictures: np.ndarray, clipped: float) -> list[dict]:
    """Best of K against the image's own colours (N, 2, H, W), colourfulness of the pictures (N, K, 3, H, W) uint8, and the
    share of clipped pixels."""
    N, K = ab.shape[:2]
    return [
        _row(f"best of {K}, L1", colors.best_of(ab, own)) | {"n": N, "protocol": "mean |difference| of a and b, Lab units"},
        *colourfulness(pictures.reshape(-1, *pictures.shape[2:])),
        {"metric": "out of gamut", "value": clipped, "n": N * K, "protocol": "share of pixels clipped to sRGB"},
    ]


def colourfulness(pictures: np.ndarray) -> list[dict]:
    """Of pictures (n, 3, H, W) uint8."""
    about = {"n": len(pictures), "protocol": "Hasler and Suesstrunk M3, 0..255 RGB"}
    return [_row("colourfulness", colors.colourfulness(pictures)) | about]


def reconstruction(gex: np.ndarray, own: np.ndarray) -> list[dict]:
    """How far g(e(x|L)|L) is from x, both (N, 2, H, W) in Lab units."""
    about = {"n": len(own), "protocol": "mean |difference| of a and b, Lab units"}
    return [_row("reconstruction of ab, L1", np.abs(gex - own).mean((1, 2, 3))) | about]


def use_of_code(z: np.ndarray, colour: np.ndarray, seed: int = 0) -> list[dict]:
    """Whether the codes z (K, M), the same for every image, say anything of the mean colours (N, K, 2): R^2 and p."""
    N, K = colour.shape[:2]
    r2, p = colors.permutation_test(np.tile(z, (N, 1)), colour.reshape(-1, 2), seed=seed)
    about = {"n": N * K, "protocol": "mean ab by a quadratic in z; permutation of codes over all colorizations"}
    return [{"metric": R2, "value": r2} | about, {"metric": "p, z unused", "value": p} | about]


def against_truth(colour: np.ndarray, truth: Truth) -> list[dict]:
    """Mode recall, and two divergences, of the body colours (N, K, 2) from the mixture they should be drawn from."""
    N, K = colour.shape[:2]
    shares = colors.mode_shares(colors.nearest_mode(colour, truth.modes), len(truth.modes))
    rule = f"body colour within half the smallest distance of modes, {K} codes of each image"
    rows = [
        {"metric": RECALL, "value": colors.mode_recall(shares, RECALL_LEAST), "n": N,
         "protocol": f"images on which each mode has >= {RECALL_LEAST:.0%} of the codes; {rule}"},
        {"metric": "colours of no mode", "value": float(1 - shares.sum(1).mean()), "n": N * K, "protocol": rule},
        {"metric": "KL of modes", "value": colors.mode_divergence(shares, truth.weights), "n": N * K,
         "protocol": f"nats, drawn over true; {rule}"},
        {"metric": "KL to the mixture", "value": colors.knn_divergence(truth.ab, colour.reshape(-1, 2)), "n": len(truth.ab),
         "protocol": f"nats, true over drawn, 5 nearest neighbours, {N * K:,} drawn"},
    ]  # fmt: skip
    return rows + [{"metric": "rarest mode", "value": float(shares.mean(0).min()), "n": N * K, "protocol": rule}]


def verdict(rows: list[dict], rival: str = "pix2pix + noise") -> str:
    """What the numbers of one run say of the paper's claim, in sentences. AGE's rows must be there, the rival's may."""
    found = {(row["model"], row["metric"]): row["value"] for row in rows}
    said = []
    for label in (model for model, metric in found if metric == R2):
        share = found[label, SPREAD] / found[OTHERS, SPREAD]
        line = f"{label}: colorizations of an image differ by {found[label, SPREAD]:.2f} Lab units, {share:.0%} of what "
        line += f"other images' colours do; its code explains {found[label, R2]:.0%} of the mean colour"
        known = found.get((label, RECALL))
        said.append(line + ("." if known is None else f"; all four true colours on {known:.0%} of the images."))
    metric, least = (RECALL, HELD) if ("AGE", RECALL) in found else (SPREAD, 0.0)
    ours, theirs = found["AGE", metric], found.get((rival, metric))
    held = ours >= least and (theirs is None or ours > theirs)
    beside = f"{rival} has {theirs:.2f}" if theirs is not None else f"{rival} is not beside it"
    said.append(f"The claim {'holds' if held else 'does NOT hold'} in this run: {metric} of AGE is {ours:.2f}, {beside}.")
    return "\n".join(said)


def _row(metric: str, values: np.ndarray) -> dict:
    return {"metric": metric, "value": float(values.mean()), "std": float(values.std())}
