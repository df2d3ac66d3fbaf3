"""Reconstruction errors, sharpness, diversity and neighbours, by hand and by brute force."""

import math

import numpy as np
import pytest
import torch

from agelib.metrics import pictures


def flat(level: float, n: int = 1, size: int = 12) -> np.ndarray:
    return np.full((n, 3, size, size), level)


def noise(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 8, 8), np.uint8)


# -1 and 0: difference 1 on [-1, 1], so 0.5 on [0, 1] and a mean square of 0.25: -10 log10(0.25) = 6.0206 dB.
# SSIM without variance: (2ab + C1) / (a^2 + b^2 + C1), C1 = 0.01^2; of 0.25 and 0.75: 0.3751 / 0.6251 = 0.600064.
@pytest.mark.parametrize(
    ("x", "gex", "metric", "value"),
    [(-1, 0, "l1", 1), (-1, 0, "mse", 0.25), (-1, 0, "psnr", 6.0206), (-0.5, 0.5, "ssim", 0.600064), (-1, 1, "l1", 2)],
)
def test_errors_of_constant_images(x, gex, metric, value):
    assert pictures.reconstruction(flat(float(x)), flat(float(gex)))[metric] == pytest.approx([value], abs=1e-5)


def test_errors_are_one_value_an_image_and_bytes_are_the_same_images():
    x, gex = flat(0.0, 2), np.concatenate([flat(0.5), flat(0.25)])
    assert pictures.reconstruction(x, gex)["l1"].tolist() == [0.5, 0.25]
    assert pictures.summary(x, gex)["l1"] == (0.375, 0.125)  # 1/N standard deviation
    x = np.random.default_rng(0).integers(0, 256, (3, 1, 16, 16), np.uint8)
    found = pictures.reconstruction(x, torch.from_numpy(x).float() / 127.5 - 1)
    assert found["l1"] == pytest.approx(np.zeros(3), abs=1e-6) and found["ssim"] == pytest.approx(np.ones(3))
    black, white = np.zeros((1, 1, 12, 12), np.uint8), np.full((1, 1, 12, 12), 255, np.uint8)
    assert pictures.summary(black, white)["mse"] == (1, 0)


def test_a_perfect_reconstruction():
    x = np.random.default_rng(1).integers(0, 256, (2, 3, 16, 16), np.uint8)
    found = pictures.summary(x, x)
    assert found["l1"] == (0, 0) and found["mse"] == (0, 0) and found["ssim"][0] == pytest.approx(1)
    assert found["psnr"][0] == math.inf and math.isnan(found["psnr"][1])


def test_sharpness_by_hand():
    """4 x 4, one pixel of 255 at (1, 1): Laplacians inside are -4, 1, 1, 0; mean -1/2, variance 18/4 - 1/4 = 4.25."""
    x = np.zeros((1, 1, 4, 4), np.uint8)
    x[0, 0, 1, 1] = 255
    assert pictures.sharpness(x) == pytest.approx([4.25])
    assert pictures.sharpness(np.repeat(x, 3, 1)) == pytest.approx([4.25])  # grey in colour has the same luma
    red = np.zeros((1, 3, 4, 4), np.uint8)
    red[0, 0, 1, 1] = 255
    assert pictures.sharpness(red) == pytest.approx([4.25 * 0.299**2])


def test_blur_lowers_and_a_ramp_has_none():
    x = np.random.default_rng(0).integers(0, 256, (5, 3, 16, 16), dtype=np.uint8)
    blurred = ((x.astype(float) + np.roll(x, 1, 2) + np.roll(x, 1, 3) + np.roll(x, (1, 1), (2, 3))) / 4).astype(np.uint8)
    assert (pictures.sharpness(blurred) < 0.6 * pictures.sharpness(x)).all()
    ramp = np.broadcast_to(np.arange(0, 160, 10, dtype=np.uint8), (2, 1, 16, 16))
    assert pictures.sharpness(ramp) == pytest.approx([0, 0], abs=1e-12)


def test_pairwise_by_hand():
    """Black and white images in equal number differ by 2 or by 0; equal images by 0."""
    two = np.stack([np.zeros((1, 2, 2)), np.full((1, 2, 2), 255)]).astype(np.uint8)
    assert pictures.pairwise_l1(two) == (2.0, 0.0)  # different images are always the other one
    mean, std = pictures.pairwise_l1(np.repeat(two, 50, 0), n_pairs=4000)
    assert mean == pytest.approx(2 * 50 / 99, abs=0.05) and std == pytest.approx(1, abs=0.01)
    assert pictures.pairwise_l1(two[[0, 0, 0]]) == (0.0, 0.0)


