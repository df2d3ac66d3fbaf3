"""Speed of what judges samples and features: the SVM protocol of notebook 05 and the classifier of notebook 03.

Features are those of the published encoder (32 px, M = 128, 7,296 dimensions) at its initial weights, BatchNorm statistics
from the images; images are the embedded `house_numbers`. Plain: scikit-learn's LinearSVC on the features themselves.
"""

import resource
import statistics

import numpy as np
import torch

from agelib import age, data
from agelib.metrics import classifier, svm
from agelib.model import reestimate
from agelib.training import hardware
from suite.bench.training import in_turn

N_FEATURES, N_READ, N_DRAWS, N_TEST = 100_000, 50_000, 100, 26_032  # what the numbers are scaled to; SVHN's test images
NEAR_BEST = svm.ALI_GRID[12:22]  # ten of the published fifty


def measure(
    images: np.ndarray, labels: np.ndarray, cfg: svm.SvmConfig, repeats: int, device: torch.device
) -> dict[str, float]:
    """Seconds: "features" of N_FEATURES images, "read": the classifier's pass over N_READ, both scaled from the images
    given; "fit" and "plain fit": one SVM at the grid's 18th C; "protocol": the choice of C, cfg's draws scaled to
    N_DRAWS, and the features of N_TEST images."""
    e = age.build(age.Config(), images.shape[1:])["e"].to(device, memory_format=torch.channels_last)
    look = age.features({"e": reestimate(e, images[:1000])})
    net = classifier.Classifier(images.shape[1], 10, 32, hardware.choose_precision("auto", device)).to(device).eval()
    pool, valid = svm.split(len(images), cfg.n_valid)
    (labelled,) = svm.labelled_sets(labels[pool], cfg.per_class, 1, seed=cfg.seed)
    X, y, C, few = look(images[labelled]), labels[labelled], svm.ALI_GRID[17], valid[:10]
    calls = {
        "features": lambda: [look(images[i : i + cfg.chunk]) for i in range(0, len(images), cfg.chunk)],
        "read": lambda: classifier.read(net, images),
        "fit": lambda: svm.train_svms(X, y, (C,)),
        "plain fit": lambda: svm.plain_svm(C).fit(X.astype(np.float64), y),
    }
    whole = {
        "choice": lambda: svm.choose_C(look, images, labels, labelled, valid, cfg),
        "all": lambda: svm.evaluate(look, images, labels, images[few], labels[few], cfg),
    }
    times = in_turn(calls, device, repeats) | in_turn(whole, device, 1)
    found = {name: statistics.median(seconds) for name, seconds in times.items()}
    found["features"] *= N_FEATURES / len(images)
    found["read"] *= N_READ / len(images)
    draws = (found["all"] - found["choice"]) * N_DRAWS / cfg.n_draws
    return found | {"protocol": found["choice"] + draws + found["features"] * N_TEST / N_FEATURES}


def report(device: torch.device, peaks: dict[str, float], precision: str, repeats: int) -> None:
    """Print the table."""
    train = data.load("house_numbers", "train", size=32, channels=3)
    cfg = svm.SvmConfig(n_draws=5, Cs=NEAR_BEST, n_jobs=torch.get_num_threads())
    found = measure(train.images, train.labels, cfg, repeats, device)
    faster = found["plain fit"] / found["fit"]
    print(f"features of {N_FEATURES:,} images, 7,296 dimensions   {found['features']:7.1f} s")
    print(f"one SVM, 1,000 labels, plain              {found['plain fit']:7.2f} s")
    print(f"one SVM, 1,000 labels, in its row space   {found['fit']:7.2f} s   {faster:.1f} x plain")
    print(f"{len(cfg.Cs)} values of C, {N_DRAWS} draws (from {cfg.n_draws})       {found['protocol'] / 60:7.1f} min")
    print(f"classifier's pass over {N_READ:,} images      {found['read']:7.1f} s")
    print(f"peak memory                               {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:7.1f} GB")
