"""Lab against scikit-image, and the scaling of the colorization networks."""

import warnings

import numpy as np
import pytest
import torch
from skimage import color as reference

from agelib import color


def edges() -> np.ndarray:
    """Colours on the faces of the RGB cube and near black, (N, 3): where the pieces of the formulas meet."""
    t = np.linspace(0, 1, 18)
    u, v = (c.ravel() for c in np.meshgrid(t, t))
    faces = [np.insert(np.stack([u, v], 1), i, c, axis=1) for i in range(3) for c in (0.0, 1.0)]
    near_black = np.random.default_rng(0).random((324, 3)) * 0.06
    return np.concatenate([*faces, near_black])


def as_images(colours):
    return torch.from_numpy(colours.reshape(-1, 18, 18, 3).transpose(0, 3, 1, 2)).float()


def as_colours(x):
    return x.permute(0, 2, 3, 1).reshape(-1, 3).numpy()


@pytest.mark.parametrize("colours", [edges(), np.random.default_rng(1).random((18 * 18 * 5, 3))], ids=["edges", "random"])
def test_agrees_with_scikit_image(colours):
    lab = color.rgb_to_lab(as_images(colours))
    assert as_colours(lab) == pytest.approx(reference.rgb2lab(colours[None])[0], abs=1e-4)
    back, outside = color.lab_to_rgb(lab)
    assert as_colours(back) == pytest.approx(colours, abs=1e-4) and not outside.any()


def test_out_of_gamut_is_clipped_as_scikit_image_does_and_counted():
    rng = np.random.default_rng(2)
    lab = np.stack([rng.uniform(0, 100, 324 * 3), rng.uniform(-110, 110, 324 * 3), rng.uniform(-110, 110, 324 * 3)], 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = reference.lab2rgb(lab[None])[0]
    rgb, outside = color.lab_to_rgb(as_images(lab))
    assert as_colours(rgb) == pytest.approx(expected, abs=1e-4)
    clipped = ((expected == 0) | (expected == 1)).any(1)
    assert (outside.reshape(-1).numpy() == clipped).mean() > 0.995 and 0.3 < clipped.mean() < 0.95


def test_white_red_and_grey_by_hand():
    """White is L 100; sRGB red is (53.24, 80.09, 67.20); a grey has no colour."""
    x = torch.tensor([[1.0, 1, 1], [1, -1, -1], [0, 0, 0]]).view(3, 3, 1, 1)
    L, ab = color.split(x)
    assert L.ravel().tolist() == pytest.approx([1.0, 53.24 / 50 - 1, 53.39 / 50 - 1], abs=2e-4)
    assert (ab[1] * 110).ravel().tolist() == pytest.approx([80.09, 67.20], abs=0.01)
    assert (ab[[0, 2]] * 110).abs().max() < 0.01
    again, outside = color.join(L, ab)
    assert again.ravel().tolist() == pytest.approx(x.ravel().tolist(), abs=1e-4) and not outside.any()


def test_grey_images_are_found():
    x = torch.rand(4, 1, 8, 8).mul(2).sub(1).repeat(1, 3, 1, 1)
    x[2, 0, 3, 3] = 1.0
    x[2, 1, 3, 3] = -1.0  # one coloured pixel
    assert color.is_grey(x).tolist() == [True, True, False, True]


def test_shapes_that_are_not_images():
    with pytest.raises(ValueError, match=r"need \(B, 3, H, W\), got \(3, 4, 4\)"):
        color.rgb_to_lab(torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match=r"need \(B, 2, H, W\)"):
        color.join(torch.zeros(1, 1, 4, 4), torch.zeros(1, 3, 4, 4))


def test_swatches_are_colours_at_one_lightness():
    ab = torch.tensor([[[0.0, 0.0], [28.0, 18.0]]])
    rgb = color.swatches(ab, 50.0)
    assert rgb.shape == (1, 2, 3) and rgb.dtype == torch.uint8
    want = reference.lab2rgb(np.array([[[50.0, 0, 0], [50.0, 28, 18]]])) * 255
    assert np.abs(rgb.numpy() - want).max() <= 0.6
