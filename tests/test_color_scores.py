import numpy as np
import pytest

from agelib import color_scores
from agelib.data.embedded import cars

RNG = np.random.default_rng(0)


def value(rows: list[dict], metric: str) -> float:
    (row,) = [row for row in rows if row["metric"] == metric]
    return row["value"]


def test_other_images_lend_their_colours_each_once():
    own = np.arange(6.0)[:, None, None, None] + np.zeros((6, 2, 4, 4))
    found = color_scores.other_images(own, 3, 6, seed=1)
    assert found.shape == (3, 6, 2, 4, 4)
    assert (np.sort(found[:, :, 0, 0, 0], 1) == np.arange(6)).all()


def test_rows_of_a_model_that_always_paints_the_truth():
    own = RNG.normal(0, 20, (5, 2, 4, 4))
    ab = np.repeat(own[:, None], 3, 1)
    assert [row["value"] for row in color_scores.diversity(ab)] == pytest.approx([0, 0], abs=1e-12)
    rows = color_scores.quality(ab, own, np.full((5, 3, 3, 4, 4), 9, np.uint8), 0.25)
    assert value(rows, "best of 3, L1") == 0 and value(rows, "colourfulness") == 0 and value(rows, "out of gamut") == 0.25
    assert value(color_scores.reconstruction(own + 2, own), "reconstruction of ab, L1") == pytest.approx(2)


def test_codes_that_mean_colour_and_codes_that_do_not():
    z = RNG.normal(size=(40, 3))
    meant = np.repeat(z[None, :, :2], 6, 0)
    rows = color_scores.use_of_code(z, meant)
    assert value(rows, "R2 of colour by z") == pytest.approx(1) and value(rows, "p, z unused") == 0.001
    rows = color_scores.use_of_code(z, RNG.normal(size=(6, 40, 2)))
    assert value(rows, "R2 of colour by z") < 0.2 and value(rows, "p, z unused") > 0.01


def test_the_true_mixture_is_recalled_and_its_mean_is_not():
    N, K = 60, 40
    truth = color_scores.Truth(
        np.ones((N, 2, 2), bool),
        cars.MODES[RNG.integers(0, 4, N)] + cars.MODE_STD * RNG.standard_normal((N, 2)),
        cars.MODES,
        cars.MODE_WEIGHTS,
    )
    drawn = cars.MODES[RNG.integers(0, 4, (N, K))] + cars.MODE_STD * RNG.standard_normal((N, K, 2))
    rows = color_scores.against_truth(drawn, truth)
    assert value(rows, "mode recall") > 0.95 and value(rows, "colours of no mode") < 0.01
    assert value(rows, "KL of modes") < 0.01 and abs(value(rows, "KL to the mixture")) < 0.4
    assert value(rows, "rarest mode") > 0.2
    mean = np.broadcast_to(cars.MODES.mean(0), (N, K, 2)) + RNG.normal(0, 0.5, (N, K, 2))
    rows = color_scores.against_truth(mean, truth)
    assert value(rows, "mode recall") == 0 and value(rows, "KL to the mixture") > 3
    assert value(rows, "KL of modes") == pytest.approx(np.log(4))  # (1.5, 3.5) is nearest to grey: one mode for all
    one = color_scores.against_truth(drawn * 0 + 80, truth)
    assert value(one, "colours of no mode") == 1 and value(one, "KL of modes") == np.inf
