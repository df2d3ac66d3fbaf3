"""The SVM protocol against plain scikit-learn."""

import time
from dataclasses import replace

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from agelib.metrics import svm
from agelib.metrics.svm import SvmConfig

K = 4


def blobs(n: int, D: int, seed: int = 0, apart: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """n points in D dimensions around K centres, and their classes, every class n / K times."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(K, D)) * apart / np.sqrt(D)
    y = rng.permutation(np.arange(n) % K)
    return (centres[y] + rng.normal(size=(n, D)) / np.sqrt(D)).astype(np.float32), y


def images(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (n, 1, 4, 4) whose brightness pattern tells the class, with noise."""
    x, y = np.random.default_rng(seed).integers(0, 120, (n, 1, 4, 4)), np.arange(n) % K
    x[np.arange(n), 0, y] += 60
    return x.astype(np.uint8), y


CFG = SvmConfig(per_class=5, n_valid=40, n_draws=6, Cs=(0.001, 0.1, 10.0), chunk=16)
ANY = svm.Linear(np.ones((2, K), np.float32), np.ones(K, np.float32))


@pytest.mark.parametrize("twins", [False, True], ids=["independent rows", "rows twice"])
def test_the_row_space_gives_linearsvcs_decisions(twins):
    X, y = blobs(60, 300)
    if twins:  # then X X' is singular
        X, y = np.concatenate([X, X]), np.concatenate([y, y])
    fresh, _ = blobs(200, 300, seed=1)
    for C in (0.01, 1.0):
        plain = LinearSVC(C=C, dual=True, tol=1e-8, max_iter=100_000, random_state=0).fit(X.astype(np.float64), y)
        (ours,) = svm.train_svms(X, y, (C,), tol=1e-8, max_iter=100_000)
        assert ours.converged
        scores = fresh @ ours.coef + ours.intercept
        assert scores == pytest.approx(plain.decision_function(fresh.astype(np.float64)), abs=2e-4)
        assert (scores.argmax(1) == plain.predict(fresh)).all()


def test_many_dimensions_cost_a_quarter_or_less():
    X, y = blobs(300, 6000, apart=0.5)
    times = [time.process_time()]
    for fit in (lambda: svm.train_svms(X, y, (3.0,)), lambda: svm.plain_svm(3.0).fit(X.astype(np.float64), y)):
        fit()
        times.append(time.process_time())
    ours, plain = np.diff(times)
    assert ours * 4 <= plain


def test_labelled_sets_are_balanced_different_and_draw_by_draw():
    y = np.random.default_rng(0).permutation(np.arange(400) % 10)
    sets = svm.labelled_sets(y, 7, 20, seed=3)
    assert sets.shape == (20, 70) and len({tuple(drawn) for drawn in sets}) == 20
    assert all((np.bincount(y[drawn]) == 7).all() and len(set(drawn)) == 70 for drawn in sets)
    assert (svm.labelled_sets(y, 7, 3, seed=3) == sets[:3]).all()
    assert (svm.labelled_sets(y, 7, 3, seed=4) != sets[:3]).any()
    few = svm.labelled_sets(np.array([0, 0, 1, 2]), 1, 2)  # there are two sets of one a class
    assert sorted(map(tuple, few)) == [(0, 2, 3), (1, 2, 3)]


def test_the_whole_protocol_by_hand_and_no_choice_sees_a_test_label():
    x, y = images(160)
    test_x, test_y = images(80, seed=1)
    found = svm.evaluate(svm.pixels, x, y, test_x, test_y, CFG)
    assert found.dims == 16 and found.predictions.shape == (6, 80) and found.sets.max() < 120  # outside validation
    assert CFG.Cs[int(np.argmin(found.valid_errors))] == found.C
    for drawn, predicted, error in zip(found.sets, found.predictions, found.errors, strict=True):
        plain = LinearSVC(C=found.C, dual=True, random_state=0).fit(svm.pixels(x[drawn]).astype(np.float64), y[drawn])
        assert (plain.predict(svm.pixels(test_x)) == predicted).mean() > 0.98  # to the tolerance of the solver
        assert error == (predicted != test_y).mean()
    assert found.errors.mean() < 0.4  # chance: 0.75
    wrong = svm.evaluate(svm.pixels, x, y, test_x, (test_y + 1) % K, replace(CFG, chunk=7, n_jobs=2))
    assert wrong.C == found.C and (wrong.valid_errors == found.valid_errors).all()
    assert (wrong.predictions == found.predictions).all(), "nor do chunks and threads matter"
    assert (wrong.errors != found.errors).all()


@pytest.mark.parametrize("held", [svm.HELD, 0])  # validation features kept, or streamed anew
@pytest.mark.parametrize("apart", [6.0, 1.0])  # well apart: every larger C fits all labelled points; else they overfit
def test_patience_leaves_out_only_what_no_longer_helps(apart, held, monkeypatch):
    monkeypatch.setattr(svm, "HELD", held)
    X, y = blobs(256, 64, apart=apart)
    numbers, first = np.arange(256), svm.labelled_sets(y[:156], 10, 1)[0]  # an image is its number
    Cs = tuple(10.0**k for k in range(-4, 8))
    (C, errors), (C_all, errors_all) = (
        svm.choose_C(X.__getitem__, numbers, y, first, SvmConfig(Cs=Cs, patience=patience, n_valid=100))
        for patience in (3, None)
    )
    assert C == C_all and np.isnan(errors).any() and not np.isnan(errors_all).any()
    assert errors[~np.isnan(errors)] == pytest.approx(errors_all[~np.isnan(errors)])


def test_pixels_their_principal_components_and_the_published_grid():
    """Images a + b, one per unit direction: two components explain all, and distances survive."""
    x = np.full((6, 1, 2, 2), 100, np.uint8)
    x[:3, 0, 0, 0], x[::2, 0, 1, 1] = 160, 220
    assert svm.pixels(x)[0] == pytest.approx(np.array([160, 100, 100, 220]) / 127.5 - 1)
    p = svm.principal(x, 2)(x)
    assert p.shape == (6, 2) and np.linalg.norm(p[0] - p[3]) == pytest.approx(np.hypot(60, 120) / 127.5, rel=1e-5)
    assert len(SvmConfig().Cs) == 50 and [SvmConfig().Cs[i] for i in (0, -1)] == pytest.approx(np.exp([-20, 20]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: svm.evaluate(svm.pixels, *images(40), *images(8), CFG), "n_valid must be below the 40 .* is 40"),
        (lambda: SvmConfig(Cs=(1.0, np.nan)), "Cs must hold numbers that are finite and above 0"),
        (lambda: svm.labelled_sets(np.array([0, 0, 1, 2]), 2, 1), "different sets of 2 .* classes have 2, 1, 1 images"),
        (lambda: svm.train_svms(np.full((4, 2), np.nan), np.arange(4), (1.0,)), "need finite features"),
        (lambda: svm.train_svms(np.zeros((4, 2)), np.arange(4) % 2, (1.0,)), "at least 3 classes"),
        (lambda: svm.evaluate(svm.pixels, images(80)[0], images(80)[1] - 1, *images(8), CFG), "whole labels .* from -1"),
        (lambda: svm.predict(lambda x: np.full((len(x), 2), np.nan), images(8)[0], [ANY]), "not finite"),
        (lambda: svm.principal(images(5)[0], 6), "n_components=6 must be between"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
