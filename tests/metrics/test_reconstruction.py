"""Reconstruction errors by hand."""

import math

import numpy as np
import pytest
import torch

from agelib.metrics import reconstruction


def flat(level: float, n: int = 1, size: int = 12) -> np.ndarray:
    return np.full((n, 3, size, size), level)


def test_errors_of_constant_images():
    # -1 and 0: difference 1 on [-1, 1], so 0.5 on [0, 1] and a mean square of 0.25: -10 log10(0.25) = 6.0206 dB
    x, gex = flat(-1.0), flat(0.0)
    assert reconstruction.l1(x, gex) == pytest.approx([1.0])
    assert reconstruction.mse(x, gex) == pytest.approx([0.25])
    assert reconstruction.psnr(x, gex) == pytest.approx([6.0206], abs=1e-4)


def test_ssim_of_constant_images():
    # No variance: (2ab + C1) / (a^2 + b^2 + C1) with a = 0.25, b = 0.75 on [0, 1], C1 = 0.01^2:
    # 0.3751 / 0.6251 = 0.600064; the factor of the variances is C2 / C2 = 1
    assert reconstruction.ssim(flat(-0.5), flat(0.5)) == pytest.approx([0.600064], abs=1e-6)


def test_errors_are_one_value_an_image():
    x = np.concatenate([flat(0.0), flat(0.0)])
    gex = np.concatenate([flat(0.5), flat(0.25)])
    assert reconstruction.l1(x, gex).tolist() == [0.5, 0.25]
    mean, std = reconstruction.summary(x, gex)["l1"]
    assert (mean, std) == (0.375, 0.125)  # 1/N standard deviation


def test_bytes_and_floats_are_the_same_images():
    x = np.random.default_rng(0).integers(0, 256, (3, 1, 16, 16), np.uint8)
    y = torch.from_numpy(x).float() / 127.5 - 1
    assert reconstruction.l1(x, y) == pytest.approx([0, 0, 0], abs=1e-6)
    black, white = np.zeros((1, 1, 2, 2), np.uint8), np.full((1, 1, 2, 2), 255, np.uint8)
    assert reconstruction.l1(black, white) == pytest.approx([2.0])
    assert reconstruction.mse(black, white) == pytest.approx([1.0])


def test_a_perfect_reconstruction():
    x = np.random.default_rng(1).integers(0, 256, (2, 3, 16, 16), np.uint8)
    found = reconstruction.summary(x, x)
    assert found["l1"] == (0, 0) and found["mse"] == (0, 0) and found["ssim"][0] == pytest.approx(1)
    assert found["psnr"][0] == math.inf and math.isnan(found["psnr"][1])


def test_chunks_do_not_matter(monkeypatch):
    rng = np.random.default_rng(2)
    x, gex = (rng.uniform(-1, 1, (5, 1, 12, 12)) for _ in range(2))
    whole = reconstruction.summary(x, gex)
    monkeypatch.setattr(reconstruction, "_CHUNK", 2)
    for name, pair in reconstruction.summary(x, gex).items():
        assert pair == pytest.approx(whole[name])


@pytest.mark.parametrize(
    ("x", "gex", "message"),
    [
        (flat(0.0), flat(0.0, n=2), "equal shapes"),
        (flat(0.0), flat(1.5), r"in \[-1, 1\]"),
        (flat(0.0), flat(math.nan), "finite"),
        (flat(0.0), flat(0.0).astype(np.int64), "int64"),
        (flat(0.0, n=0), flat(0.0, n=0), "nothing empty"),
    ],
)
def test_what_is_no_image_is_refused(x, gex, message):
    with pytest.raises(ValueError, match=message):
        reconstruction.l1(x, gex)


def test_ssim_needs_its_window():
    with pytest.raises(ValueError, match="11 x 11"):
        reconstruction.ssim(flat(0.0, size=8), flat(0.0, size=8))
