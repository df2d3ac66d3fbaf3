"""Rows for metrics.json from the pictures of several models: one call a kind of number, the same protocol for each model.

answers: model -> reconstructions (N, C, H, W) of the same held-out images; made: model -> samples; all uint8. None stands
for a model that was lost or can't answer: a lost one keeps a row, without a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

import agelib
from agelib.metrics import classifier, pictures

HELD_OUT = "held-out reconstructions, networks in evaluation mode"
LAPLACIAN = "variance of the Laplacian, luma in [0, 1]"
Answers = Mapping[str, np.ndarray | None]


def stages(label: str, model: agelib.Model) -> dict[str, agelib.Model]:
    """A rival as it was at its kept snapshots, "ALI, 4524 iterations", and at last under its own label."""
    found = {f"{label}, {step} iterations": model.at(step) for step in model.steps if model.ok and step < model.n_steps}
    return found | {label: model}


def answers(models: Mapping[str, agelib.Model], held_out: np.ndarray) -> dict[str, np.ndarray | None]:
    """What each model that has an encoder makes of the held-out images; None for a lost one."""
    return {
        label: model.reconstruct(held_out) if model.ok else None
        for label, model in models.items()
        if not model.ok or model.e is not None
    }


def told(label: str, model: agelib.Model) -> str:
    """A model's name with its training, or what became of it."""
    if not model.ok:
        return f"{label} {model.status}"
    return f"{label}: {model.n_epochs:.3g} epochs, {model.n_steps} iterations, {model.seconds:.0f} s"


def without_knowledge(train: np.ndarray, gex: np.ndarray) -> dict[str, np.ndarray]:
    """Answers that know nothing of the image: the mean training image, and the reconstruction of another image."""
    mean = train[:5000].mean(0).round().astype(np.uint8)
    return {"mean image": np.broadcast_to(mean, gex.shape), "another image": np.roll(gex, 1, 0)}


def reconstructions(held_out: np.ndarray, answers: Answers) -> list[dict]:
    """L1 (pixels in [-1, 1]), MSE, PSNR and SSIM (pixels in [0, 1]) of each model, and how sharp its answers are; mean and
    deviation over images."""
    rows = []
    about = {"protocol": HELD_OUT, "n": len(held_out)}
    for model, answer in answers.items():
        if answer is None:
            rows.append(about | {"model": model, "metric": "reconstruction l1", "value": None})
            continue
        for metric, (value, std) in pictures.summary(held_out, answer).items():
            rows.append(about | {"model": model, "metric": f"reconstruction {metric}", "value": value, "std": std})
        sharp = pictures.sharpness(answer)
        sharp = {"value": sharp.mean(), "std": sharp.std(), "protocol": f"{HELD_OUT}; {LAPLACIAN}"}
        rows.append(about | {"model": model, "metric": "reconstruction sharpness"} | sharp)
    return rows


def samples(real: np.ndarray, made: Answers) -> list[dict]:
    """Diversity (mean L1 of random pairs, pixels in [-1, 1]) and sharpness (variance of the Laplacian) of real images and
    of each model's samples."""
    rows = []
    for model, images in ({"real images": real} | dict(made)).items():
        if images is None:
            rows.append({"model": model, "metric": "sample diversity", "value": None})
            continue
        value, std = pictures.pairwise_l1(images)
        about = {"model": model, "n": len(images)}
        rows.append(about | {"metric": "sample diversity", "value": value, "std": std, "protocol": "mean L1 of 2,000 pairs"})
        sharp = pictures.sharpness(images)
        rows.append(about | {"metric": "sharpness", "value": sharp.mean(), "std": sharp.std(), "protocol": LAPLACIAN})
    return rows


def novelty(samples: np.ndarray, held_out: np.ndarray, train: np.ndarray, label: str = "AGE") -> list[dict]:
    """Whether samples repeat training images: the distance to the nearest one, over that of held-out images."""
    found = pictures.memorisation(samples, held_out, train)
    about = {"model": label, "n": found["n"]}
    protocol = f"median distance to the nearest training image, samples over {found['n_held_out']} held-out images"
    rows = [about | {"metric": "memorisation ratio", "value": found["ratio"], "protocol": protocol}]
    protocol = "samples at less than a third of the distance to their second nearest training image"
    return [*rows, about | {"metric": "share of copies", "value": found["share_copied"], "protocol": protocol}]


