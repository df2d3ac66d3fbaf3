import numpy as np
import pytest

from agelib.metrics import pictures


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
    assert pictures.pairwise_l1(np.repeat(two, 50, 0), seed=1) == pictures.pairwise_l1(np.repeat(two, 50, 0), seed=1)


@pytest.mark.parametrize("call", [pictures.sharpness, pictures.pairwise_l1])
@pytest.mark.parametrize("bad", [np.zeros((2, 3, 4)), np.zeros((2, 1, 4, 4)), np.zeros((0, 1, 4, 4), np.uint8)])
def test_other_shapes_and_types_are_refused(call, bad):
    with pytest.raises(ValueError, match="need uint8"):
        call(bad)
