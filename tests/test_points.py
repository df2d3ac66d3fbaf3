import numpy as np
import pytest

from agelib import points, toy


@pytest.mark.parametrize("method", points.METHODS)
def test_training_moves_samples_towards_the_data_and_repeats_itself(method):
    """All points in one Gaussian away from the origin: after a few hundred steps the samples' mean has come near it."""
    X = (np.random.default_rng(0).standard_normal((2000, 2)) * 0.05 + [0.6, -0.4]).astype(np.float32)
    settings = {"width": 32, "B": 64, "seed": 1, "n_samples": 500}
    before = points.train(method, X, n_steps=0, **settings)
    after = points.train(method, X, n_steps=300, **settings)
    assert before.shape == after.shape == (500, 2)
    far, near = (np.linalg.norm(p.mean(0) - [0.6, -0.4]) for p in (before, after))
    assert near < 0.5 * far
    assert np.array_equal(after, points.train(method, X, n_steps=300, **settings))


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="unknown method 'VAE'; valid: AGE, ALI, GAN"):
        points.make_step("VAE", 8)


def test_the_measure_is_the_grids_own():
    assert toy.modes(points.train("GAN", toy.grid_of_gaussians(500), width=8, n_steps=1, B=8, seed=0))["covered"] <= 25
