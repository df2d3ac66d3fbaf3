"""Notebook 05: what the SVM protocol says about kinds of features, as rows for metrics.json, and which images it never gets
right. `train`, `test`: image sets with labels (`agelib.data.ImageSet`); `kinds`: label -> features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch

import agelib
from agelib.data import ImageSet
from agelib.metrics import svm
from agelib.metrics.svm import Features, SvmConfig, SvmResult
from agelib.model import METHODS, reestimate

PUBLISHED = SvmConfig()
CONTROLS = ("untrained encoder", "PCA", "raw pixels")
Errors = tuple[float, float]  # percent: (mean, deviation over draws)


def protocol(settings: Mapping[str, Any], seed: int) -> SvmConfig:
    """The protocol's numbers, published where `settings` has none. Raises ValueError naming what is unknown or bad."""
    valid = sorted(field.name for field in fields(SvmConfig))
    if unknown := sorted(set(settings) - set(valid)):
        raise ValueError(f"svm has no setting {', '.join(unknown)}; valid: {', '.join(valid)}")
    return SvmConfig(**{"seed": seed} | settings)


def check(models: Mapping[str, Mapping[str, Any]]) -> None:
    """ValueError unless `models` (label -> settings) has an AGE of that label, and all are of methods with features."""
    if "AGE" not in models or models["AGE"].get("method", "age") != "age":
        raise ValueError(f"models needs an AGE with that label, got {', '.join(models) or 'none'}")
    valid = [name for name, module in METHODS.items() if hasattr(module, "features")]
    for label, settings in models.items():
        if (method := settings.get("method", "age")) not in valid:
            raise ValueError(f"models.{label}: {method!r} has no features; these have: {', '.join(valid)}")


def differences(cfg: SvmConfig, complete: bool) -> str:
    """What keeps an error from the published protocol, in words; empty if nothing does."""
    found = [] if complete else ["other or incomplete data"]
    sizes = [("per_class", "labels a class"), ("n_valid", "validation images"), ("n_draws", "draws")]
    for name, words in sizes:
        mine, theirs = getattr(cfg, name), getattr(PUBLISHED, name)
        found += [f"{mine:,} {words} instead of {theirs:,}"] if mine != theirs else []
    found += [] if tuple(cfg.Cs) == PUBLISHED.Cs else ["another grid for C"]
    return "; ".join(found + (["larger C left out where they no longer help"] if cfg.patience else []))


def real_statistics(model: agelib.Model, train: ImageSet) -> agelib.Model:
    """The model with its encoder alone, whose BatchNorm statistics are those of the training images."""
    return replace(model, nets={"e": reestimate(model.e, train.images)})


