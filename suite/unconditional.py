"""Rows for metrics.json from the pictures of several models, the same protocol for each.

answers: model -> reconstructions (N, C, H, W) of the same held-out images; made: model -> samples; all uint8. None stands
for a model that was lost or can't answer: a lost one keeps a row, without a value.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import agelib
from agelib.data import ImageSet
from agelib.metrics import classifier, pictures
from suite import params
from suite.rows import Rows, make, values

HELD_OUT = "held-out reconstructions, networks in evaluation mode"
LAPLACIAN = "variance of the Laplacian, luma in [0, 1]"
SURE = "samples read with confidence > 0.9"
SURE_OF_REAL = "held-out images read with confidence > 0.9"
GAP = "KL fake - KL real"
Answers = Mapping[str, np.ndarray | None]


def check(p: Any, train: ImageSet, test: ImageSet) -> None:
    """ValueError, before any training, for parameters `p` of notebook 01 that these sets or a later cell can't take."""
    if p.age.get("method", "age") != "age":
        raise ValueError(f"age: method must be age, is {p.age['method']!r}")
    if "AGE" in p.rivals:
        raise ValueError("rivals: 'AGE' is the label of `age`")
    if min(p.n_samples, len(train), len(test)) < 2:
        sets = f"{len(train)} training and {len(test)} test images"
        raise ValueError(f"n_samples must be at least 2, is {p.n_samples}; so must be the images, {p.dataset} has {sets}")
    stages = {"age": p.age, "finetune": p.age | (p.finetune or {})}
    built = params.trainable(stages | {f"rivals.{label}": settings for label, settings in p.rivals.items()}, train.images)
    first, second = ([v.shape for net in built[stage].values() for v in net.state_dict().values()] for stage in stages)
    if first != second:
        raise ValueError(f"finetune: {p.finetune} makes other networks than those of age, whose weights it begins from")
    if p.classifier is not None and train.labels is not None:
        n_classes(train, test, p.classifier)


def answers(models: Mapping[str, agelib.Model], held_out: np.ndarray) -> dict[str, np.ndarray | None]:
    """What each model that has an encoder makes of the held-out images; None for a lost one."""
    asked = {label: model for label, model in models.items() if not model.ok or model.e is not None}
    return {label: model.reconstruct(held_out) if model.ok else None for label, model in asked.items()}


def told(label: str, model: agelib.Model) -> str:
    """A model's name with its training, or what became of it."""
    if not model.ok:
        return f"{label} {model.status}"
    return f"{label}: {model.n_epochs:.3g} epochs, {model.n_steps} iterations, {model.seconds:.0f} s"


def reconstructions(held_out: np.ndarray, answers: Answers) -> Rows:
    """L1 (pixels in [-1, 1]), MSE, PSNR and SSIM (pixels in [0, 1]) of each model, and how sharp its answers are."""
    rows, n = [], len(held_out)
    for model, answer in answers.items():
        found = {"l1": None} if answer is None else pictures.summary(held_out, answer)
        rows += make(model, {f"reconstruction {k}": v for k, v in found.items()}, HELD_OUT, n)
        if answer is not None:
            rows += make(model, {"reconstruction sharpness": pictures.sharpness(answer)}, f"{HELD_OUT}; {LAPLACIAN}", n)
    return rows


def samples(real: np.ndarray, made: Answers) -> Rows:
    """Diversity (mean L1 of random pairs, pixels in [-1, 1]) and sharpness of real images and of each model's samples."""
    rows = []
    for model, images in {"real images": real, **made}.items():
        if images is None:
            rows += make(model, {"sample diversity": None})
        else:
            rows += make(model, {"sample diversity": pictures.pairwise_l1(images)}, "mean L1 of 2,000 pairs", len(images))
            rows += make(model, {"sharpness": pictures.sharpness(images)}, LAPLACIAN, len(images))
    return rows


def novelty(samples: np.ndarray, held_out: np.ndarray, train: np.ndarray) -> Rows:
    """Whether AGE's samples repeat training images: the distance to the nearest one, over that of held-out images."""
    found = pictures.memorisation(samples, held_out, train)
    protocol = f"median distance to the nearest training image, samples over {found['n_held_out']} held-out images"
    rows = make("AGE", {"memorisation ratio": found["ratio"]}, protocol, found["n"])
    protocol = "samples at less than a third of the distance to their second nearest training image"
    return rows + make("AGE", {"share of copies": found["share_copied"]}, protocol, found["n"])


