"""Painting held-out images, and rows that say what they must of colours whose answer is known."""

import numpy as np
import pytest
import torch

import agelib
from agelib import conditional, data
from agelib.data.standins import cars
from suite import colorization

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (16, 3, 32, 32), dtype=np.uint8)
TINY = {"batch_size": 4, "precision": "fp32", "max_steps": 2, "device": "cpu"}


def a_set(images: np.ndarray, name: str = "mine") -> data.ImageSet:
    return data.ImageSet(name, "test", images, None, None, "made here", None, True, "")


def value(rows: list[dict], metric: str, **of) -> float:
    (row,) = [row for row in rows if row["metric"] == metric and of.items() <= row.items()]
    return row["value"]


# ---------------------------------------------------------------------------------------------------- what is painted


def test_every_model_paints_the_same_images_with_the_codes_of_the_seed(tmp_path):
    held = colorization.held_out(a_set(IMAGES), 14)
    settings = {
        "AGE": {"width": 4, "e_width": 4, "n_blocks": 1, "M": 2},
        "L1": {"width": 4, "n_blocks": 1, "method": "regression"},
    }
    settings["pix2pix"] = {"width": 4, "d_width": 4, "method": "pix2pix"}
    models = {
        k: agelib.train(s.pop("method", "conditional"), IMAGES, tmp_path / k, **s, **TINY) for k, s in settings.items()
    }
    painted = {label: colorization.paint(model, held, 5, seed=3) for label, model in models.items()}
    for label, each in painted.items():
        assert np.array_equal(each.z, models[label].codes(5, 3))
        assert each.ab.shape == (14, 5, 2, 32, 32) and each.pictures.shape == (14, 5, 3, 32, 32)
        np.testing.assert_allclose(each.colour, each.ab.mean((3, 4)), atol=1e-5)
        assert np.array_equal(each.ab, colorization.paint(models[label], held, 5, seed=3).ab)  # dropout too
    theta, phi, mean = colorization.over_sphere(models["L1"], held)
    z = torch.tensor([[np.sin(theta[3]) * np.cos(phi[7]), np.sin(theta[3]) * np.sin(phi[7]), np.cos(theta[3])]]).float()
    there = conditional.paint(models["L1"], held.images[:8], z).mean((0, 1, 3, 4))
    np.testing.assert_allclose(mean[3, 7], there, atol=1e-4)
    rows = colorization.numbers(models, held, painted, seed=3)
    assert {row["model"] for row in rows} == {colorization.OTHERS, "held-out images", *models}
    assert [row["model"] for row in rows if row["metric"] == "reconstruction of ab, L1"] == ["AGE"]
    assert not any(row["metric"] == "mode recall" for row in rows)
    gex = conditional.reconstruct(models["AGE"], held.images)
    assert value(rows, "reconstruction of ab, L1") == pytest.approx(np.abs(gex - held.own).mean())
    assert value(rows, "best of 5, L1", model="L1") == pytest.approx(
        np.abs(painted["L1"].ab - held.own[:, None]).mean((2, 3, 4)).min(1).mean()
    )
    clouds = colorization.clouds(held, painted, most=20)
    assert {name: len(cloud) for name, cloud in clouds.items()} == {"held-out images": 14} | dict.fromkeys(models, 20)


def test_grey_images_are_left_out_and_the_truth_stays_with_its_image():
    images, labels, _ = cars.make("test", 32, n=20)
    images[[2, 5]] = images[[2, 5]][:, :1]
    held = colorization.held_out(a_set(images, "cars"), 15)
    kept = [i for i in range(20) if i not in (2, 5)][:15]
    assert np.array_equal(held.images, images[kept])
    mode = np.linalg.norm(held.truth.ab[:, None] - cars.MODES, axis=-1).argmin(1)
    assert np.array_equal(mode, labels[kept])
    body = (held.own * held.body[:, None]).sum((2, 3)) / held.body.sum((1, 2))[:, None]
    assert np.abs(body - held.truth.ab).max() < 1  # 8 bits move a and b by half a unit
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


@pytest.mark.parametrize("models", [{}, {"mine": {}}, {"AGE": {"method": "pix2pix"}}])
def test_a_run_without_conditional_age_is_refused_before_it_trains(models):
    colorization.check({"AGE": {}, "mine": {"method": "pix2pix"}})
    with pytest.raises(ValueError, match="models: AGE must be there, as conditional AGE; got"):
        colorization.check(models)


# ---------------------------------------------------------------------------------------------------- what the rows say


