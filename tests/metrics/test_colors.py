"""Colour statistics, by numbers worked out by hand."""

import math

import numpy as np
import pytest

from agelib.metrics import colors

AB = np.zeros((1, 2, 2, 1, 2))
AB[0, 0, 0], AB[0, 1, 0] = 1.0, 5.0  # a: 1 and 5 at both pixels; b: 0 and 0
AB[0, 1, 1, 0, 1] = 4.0  # b of the second colorization at the second pixel


def hues(*degrees, chroma=10.0):
    """Colours of one image, (1, K, 2)."""
    return chroma * np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], 1)[None]


TRUTH = np.array([2.0, 0]).reshape(1, 2, 1, 1) * np.ones((1, 2, 1, 2))


@pytest.mark.parametrize(
    ("found", "value"),
    [
        (colors.pixel_spread(AB), [1.5]),  # deviations: a 2 and 2, b 0 and 2
        (colors.pixel_spread(AB, [[[True, False]]]), [1.0]),
        (colors.ellipse(1, 3, 5, 1.0, 1.0).sum((1, 2)), [11]),  # the corners, (2/3)^2 + (4/5)^2 > 1, are left out
        (colors.ellipse(2, 4, 4, 0.5, 0.5).sum((1, 2)), [4, 4]),
        (colors.hue_distance([[1.0, 0], [0, 2]], [[0.0, 1], [1, -1]]), [90, 135]),
        (colors.distinct_hues(hues(0, 29, 58, 350)), [2]),  # 350 and 29, 350 and 58 or 0 and 58
        (colors.distinct_hues(hues(0, 20, 50, 80, 200)), [4]),  # 20 to 200: not from the first
        (colors.distinct_hues(hues(345, 10)), [1]),
        (colors.distinct_hues(hues(0, 90, chroma=4.9)), [0]),
        (colors.pairwise_distance(AB), [3.0]),  # |4| + 0 and |4| + |4|, halved and averaged: (2 + 4) / 2
        (colors.pairwise_distance(np.concatenate([AB, AB[:, :1]], 1)), [2.0]),  # the pairs (0,1), (0,2), (1,2): 3, 0, 3
        (colors.mean_colour(AB), [[[1, 0], [5, 2]]]),
        (colors.mean_colour(AB, [[[False, True]]]), [[[1, 0], [5, 4]]]),
        (colors.best_of(AB, TRUTH), [0.5]),  # the first is 1 off in a at both pixels, (1 + 1 + 0 + 0) / 4
        (colors.best_of(AB[:, 1:], TRUTH), [(3 + 3 + 0 + 4) / 4]),
    ],
)
def test_values_by_hand(found, value):
    assert found == pytest.approx(np.array(value))


def test_colourfulness_by_hand():
    grey = np.full((1, 3, 2, 2), 100, np.uint8)
    assert colors.colourfulness(grey) == pytest.approx([0.0])
    red = np.zeros((1, 3, 2, 2), np.uint8)
    red[:, 0] = 200  # rg = 200, yb = 100, no variance: 0.3 sqrt(200^2 + 100^2)
    assert colors.colourfulness(red) == pytest.approx([0.3 * math.hypot(200, 100)])
    half = red.copy()
    half[:, 0, 0] = 0  # rg 0 or 200: variance 10,000; yb 0 or 100: 2,500; means 100 and 50
    assert colors.colourfulness(half) == pytest.approx([math.sqrt(12_500) + 0.3 * math.hypot(100, 50)])


MODES = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 30.0]])  # the smallest distance is 10, so the reach 5


def test_modes():
    colour = np.array([[[1.0, 1.0], [9.0, 0.0], [5.0, 0.0], [0.0, 26.0]], [[0.0, 0.0], [0.0, 4.0], [0.0, 6.0], [1.0, 0.0]]])
    mode = colors.nearest_mode(colour, MODES)
    assert mode.tolist() == [[0, 1, -1, 2], [0, 0, -1, 0]]
    shares = colors.mode_shares(mode, 3)
    assert shares.tolist() == [[0.25, 0.25, 0.25], [0.75, 0, 0]]
    assert colors.mode_recall(shares) == 0.5 and colors.mode_recall(shares, 0.0) == 1.0
    # pooled 0.5, 0.125, 0.125 of 0.75: 2/3, 1/6, 1/6 against thirds
    want = 2 / 3 * math.log(2) + 2 * (1 / 6 * math.log(0.5))
    assert colors.mode_divergence(shares, np.full(3, 1 / 3)) == pytest.approx(want)
    assert colors.mode_divergence(np.zeros((2, 3)), np.full(3, 1 / 3)) == math.inf


def test_divergence_of_two_gaussians():
    rng = np.random.default_rng(0)
    p, q = rng.standard_normal((4000, 2)), rng.standard_normal((4000, 2)) + [1.0, 0.0]
    assert colors.knn_divergence(p, q) == pytest.approx(0.5, abs=0.1)  # |shift|^2 / 2
    assert colors.knn_divergence(p, rng.standard_normal((4000, 2))) == pytest.approx(0.0, abs=0.1)
    wide = 2 * rng.standard_normal((4000, 2))  # log 4 - 1 + 1/4 in two dimensions
    assert colors.knn_divergence(p, wide) == pytest.approx(math.log(4) - 0.75, abs=0.1)
    four = np.concatenate([p[:1000] + [20 * i, 0] for i in range(4)])
    assert colors.knn_divergence(four, four + rng.normal(0, 0.01, four.shape)) < 0.1
    assert colors.knn_divergence(four, four[1000:]) > 1.0  # a mode is missing


def test_whether_a_code_is_used():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((300, 3))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    used, noise = np.stack([z[:, 0] * z[:, 1], z[:, 2]], 1), rng.standard_normal((300, 2))  # used: a quadratic
    assert colors.permutation_test(z, used, 199) == (pytest.approx(1.0), 1 / 200)
    r2, p = colors.permutation_test(z, noise, 199)
    assert r2 < 0.1 and p > 0.05
    r2, p = colors.permutation_test(z, used + noise, 199)
    assert 0.1 < r2 < 0.5 and p == 1 / 200
    assert colors.permutation_test(z, np.ones((300, 2)), 19) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("call", "args", "message"),
    [
        (colors.pixel_spread, (AB[:, :1],), "K >= 2"),
        (colors.mean_colour, (AB, [[[False, False]]]), "with a pixel in each image"),
        (colors.best_of, (AB, AB), "one truth an image"),
        (colors.colourfulness, (AB[0],), r"images \(N, 3, H, W\)"),
        (colors.nearest_mode, (np.zeros((1, 1, 2)), MODES[:1]), "at least two modes"),
        (colors.knn_divergence, (np.zeros((9, 2)), np.zeros((4, 2))), "m >= k = 5"),
    ],
)
def test_other_shapes_are_refused(call, args, message):
    with pytest.raises(ValueError, match=message):
        call(*args)
