"""Notebook 05: what the SVM protocol says about kinds of features, as rows for metrics.json, and which images it never gets
right. `train`, `test`: image sets with labels; `kinds`: label -> features."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import agelib
from agelib.data import ImageSet
from agelib.metrics import svm
from agelib.metrics.svm import Features, SvmConfig, SvmResult
from agelib.model import METHODS, reestimate
from agelib.training.step import split
from suite import params, rows
from suite.rows import Rows

CONTROLS = ("untrained encoder", "PCA", "raw pixels")
Errors = tuple[float, float]  # percent: (mean, deviation over draws)


def protocol(settings: Mapping[str, Any], seed: int) -> SvmConfig:
    """The protocol's numbers, published where `settings` has none. Raises ValueError naming what is unknown or bad."""
    return SvmConfig(**{"seed": seed} | split("svm", settings, SvmConfig)[0])


def check(models: Mapping[str, Mapping[str, Any]]) -> None:
    """ValueError unless one of `models`, label -> settings, is AGE and labelled so, and all are of methods with features."""
    if "AGE" not in models or models["AGE"].get("method", "age") != "age":
        raise ValueError(f"models needs an AGE with that label, got {', '.join(models) or 'none'}")
    valid = [name for name, module in METHODS.items() if hasattr(module, "features")]
    for label, settings in models.items():
        if (method := settings.get("method", "age")) not in valid:
            raise ValueError(f"models.{label}: {method!r} has no features; these have: {', '.join(valid)}")


def checked(p: Any, train: ImageSet, test: ImageSet) -> SvmConfig:
    """`protocol` of the parameters `p` of notebook 05; ValueError, before any training, for what these sets or a later cell
    can't take."""
    check(p.models)
    cfg = protocol(p.svm, p.seed)
    if train.labels is None or test.labels is None:
        raise ValueError(f"{p.dataset} has no labels, which this notebook needs")
    most = min(len(train) - 1, train.images[0].size)
    for name, value, low, high in (
        ("svm: n_valid", cfg.n_valid, 1, len(train) - 1), ("n_components", p.n_components, 1, most),
        ("study_draws", p.study_draws, 1, 2**32 - 1),
        ("label_counts: the least", min(p.label_counts, default=0), 1, len(train)),
    ):  # fmt: skip
        if not low <= value <= high:
            raise ValueError(f"{name} must be from {low} to {high}, is {value}")
    pool = train.labels[: -cfg.n_valid]
    if len(np.unique(pool)) < 3:
        raise ValueError(f"{p.dataset} needs at least 3 classes in its first {len(pool)} images, has {len(np.unique(pool))}")
    quick = replace(cfg, n_draws=p.study_draws)
    asked = {"svm": cfg, "study_draws": quick} | {f"label_counts: {n}": counted(quick, n, pool) for n in p.label_counts}
    for name, each in asked.items():
        try:
            svm.labelled_sets(pool, each.per_class, each.n_draws, seed=each.seed)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    base = p.models["AGE"] | (p.study_base or {})
    study = {f"study.{q}.{a}": base | change for q, answers in p.study.items() for a, change in answers.items()}
    models = {f"models.{label}": settings for label, settings in p.models.items()}
    params.trainable(models | {"study_base": base | {"snapshots": p.study_snapshots}} | study, train.images)
    return cfg


def counted(cfg: SvmConfig, n: int, pool: np.ndarray) -> SvmConfig:
    """`cfg` with n labels a class; one draw where that is the whole `pool` (N,) of labels of a class."""
    return replace(cfg, per_class=n, n_draws=1 if n >= np.bincount(pool).min() else cfg.n_draws)


def differences(cfg: SvmConfig, complete: bool) -> str:
    """What keeps an error from the published protocol, in words; empty if nothing does."""
    published = SvmConfig()
    words = {"per_class": "labels a class", "n_valid": "validation images", "n_draws": "draws"}
    sizes = ((getattr(cfg, name), getattr(published, name), what) for name, what in words.items())
    grid = "" if tuple(cfg.Cs) == published.Cs else "another grid for C"
    left_out = "larger C left out where they no longer help" if cfg.patience else ""
    return "; ".join(filter(None, (rows.differences(complete, *sizes), grid, left_out)))


def real_statistics(model: agelib.Model, train: ImageSet) -> agelib.Model:
    """The model with its encoder alone, whose BatchNorm statistics are those of the training images."""
    return replace(model, nets={"e": reestimate(model.e, train.images)})


