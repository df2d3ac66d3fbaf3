"""What the SVM protocol says about several kinds of features, as rows for metrics.json, and which images it never gets
right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from agelib.metrics import svm_features
from agelib.metrics.svm_features import SvmConfig, SvmResult

Features = Callable[[np.ndarray], np.ndarray]
PUBLISHED = SvmConfig()


def differences(cfg: SvmConfig, complete: bool) -> str:
    """What keeps an error from the published protocol, in words; empty if nothing does."""
    found = [] if complete else ["other or incomplete data"]
    sizes = [("per_class", "labels a class"), ("n_valid", "validation images"), ("n_draws", "draws")]
    for name, words in sizes:
        mine, theirs = getattr(cfg, name), getattr(PUBLISHED, name)
        found += [f"{mine:,} {words} instead of {theirs:,}"] if mine != theirs else []
    found += [] if cfg.Cs == PUBLISHED.Cs else ["another grid for C"]
    return "; ".join(found + (["larger C left out where they no longer help"] if cfg.patience else []))


def evaluate(
    kinds: Mapping[str, Features],
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    cfg: SvmConfig,
    *,
    complete: bool = False,
    folder: str | Path | None = None,
) -> tuple[list[dict], dict[str, SvmResult]]:
    """The published protocol for each of `kinds` (label -> features); train, test: (images, labels).

    Returns rows (test_error_percent, mean and deviation over draws, with dimensions, C and protocol) and the results.
    """
    rows, results = [], {}
    note = differences(cfg, complete)
    for name, features in kinds.items():
        place = None if folder is None else Path(folder) / _file_name(name)
        found = svm_features.evaluate(features, *train, *test, cfg, folder=place, label=name)
        results[name] = found
        K = int(np.max(train[1])) + 1
        protocol = (
            f"linear SVM, {found.dims:,} dimensions, {K * cfg.per_class:,} labels, C = {found.C:.3g} by {cfg.n_valid:,} "
        )
        protocol += f"validation images, {cfg.n_draws} draws; percent of test images; +-: deviation over draws"
        lost = f"{found.unconverged} of {cfg.n_draws} SVMs did not converge" if found.unconverged else ""
        row = {"model": name, "metric": "test_error_percent", "value": 100 * found.errors.mean()}
        row |= {"std": 100 * found.errors.std(), "n": len(test[1]), "protocol": protocol, "comparable": not note}
        rows.append(row | {"note": "; ".join(filter(None, (note, lost)))})
    return rows, results


def on_validation(
    name: str, features: Features, train: tuple[np.ndarray, np.ndarray], cfg: SvmConfig, folder: str | Path | None = None
) -> tuple[float, float]:
    """(mean, deviation over draws) of the error on the validation images themselves, in percent: for comparisons that must
    not look at the test set. C is chosen on the same images, for all alike."""
    valid = slice(len(train[1]) - cfg.n_valid, None)
    place = None if folder is None else Path(folder) / _file_name(name)
    found = svm_features.evaluate(features, *train, train[0][valid], train[1][valid], cfg, folder=place, label=name)
    return float(100 * found.errors.mean()), float(100 * found.errors.std())


def answers(
    asked: str,
    kinds: Mapping[str, Features],
    train: tuple[np.ndarray, np.ndarray],
    cfg: SvmConfig,
    folder: str | Path | None = None,
) -> dict[str, tuple[float, float]]:
    """`on_validation` for each answer to one question: answer -> (mean, deviation), percent."""
    return {name: on_validation(f"{asked} {name}", features, train, cfg, folder) for name, features in kinds.items()}


def in_order(by_answer: Mapping[str, object]) -> dict[str, object]:
    """`by_answer` by the size of its keys where all are numbers; else as it is, "base" first."""
    try:
        return dict(sorted(by_answer.items(), key=lambda item: float(item[0])))
    except ValueError:
        return dict(sorted(by_answer.items(), key=lambda item: item[0] != "base"))


def label_efficiency(
    kinds: Mapping[str, Features], train: tuple, counts: list[int], cfg: SvmConfig, folder: str | Path | None = None
) -> dict[str, dict[int, tuple[float, float]]]:
    """label -> {labels in all: (error, deviation) in percent of validation images}, for `counts` labels a class. A count
    that takes the whole pool of a class has one draw."""
    pool, _ = svm_features.split(len(train[1]), cfg.n_valid)
    most = int(np.bincount(train[1][pool]).min())
    K, out = int(np.max(train[1])) + 1, {}
    for name, features in kinds.items():
        out[name] = {}
        for count in counts:
            asked = replace(cfg, per_class=count, n_draws=1 if count >= most else cfg.n_draws)
            place = None if folder is None else Path(folder) / f"{count}"
            out[name][K * count] = on_validation(name, features, train, asked, place)
    return out


def confusion(result: SvmResult, labels: np.ndarray) -> np.ndarray:
    """(K, K): row k, the share of the test images of class k that is taken for each class, the mean over draws."""
    K = int(np.max(labels)) + 1
    counts = np.zeros((K, K))
    for found in result.predictions:
        np.add.at(counts, (labels, found), 1)
    return counts / counts.sum(1, keepdims=True)


def always_wrong(result: SvmResult, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(indices of the test images that every draw gets wrong, the class that most draws take each for)."""
    ids = np.flatnonzero((result.predictions != labels).all(0))
    votes = [np.bincount(result.predictions[:, i]).argmax() for i in ids]
    return ids, np.array(votes, dtype=np.int64)


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)
