"""Speed of what judges samples and features: the SVM protocol of notebook 05 and the classifier of notebook 03.

Features are those of the published encoder (32 px, M = 128, 7,296 dimensions) at its initial weights, BatchNorm statistics
from the images; images are the embedded `house_numbers`. Plain: scikit-learn's LinearSVC on the features themselves.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

from agelib import age, data
from agelib.metrics import classifier, svm
from agelib.metrics.svm import SvmConfig
from agelib.model import reestimate
from agelib.training import hardware

N_FEATURES, N_READ, N_DRAWS, N_TEST = 100_000, 50_000, 100, 26_032  # what the numbers are scaled to; SVHN's test images
NEAR_BEST = tuple(svm.ALI_GRID[k] for k in range(12, 22))  # ten of the published fifty


def seconds_of(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each call, the calls in turn."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in taken.items()}


def measure(images: np.ndarray, labels: np.ndarray, cfg: SvmConfig, repeats: int, device: torch.device) -> dict[str, float]:
    """Seconds: "features" of N_FEATURES images, "read": the classifier's pass over N_READ, both scaled from the images
    given; "fit" and "plain fit": one SVM at the grid's 18th C; "protocol": the choice of C, cfg's draws scaled to
    N_DRAWS, and the features of N_TEST images."""
    e = age.build(age.Config(), images.shape[1:])["e"].to(device, memory_format=torch.channels_last)
    look = age.features({"e": reestimate(e, images[:1000])})
    precision = hardware.choose_precision("auto", device)
    net = classifier.Classifier(images.shape[1], 10, 32, precision).to(device).eval()
    pool, valid = svm.split(len(images), cfg.n_valid)
    (labelled,) = svm.labelled_sets(labels[pool], cfg.per_class, 1, seed=cfg.seed)
    X, y = look(images[labelled]), labels[labelled]
    C = svm.ALI_GRID[17]
    found = seconds_of(
        {
            "features": lambda: [look(images[i : i + cfg.chunk]) for i in range(0, len(images), cfg.chunk)],
            "read": lambda: classifier.read(net, images),
            "fit": lambda: svm.train_svms(X, y, (C,)),
            "plain fit": lambda: svm.plain_svm(C).fit(X.astype(np.float64), y),
        },
        repeats,
    )
    found["features"] *= N_FEATURES / len(images)
    found["read"] *= N_READ / len(images)
    choice = seconds_of({"C": lambda: svm.choose_C(look, images, labels, labelled, valid, cfg)}, 1)["C"]
    few = images[valid[:10]], labels[valid[:10]]
    whole = seconds_of({"all": lambda: svm.evaluate(look, images, labels, *few, cfg)}, 1)["all"]
    draws = (whole - choice) * N_DRAWS / cfg.n_draws
    return found | {"protocol": choice + draws + found["features"] * N_TEST / N_FEATURES}


def report(device: torch.device, peaks: dict[str, float], precision: str, repeats: int) -> None:
    """Print the table."""
    train = data.load("house_numbers", "train", size=32, channels=3)
    cfg = SvmConfig(n_draws=5, Cs=NEAR_BEST, n_jobs=torch.get_num_threads())
    found = measure(train.images, train.labels, cfg, repeats, device)
    faster = found["plain fit"] / found["fit"]
    print(f"features of {N_FEATURES:,} images, 7,296 dimensions   {found['features']:7.1f} s")
    print(f"one SVM, 1,000 labels, plain              {found['plain fit']:7.2f} s")
    print(f"one SVM, 1,000 labels, in its row space   {found['fit']:7.2f} s   {faster:.1f} x plain")
    print(f"{len(cfg.Cs)} values of C, {N_DRAWS} draws (from {cfg.n_draws})       {found['protocol'] / 60:7.1f} min")
    print(f"classifier's pass over {N_READ:,} images      {found['read']:7.1f} s")
    print(f"peak memory                               {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:7.1f} GB")
