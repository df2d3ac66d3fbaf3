"""Colorizers trained by the loop and put to use: what they keep, what they refuse, what they hand over."""

import numpy as np
import pytest
import torch

from agelib import apply, color, colorizers, sphere

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
TINY = {"width": 4, "e_width": 4, "batch_size": 4, "n_epochs": 1, "precision": "fp32"}


@pytest.mark.parametrize("method", colorizers.NAMES)
def test_each_is_trained_once_and_then_taken_from_its_folder(tmp_path, method, monkeypatch):
    model = colorizers.train(method, IMAGES, tmp_path, max_steps=2, **TINY)
    assert model.status == "ok" and model.history[-1]["step"] == 2 and model.seconds > 0
    assert (model.e is None) == (method in ("pix2pix", "regression"))
    z = sphere.sample(3, 3)
    torch.manual_seed(0)
    ab = model.paint(IMAGES[:5], z)
    assert ab.shape == (5, 3, 2, 32, 32) and np.abs(ab).max() <= 110
    monkeypatch.setattr("agelib.color.split", lambda x: 1 / 0 if torch.is_grad_enabled() else _split(x))
    again = colorizers.train(method, IMAGES, tmp_path, max_steps=2, **TINY)
    torch.manual_seed(0)
    assert np.array_equal(again.paint(IMAGES[:5], z), ab)


_split = color.split


def test_codes_for_all_images_and_for_each(tmp_path):
    model = colorizers.train("age", IMAGES, tmp_path, max_steps=1, **TINY)
    z = sphere.sample(2, 3)
    shared = model.paint(IMAGES[:3], z, batch_size=4)
    np.testing.assert_allclose(shared, model.paint(IMAGES[:3], z.expand(3, 2, 3)), atol=1e-3)
    one = model.paint(IMAGES[1:2], z[1:])
    np.testing.assert_allclose(shared[1, 1], one[0, 0], atol=1e-3)
    codes = model.encode(IMAGES)
    assert codes.shape == (12, 3)
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(12))
    carried = model.transfer(IMAGES[:4], IMAGES[4:6])
    assert carried.shape == (2, 4, 2, 32, 32)
    np.testing.assert_allclose(carried[1, 2], model.paint(IMAGES[5:6], codes[2:3])[0, 0], atol=1e-3)
    np.testing.assert_allclose(model.reconstruct(IMAGES)[7], model.paint(IMAGES[7:8], codes[7:8])[0, 0], atol=1e-3)


def test_pictures_keep_the_lightness_and_count_what_was_clipped():
    own = colorizers.colours(IMAGES)
    back, clipped = colorizers.pictures(IMAGES, own[:, None])
    assert np.abs(back[:, 0].astype(int) - IMAGES).max() <= 1 and clipped == 0
    grey, _ = colorizers.pictures(IMAGES, 0 * own[:, None])
    L = colorizers.lightness(IMAGES)
    assert (colorizers.lightness(grey[:, 0]) - L).abs().max() < 0.01
    assert np.ptp(grey[:, 0], axis=1).max() <= 1
    assert colorizers.pictures(IMAGES, own[:, None] * 0 + 110)[1] > 0.9  # no sRGB colour has a = b = 110
    assert torch.equal(colorizers.lightness(grey[:, 0, :1]), colorizers.lightness(np.repeat(grey[:, 0, :1], 3, 1)))


def test_grey_images_are_found_and_a_grey_set_is_refused():
    some = IMAGES.copy()
    some[2:5] = some[2:5, :1]
    assert colorizers.coloured_only(some, "mine").tolist() == [True] * 2 + [False] * 3 + [True] * 7
    with pytest.raises(ValueError, match="mine: 12 of 12 images are grey; there are no colours to learn"):
        colorizers.coloured_only(np.repeat(IMAGES[:, :1], 3, 1), "mine")
    with pytest.raises(ValueError, match="RGB images"):
        colorizers.coloured_only(IMAGES[:, :1], "mine")


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown method 'gan'; valid: age, autoencoder, pix2pix, regression"):
        colorizers.build("gan", 32)
    with pytest.raises(ValueError, match="pix2pix \\+ noise has no setting mu"):
        colorizers.train("pix2pix", IMAGES, tmp_path, mu=1.0, **TINY)
    model = colorizers.train("regression", IMAGES, tmp_path / "r", max_steps=1, **TINY)
    with pytest.raises(ValueError, match="L1 regression has no encoder"):
        model.encode(IMAGES)


def test_the_autoencoder_is_age_without_the_game():
    nets = colorizers.build("autoencoder", 32, width=4, e_width=4)
    config = colorizers.make_step("autoencoder", nets, {"mu": 7.0}, "fp32").config
    assert (config["adversarial"], config["recon_x_in_g"], config["mu"], config["M"]) == (False, 7.0, 7.0, 3)
    config = colorizers.make_step("age", nets, {"mu": 7.0}, "fp32").config
    assert (config["adversarial"], config["recon_x_in_g"]) == (True, 0.0)


def test_pix2pix_is_given_its_schedules_length(tmp_path):
    nets = colorizers.build("pix2pix", 32, width=4, e_width=4)
    assert colorizers.make_step("pix2pix", nets, {"n_epochs": 8}, "fp32").lr_at(7) < 1e-4
    colorizers.train("pix2pix", IMAGES, tmp_path, max_steps=1, **TINY | {"n_epochs": 6, "batch_size": 1})
    weights = tmp_path / "checkpoints" / "train" / "g.safetensors"
    from safetensors import safe_open

    with safe_open(weights, "np") as file:
        assert '"n_epochs": 6' in file.metadata()["config"] and '"batch_size": 1' in file.metadata()["config"]


def test_a_diverged_training_says_so(tmp_path):
    model = colorizers.train("age", IMAGES, tmp_path, lr=1e30, max_steps=3, **TINY)
    assert model.status.startswith("diverged: ") and model.seconds == 0


def test_lightness_is_that_of_the_images():
    np.testing.assert_allclose(colorizers.lightness(IMAGES), color.split(apply.to_float(IMAGES))[0], atol=1e-6)
