"""Painting held-out images, and rows that say what they must of colours whose answer is known."""

import math
import re
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch

import agelib
from agelib import conditional, data
from agelib.data.standins import cars
from suite import colorization
from suite.rows import make, values

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (16, 3, 32, 32), dtype=np.uint8)
TINY = {"batch_size": 4, "precision": "fp32", "max_steps": 2, "device": "cpu", "width": 4}
MODELS = {
    "AGE": {"method": "conditional", "e_width": 4, "n_blocks": 1, "M": 2},
    "L1": {"method": "regression", "n_blocks": 1, "M": 3},
    "pix2pix": {"method": "pix2pix", "d_width": 4},
}


def a_set(images: np.ndarray, name: str = "mine") -> data.ImageSet:
    return data.ImageSet(name, "test", images, None, None, "made here", None, True, "")


def metrics(rows: list[dict]) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in rows}


def test_every_model_paints_the_same_images_with_the_codes_of_the_seed(tmp_path):
    held = colorization.held_out(a_set(IMAGES), 14)
    models = {k: agelib.train(data=IMAGES, folder=tmp_path / k, **s, **TINY) for k, s in MODELS.items()}
    painted = {label: colorization.paint(model, held, 5, seed=3) for label, model in models.items()}
    for label, each in painted.items():
        assert np.array_equal(each.z, models[label].codes(5, 3))
        assert each.ab.shape == (14, 5, 2, 32, 32) and each.pictures.shape == (14, 5, 3, 32, 32)
        np.testing.assert_allclose(each.colour, each.ab[..., held.body[0]].mean(3), atol=1e-4)
        assert np.array_equal(each.ab, colorization.paint(models[label], held, 5, seed=3).ab)  # dropout too
    theta, phi, mean = colorization.over_sphere(models["L1"], held)
    z = torch.tensor([[np.sin(theta[3]) * np.cos(phi[7]), np.sin(theta[3]) * np.sin(phi[7]), np.cos(theta[3])]]).float()
    there = conditional.paint(models["L1"], held.images[:8], z)[..., held.body[0]].mean((0, 1, 3))
    np.testing.assert_allclose(mean[3, 7], there, atol=1e-4)
    rows = colorization.numbers(models, held, painted, seed=3)
    assert {row["model"] for row in rows} == {colorization.OTHERS, "held-out images", *models}
    gex = conditional.reconstruct(models["AGE"], held.images)
    assert values(rows, "reconstruction of ab, L1") == {"AGE": pytest.approx(np.abs(gex - held.own).mean())}
    assert not values(rows, "mode recall") and values(rows, "cars of 4 hues").keys() == {colorization.OTHERS, *models}
    notes = {row["model"]: row["note"] for row in rows if row["metric"] == "distinct body hues" and "note" in row}
    assert notes == {"AGE": "authors' game", "L1": "", "pix2pix": ""}
    nearest = np.abs(painted["L1"].ab - held.own[:, None]).mean((2, 3, 4)).min(1).mean()
    assert values(rows, "best of 5, L1")["L1"] == pytest.approx(nearest)
    clouds = colorization.clouds(held, painted, most=20)
    assert {name: len(cloud) for name, cloud in clouds.items()} == {"held-out images": 14} | dict.fromkeys(models, 20)


def test_grey_images_are_left_out_and_the_truth_stays_with_its_image():
    images, labels, _ = cars.make("test", 32, n=20)
    images[[2, 5]] = images[[2, 5]][:, :1]
    held = colorization.held_out(a_set(images, "cars"), 15)
    kept = [i for i in range(20) if i not in (2, 5)][:15]
    assert np.array_equal(held.images, images[kept])
    assert np.array_equal(np.linalg.norm(held.true[:, None] - cars.MODES, axis=-1).argmin(1), labels[kept])
    body = (held.own * held.body[:, None]).sum((2, 3)) / held.body.sum((1, 2))[:, None]
    assert np.abs(body - held.true).max() < 1  # 8 bits move a and b by half a unit
    L = conditional.lightness(images[kept]).numpy()
    assert np.abs(held.lightness / 127.5 - 1 - L).max() < 1 / 127 and held.lightness.dtype == np.uint8