def untrained(model: agelib.Model, train: ImageSet) -> agelib.Model:
    """The model's encoder as it was before the first iteration, with BatchNorm statistics of the training images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.about["seed"])
        nets = METHODS[model.method].build(model.config, model.shape)
    return real_statistics(replace(model, nets={"e": nets["e"].to(model.device)}), train)


def evaluate(
    kinds: Mapping[str, Features], train: ImageSet, test: ImageSet, cfg: SvmConfig, *, complete: bool = False
) -> tuple[list[dict], dict[str, SvmResult]]:
    """The published protocol for each of `kinds`. complete: whether the data are those of the published numbers, whole.

    Returns rows (test_error_percent, mean and deviation over draws, with dimensions, C and protocol) and the results.
    """
    rows, results = [], {}
    note, K = differences(cfg, complete), int(np.max(train.labels)) + 1
    for name, features in kinds.items():
        found = svm.evaluate(features, train.images, train.labels, test.images, test.labels, cfg, label=name)
        results[name] = found
        labelled = K * cfg.per_class
        protocol = f"linear SVM, {found.dims:,} dimensions, {labelled:,} labels, C = {found.C:.3g} by {cfg.n_valid:,} "
        protocol += f"validation images, {cfg.n_draws} draws; percent of test images; +-: deviation over draws"
        lost = f"{found.unconverged} of {cfg.n_draws} SVMs did not converge" if found.unconverged else ""
        row = {"model": name, "metric": "test_error_percent", "n": len(test.labels), "protocol": protocol}
        row |= dict(zip(("value", "std"), _percent(found), strict=True))
        rows.append(row | {"comparable": not note, "note": "; ".join(filter(None, (note, lost)))})
    return rows, results


def on_validation(features: Features, train: ImageSet, cfg: SvmConfig, label: str) -> Errors:
    """The error on the validation images themselves: for comparisons that must not look at the test set. C is chosen on the
    same images, for all alike."""
    x, y = train.images, np.asarray(train.labels)
    valid = slice(len(y) - cfg.n_valid, None)
    return _percent(svm.evaluate(features, x, y, x[valid], y[valid], cfg, label=label))


def study(asked: Mapping[str, Mapping[str, Features]], train: ImageSet, cfg: SvmConfig) -> dict[str, dict[str, Errors]]:
    """`on_validation` for each answer to each question: question -> (answer -> error). Features that answer several
    questions are judged once."""
    known: dict[Features, Errors] = {}
    for question, answers in asked.items():
        for answer, features in answers.items():
            if features not in known:
                known[features] = on_validation(features, train, cfg, f"{question} {answer}")
    return {question: {answer: known[f] for answer, f in answers.items()} for question, answers in asked.items()}


def with_base(answers: Mapping[str, Any], asked: str, model: agelib.Model) -> dict[str, Any]:
    """`answers` and the study's own `model` under what it answers where `asked` is one of its settings, else "base": by the
    size of the keys where all are numbers, else the model first."""
    own = getattr(model.config, asked, None)
    own = "base" if own is None else own if isinstance(own, str) else f"{own:g}"
    both = {own: model} | dict(answers) | {own: model}
    try:
        return dict(sorted(both.items(), key=lambda item: float(item[0])))
    except ValueError:
        return both


def label_efficiency(
    kinds: Mapping[str, Features], train: ImageSet, counts: Sequence[int], cfg: SvmConfig
) -> dict[str, dict[int, Errors]]:
    """label -> {labels in all: error on the validation images}, for `counts` labels a class. A count that takes the whole
    pool of a class has one draw."""
    pool, _ = svm.split(len(train.labels), cfg.n_valid)
    each = np.bincount(train.labels[pool])
    curves: dict[str, dict[int, Errors]] = {}
    for name, features in kinds.items():
        curves[name] = {}
        for count in counts:
            asked = replace(cfg, per_class=count, n_draws=1 if count >= each.min() else cfg.n_draws)
            curves[name][len(each) * count] = on_validation(features, train, asked, f"{name}, {count} labels a class")
    return curves


def validation_rows(found: Mapping[str, Errors], cfg: SvmConfig, protocol: str) -> list[dict]:
    """Rows of errors on the validation images: model -> (mean, deviation)."""
    about = {"metric": "validation_error_percent", "n": cfg.n_valid, "protocol": protocol}
    return [about | {"model": name, "value": value, "std": std} for name, (value, std) in found.items()]


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


def verdict(rows: list[dict], panels: Mapping[str, Mapping[str, Errors]]) -> str:
    """What the numbers of one run say of the paper's claim, in sentences. panels: of the study, question -> answers."""
    error = {row["model"]: row for row in rows if row["metric"] == "test_error_percent"}
    age, best = error["AGE"], min((error[name] for name in CONTROLS), key=lambda row: row["value"])
    how = "better" if age["value"] < best["value"] else "NOT better"
    said = [f"AGE's features are {how} than the best control, {best['model']}: {_told(age)} against {_told(best)}."]
    if ali := error.get("ALI"):
        how = "ahead of AGE, as in the paper" if ali["value"] < age["value"] else "NOT ahead of AGE (in the paper it is)"
        said.append(f"ALI is {how}: {_told(ali)}.")
    if ali and (dcgan := error.get("DCGAN")):
        between = ali["value"] < dcgan["value"] < age["value"]
        how = "between the two, as in the paper" if between else "NOT between the two (in the paper it is)"
        said.append(f"DCGAN is {how}: {_told(dcgan)}.")
    spans = {asked: max(v for v, _ in found.values()) - min(v for v, _ in found.values()) for asked, found in panels.items()}
    order = sorted(spans, key=spans.__getitem__, reverse=True)
    said.append(f"The study, by how far its answers lie apart in points: {', '.join(f'{k} {spans[k]:.1f}' for k in order)}.")
    ours = f"nothing stands: {age['note']}" if age["note"] else f"stands {_told(age)} (AGE)"
    return "\n".join([*said, f"Beside the paper's 23.7 % (AGE) and 19.14 % (ALI) {ours}."])


def _percent(result: SvmResult) -> Errors:
    return float(100 * result.errors.mean()), float(100 * result.errors.std())


def _told(row: Mapping[str, Any]) -> str:
    return f"{row['value']:.2f} ± {row['std']:.2f} %"
