"""Reconstruction errors, sharpness, diversity and neighbours, by hand and by brute force."""

import math

import numpy as np
import pytest

from agelib.metrics import pictures


def noise(n: int, seed: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, size, size), np.uint8)


def flat(*levels: int, size: int = 12) -> np.ndarray:
    return noise(len(levels), 0, size) * 0 + np.array(levels, np.uint8)[:, None, None, None]


# 51 and 204 are 0.2 and 0.8 on [0, 1]: 1.2 apart on [-1, 1]; mean square 0.36, -10 log10(0.36) = 4.43697 dB;
# SSIM without variance: (2ab + C1) / (a^2 + b^2 + C1), C1 = 0.01^2: 0.3201 / 0.6801 = 0.470666.
@pytest.mark.parametrize(
    ("x", "gex", "metric", "value"),
    [
        (51, 204, "l1", (1.2, 0)),
        (51, 204, "mse", (0.36, 0)),
        (51, 204, "psnr", (4.43697, 0)),
        (51, 204, "ssim", (0.470666, 0)),
        (0, 255, "l1", (2, 0)),
        ((0, 0), (51, 102), "l1", (0.6, 0.2)),  # 1/N standard deviation
        (7, 7, "l1", (0, 0)),
        (7, 7, "psnr", (math.inf, math.nan)),
        (7, 7, "ssim", (1, 0)),
    ],
)
def test_errors_of_constant_images(x, gex, metric, value):
    found = pictures.summary(flat(*np.atleast_1d(x)), flat(*np.atleast_1d(gex)))[metric]
    assert found == pytest.approx(value, abs=1e-5, nan_ok=True)


def test_sharpness_by_hand():
    """4 x 4, one pixel of 255 at (1, 1): Laplacians inside are -4, 1, 1, 0; mean -1/2, variance 18/4 - 1/4 = 4.25."""
    x = np.zeros((1, 1, 4, 4), np.uint8)
    x[0, 0, 1, 1] = 255
    red = np.concatenate([x, 0 * x, 0 * x], 1)
    assert pictures.sharpness(x) == pytest.approx([4.25])
    assert pictures.sharpness(np.repeat(x, 3, 1)) == pytest.approx([4.25])  # grey in colour has the same luma
    assert pictures.sharpness(red) == pytest.approx([4.25 * 0.299**2])
    ramp = np.broadcast_to(np.arange(0, 160, 10, dtype=np.uint8), (2, 1, 16, 16))
    assert pictures.sharpness(ramp) == pytest.approx([0, 0], abs=1e-12)


def test_pairwise_by_hand():
    """Black and white images in equal number differ by 2 or by 0; equal images by 0."""
    two = flat(0, 255)
    assert pictures.pairwise_l1(two) == (2.0, 0.0)  # different images are always the other one
    mean, std = pictures.pairwise_l1(np.repeat(two, 50, 0))
    assert mean == pytest.approx(2 * 50 / 99, abs=0.05) and std == pytest.approx(1, abs=0.01)
    assert pictures.pairwise_l1(two[[0, 0, 0]]) == (0.0, 0.0)


@pytest.mark.parametrize("budget", [64 * 2**20, 8 * 192 * 7])
def test_neighbours_are_brute_forces_in_any_blocks_and_of_equal_ones_the_first(monkeypatch, tmp_path, budget):
    monkeypatch.setattr(pictures, "_BUDGET", budget)
    queries, train = noise(9, 0), noise(50, 1)
    queries[0] = train[7] = train[3]
    np.save(tmp_path / "x.npy", train)
    full = np.sqrt((((queries[:, None].astype(float) - train[None]) / 255) ** 2).sum((2, 3, 4)))
    d, i = pictures.nearest(queries, np.load(tmp_path / "x.npy", mmap_mode="r"), k=4)
    assert (i == full.argsort(1, kind="stable")[:, :4]).all() and d == pytest.approx(np.sort(full, 1)[:, :4], rel=1e-12)
    assert d[0, :2].tolist() == [0, 0] and i[0, :2].tolist() == [3, 7]


def test_copies_are_found_and_new_or_blurred_images_are_none():
    train, unseen, new = noise(60, 4), noise(40, 5), noise(45, 6)
    copied = pictures.memorisation(train[:20], unseen, train)
    assert copied == {"n": 20, "n_held_out": 40, "ratio": 0, "share_copied": 1}
    fresh, grey = (pictures.memorisation(images, unseen, train) for images in (new, np.full_like(new, 127)))
    assert fresh["ratio"] == pytest.approx(1, abs=0.05) and grey["ratio"] < 0.85
    assert fresh["share_copied"] == grey["share_copied"] == 0


@pytest.mark.parametrize(
    ("call", "args", "message"),
    [
        (pictures.summary, (flat(0), flat(0, 0)), "equal shapes"),
        (pictures.summary, (flat(0), flat(0) / 255), "need uint8 .* float64"),
        (pictures.summary, (flat(0, size=8), flat(0, size=8)), "11 x 11"),
        (pictures.sharpness, (noise(0, 0),), "need uint8 .* N >= 1"),
        (pictures.sharpness, (noise(1, 0)[:, :2],), "C 1 or 3"),
        (pictures.sharpness, (noise(1, 0, 2),), "H and W >= 3"),
        (pictures.pairwise_l1, (noise(1, 0),), "N >= 2"),
        (pictures.nearest, (noise(1, 0), noise(3, 1), 4), r"k in 1..T, got .* k = 4"),
        (pictures.nearest, (noise(1, 0), noise(3, 1)[:, :1]), "images of one size"),
    ],
)
def test_what_is_no_image_is_refused(call, args, message):
    with pytest.raises(ValueError, match=message):
        call(*args)