def test_other_images_lend_their_colours_each_once():
    own = np.arange(6.0)[:, None, None, None] + np.zeros((6, 2, 4, 4))
    found = colorization.other_images(own, 3, 6, seed=1)
    assert found.shape == (3, 6, 2, 4, 4)
    assert (np.sort(found[:, :, 0, 0, 0], 1) == np.arange(6)).all()


def test_rows_of_a_model_that_always_paints_the_truth():
    own = RNG.normal(0, 20, (5, 2, 4, 4))
    ab = np.repeat(own[:, None], 3, 1)
    assert [row["value"] for row in colorization.diversity(ab)] == pytest.approx([0, 0], abs=1e-12)
    rows = colorization.quality(ab, own, np.full((5, 3, 3, 4, 4), 9, np.uint8), 0.25)
    assert value(rows, "best of 3, L1") == 0 and value(rows, "colourfulness") == 0 and value(rows, "out of gamut") == 0.25
    assert value(colorization.reconstruction(own + 2, own), "reconstruction of ab, L1") == pytest.approx(2)


def test_codes_that_mean_colour_and_codes_that_do_not():
    z = RNG.normal(size=(40, 3))
    rows = colorization.use_of_code(z, np.repeat(z[None, :, :2], 6, 0))
    assert value(rows, "R2 of colour by z") == pytest.approx(1) and value(rows, "p, z unused") == 0.001
    rows = colorization.use_of_code(z, RNG.normal(size=(6, 40, 2)))
    assert value(rows, "R2 of colour by z") < 0.2 and value(rows, "p, z unused") > 0.01


def test_the_true_mixture_is_recalled_and_its_mean_is_not():
    N, K = 60, 40
    ab = cars.MODES[RNG.integers(0, 4, N)] + cars.MODE_STD * RNG.standard_normal((N, 2))
    truth = colorization.Truth(np.ones((N, 2, 2), bool), ab, cars.MODES, cars.MODE_WEIGHTS)
    drawn = cars.MODES[RNG.integers(0, 4, (N, K))] + cars.MODE_STD * RNG.standard_normal((N, K, 2))
    rows = colorization.against_truth(drawn, truth)
    assert value(rows, "mode recall") > 0.95 and value(rows, "colours of no mode") < 0.01
    assert value(rows, "KL of modes") < 0.01 and abs(value(rows, "KL to the mixture")) < 0.4
    assert value(rows, "rarest mode") > 0.2
    mean = np.broadcast_to(cars.MODES.mean(0), (N, K, 2)) + RNG.normal(0, 0.5, (N, K, 2))
    rows = colorization.against_truth(mean, truth)
    assert value(rows, "mode recall") == 0 and value(rows, "KL to the mixture") > 3
    assert value(rows, "KL of modes") == pytest.approx(np.log(4))  # (1.5, 3.5) is nearest to grey: one mode for all
    one = colorization.against_truth(drawn * 0 + 80, truth)
    assert value(one, "colours of no mode") == 1 and value(one, "KL of modes") == np.inf


@pytest.mark.parametrize(
    "recall, rival, said",
    [
        (0.99, 0.1, "The claim holds in this run: mode recall of AGE is 0.99, pix2pix + noise has 0.10."),
        (0.8, 0.1, "The claim does NOT hold in this run: mode recall of AGE is 0.80"),
        (0.95, 0.97, "The claim does NOT hold in this run"),
        (0.95, None, "The claim holds in this run: mode recall of AGE is 0.95, pix2pix + noise is not beside it."),
        (None, 1.0, "The claim holds in this run: ab std per pixel of AGE is 2.50, pix2pix + noise has 1.00."),
        (None, 3.0, "The claim does NOT hold in this run: ab std per pixel of AGE is 2.50"),
    ],
)
def test_the_verdict_is_that_of_the_numbers(recall, rival, said):
    def rows(model, spread, recall):
        found = {colorization.SPREAD: spread, colorization.R2: 0.75} | (
            {colorization.RECALL: recall} if recall is not None else {}
        )
        return [{"model": model, "metric": metric, "value": value} for metric, value in found.items()]

    of = rows("AGE", 2.5, recall) + [{"model": colorization.OTHERS, "metric": colorization.SPREAD, "value": 5.0}]
    of += rows("pix2pix + noise", 1.0 if recall else rival, rival if recall else None) if rival else []
    text = colorization.verdict(of)
    assert said in text
    assert "AGE: colorizations of an image differ by 2.50 Lab units, 50% of what other images' colours do; its code" in text
    assert "explains 75% of the mean colour" in text and ("all four true colours" in text) == (recall is not None)