def read(
    net: classifier.Classifier, held_out: np.ndarray, labels: np.ndarray, answers: Answers, made: Answers
) -> list[dict]:
    """What a classifier trained on the real labels reads: accuracy, labels kept by reconstructions and their distance in
    its features, confidence and spread of samples. labels: (N,) of held_out."""
    on_real, features = classifier.read(net, held_out)
    K, n = on_real.shape[1], len(held_out)
    accuracy, sure = classifier.agreement(on_real.argmax(1), labels), classifier.confident_fraction(on_real)
    rows = [
        {"model": "real images", "metric": "classifier accuracy on held-out images", "value": accuracy, "n": n},
        {"model": "real images", "metric": "held-out images read with confidence > 0.9", "value": sure, "n": n},
    ]
    for model, answer in answers.items():
        if answer is None:
            continue
        probs, of_answer = classifier.read(net, answer)
        kept = classifier.agreement(probs.argmax(1), labels)
        rows.append({"model": model, "metric": "reconstructions read as the label", "value": kept, "n": n})
        apart = classifier.feature_distance(features, of_answer)
        rows.append({"model": model, "metric": "feature distance", "n": n, "value": apart.mean(), "std": apart.std()})
    for model, images in made.items():
        if images is None:
            continue
        probs = classifier.read(net, images)[0]
        entropy, rarest = classifier.class_spread(probs)
        found = {"samples read with confidence > 0.9": classifier.confident_fraction(probs)}
        found |= {"share of the rarest class": rarest, "class entropy / log K": entropy / np.log(K)}
        rows += [{"model": model, "metric": k, "value": v, "n": len(images)} for k, v in found.items()]
    return [{"protocol": f"classifier trained on the labels, {K} classes"} | row for row in rows]


def training(models: Mapping[str, agelib.Model]) -> list[dict]:
    """How long each model was trained, and the gap of AGE's game at its end."""
    rows = []
    for label, model in models.items():
        protocol = f"{model.n_epochs:.3g} epochs, {model.n_steps} iterations" if model.ok else "lost"
        value = model.seconds if model.ok else None
        rows.append({"model": label, "metric": "training seconds", "value": value, "protocol": protocol})
        last = model.history[-1] if model.ok and model.history else {}
        if "kl_fake" in last:
            about = {"protocol": "mean over the last logged iterations of training", "n": model.about["batch_size"]}
            rows.append(about | {"model": label, "metric": "KL fake - KL real", "value": last["kl_fake"] - last["kl_real"]})
    return rows


def classify(train, test, folder: Path, settings: dict, device: str) -> tuple[classifier.Classifier, np.ndarray]:
    """(a classifier trained on the labels of `train`, the labels of `test`), kept in `folder`. Raises ValueError without
    labels."""
    if train.labels is None or test.labels is None:
        raise ValueError(f"{train.name} has no labels, which a classifier needs; set classifier = None")
    K = int(max(train.labels.max(), test.labels.max())) + 1
    return classifier.train(train.images, train.labels, folder, n_classes=K, device=device, **settings), test.labels


def verdict(rows: list[dict]) -> str:
    """What the numbers of one run say of the paper's claim, in sentences."""
    found = {(row["model"], row["metric"]): row["value"] for row in rows if row["value"] is not None}
    l1 = {model: value for (model, metric), value in found.items() if metric == "reconstruction l1"}
    blind = {model: l1.pop(model) for model in ("mean image", "another image")}
    shown = "show their image" if l1["AGE"] < min(blind.values()) else "do NOT show their image"
    told = ", ".join(f"{model} {value:.3f}" for model, value in (l1 | blind).items())
    said = [f"Reconstructions {shown}. L1 a pixel: {told}."]
    if gap := found.get(("AGE", "KL fake - KL real")):
        held = "even" if abs(gap) < 0.1 else "the generator is behind" if gap > 0 else "the encoder is behind"
        said.append(f"The game: KL fake - KL real is {gap:+.2f} at the end: {held}.")
    if (sure := found.get(("AGE", "samples read with confidence > 0.9"))) is not None:
        real = found["real images", "held-out images read with confidence > 0.9"]
        kept = found["AGE", "reconstructions read as the label"]
        said.append(f"A classifier is sure of {sure:.0%} of AGE's samples and of {real:.0%} of real images.")
        said.append(f"It finds the label in {kept:.0%} of AGE's reconstructions.")
    return "\n".join(said)
