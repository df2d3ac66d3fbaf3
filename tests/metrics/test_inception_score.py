import numpy as np
import pytest
import torch

from agelib import tv
from agelib.metrics import inception_score as scores

tv.import_torchvision()

from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric  # noqa: E402  needs the line above
from torch_fidelity.metric_isc import isc_features_to_metric  # noqa: E402


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_constant_predictions_score_one_and_balanced_certain_ones_the_number_of_classes():
    constant = np.tile([0.7, 0.2, 0.1], (30, 1))
    assert scores.inception_score(constant) == pytest.approx((1, 0))
    for k in (2, 7):
        certain = np.eye(k)[np.arange(10 * k) % k]
        assert scores.inception_score(certain) == pytest.approx((k, 0))
        in_blocks = np.repeat(np.eye(k), 10, axis=0)  # each split sees one class
        assert scores.inception_score(in_blocks, splits=k) == pytest.approx((1, 0))


def test_a_score_by_hand():
    # p(y) = (1/2, 1/2); KL of (3/4, 1/4) to it: 3/4 log(3/2) + 1/4 log(1/2) = 0.130812
    p = np.array([[0.75, 0.25], [0.25, 0.75]])
    assert scores.inception_score(p, splits=1) == pytest.approx((np.exp(0.130812), 0), rel=1e-6)


@pytest.mark.parametrize(("n", "splits"), [(1000, 10), (103, 4)])
def test_the_score_is_torch_fidelitys(n, splits):
    logits = np.random.default_rng(0).normal(size=(n, 20)) * 3
    theirs = isc_features_to_metric(torch.from_numpy(logits), splits=splits, shuffle=False)
    found = scores.inception_score(softmax(logits), splits)
    assert found == pytest.approx((theirs["inception_score_mean"], theirs["inception_score_std"]), abs=1e-4)


def test_the_frechet_distance_is_torch_fidelitys():
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(24, 24))
    a, b = rng.normal(size=(400, 24)) @ mix, rng.normal(size=(300, 24)) @ mix[::-1] + 0.5
    stats = [fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)]
    theirs = fid_statistics_to_metric(*stats, False)["frechet_inception_distance"]
    assert scores.frechet_distance(a, b) == pytest.approx(theirs, rel=1e-4)


def test_frechet_distances_by_hand():
    # Means 1 and 4, variances 1 and 4 (unbiased): 9 + 1 + 4 - 2 sqrt(4) = 10
    a, b = np.array([[0.0], [1], [2]]), np.array([[2.0], [4], [6]])
    assert scores.frechet_distance(a, b) == pytest.approx(10)
    x = np.random.default_rng(0).normal(size=(50, 5))
    assert scores.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_kernel_distance_precision_and_recall_point_the_right_way():
    rng = np.random.default_rng(0)
    real, same, apart = rng.normal(size=(300, 8)), rng.normal(size=(300, 8)), rng.normal(size=(300, 8)) + 6
    near, far = (scores.kernel_distance(x, real, subsets=20)[0] for x in (same, apart))
    assert abs(near) < 0.05 and far > 10
    precision, recall = scores.precision_recall(same, real)
    assert precision > 0.8 and recall > 0.8
    assert scores.precision_recall(apart, real) == (0, 0)
    narrow = 0.05 * rng.normal(size=(300, 8))  # a collapsed generator: likely images, few kinds
    precision, recall = scores.precision_recall(narrow, real)
    assert precision > 0.95 and recall < 0.05


@pytest.mark.parametrize(
    ("probs", "splits", "message"),
    [
        (np.full((4, 2), 0.5), 5, "4 images, 5 splits"),
        (np.full((4, 2), 0.5), 0, "0 splits"),
        (np.array([[0.5, 0.5], [np.nan, 0.5]]), 1, "1 of 2 rows hold values that are not finite"),
        (np.full((4, 2), 0.6), 1, "sums are 1.2"),
        (np.array([[1.5, -0.5]]), 1, "the least value is -0.5"),
        (np.zeros(4), 1, r"need probabilities \(N, K\)"),
    ],
)
def test_bad_probabilities_are_refused(probs, splits, message):
    with pytest.raises(ValueError, match=message):
        scores.inception_score(probs, splits)


def test_bad_features_are_refused():
    good = np.random.default_rng(0).normal(size=(5, 3))
    with pytest.raises(ValueError, match="3 and 2 dimensions"):
        scores.frechet_distance(good, good[:, :2])
    with pytest.raises(ValueError, match="at least 2 images"):
        scores.frechet_distance(good[:1], good)
    with pytest.raises(ValueError, match="not finite"):
        scores.kernel_distance(good * np.nan, good)
    with pytest.raises(ValueError, match="more than 3 images"):
        scores.precision_recall(good[:3], good)