@pytest.mark.parametrize(
    "images, n, message",
    [
        (IMAGES, 13, "mine: 13 held-out images, need at least 14; n_images is 13"),
        (IMAGES[:9], 200, "mine: 9 held-out images"),
        (np.repeat(IMAGES[:, :1], 3, 1), 14, "mine: 16 of 16 images are grey"),
    ],
)
def test_too_few_images_are_refused(images, n, message):
    with pytest.raises(ValueError, match=message):
        colorization.held_out(a_set(images), n)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"models": {}}, "models: AGE must be there, as conditional AGE; got"),
        ({"models": {"mine": {}}}, "models: AGE must be there"),
        ({"models": {"AGE": {"method": "pix2pix"}}}, "AGE with method pix2pix"),
        ({"models": {"AGE": {}} | {str(i): {} for i in range(6)}}, "models are 6 at most, n_codes at least 2; got 7 and 5"),
        ({"n_codes": 1}, "got 2 and 1"),
        ({"models": {"AGE": {"batch_size": 4}, "me": {"method": "vae", "batch_size": 4}}}, "me: method 'vae' colours"),
        ({"models": {"AGE": {"batch_size": 17}}}, "models.AGE: Schedule: batch_size 17 is more than the 16 images"),
        ({"models": {"AGE": {"n_blocks": -1}}}, "models.AGE: Config: n_blocks must be at least 0, is -1"),
    ],
)
def test_parameters_are_checked_before_anything_is_trained(changed, message):
    small = {"AGE": {"batch_size": 4}, "mine": {"method": "pix2pix", "batch_size": 4}}
    good = {"models": small, "n_codes": 5, "picture": None, "target": None, "size": 32}
    colorization.check(SimpleNamespace(**good), IMAGES)
    with pytest.raises(ValueError, match=re.escape(message)):
        colorization.check(SimpleNamespace(**good | changed), IMAGES)


def test_a_picture_that_is_none_is_refused_before_anything_is_trained(tmp_path):
    (tmp_path / "note.jpg").write_text("no picture")
    p = SimpleNamespace(models={"AGE": {}}, n_codes=5, picture=None, target=str(tmp_path / "note.jpg"), size=32)
    with pytest.raises(data.DataError, match=r"note\.jpg: not a readable image"):
        colorization.check(p, IMAGES)


def test_rows_of_a_model_that_always_paints_the_truth_and_whether_its_codes_mean_colour():
    own, z = RNG.normal(0, 20, (6, 2, 4, 4)), RNG.normal(size=(40, 3))
    body = np.zeros((6, 4, 4), bool)
    body[:, 1:3, 1:3] = True
    held = colorization.HeldOut(IMAGES[:6], IMAGES[:6, :1], own, body, ~body, "a square")
    grey, ab = np.full((6, 40, 3, 4, 4), 9, np.uint8), np.repeat(own[:, None], 40, 1)
    assert [row["value"] for row in colorization.diversity("A", ab, held)] == pytest.approx([0] * 5, abs=1e-4)
    bodies = ab + body[:, None, None] * RNG.choice([-3.0, 3.0], (6, 40, 1, 1, 1))
    bodies[:, :, 0, 0, 0] += np.tile([-1.0, 1.0], 20)  # a of one pixel of 12 outside: 1/24 on average
    found = metrics(colorization.diversity("A", bodies, held))
    assert found["ab std per pixel, outside"] == pytest.approx(1 / 24) and found["inside / outside"] > 60
    found = metrics(colorization.quality("A", colorization.Painted(z, ab, grey, 0.25, np.tile(z[:, :2], (6, 1, 1))), held))
    assert found["best of 10, L1"] == found["colourfulness"] == 0 and found["out of gamut"] == 0.25
    assert found["R2 of colour by z"] == pytest.approx(1) and found["p, z unused"] == 0.001
    unused = colorization.Painted(z, ab, grey, 0.25, RNG.normal(size=(6, 40, 2)))
    found = metrics(colorization.quality("A", unused, held))
    assert found["R2 of colour by z"] < 0.2 and found["p, z unused"] > 0.01
    scale = values(colorization.numbers({}, held, {}), "ab std per pixel")[colorization.OTHERS]
    assert scale == pytest.approx(own.std(0).mean())  # six of six images lend their colours, each once


