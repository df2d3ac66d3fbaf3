"""Test error of a linear SVM on learnt features with few labels: the protocol of the ALI and AGE papers for SVHN.

After preprocess_representations.py and semi_supervised_svhn of ALI's released code: the last `n_valid` training images are
kept for validation and the labelled sets are drawn from the others, `per_class` images of each class; scikit-learn's
LinearSVC on unscaled features; C from a grid by the validation error of one labelled set; then `n_draws` labelled sets, each
judged on all test images. No function that chooses or trains sees a test label. Two things make it quick and small, and
change no decision:

- Row space. The minimum of |w|^2/2 + C sum(loss) over w in R^D lies in the span of the n training rows, so with X = A Q',
  Q having orthonormal columns, training on A (n, r <= n) gives the same classifier: w = Q w_A. A comes from X X' alone.
- Streaming. `features` is a callable, given the labelled images of one draw, and validation and test images chunk by chunk;
  each chunk meets the weights of all draws at once. Nothing of size D x N is held.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from agelib.images import to_float
from agelib.training.progress import Progress
from agelib.training.step import check_config

Features = Callable[[np.ndarray], np.ndarray]  # uint8 images (n, C, H, W) -> float32 (n, D)
HELD = 2**27  # features of validation images, numbers, that are kept while C is chosen; larger sets are streamed anew
WORSE = 0.005  # share of validation images
ALI_GRID = tuple(float(c) for c in np.exp(np.linspace(-20, 20, 50)))


@dataclass(frozen=True)
class SvmConfig:
    """The protocol's numbers, by default the published ones."""

    per_class: int = 100  # labelled images of each class in one draw
    n_valid: int = 10_000  # last training images, kept for the choice of C
    n_draws: int = 100  # labelled sets, each judged on the test set
    Cs: tuple[float, ...] = ALI_GRID
    seed: int = 0
    n_jobs: int = 1  # SVMs trained side by side
    chunk: int = 500  # images turned into features at a time
    max_iter: int = 1000  # passes of one SVM, scikit-learn's default
    # Leave out larger C after so many values in a row that improve nothing and are worse than the best by more than WORSE,
    # fit every labelled image, or do not converge; None: try all.
    patience: int | None = None

    def __post_init__(self):
        counts = ("per_class", "n_valid", "n_draws", "n_jobs", "chunk", "max_iter", "patience")
        check_config(self, least={name: 1 for name in counts} | {"seed": 0})
        numbers = isinstance(self.Cs, tuple | list) and all(isinstance(C, int | float) for C in self.Cs)
        if not (numbers and self.Cs and all(0 < C < math.inf for C in self.Cs)):
            raise ValueError(f"SvmConfig: Cs must hold numbers that are finite and above 0, is {self.Cs}")


@dataclass(frozen=True)
class Linear:
    """One trained classifier: scores x @ coef + intercept; coef (D, K) float32, intercept (K,)."""

    coef: np.ndarray
    intercept: np.ndarray
    converged: bool = True


@dataclass(frozen=True)
class SvmResult:
    """What `evaluate` finds."""

    C: float
    valid_errors: np.ndarray  # share of validation images that each of cfg.Cs gets wrong, NaN where not tried
    sets: np.ndarray  # (n_draws, K per_class) indices of the labelled images
    predictions: np.ndarray  # (n_draws, N) classes of the test images
    errors: np.ndarray  # (n_draws,) share of test images wrong
    dims: int  # D
    unconverged: int  # SVMs that reached max_iter


def pixels(images: np.ndarray) -> np.ndarray:
    """The image itself, in [-1, 1], (n, C H W)."""
    return to_float(images).flatten(1).numpy()


def principal(images: np.ndarray, n: int) -> Features:
    """The first n principal components of pixels, from uint8 training images (N, C, H, W), N > n; no labels are used."""
    pca = PCA(n, svd_solver="covariance_eigh").fit(pixels(images))
    return lambda images: pca.transform(pixels(images))