def read(net: classifier.Classifier, held_out: np.ndarray, labels: np.ndarray, answers: Answers, made: Answers) -> Rows:
    """What a classifier trained on the real labels reads: accuracy, labels (N,) of held_out kept by reconstructions and
    their distance in its features, confidence and spread of samples."""
    on_real, features = classifier.read(net, held_out)
    K, n = on_real.shape[1], len(held_out)
    protocol = f"classifier trained on the labels, {K} classes"
    found = {"classifier accuracy on held-out images": (on_real.argmax(1) == labels).mean()}
    rows = make("real images", found | {SURE_OF_REAL: (on_real.max(1) > 0.9).mean()}, protocol, n)
    for model, answer in answers.items():
        if answer is not None:
            probs, of_answer = classifier.read(net, answer)
            found = {"reconstructions read as the label": (probs.argmax(1) == labels).mean()}
            found["feature distance"] = classifier.feature_distance(features, of_answer)
            rows += make(model, found, protocol, n)
    for model, images in made.items():
        if images is not None:
            probs = classifier.read(net, images)[0]
            entropy, rarest = classifier.class_spread(probs)
            found = {SURE: (probs.max(1) > 0.9).mean(), "share of the rarest class": rarest}
            rows += make(model, found | {"class entropy / log K": entropy / np.log(K)}, protocol, len(images))
    return rows


def training(models: Mapping[str, agelib.Model]) -> Rows:
    """How long each model was trained, and the gap of AGE's game at its end."""
    rows = []
    for label, model in models.items():
        protocol = f"{model.n_epochs:.3g} epochs, {model.n_steps} iterations" if model.ok else "lost"
        rows += make(label, {"training seconds": model.seconds if model.ok else None}, protocol)
        last = model.history[-1] if model.ok and model.history else {}
        if "kl_fake" in last:
            found, protocol = {GAP: last["kl_fake"] - last["kl_real"]}, "mean over the last logged iterations of training"
            rows += make(label, found, protocol, model.about["batch_size"])
    return rows


def classify(
    train: ImageSet, test: ImageSet, folder: Path, settings: dict, device: str
) -> tuple[classifier.Classifier, np.ndarray]:
    """(a classifier trained on the labels of `train`, the labels of `test`), kept in `folder`. Raises as `n_classes`."""
    K = n_classes(train, test, settings)
    return classifier.train(train.images, train.labels, folder, n_classes=K, device=device, **settings), test.labels


def n_classes(train: ImageSet, test: ImageSet, settings: dict) -> int:
    """Classes of the labels of both sets. ValueError without labels, and where a classifier can't be trained so on them."""
    if train.labels is None or test.labels is None:
        raise ValueError(f"{train.name} has no labels, which a classifier needs; set classifier = None")
    K = int(max(train.labels.max(), test.labels.max())) + 1
    try:
        classifier.check(train.images, train.labels, K, **settings)
    except ValueError as error:
        raise ValueError(f"classifier: {error}") from None
    return K


def verdict(rows: Rows) -> str:
    """What the numbers of one run say of the paper's claim, in sentences."""
    l1 = values(rows, "reconstruction l1")
    shown = "show their image" if l1["AGE"] < min(l1["mean image"], l1["another image"]) else "do NOT show their image"
    order = sorted(l1.items(), key=lambda item: item[0] in ("mean image", "another image"))
    said = [f"Reconstructions {shown}. L1 a pixel: {', '.join(f'{model} {value:.3f}' for model, value in order)}."]
    if gap := values(rows, GAP).get("AGE"):
        held = "even" if abs(gap) < 0.1 else "the generator is behind" if gap > 0 else "the encoder is behind"
        said.append(f"The game: KL fake - KL real is {gap:+.2f} at the end: {held}.")
    if (sure := values(rows, SURE).get("AGE")) is not None:
        real, kept = values(rows, SURE_OF_REAL)["real images"], values(rows, "reconstructions read as the label")["AGE"]
        said.append(f"A classifier is sure of {sure:.0%} of AGE's samples and of {real:.0%} of real images.")
        said.append(f"It finds the label in {kept:.0%} of AGE's reconstructions.")
    return "\n".join(said)