def test_hues_of_bodies_and_how_near_transferred_ones_come():
    """A model that paints the source's own colour, turned by 10 degrees, on 8 red and 8 blue sources and 4 grey targets."""
    own = np.zeros((20, 2, 32, 32), np.float32)
    own[:8, 0], own[8:16, 1] = 20, -20
    body = np.ones((20, 32, 32), bool)
    held = colorization.HeldOut(np.arange(20, dtype=np.uint8)[:, None, None, None] + IMAGES[0], None, own, body, body, "all")

    class Turned:
        def encode(self, batch):
            return np.array([[math.cos(a), math.sin(a)] for a in np.deg2rad([10] * 8 + [280] * 8)])

    def paint(model, batch, z):
        return np.tile(20 * z[None, :, :, None, None], (len(batch), 1, 1, 32, 32))

    with mock.patch.object(conditional, "paint", paint):
        rows = colorization.transfer("A", Turned(), held)
    found = metrics(rows)
    assert found["hue distance of transfer"] == pytest.approx(10)
    assert found["hue distance to other sources"] == pytest.approx((7 * 10 + 4 * 100 + 4 * 80) / 15)
    assert rows[0]["n"] == 16 and "16 sources of chroma >= 5 on 4 other images; all" in rows[0]["protocol"]
    colour = np.zeros((2, 20, 2))
    colour[0, :, 0], colour[1] = 30, 30 * np.stack([np.cos(np.arange(20)), np.sin(np.arange(20))], 1)
    found = metrics(colorization.hues("A", colour, held))
    assert found["cars of 4 hues"] == 0.5 and found["distinct body hues"] == pytest.approx((1 + 10) / 2, abs=0.6)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({}, "authors' game"),
        ({"M": 3}, "authors' game, paper's M"),
        ({"mu": 700.0, "lam": 10.0, "recon_x_in_g": 700.0, "recon_z_in_e": 10.0}, "authors' reconstruction command"),
        ({"M": 3, "mu": 10.0, "lam": 50.0, "n_g_steps": 2, "kl_fake_weight": 1.0}, "paper's losses, paper's M"),
        ({"mu": 10.0, "lam": 50.0}, "paper's losses at KL fake weight 0.5"),
        ({"kl_fake_weight": 1.0}, "authors' game at KL fake weight 1"),
        ({"recon_x_in_g": 1.0}, "losses of neither the paper nor the authors"),
        ({"mu": 10.0}, "losses of neither the paper nor the authors"),
    ],
)
def test_whose_game_is_said(settings, said):
    assert conditional.game(conditional.Config(**settings)) == said


def test_the_true_mixture_is_recalled_and_its_mean_is_not():
    N, K = 60, 40
    true = cars.MODES[RNG.integers(0, 4, N)] + cars.MODE_STD * RNG.standard_normal((N, 2))
    drawn = cars.MODES[RNG.integers(0, 4, (N, K))] + cars.MODE_STD * RNG.standard_normal((N, K, 2))
    found = metrics(colorization.against_truth("A", drawn, true))
    assert found["mode recall"] > 0.95 and found["colours of no mode"] < 0.01 and found["rarest mode"] > 0.2
    assert found["KL of modes"] < 0.01 and abs(found["KL to the mixture"]) < 0.4
    mean = np.broadcast_to(cars.MODES.mean(0), (N, K, 2)) + RNG.normal(0, 0.5, (N, K, 2))
    found = metrics(colorization.against_truth("A", mean, true))
    assert found["mode recall"] == 0 and found["KL to the mixture"] > 3
    assert found["KL of modes"] == pytest.approx(np.log(4))  # (1.5, 3.5) is nearest to grey: one mode for all
    found = metrics(colorization.against_truth("A", drawn * 0 + 80, true))
    assert found["colours of no mode"] == 1 and found["KL of modes"] == np.inf


@pytest.mark.parametrize(
    "recall, rival, said",
    [
        (0.99, 0.1, "The claim holds in this run: mode recall of AGE is 0.99, pix2pix + noise has 0.10."),
        (0.8, 0.1, "The claim does NOT hold in this run: mode recall of AGE is 0.80"),
        (0.95, 0.97, "The claim does NOT hold in this run"),
        (0.95, None, "The claim holds in this run: mode recall of AGE is 0.95, pix2pix + noise is not beside it."),
        (None, 0.1, "The claim holds in this run: cars of 4 hues of AGE is 0.60, pix2pix + noise has 0.10."),
        (None, 0.7, "The claim does NOT hold in this run: cars of 4 hues of AGE is 0.60"),
    ],
)
def test_the_verdict_is_that_of_the_numbers(recall, rival, said):
    def rows(model, many, recall):
        found = {colorization.SPREAD: 2.5, colorization.R2: 0.75, colorization.RATIO: 3.21, colorization.MANY: many}
        return make(model, found | ({colorization.RECALL: recall} if recall is not None else {}))

    of = rows("AGE", 0.6, recall) + make(colorization.OTHERS, {colorization.SPREAD: 5.0})
    of += rows("pix2pix + noise", rival, rival if recall else None) if rival else []
    text = colorization.verdict(of)
    assert said in text
    assert "AGE: colorizations of an image differ by 2.50 Lab units, 50% of what other images' colours do; its code" in text
    assert "explains 75% of the body's colour" in text and "3.2 times as much on the car as off it" in text
    assert ("all four true colours" in text) == (recall is not None)
