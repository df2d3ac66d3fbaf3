"""Annealed importance sampling against models whose log p(x) is known exactly."""

import math
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch

from agelib.metrics import ais
from agelib.training import checkpoint
from agelib.training.fit import Busy

D, M, VARIANCE = 6, 3, 0.05
W = torch.randn(M, D, generator=torch.Generator().manual_seed(0)) * 0.1
B = torch.full((D,), 0.5)
# 5 leapfrog steps: with 10 and the largest step size of 0.5 a trajectory in this smooth posterior comes back to its start.
CFG = ais.AisConfig(n_chains=16, n_distributions=1000, n_leapfrog=5, first_step=0.1)


def linear(z):
    return z @ W + B


def exact(x, variance=VARIANCE):
    """log N(x; b, W^T W + variance I) in nats, (N,)."""
    covariance = (W.T @ W + variance * torch.eye(D)).double()
    return torch.distributions.MultivariateNormal(B.double(), covariance).log_prob(x.double()).numpy()


def images(n, seed=1):
    return ais.simulate(linear, n, M, VARIANCE, seed=seed)[1].clamp(0, 1)


@pytest.mark.parametrize(("step_per_image", "precision"), [(False, "fp32"), (True, "fp32"), (False, "bf16")])
def test_a_linear_gaussian_decoder_within_a_tenth_of_a_nat(step_per_image, precision):
    x = images(20)
    changes = {"n_chains": 64, "step_per_image": step_per_image, "precision": precision, "step_range": (1e-4, 2.0)}
    found = ais.forward(linear, x, M, VARIANCE, replace(CFG, **changes))
    assert np.abs(found.log_p - exact(x)).max() < 0.1
    assert found.mean == pytest.approx(exact(x).mean(), abs=0.02)
    assert found.acceptance.mean() > 0.6 and found.ess.min() > 32
    assert (len(set(found.step_size.tolist())) > 1) == step_per_image
    assert found.z.shape == (64, 20, M) and found.doubts() == []


def test_the_last_states_are_draws_of_the_posterior():
    """Posterior of a linear-Gaussian model: N((W W^T + s I)^-1 W (x - b), s (W W^T + s I)^-1)."""
    x = images(4)
    z = ais.forward(linear, x, M, VARIANCE, replace(CFG, n_chains=400)).z
    precision = torch.linalg.inv(W @ W.T + VARIANCE * torch.eye(M))
    mean, covariance = (x - B) @ W.T @ precision, VARIANCE * precision
    assert (z.mean(0) - mean).abs().max() < 0.25  # standard error of 400 draws of deviation <= 1: 0.05
    assert (torch.stack([z[:, i].T.cov() for i in range(4)]) - covariance).abs().max() < 0.3


def test_the_sandwich_closes_on_simulated_images():
    z, x = ais.simulate(linear, 40, M, VARIANCE, seed=1)
    found = ais.bdmc(linear, M, VARIANCE, 40, replace(CFG, seed=0))
    truth = exact(x).mean()
    assert found["lower"] - 0.02 < truth < found["upper"] + 0.02
    assert abs(found["gap"]) < 0.05 and found["interval"] < 0.06
    assert found["gap"] == pytest.approx(found["upper"] - found["lower"], abs=1e-9)


def test_with_few_distributions_the_two_bounds_lie_apart_on_their_own_sides():
    cfg = replace(CFG, n_distributions=6, n_chains=1, n_leapfrog=2)
    z, x = ais.simulate(linear, 300, M, 2e-4, seed=1)
    truth = exact(x, 2e-4).mean()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = ais.bdmc(linear, M, 2e-4, 300, cfg)
    assert found["lower"] < truth - 1 and found["upper"] > truth + 1


def test_a_bimodal_posterior():
    """One dimension, decode = 0.5 + 0.4 tanh(3 |z|): x = 0.8 is explained by z and -z alike; the truth by a sum over z."""

    def decode(z):
        return 0.5 + 0.4 * torch.tanh(3 * z.abs())

    x = torch.tensor([[0.8], [0.55]])
    grid = torch.linspace(-8, 8, 400_001, dtype=torch.float64)[:, None]
    log_prior = -0.5 * grid[:, 0] ** 2 - 0.5 * math.log(2 * math.pi)
    log_lik = -((decode(grid) - x.double().T) ** 2) / (2 * 1e-3) - 0.5 * math.log(2 * math.pi * 1e-3)
    truth = (log_prior[:, None] + log_lik).logsumexp(0) + math.log(16 / 400_000)
    found = ais.forward(decode, x, 1, 1e-3, replace(CFG, n_chains=200))
    assert found.log_p == pytest.approx(truth.numpy(), abs=0.1)
    assert 0.3 < (found.z[:, 0] > 0).float().mean() < 0.7  # both modes are found