def untrained(model: agelib.Model, train: ImageSet) -> agelib.Model:
    """The model's encoder as it was before the first iteration, with BatchNorm statistics of the training images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.about["seed"])
        nets = METHODS[model.method].build(model.config, model.shape)
    return real_statistics(replace(model, nets={"e": nets["e"].to(model.device)}), train)


def percent(result: SvmResult) -> Errors:
    return float(100 * result.errors.mean()), float(100 * result.errors.std())


def evaluate(
    kinds: Mapping[str, Features], train: ImageSet, test: ImageSet, cfg: SvmConfig, *, complete: bool = False
) -> tuple[Rows, dict[str, SvmResult]]:
    """The published protocol for each of `kinds`: rows of test_error_percent, mean and deviation over draws; results.
    complete: whether the data are those of the published numbers, whole."""
    found, results, note = [], {}, differences(cfg, complete)
    labelled = (int(np.max(train.labels)) + 1) * cfg.per_class
    sets = train.images, train.labels, test.images, test.labels
    for name, features in kinds.items():
        each = results[name] = svm.evaluate(features, *sets, cfg, label=name)
        how = f"linear SVM, {each.dims:,} dimensions, {labelled:,} labels, C = {each.C:.3g} by {cfg.n_valid:,} validation "
        how += f"images, {cfg.n_draws} draws; percent of test images; +-: deviation over draws"
        lost = f"{each.unconverged} of {cfg.n_draws} SVMs did not converge" if each.unconverged else ""
        about = {"comparable": not note, "note": "; ".join(filter(None, (note, lost)))}
        found += rows.make(name, {"test_error_percent": percent(each)}, how, len(test.labels), **about)
    return found, results


def on_validation(features: Features, train: ImageSet, cfg: SvmConfig, label: str) -> Errors:
    """The error on the validation images, on which C is chosen too: for comparisons that must not look at the test set."""
    x, y = train.images, np.asarray(train.labels)
    return percent(svm.evaluate(features, x, y, x[-cfg.n_valid :], y[-cfg.n_valid :], cfg, label=label))


def study(asked: Mapping[str, Mapping[str, Features]], train: ImageSet, cfg: SvmConfig) -> dict[str, dict[str, Errors]]:
    """`on_validation` for each answer to each question. Features that answer several questions are judged once."""
    known: dict[Features, Errors] = {}
    for question, answers in asked.items():
        for answer, f in answers.items():
            known[f] = known.get(f) or on_validation(f, train, cfg, f"{question} {answer}")
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
    """label -> {labels in all: error on the validation images}, for `counts` labels a class, see `counted`."""
    pool, curves = train.labels[: -cfg.n_valid], {name: {} for name in kinds}
    for name, features in kinds.items():
        for n in counts:
            told = f"{name}, {n} labels a class"
            curves[name][(pool.max() + 1) * n] = on_validation(features, train, counted(cfg, n, pool), told)
    return curves


def confusion(result: SvmResult, labels: np.ndarray) -> np.ndarray:
    """(K, K): row k, the share of the test images of class k that is taken for each class, the mean over draws."""
    K = int(np.max(labels)) + 1
    return np.stack([np.eye(K)[result.predictions[:, labels == k]].mean((0, 1)) for k in range(K)])


def always_wrong(result: SvmResult, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(indices of the test images that every draw gets wrong, the class that most draws take each for)."""
    ids = np.flatnonzero((result.predictions != labels).all(0))
    votes = [np.bincount(result.predictions[:, i]).argmax() for i in ids]
    return ids, np.array(votes, np.int64)


def verdict(found: Rows, panels: Mapping[str, Mapping[str, Errors]]) -> str:
    """What the numbers of one run say of the paper's claim, in sentences. panels: of the study, question -> answers."""
    error = rows.of(found, "test_error_percent")
    value, told = {name: row["value"] for name, row in error.items()}, {k: f"{rows.told(v)} %" for k, v in error.items()}
    best = min(CONTROLS, key=value.__getitem__)
    how = "better" if value["AGE"] < value[best] else "NOT better"
    said = [f"AGE's features are {how} than the best control, {best}: {told['AGE']} against {told[best]}."]
    if "ALI" in value:
        how = "ahead of AGE, as in the paper" if value["ALI"] < value["AGE"] else "NOT ahead of AGE (in the paper it is)"
        said.append(f"ALI is {how}: {told['ALI']}.")
    if "ALI" in value and "DCGAN" in value:
        between = value["ALI"] < value["DCGAN"] < value["AGE"]
        how = "between the two, as in the paper" if between else "NOT between the two (in the paper it is)"
        said.append(f"DCGAN is {how}: {told['DCGAN']}.")
    spans = {asked: np.ptp([error for error, _ in answers.values()]) for asked, answers in panels.items()}
    order = sorted(spans, key=spans.__getitem__, reverse=True)
    said.append(f"The study, by how far its answers lie apart in points: {', '.join(f'{k} {spans[k]:.1f}' for k in order)}.")
    note = error["AGE"]["note"]
    ours = f"nothing stands: {note}" if note else f"stands {told['AGE']} (AGE)"
    return "\n".join([*said, f"Beside the paper's 23.7 % (AGE) and 19.14 % (ALI) {ours}."])
