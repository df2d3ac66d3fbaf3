"""Rows for metrics.json from the pictures of several models: one call a kind of number, the same protocol for each model.

answers: model -> reconstructions (N, C, H, W) of the same held-out images; made: model -> samples; all uint8. None stands
for a model that was lost: it keeps a row, without a value.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import nn

from agelib.metrics import classifier, pictures, reconstruction

HELD_OUT = "held-out reconstructions, networks in evaluation mode"
LAPLACIAN = "variance of the Laplacian, luma in [0, 1]"


def without_knowledge(train: np.ndarray, gex: np.ndarray) -> dict[str, np.ndarray]:
    """Answers that know nothing of the image: the mean training image, and the reconstruction of another image."""
    mean = train[:5000].mean(0).round().astype(np.uint8)
    return {"mean image": np.broadcast_to(mean, gex.shape), "another image": np.roll(gex, 1, 0)}


def reconstructions(held_out: np.ndarray, answers: Mapping[str, np.ndarray | None]) -> list[dict]:
    """L1 (pixels in [-1, 1]), MSE, PSNR and SSIM (pixels in [0, 1]) of each model, and how sharp its answers are; mean and
    deviation over images."""
    rows = []
    about = {"protocol": HELD_OUT, "n": len(held_out)}
    for model, answer in answers.items():
        if answer is None:
            rows.append(about | lost(model, "reconstruction l1"))
            continue
        for metric, (value, std) in reconstruction.summary(held_out, answer).items():
            rows.append(about | {"model": model, "metric": f"reconstruction {metric}", "value": value, "std": std})
        sharp = pictures.sharpness(answer)
        sharp = {"value": sharp.mean(), "std": sharp.std(), "protocol": f"{HELD_OUT}; {LAPLACIAN}"}
        rows.append(about | {"model": model, "metric": "reconstruction sharpness"} | sharp)
    return rows


def samples(real: np.ndarray, made: Mapping[str, np.ndarray | None]) -> list[dict]:
    """Diversity (mean L1 of random pairs, pixels in [-1, 1]) and sharpness (variance of the Laplacian) of real images and
    of each model's samples."""
    rows = []
    for model, images in ({"real images": real} | dict(made)).items():
        if images is None:
            rows.append(lost(model, "sample diversity"))
            continue
        value, std = pictures.pairwise_l1(images)
        about = {"model": model, "n": len(images)}
        rows.append(about | {"metric": "sample diversity", "value": value, "std": std, "protocol": "mean L1 of 2,000 pairs"})
        sharp = pictures.sharpness(images)
        about |= {"protocol": LAPLACIAN}
        rows.append(about | {"metric": "sharpness", "value": sharp.mean(), "std": sharp.std()})
    return rows


def read(
    net: nn.Module,
    held_out: np.ndarray,
    labels: np.ndarray,
    answers: Mapping[str, np.ndarray | None],
    made: Mapping[str, np.ndarray | None],
) -> list[dict]:
    """What a classifier trained on the real labels reads: accuracy, labels kept by reconstructions and their distance in
    its features, confidence and spread of samples. labels: (N,) of held_out."""
    on_real = classifier.probs(net, held_out)
    K, n = on_real.shape[1], len(held_out)
    accuracy, sure = classifier.agreement(on_real.argmax(1), labels), classifier.confident_fraction(on_real)
    rows = [
        {"model": "real images", "metric": "classifier accuracy on held-out images", "value": accuracy, "n": n},
        {"model": "real images", "metric": "held-out images read with confidence > 0.9", "value": sure, "n": n},
    ]
    for model, answer in answers.items():
        if answer is None:
            continue
        kept = classifier.agreement(classifier.probs(net, answer).argmax(1), labels)
        rows.append({"model": model, "metric": "reconstructions read as the label", "value": kept, "n": n})
        apart = classifier.feature_distance(net, held_out, answer)
        about = {"model": model, "metric": "feature distance", "n": n}
        rows.append(about | {"value": apart.mean(), "std": apart.std()})
    for model, images in made.items():
        if images is None:
            continue
        p = classifier.probs(net, images)
        entropy, rarest = classifier.class_spread(p)
        found = {"samples read with confidence > 0.9": classifier.confident_fraction(p)}
        found |= {"share of the rarest class": rarest, "class entropy / log K": entropy / np.log(K)}
        rows += [{"model": model, "metric": k, "value": v, "n": len(images)} for k, v in found.items()]
    return [{"protocol": f"small CNN trained on the labels, {K} classes"} | row for row in rows]


def lost(model: str, metric: str) -> dict:
    """The row of a model that diverged."""
    return {"model": model, "metric": metric, "value": None, "note": "diverged"}
