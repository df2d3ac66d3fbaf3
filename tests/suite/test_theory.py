import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from agelib import networks
from suite import theory

T = torch.tensor


@pytest.mark.parametrize(("s", "b", "w", "c"), [(1.0, 0.7, 2.0, 0.3), (0.4, -0.5, -1.5, 1.0), (2.0, 0.0, 0.5, -0.2)])
def test_closed_forms_against_divergences_and_samples(s, b, w, c):
    egz, ex, z = Normal(w * b + c, abs(w) * s), Normal(c, abs(w)), Normal(0.0, 1.0)
    v1, v2 = theory.game1(T(s), T(b), T(w)).item(), theory.game2(T(s), T(b), T(w), T(c)).item()
    assert v1 == pytest.approx(kl_divergence(egz, ex).item(), rel=1e-5)
    assert v2 == pytest.approx((kl_divergence(egz, z) - kl_divergence(ex, z)).item(), rel=1e-4, abs=1e-6)
    assert theory.measured(s, b, w, c) == (pytest.approx(v1, abs=0.02), pytest.approx(v2, abs=0.02))


def test_the_saddle_of_the_second_game():
    """At g = identity V2 is 0 for every e; it is least in g there only if e(X) = Y; sup over e is infinite for b != 0."""
    for w, c in ((1.0, 0.0), (3.0, 2.0), (-0.2, 1.0)):
        assert theory.game2(T(1.0), T(0.0), T(w), T(c)).item() == pytest.approx(0, abs=1e-7)
    around = [(1.05, 0.0), (0.95, 0.0), (1.0, 0.1), (1.0, -0.1)]
    assert all(theory.game2(T(s), T(b), T(1.0), T(0.0)).item() > 0 for s, b in around)
    assert theory.game2(T(1.0), T(-0.1), T(1.0), T(0.5)).item() < 0  # c != 0: a shift pays
    assert theory.game2(T(0.9), T(0.0), T(2.0), T(0.0)).item() < 0  # w^2 != 1: shrinking pays
    assert theory.game2(T(1.0), T(0.1), T(1e4), T(0.0)).item() > 1e5
    # s < 1, b = 0: the best encoder is constant, and its value is -log s
    values = [theory.game2(T(0.5), T(0.0), T(w), T(0.0)).item() for w in (0.0, 0.5, 1.0, 2.0)]
    assert values[0] == pytest.approx(math.log(2)) and values == sorted(values, reverse=True)
    # a fixed encoder allows no collapse
    values = [theory.game2(T(s), T(0.0), T(1.0), T(0.0)).item() for s in (1e-1, 1e-3, 1e-6)]
    assert values == sorted(values) and values[2] > 13


def test_one_alternating_step_by_hand():
    """s 1, b 1/2, w 1, c 0: V2 = 1/8, dV2/dw = w b^2 + b c + w (s^2 - 1) = 1/4, dV2/dc = w b = 1/2; then g sees the new e:
    with w 1.1, c 0.2: dV2/ds = w^2 s - 1/s = 0.21, dV2/db = w^2 b + w c = 0.825."""
    path = theory.alternate((1.0, 0.5, 1.0, 0.0), n_steps=1, lr=0.4, n_g_steps=1)
    assert path[0].tolist() == [1.0, 0.5, 1.0, 0.0]
    assert path[1].tolist() == pytest.approx([1 - 0.4 * 0.21, 0.5 - 0.4 * 0.825, 1.1, 0.2])
    still = theory.alternate((1.0, 0.0, 1.0, 0.0), n_steps=50)
    assert np.abs(still - [1, 0, 1, 0]).max() == 0  # the saddle stays


def test_modes_by_hand():
    centres = theory.CENTRES
    assert centres.shape == (25, 2) and centres.min() == pytest.approx(-0.8) and centres.max() == pytest.approx(0.8)
    points = np.concatenate([centres[:3], centres[3:4] + 0.1, np.repeat(centres[:1], 4, 0)])
    assert theory.modes(points) == {"covered": 4, "precise": 3, "quality": pytest.approx(7 / 8)}
    # The grid's own samples cover it.
    points = theory.grid_of_gaussians(5000, seed=1)
    found = theory.modes(points)
    assert points.dtype == np.float32 and found["covered"] == found["precise"] == 25
    assert found["quality"] == pytest.approx(1 - math.exp(-4.5), abs=0.006)  # 2-D normal within 3 sd: 0.9889
    assert np.array_equal(points, theory.grid_of_gaussians(5000, seed=1))


def test_theorem_three_and_its_counter_example():
    """With f onto the ellipse L_X follows L_Z to 0; with f onto half of it L_Z falls as far and L_X stays."""
    last = {}
    for half in (False, True):
        torch.manual_seed(0)
        h = networks.MlpEncoder((2, 64, 64, 2), "gaussian")
        rows = theory.reciprocity(h, half=half, n_steps=800)
        assert [row["step"] for row in rows] == list(range(0, 801, 25))
        last[half] = rows[-1]
        assert rows[0]["l_z"] > 0.3
    assert last[False]["l_z"] < 0.01 and last[False]["l_x"] < 0.01
    assert last[True]["l_z"] < 0.1 and last[True]["l_x"] > 0.2
    # The ellipse and its half, by hand.
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 1e-9]])
    whole, half = theory.ellipse(z), theory.ellipse(z, half=True)
    torch.testing.assert_close(whole, torch.tensor([[1.0, 0.0], [0.3, 0.5], [-1.0, 0.0]]), atol=1e-6, rtol=0)
    root = math.sqrt(0.5)
    torch.testing.assert_close(half, torch.tensor([[1.0, 0.0], [1.3 * root, 0.5 * root], [0.3, 0.5]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", theory.METHODS)
def test_training_moves_samples_towards_the_data_and_repeats_itself(method):
    """All points in one Gaussian away from the origin: after a few hundred steps the samples' mean has come near it."""
    X = (np.random.default_rng(0).standard_normal((2000, 2)) * 0.05 + [0.6, -0.4]).astype(np.float32)
    settings = {"width": 32, "B": 64, "seed": 1, "n_samples": 500}
    before = theory.train(method, X, n_steps=0, **settings)
    after = theory.train(method, X, n_steps=300, **settings)
    assert before.shape == after.shape == (500, 2)
    far, near = (np.linalg.norm(p.mean(0) - [0.6, -0.4]) for p in (before, after))
    assert near < 0.5 * far
    assert np.array_equal(after, theory.train(method, X, n_steps=300, **settings))