def test_distances_of_constant_images():
    # 2 x 2 pixels: levels 0, 51, 255 are 0, 0.2, 1 on [0, 1]; distance = |difference| * sqrt(4)
    train = np.stack([np.full((1, 2, 2), level, np.uint8) for level in (255, 51, 0)])
    d, i = pictures.nearest(np.full((1, 1, 2, 2), 102, np.uint8), train, k=3)  # 0.4
    assert i.tolist() == [[1, 2, 0]] and d == pytest.approx(np.array([[0.4, 0.8, 1.2]]))
    d, i = pictures.nearest(torch.full((1, 1, 2, 2), -0.5), train)  # 0.25
    assert i.tolist() == [[1]] and d[0, 0] == pytest.approx(0.1)


@pytest.mark.parametrize("budget", [64 * 2**20, 4 * 192 * 7])
def test_blocks_agree_with_brute_force(monkeypatch, budget):
    monkeypatch.setattr(pictures, "_BUDGET", budget)
    queries, train = noise(9, 0), noise(50, 1)
    full = np.sqrt((((queries[:, None].astype(float) - train[None]) / 255) ** 2).sum((2, 3, 4)))
    d, i = pictures.nearest(queries, train, k=4)
    assert (i == full.argsort(1)[:, :4]).all()
    assert d == pytest.approx(np.sort(full, 1)[:, :4])


def test_a_copy_is_at_distance_zero_ties_go_to_the_first_and_a_map_is_enough(tmp_path):
    train = noise(30, 2)
    train[7] = train[3]
    np.save(tmp_path / "x.npy", train)
    d, i = pictures.nearest(train[3:4], np.load(tmp_path / "x.npy", mmap_mode="r"), k=2)
    assert d.tolist() == [[0.0, 0.0]] and i.tolist() == [[3, 7]]


def test_copies_are_found_and_new_or_blurred_images_are_none():
    train, unseen, new = noise(60, 4), noise(40, 5), noise(45, 6)
    copied, fresh = (pictures.memorisation(images, unseen, train) for images in (train[:20], new))
    assert (copied["n"], copied["n_held_out"], fresh["n"]) == (20, 40, 45)
    assert copied["sample_distance"] == 0 and copied["ratio"] == 0
    assert copied["share_copied"] == 1 and copied["share_close"] == 1
    assert fresh["ratio"] == pytest.approx(1, abs=0.05) and fresh["share_copied"] == 0
    assert fresh["held_out_distance"] == copied["held_out_distance"]
    grey = pictures.memorisation(np.full((10, 3, 8, 8), 127, np.uint8), unseen, train)
    assert grey["ratio"] < 0.85 and grey["share_close"] == 1 and grey["share_copied"] == 0


@pytest.mark.parametrize(
    ("call", "args", "message"),
    [
        (pictures.reconstruction, (flat(0.0), flat(0.0, n=2)), "equal shapes"),
        (pictures.reconstruction, (flat(0.0, n=0), flat(0.0, n=0)), "nothing empty"),
        (pictures.reconstruction, (flat(0.0), flat(1.5)), r"finite and in \[-1, 1\]"),
        (pictures.reconstruction, (flat(0.0), flat(math.nan)), r"finite and in \[-1, 1\]"),
        (pictures.reconstruction, (flat(0.0), flat(0.0).astype(np.int64)), "int64"),
        (pictures.reconstruction, (flat(0.0, size=8), flat(0.0, size=8)), "11 x 11"),
        (pictures.sharpness, (np.zeros((2, 3, 4)),), "need uint8"),
        (pictures.sharpness, (np.zeros((0, 1, 4, 4), np.uint8),), "need uint8"),
        (pictures.pairwise_l1, (np.zeros((2, 1, 4, 4)),), "need uint8"),
        (pictures.pairwise_l1, (np.zeros((1, 1, 4, 4), np.uint8),), "N >= 2"),
        (pictures.nearest, (noise(1, 0), noise(3, 1), 0), "from 1 to the number of training images, 3; got 0"),
        (pictures.nearest, (noise(1, 0), noise(3, 1), 4), "from 1 to the number of training images, 3; got 4"),
        (pictures.nearest, (noise(1, 0), noise(3, 1)[:, :1]), r"need \(N, C, H, W\)"),
        (pictures.memorisation, (noise(0, 0), noise(3, 1), noise(3, 2)), "got 0 and 3"),
    ],
)
def test_what_is_no_image_is_refused(call, args, message):
    with pytest.raises(ValueError, match=message):
        call(*args)