def labelled_sets(labels: np.ndarray, per_class: int, n_draws: int, *, seed: int = 0) -> np.ndarray:
    """n_draws sets of per_class images of each class, (n_draws, K per_class) indices into `labels` (N,), classes 0..K-1. No
    two sets are equal (ValueError where that cannot be), and draw i depends on (seed, i) alone."""
    members = [np.flatnonzero(labels == k) for k in range(int(labels.max()) + 1)]
    if math.prod(math.comb(len(found), per_class) for found in members) < n_draws:
        sizes = ", ".join(str(len(found)) for found in members)
        raise ValueError(f"there are no {n_draws} different sets of {per_class} a class; the classes have {sizes} images")
    sets: dict[bytes, np.ndarray] = {}
    for i in range(n_draws):
        rng = np.random.default_rng((seed, i))
        while len(sets) == i:
            drawn = np.concatenate([np.sort(rng.choice(found, per_class, replace=False)) for found in members])
            sets.setdefault(drawn.tobytes(), drawn)
    return np.stack(list(sets.values()))


def reduce_rows(X: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """(A, lift) for X (n, D): A (n, r) float64, r <= n, with A A' = X X'; a linear classifier with weights w (r, k) on A is
    the one with weights lift(w) (D, k) on X. A is the Cholesky factor of X X', whose zeros liblinear skips; where rows
    depend on each other, from its eigenvectors."""
    X = np.asarray(X, dtype=np.float64)
    gram = X @ X.T
    least = 1e-10 * float(np.trace(gram)) / len(X)
    try:
        A = np.linalg.cholesky(gram)
        if A.diagonal().min() ** 2 > least:
            return A, lambda w: X.T @ scipy.linalg.solve_triangular(A, w, trans="T", lower=True)
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh(gram)
    keep = values > least
    roots = np.sqrt(values[keep])
    return vectors[:, keep] * roots, lambda w: X.T @ (vectors[:, keep] @ (w / roots[:, None]))


def plain_svm(C: float, tol: float = 1e-4, max_iter: int = 1000) -> LinearSVC:
    """The protocol's classifier: squared hinge, L2, one class against the rest, solved in its dual."""
    return LinearSVC(C=C, dual=True, tol=tol, max_iter=max_iter, random_state=0)


def train_svms(
    X: np.ndarray, y: np.ndarray, Cs: tuple[float, ...], *, n_jobs: int = 1, max_iter: int = 1000, tol: float = 1e-4
) -> list[Linear]:
    """`plain_svm` on X (n, D), y (n,) of at least 3 classes for each of `Cs`, through the row space where n < D.

    n_jobs: threads. The other defaults are scikit-learn's, with which the published errors were made.
    """
    if not np.isfinite(X).all() or len(np.unique(y)) < 3:
        raise ValueError(f"need finite features and at least 3 classes, got {X.dtype} {X.shape} of classes {np.unique(y)}")
    A, lift = reduce_rows(X) if len(X) < X.shape[1] else (np.ascontiguousarray(X, np.float64), lambda w: w)

    def fit(C: float) -> Linear:
        svm = plain_svm(C, tol, max_iter)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            svm.fit(A, y)
        converged = int(np.max(svm.n_iter_)) < max_iter
        return Linear(lift(svm.coef_.T).astype(np.float32), svm.intercept_.astype(np.float32), converged)

    with ThreadPoolExecutor(n_jobs) as pool:  # liblinear works outside the interpreter's lock
        return list(pool.map(fit, Cs))


def predict(
    features: Features, images: np.ndarray, models: list[Linear], *, chunk: int = 500, tick: Callable[[str], None] = id
) -> np.ndarray:
    """Classes (len(models), N) int64 of uint8 images (N, C, H, W), the features of one chunk at a time. tick: is shown
    what was done."""
    coef, intercept = np.concatenate([m.coef for m in models], 1), np.concatenate([m.intercept for m in models])
    out = np.empty((len(models), len(images)), np.int64)
    for start in range(0, len(images), chunk):
        scores = features(images[start : start + chunk]) @ coef + intercept
        if not np.isfinite(scores).all():
            raise ValueError(f"images {start} and on: the features hold values that are not finite")
        out[:, start : start + chunk] = scores.reshape(len(scores), len(models), -1).argmax(2).T
        tick(f"{min(1.0, (start + chunk) / len(images)):.0%} of the images")
    return out


def choose_C(
    features: Features, images: np.ndarray, labels: np.ndarray, labelled: np.ndarray, cfg: SvmConfig,
    tick: Callable[[str], None] = id,
) -> tuple[float, np.ndarray]:  # fmt: skip
    """The C of cfg.Cs with the least validation error after training on one labelled set (the least C of several), and the
    errors of all, NaN for those left out. images, labels: of the training split; labelled: indices into them."""
    X, y = _features(features, images, labelled, cfg.chunk), labels[labelled]
    seen, truth = images[-cfg.n_valid :], labels[-cfg.n_valid :]
    look, at_once = features, max(cfg.patience or len(cfg.Cs), 10)  # a pass over `seen` each
    if cfg.n_valid * X.shape[1] <= HELD:
        look, at_once = np.asarray, cfg.n_jobs
        seen = _features(features, seen, np.arange(cfg.n_valid), cfg.chunk)
    errors, hopeless = [], 0  # hopeless: values in a row that say that larger ones will not help
    for start in range(0, len(cfg.Cs), at_once):  # in the order of cfg.Cs
        models = train_svms(X, y, cfg.Cs[start : start + at_once], n_jobs=cfg.n_jobs, max_iter=cfg.max_iter)
        tick(f"choosing C, {start / len(cfg.Cs):.0%}")
        found = predict(look, seen, models, chunk=cfg.chunk)
        for model, error in zip(models, (found != truth).mean(1).tolist(), strict=True):
            best = min(errors, default=math.inf)
            fitted = bool(((X @ model.coef + model.intercept).argmax(1) == y).all())
            worse = error > best + WORSE or (error >= best and (fitted or not model.converged))
            hopeless = hopeless + 1 if worse else 0
            errors.append(error)
        if cfg.patience and hopeless >= cfg.patience:
            break
    errors += [math.nan] * (len(cfg.Cs) - len(errors))
    return cfg.Cs[int(np.nanargmin(errors))], np.array(errors)


def evaluate(
    features: Features, images: np.ndarray, labels: np.ndarray, test_images: np.ndarray, test_labels: np.ndarray,
    cfg: SvmConfig, *, label: str = "SVM",
) -> SvmResult:  # fmt: skip
    """The whole protocol for one kind of features. images, labels: the training split, more than n_valid; uint8
    (N, C, H, W) and (N,) in 0..K-1. Test labels are compared once, after the last prediction."""
    labels, test_labels = np.asarray(labels), np.asarray(test_labels)
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(f"need {len(images)} whole labels from 0, got {labels.dtype} {labels.shape} from {labels.min()}")
    if cfg.n_valid >= len(images):
        raise ValueError(f"n_valid must be below the {len(images)} training images, is {cfg.n_valid}")
    sets = labelled_sets(labels[: -cfg.n_valid], cfg.per_class, cfg.n_draws, seed=cfg.seed)
    line, started = Progress(), time.monotonic()

    def tick(what: str) -> None:
        line.show(f"{label}: {what}, {time.monotonic() - started:.0f} s")

    def train_draw(drawn: np.ndarray) -> list[Linear]:
        return train_svms(_features(features, images, drawn, cfg.chunk), labels[drawn], (C,), max_iter=cfg.max_iter)

    C, valid_errors = choose_C(features, images, labels, sets[0], cfg, tick)
    models: list[Linear] = []
    with ThreadPoolExecutor(cfg.n_jobs) as workers:
        for trained in workers.map(train_draw, sets):
            models += trained
            tick(f"C = {C:.3g}, draw {len(models)} of {cfg.n_draws}")
    found = predict(features, test_images, models, chunk=cfg.chunk, tick=tick)
    errors, dims = (found != test_labels).mean(1), len(models[0].coef)
    taken = f"C = {C:.3g}, {cfg.n_draws} draws, {dims} dimensions, {time.monotonic() - started:.0f} s"
    line.done(f"{label}: {100 * errors.mean():.2f} % wrong ({taken})")
    return SvmResult(C, valid_errors, sets, found, errors, dims, sum(not m.converged for m in models))


def _features(features: Features, images: np.ndarray, ids: np.ndarray, chunk: int) -> np.ndarray:
    return np.concatenate([features(images[ids[i : i + chunk]]) for i in range(0, len(ids), chunk)])
