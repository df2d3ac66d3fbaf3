"""Rows for metrics.json from colorizations: how diverse, how good, whether the code is used, and against a known truth.

Each function takes what one model drew, K colorizations of each of N held-out images, and says the protocol in its rows. The
paper gives no number for colorization: all of these are the suite's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agelib.metrics import colors

RECALL_LEAST = 0.05  # a mode counts as recalled on an image from this share of its codes


@dataclass(frozen=True)
class Truth:
    """What is known of embedded `cars`. body: (N, H, W) bool, where to look; ab: (n, 2) true body colours of held-out cars;
    modes: (m, 2) and weights (m,) of the mixture they were drawn from."""

    body: np.ndarray
    ab: np.ndarray
    modes: np.ndarray
    weights: np.ndarray


def other_images(own: np.ndarray, n: int, K: int, seed: int = 0) -> np.ndarray:
    """The data's own spread as a scale: K random images' colours in place of colorizations. own: (T, 2, H, W), T >= K.

    Returns (n, K, 2, H, W); no image twice in a row of K.
    """
    rng = np.random.default_rng(seed)
    return np.stack([own[rng.choice(len(own), K, replace=False)] for _ in range(n)])


def diversity(ab: np.ndarray) -> list[dict]:
    """Per-pixel deviation and mean pairwise distance of ab (N, K, 2, H, W) over the K codes of an image."""
    about = {"n": len(ab), "protocol": f"ab in Lab units, over {ab.shape[1]} codes of each held-out image"}
    found = {"ab std per pixel": colors.pixel_spread(ab), "ab pairwise": colors.pairwise_distance(ab)}
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
    return [{"metric": "R2 of colour by z", "value": r2} | about, {"metric": "p, z unused", "value": p} | about]


def against_truth(colour: np.ndarray, truth: Truth) -> list[dict]:
    """Mode recall, and two divergences, of the body colours (N, K, 2) from the mixture they should be drawn from."""
    N, K = colour.shape[:2]
    shares = colors.mode_shares(colors.nearest_mode(colour, truth.modes), len(truth.modes))
    rule = f"body colour within half the smallest distance of modes, {K} codes of each image"
    rows = [
        {"metric": "mode recall", "value": colors.mode_recall(shares, RECALL_LEAST), "n": N,
         "protocol": f"images on which each mode has >= {RECALL_LEAST:.0%} of the codes; {rule}"},
        {"metric": "colours of no mode", "value": float(1 - shares.sum(1).mean()), "n": N * K, "protocol": rule},
        {"metric": "KL of modes", "value": colors.mode_divergence(shares, truth.weights), "n": N * K,
         "protocol": f"nats, drawn over true; {rule}"},
        {"metric": "KL to the mixture", "value": colors.knn_divergence(truth.ab, colour.reshape(-1, 2)), "n": len(truth.ab),
         "protocol": f"nats, true over drawn, 5 nearest neighbours, {N * K:,} drawn"},
    ]  # fmt: skip
    return rows + [{"metric": "rarest mode", "value": float(shares.mean(0).min()), "n": N * K, "protocol": rule}]


def _row(metric: str, values: np.ndarray) -> dict:
    return {"metric": metric, "value": float(values.mean()), "std": float(values.std())}