def test_more_distributions_do_not_lower_the_estimate():
    """Nor raise it above the truth; with one chain and a small variance the first rungs are far below."""
    x = images(60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        few = replace(CFG, n_chains=1, n_leapfrog=3)
        means = [ais.forward(linear, x, M, 1e-3, replace(few, n_distributions=n)).mean for n in (4, 16, 64, 4000)]
    assert means[0] < means[1] - 1 and means[1] < means[2] and means[2] < means[3] + 0.5
    assert means[3] == pytest.approx(exact(x, 1e-3).mean(), abs=0.3)


def test_chains_and_blocks_do_not_change_what_is_estimated():
    x, changes = images(9), ({"n_chains": 48}, {"n_chains": 48, "block": 4}, {})
    results = [ais.forward(linear, x, M, VARIANCE, replace(CFG, **c)).log_p for c in changes]
    for other in results[1:]:
        assert np.abs(results[0] - other).max() < 0.2 and abs(results[0].mean() - other.mean()) < 0.03
        assert not np.array_equal(results[0], other)


def test_no_estimate_exceeds_the_bound():
    """Images that the decoder hits exactly come close to it: a decoder that ignores z attains it."""
    x = B.expand(3, D)
    cfg = replace(CFG, n_distributions=50)
    found = ais.forward(lambda z: B.expand(len(z), D) + 0 * z.sum(), x, M, VARIANCE, cfg)
    assert found.log_p == pytest.approx(ais.bound(D, VARIANCE), abs=1e-5)
    assert ais.forward(linear, x, M, VARIANCE, CFG).log_p.max() < ais.bound(D, VARIANCE)
    assert ais.bound(784, 0.03) == pytest.approx(654.1, abs=0.05)  # protocols of Wu et al.: 705 is impossible at 0.03
    assert ais.bound(784, 0.025) == pytest.approx(725.6, abs=0.05)


def test_the_sphere_enters_through_the_decoder():
    """decode(h/|h|) does not depend on |h|: the exact value is an average over angles."""

    def decode(h):
        return 0.5 + 0.3 * torch.nn.functional.normalize(h, dim=1)

    x = torch.tensor([[0.75, 0.6], [0.3, 0.35]])
    angle = torch.linspace(0, 2 * math.pi, 100_001, dtype=torch.float64)[:-1]
    means = 0.5 + 0.3 * torch.stack([angle.cos(), angle.sin()], 1)
    d2 = ((means[:, None] - x.double()) ** 2).sum(2)
    truth = (-d2 / 0.02).logsumexp(0) - math.log(100_000) - math.log(2 * math.pi * 0.01)
    found = ais.forward(decode, x, 2, 0.01, CFG)
    assert found.log_p == pytest.approx(truth.numpy(), abs=0.1)


def test_the_variance_that_made_the_images_is_chosen(tmp_path):
    x = ais.simulate(linear, 40, M, VARIANCE, seed=3)[1].clamp(0, 1)
    cfg = replace(CFG, n_distributions=200, n_chains=4)
    best, found = ais.select_variance(linear, x, M, (0.2, VARIANCE, 0.0125), cfg, folder=tmp_path)
    assert best == VARIANCE and list(found) == [0.2, VARIANCE, 0.0125]
    assert (tmp_path / "variance-0.0125").is_dir()


def test_a_variance_without_a_finite_estimate_is_never_chosen(monkeypatch):
    def forward(decode, x, M, variance, cfg, **_):
        return ais.Estimate(np.array([{0.1: math.nan, 0.2: -3.0, 0.3: -4.0, 0.4: math.inf}[variance]]), *[None] * 4)

    monkeypatch.setattr(ais, "forward", forward)
    assert ais.select_variance(linear, None, M, (0.1, 0.2, 0.3, 0.4), CFG)[0] == 0.2
    with pytest.raises(ValueError, match="no finite estimate under any of the variances 0.1, 0.4"):
        ais.select_variance(linear, None, M, (0.1, 0.4), CFG)


@pytest.mark.parametrize(("variances", "message"), [((), "at least one"), ((0.1, 0.0), "variance must be > 0 .* got 0.0")])
def test_variances_that_are_none_stop_before_any_chain(variances, message):
    def decode(z):
        raise AssertionError("a chain has begun")

    with pytest.raises(ValueError, match=message):
        ais.select_variance(decode, images(2), M, variances, CFG)


def test_the_schedule():
    beta = ais.betas(5)
    low, quarter, high = (1 / (1 + math.exp(-t)) for t in (-4, -2, 4))
    quarter = (quarter - low) / (high - low)
    assert beta.tolist() == pytest.approx([0, quarter, 0.5, 1 - quarter, 1]) and quarter == pytest.approx(0.10499, abs=1e-5)


def test_images_get_the_noise_of_their_last_bit():
    pixels = np.array([[0, 255], [128, 7]], dtype=np.uint8)
    x = ais.dequantise(pixels)
    assert torch.equal((x * 256).floor(), torch.from_numpy(pixels).float()) and torch.equal(x, ais.dequantise(pixels))
    assert not torch.equal(x, ais.dequantise(pixels, seed=1))
    many = ais.dequantise(np.full((100_000, 1), 255, np.uint8))
    assert many.max() < 1 and many.mean() == pytest.approx(255.5 / 256, abs=1e-4)


WORKER = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {here!r})
import test_ais
found = test_ais.long_estimate({folder!r})
torch.save([torch.from_numpy(found.log_p), found.z], {out!r})
"""


def long_estimate(folder):
    cfg = replace(CFG, n_distributions=1500, block=5, n_chains=4)
    return ais.forward(linear, images(10), M, VARIANCE, cfg, folder=folder, checkpoint_every_s=0.05)


def test_a_killed_estimate_goes_on_bit_for_bit(tmp_path):
    """Killed twice, each time when it has written a checkpoint more than it found."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = long_estimate(tmp_path / "whole")
    torch.set_num_threads(threads)
    out, folder = tmp_path / "out.pt", tmp_path / "killed"
    code = WORKER.format(here=str(Path(__file__).parent), folder=str(folder), out=str(out))
    for _ in range(2):
        process, found = subprocess.Popen([sys.executable, "-c", code]), _steps(folder)
        while process.poll() is None and _steps(folder) == found:
            time.sleep(0.005)
        assert process.poll() is None, "it ended before it could be killed"
        process.kill()
        process.wait()
    subprocess.run([sys.executable, "-c", code], check=True)
    log_p, z = torch.load(out)
    assert np.array_equal(log_p.numpy(), whole.log_p) and torch.equal(z, whole.z)


