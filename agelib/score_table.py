"""Scores of several generators from what a classifier says about their samples, as rows for metrics.json, and samples by
class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from agelib.metrics import inception_score as scores


@dataclass(frozen=True)
class Reading:
    """What a network says about a set of images: probs (N, K), rows summing to 1; features (N, D)."""

    probs: np.ndarray
    features: np.ndarray


@dataclass(frozen=True)
class Ruler:
    """How a set is measured. prefix: of the metrics' names, "classifier" or "inception"; who: the network, in words.

    splits: of the score. reference: features (n, D) of real images for the distances, for which the first n of each set
    count. published: images and splits of the published protocol, or None where nothing is published by this ruler;
    same_data: whether the data are those of the published numbers.
    """

    prefix: str
    who: str
    splits: int
    reference: np.ndarray
    published: tuple[int, int] | None = None
    same_data: bool = False

    def differences(self, n: int) -> str:
        """What keeps a score of n images from the published protocol, in words; empty if nothing does."""
        if self.published is None:
            return ""
        images, splits = self.published
        found = [] if self.same_data else ["other or incomplete data"]
        found += [f"{n:,} images instead of {images:,}"] if n != images else []
        return "; ".join(found + ([f"{self.splits} splits instead of {splits}"] if self.splits != splits else []))


def score(reading: Reading, ruler: Ruler) -> tuple[float, float]:
    """(mean, deviation over splits) of the score of one set."""
    return scores.inception_score(reading.probs, ruler.splits)


def rows(name: str, reading: Reading, ruler: Ruler) -> list[dict]:
    """Score, Frechet and kernel distance, precision and recall of one set of images."""
    n, made = len(reading.probs), reading.features[: len(ruler.reference)]
    value, std = score(reading, ruler)
    protocol = f"{n:,} images in {ruler.splits} splits, {ruler.who}; +-: standard deviation over splits"
    note = ruler.differences(n)
    comparable = ruler.published is not None and not note
    about = {"model": name, "n": n}
    found = [about | {"metric": f"{ruler.prefix}_score", "value": value, "std": std, "protocol": protocol}]
    found[0] |= {"comparable": comparable, "note": note}
    about |= {
        "n": len(made),
        "protocol": f"{len(made):,} images against {len(ruler.reference):,} real test images, {ruler.who}",
    }
    found.append(
        about | {"metric": f"{ruler.prefix} frechet distance", "value": scores.frechet_distance(made, ruler.reference)}
    )
    distance, spread = scores.kernel_distance(made, ruler.reference, subsets=20)
    found.append(about | {"metric": f"{ruler.prefix} kernel distance", "value": distance, "std": spread})
    precision, recall = scores.precision_recall(made, ruler.reference)
    found.append(about | {"metric": f"{ruler.prefix} precision", "value": precision})
    return [*found, about | {"metric": f"{ruler.prefix} recall", "value": recall}]


def against_time(
    model: Any, read: Callable[[np.ndarray], tuple], n: int, seed: int, ruler: Ruler
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """(seconds of training, score, deviation over splits) of n samples at each snapshot of a `models.Model`, or of its last
    state where it has none. read: images -> (probs, features)."""
    points = []
    for steps, weights in (model.snapshots or {model.n_steps: None}).items():
        images = model.generate(n, seed, weights=weights)
        points.append((model.seconds * steps / model.n_steps, *score(Reading(*read(images)), ruler)))
    seconds, means, stds = zip(*points, strict=True)
    return seconds, means, stds


def over_trainings(name: str, values: list[float], ruler: Ruler) -> dict:
    """The row of a score over several trainings: mean and sample deviation over seeds, which the split error knows nothing
    of."""
    protocol = f"mean of {len(values)} trainings with different seeds, {ruler.who}; +-: standard deviation over trainings"
    row = {"model": name, "metric": f"{ruler.prefix}_score_over_trainings", "n": len(values), "protocol": protocol}
    return row | {"value": float(np.mean(values)), "std": float(np.std(values, ddof=1))}


def by_class(images: np.ndarray, probs: np.ndarray, each: int) -> np.ndarray:
    """Images by their most probable class, (K each, C, H, W): a row of `each` images a class, from the most to the least
    certain, at equal steps through all of that class. A class with fewer images has its row filled up with white."""
    classes, sure = probs.argmax(1), probs.max(1)
    out = np.full((probs.shape[1] * each, *images.shape[1:]), 255, np.uint8)
    for k in range(probs.shape[1]):
        ids = np.flatnonzero(classes == k)
        ids = ids[np.argsort(-sure[ids], kind="stable")]
        if len(ids) > each:
            ids = ids[np.linspace(0, len(ids) - 1, each).round().astype(int)]
        out[k * each : k * each + len(ids)] = images[ids]
    return out