def _steps(folder):
    return sorted(p.name for p in folder.glob("*/step-*.pt"))


def test_a_folder_gives_its_estimate_again_and_another_is_refused(tmp_path):
    """With a checkpoint after each step; a left-over of a killed writer goes."""
    cfg, x, left = replace(CFG, n_distributions=20), images(3), tmp_path / "block-0000" / ".step.pt.123.part"
    left.parent.mkdir()
    left.touch()
    first = ais.forward(linear, x, M, VARIANCE, cfg, folder=tmp_path, checkpoint_every_s=0)
    again = ais.forward(linear, x, M, VARIANCE, cfg, folder=tmp_path)
    assert np.array_equal(first.log_p, again.log_p) and not left.exists()
    assert first.log_p == pytest.approx(ais.forward(linear, x, M, VARIANCE, cfg).log_p, abs=0)
    with pytest.raises(ValueError, match="variance"):
        ais.forward(linear, x, M, 0.06, cfg, folder=tmp_path)
    with pytest.raises(ValueError, match="images and decoder"):
        ais.forward(lambda z: linear(z) * 0.9, x, M, VARIANCE, cfg, folder=tmp_path)
    with filelock.FileLock(left.parent / ".lock"), pytest.raises(Busy, match="block-0000: another process"):
        ais.forward(linear, x, M, VARIANCE, cfg, folder=tmp_path)
    checkpoint.save(left.parent, 99, {"t": 3})
    with pytest.raises(ValueError, match="step-000000099-.*: no checkpoint of this version's AIS"):
        ais.forward(linear, x, M, VARIANCE, cfg, folder=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.full((2, D), 1.5)}, r"\[0, 1\]"),
        ({"x": torch.full((2, D), math.nan)}, "not finite"),
        ({"x": torch.zeros(0, D)}, "N >= 1"),
        ({"x": torch.zeros(2, D, dtype=torch.uint8)}, "float images"),
        ({"variance": 0.0}, "variance must be > 0"),
        ({"variance": math.nan}, "variance must be > 0"),
        ({"variance": math.inf}, "variance must be > 0 and finite"),
        ({"checkpoint_every_s": math.nan}, "checkpoint_every_s must be at least 0, got nan"),
        ({"decode": lambda z: torch.zeros(len(z), D + 1)}, f"the images have {D} values each"),
        ({"decode": lambda z: torch.full((len(z), D), math.nan)}, "not finite"),
    ],
)
def test_bad_input_stops_before_any_chain(change, message):
    calls = []

    def counting(z):
        calls.append(1)
        return linear(z)

    given = {"decode": counting, "x": images(2), "M": M, "variance": VARIANCE, "cfg": CFG} | change
    with pytest.raises(ValueError, match=message):
        ais.forward(**given)
    assert len(calls) <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_chains": 0}, "n_chains must be at least 1, is 0"),
        ({"n_chains": 1.5}, "n_chains must be int, is 1.5"),
        ({"n_distributions": 1}, "n_distributions must be at least 2"),
        ({"acceptance": 1.0}, "acceptance must be at least 0 and below 1, is 1.0"),
        ({"first_step": 0.9}, "first_step 0.9 <= high"),
        ({"step_range": 0.5}, "got 0.5"),
        ({"first_step": math.nan}, "first_step must be finite"),
        ({"precision": "half"}, "unknown precision 'half'"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(CFG, **changes)


def test_an_estimate_that_a_single_chain_carries_is_doubted():
    cfg = replace(CFG, n_distributions=3, n_chains=16, n_leapfrog=1)
    with pytest.warns(UserWarning, match="a single chain carries the weight"):
        ais.forward(linear, images(20), M, 1e-4, cfg)
    lost = ais.Estimate(np.array([1.0, math.nan]), *(np.ones(2),) * 3, torch.zeros(1, 2, M))
    assert lost.doubts() == ["no finite estimate for 1 of 2 images; does the decoder overflow?"]
