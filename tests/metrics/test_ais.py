"""Annealed importance sampling, and the cheap likelihoods, against models whose log p(x) is known exactly."""

import math
import multiprocessing
import time
from dataclasses import replace

import filelock
import numpy as np
import pytest
import torch

from agelib.metrics import ais, density
from agelib.training import checkpoint
from agelib.training.fit import Busy

D, M, VARIANCE = 6, 3, 0.05
W = torch.randn(M, D, generator=torch.Generator().manual_seed(0)) * 0.1
B = torch.full((D,), 0.5)
# 5 leapfrog steps: with 10 and the largest step size of 0.5 a trajectory in this smooth posterior comes back to its start.
CFG = ais.AisConfig(n_chains=16, n_distributions=1000, n_leapfrog=5, first_step=0.1)


def linear(z):
    return z @ W + B


def exact(x, variance=VARIANCE, W=W):
    """log N(x; b, W^T W + variance I) in nats, (N,)."""
    covariance = (W.T @ W + variance * torch.eye(D)).double()
    return torch.distributions.MultivariateNormal(B.double(), covariance).log_prob(x.double()).numpy()


def images(n, seed=1):
    return ais.simulate(linear, n, M, VARIANCE, seed=seed)[1].clamp(0, 1)


@pytest.mark.parametrize(
    ("changes", "step_sizes"),
    [({}, 1), ({"block": 7}, 3), ({"step_per_image": True}, 20), ({"precision": "bf16"}, 1)],
)
def test_a_linear_gaussian_decoder_within_a_tenth_of_a_nat(changes, step_sizes):
    x = images(20)
    found = ais.forward(linear, x, M, VARIANCE, replace(CFG, n_chains=64, step_range=(1e-4, 2.0), **changes))
    assert np.abs(found.log_p - exact(x)).max() < 0.1
    assert found.mean == pytest.approx(exact(x).mean(), abs=0.02)
    assert found.acceptance.mean() > 0.6 and found.ess.min() > 32
    assert step_sizes / 2 < len(set(found.step_size.tolist())) <= step_sizes
    assert found.z.shape == (64, 20, M) and found.doubts() == []


def test_the_last_states_are_draws_of_the_posterior():
    """Posterior of a linear-Gaussian model: N((W W^T + s I)^-1 W (x - b), s (W W^T + s I)^-1)."""
    x = images(4)
    z = ais.forward(linear, x, M, VARIANCE, replace(CFG, n_chains=400)).z
    precision = torch.linalg.inv(W @ W.T + VARIANCE * torch.eye(M))
    mean, covariance = (x - B) @ W.T @ precision, VARIANCE * precision
    assert (z.mean(0) - mean).abs().max() < 0.25  # standard error of 400 draws of deviation <= 1: 0.05
    assert (torch.stack([z[:, i].T.cov() for i in range(4)]) - covariance).abs().max() < 0.3


def test_the_sandwich_closes_on_simulated_images_and_with_few_distributions_is_wide():
    truth = exact(ais.simulate(linear, 40, M, VARIANCE, seed=1)[1]).mean()
    found = ais.bdmc(linear, M, VARIANCE, 40, CFG)
    assert found["lower"] - 0.02 < truth < found["upper"] + 0.02
    assert abs(found["gap"]) < 0.05 and found["interval"] < 0.06
    assert found["gap"] == pytest.approx(found["upper"] - found["lower"], abs=1e-9)
    truth = exact(ais.simulate(linear, 300, M, 2e-4, seed=1)[1], 2e-4).mean()
    found = ais.bdmc(linear, M, 2e-4, 300, replace(CFG, n_distributions=6, n_chains=1, n_leapfrog=2))
    assert found["lower"] < truth - 1 and found["upper"] > truth + 1


def bumps(z):
    """x = 0.8 is explained by z and -z alike."""
    return 0.5 + 0.4 * torch.tanh(3 * z.abs())


def circle(h):
    """A prior on the sphere enters through the decoder: |h| makes no difference."""
    return 0.5 + 0.3 * torch.nn.functional.normalize(h, dim=1)


LINE, ANGLE = torch.linspace(-8, 8, 400_001).double(), torch.linspace(0, 2 * math.pi, 100_001).double()[1:]
WEIGHTS = -0.5 * LINE**2 - 0.5 * math.log(2 * math.pi) + math.log(16 / 400_000), torch.full((100_000,), -math.log(100_000))


@pytest.mark.parametrize(
    ("decode", "codes", "log_weights", "x", "variance"),
    [
        (bumps, LINE[:, None], WEIGHTS[0], [[0.8], [0.55]], 1e-3),
        (circle, torch.stack([ANGLE.cos(), ANGLE.sin()], 1), WEIGHTS[1], [[0.75, 0.6], [0.3, 0.35]], 0.01),
    ],
)
def test_other_posteriors_against_a_sum_over_all_codes(decode, codes, log_weights, x, variance):
    x = torch.tensor(x)
    log_lik = ((decode(codes)[:, None] - x.double()) ** 2).sum(2) / (-2 * variance) + ais.bound(x.shape[1], variance)
    truth = (log_weights[:, None] + log_lik).logsumexp(0)
    found = ais.forward(decode, x, codes.shape[1], variance, replace(CFG, n_chains=200))
    assert found.log_p == pytest.approx(truth.numpy(), abs=0.1)
    assert 0.3 < (found.z[:, 0, 0] > 0).float().mean() < 0.7 or decode is circle  # both modes are found


def test_one_run_holds_every_larger_variance():
    """Each point of the path against a run at that variance and against the exact answer."""
    x, cfg = images(40, 3), replace(CFG, n_chains=64, step_range=(1e-4, 2.0))
    found = ais.forward(linear, x, M, VARIANCE / 4, cfg)
    assert found.path.shape == (999, 40) and np.array_equal(found.path[-1], found.log_p)
    assert found.variances[-1] == VARIANCE / 4 and (np.diff(found.variances) < 0).all()
    for v in (VARIANCE / 2, VARIANCE, 4 * VARIANCE):
        k = int(np.abs(np.log(found.variances / v)).argmin())
        apart = ais.forward(linear, x, M, float(found.variances[k]), cfg).log_p
        assert np.abs(found.path[k] - apart).max() < 0.3
        assert np.abs(found.path[k] - exact(x, found.variances[k])).max() < 0.3


def test_the_variance_that_made_the_images_is_chosen_and_none_without_a_finite_estimate(monkeypatch):
    cfg, x = replace(CFG, n_distributions=400), images(200, 3)
    best, found = ais.select_variance(linear, x, M, VARIANCE / 5, replace(cfg, block=200))
    likeliest = max(np.geomspace(VARIANCE / 2, 2 * VARIANCE, 200), key=lambda v: exact(x, v).mean())
    assert best == pytest.approx(likeliest, rel=0.05) and best == float(f"{best:.3g}")
    assert found.path.mean(1).max() == pytest.approx(exact(x, likeliest).mean(), abs=0.05)
    with pytest.warns(UserWarning, match=f"smallest variance, {4 * VARIANCE}, is the likeliest"):
        assert ais.select_variance(linear, x[:20], M, 4 * VARIANCE, cfg)[0] == 4 * VARIANCE

    def known(*nats):
        path = np.array(nats)[:, None]
        return lambda *_, **__: ais.Estimate(path[-1], *[None] * 4, variances=np.array([0.4, 0.2, 0.1]), path=path)

    monkeypatch.setattr(ais, "forward", known(-4.0, math.nan, math.inf))
    assert ais.select_variance(linear, None, M, 0.1, CFG)[0] == 0.4
    monkeypatch.setattr(ais, "forward", known(math.nan, -math.inf, math.inf))
    with pytest.raises(ValueError, match="under any variance from 0.1 on"):
        ais.select_variance(linear, None, M, 0.1, CFG)


def test_the_least_error_of_any_code_and_the_bound_it_sets():
    """Least squares: x - b projected off the rows of W; where no search finds that code, the bound lies too low."""
    x = images(5)
    rest = (x - B) @ (torch.eye(D) - W.T @ torch.linalg.inv(W @ W.T) @ W)
    starts = torch.randn(3, 5, M, generator=torch.Generator().manual_seed(1))
    found = ais.least_error(linear, x, starts, n_steps=600)
    assert found == pytest.approx(rest.square().mean(1).numpy(), abs=1e-5)
    assert (ais.least_error(linear, x, starts, n_steps=0) >= found).all() and not starts.requires_grad
    assert (exact(x) <= ais.bound(D, VARIANCE, found)).all()
    # At a variance of .03 a best-code error of .023 allows at most 354 nats (784 pixels).
    assert ais.bound(784, 0.03, 0.023) == pytest.approx(353.6, abs=0.1)


def test_the_schedule_and_the_bound():
    low, quarter, high = (1 / (1 + math.exp(-t)) for t in (-4, -2, 4))
    quarter = (quarter - low) / (high - low)
    assert ais.betas(5).tolist() == pytest.approx([0, quarter, 0.5, 1 - quarter, 1]) and round(quarter, 5) == 0.10499
    # The protocols of Wu et al.: 705 nats are impossible at a variance of 0.03. A decoder that hits the images attains it.
    assert [ais.bound(784, v) for v in (0.03, 0.025)] == pytest.approx([654.1, 725.6], abs=0.05)
    found = ais.forward(lambda z: B.expand(len(z), D) + 0 * z.sum(), B[None], M, VARIANCE, replace(CFG, n_distributions=50))
    assert found.log_p == pytest.approx(ais.bound(D, VARIANCE), abs=1e-5)


def test_images_get_the_noise_of_their_last_bit_and_simulated_ones_no_gradient():
    pixels = np.array([[0, 255], [128, 7]], dtype=np.uint8)
    x = ais.dequantise(pixels)
    assert torch.equal((x * 256).floor(), torch.from_numpy(pixels).float()) and torch.equal(x, ais.dequantise(pixels))
    assert not torch.equal(x, ais.dequantise(pixels, seed=1))
    many = ais.dequantise(np.full((100_000, 1), 255, np.uint8))
    assert many.max() < 1 and many.mean() == pytest.approx(255.5 / 256, abs=1e-4)
    assert not ais.simulate(torch.nn.Linear(M, D), 2, M, VARIANCE)[1].requires_grad


def long_estimate(folder):
    torch.set_num_threads(1)
    cfg = replace(CFG, n_distributions=1500, block=5, n_chains=4)
    return ais.forward(linear, images(10), M, VARIANCE, cfg, folder=folder, checkpoint_every_s=0.05)


def test_a_killed_estimate_goes_on_bit_for_bit(tmp_path):
    """Killed twice, each time when it has written a checkpoint more than it found."""
    whole, folder = long_estimate(tmp_path / "whole"), tmp_path / "killed"
    for _ in range(2):
        found = {*folder.glob("*/step-*.pt")}
        process = multiprocessing.get_context("spawn").Process(target=long_estimate, args=(folder,))
        process.start()
        while process.is_alive() and {*folder.glob("*/step-*.pt")} == found:
            time.sleep(0.005)
        assert process.is_alive(), "it ended before it could be killed"
        process.kill()
        process.join()
    resumed = long_estimate(folder)
    assert np.array_equal(resumed.log_p, whole.log_p) and torch.equal(resumed.z, whole.z)


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
    for other, m in ((lambda z: linear(z) * 0.9, M), (lambda z: linear(z[:, :M]), M + 1)):
        with pytest.raises(ValueError, match="images and decoder"):
            ais.forward(other, x, m, VARIANCE, cfg, folder=tmp_path)
    with filelock.FileLock(left.parent / ".lock"), pytest.raises(Busy, match="block-0000: another process"):
        ais.forward(linear, x, M, VARIANCE, cfg, folder=tmp_path)
    checkpoint.save(left.parent, 99, {"t": 3})
    with pytest.raises(checkpoint.CheckpointError, match="step-000000099-.*: not a checkpoint of this form"):
        ais.forward(linear, x, M, VARIANCE, cfg, folder=tmp_path)


def test_another_number_of_threads_is_said_at_a_resume(tmp_path, monkeypatch):
    chains = ais.Chains(linear, images(3), None, M, VARIANCE, replace(CFG, n_distributions=20), folder=tmp_path)
    chains.advance()
    chains.save()
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    with pytest.warns(UserWarning, match=rf"step-000000001.*: made with {threads} threads, goes on with {threads + 1}: not"):
        assert ais.Chains(linear, images(3), None, M, VARIANCE, chains.cfg, folder=tmp_path).t == 1


@pytest.mark.filterwarnings("ignore:AIS. HMC accepts only")
def test_an_estimate_that_a_single_chain_carries_is_doubted():
    with pytest.warns(UserWarning, match="a single chain carries the weight"):
        ais.forward(linear, images(20), M, 1e-4, replace(CFG, n_distributions=3, n_leapfrog=1))
    lost = ais.Estimate(np.array([1.0, math.nan]), *(np.ones(2),) * 3, torch.zeros(1, 2, M), np.ones(1), np.ones((1, 2)))
    assert lost.doubts() == ["no finite estimate for 1 of 2 images; does the decoder overflow?"]


# ---- density ----
def test_kde_by_hand_and_the_width_of_the_data():
    """Two samples at 0 and 1, x at 0, std 0.5: log((1 + exp(-2)) / 2) + log N(0; 0, 0.25)."""
    expected = math.log((1 + math.exp(-2)) / 2) - 0.5 * math.log(2 * math.pi * 0.25)
    for block in (1, 2):
        found = density.kde(torch.tensor([[0.0], [1.0]]), torch.zeros(1, 1), 0.5, block)
        assert found.item() == pytest.approx(expected, abs=1e-6)
    x = 0.5 + 0.17 * torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
    best, means = density.choose_std(torch.full((3, 1), 0.5), x)
    assert best == 0.17 and len(means) == 20 and max(means) == means[7]


def test_iwae_of_the_exact_posterior_is_exact_with_one_sample_and_of_another_a_lower_bound():
    """A diagonal posterior: W with orthogonal rows. Then every weight is p(x)."""
    rows = 0.1 * torch.linalg.qr(W.T)[0].T
    x = (torch.randn(5, M, generator=torch.Generator().manual_seed(3)) @ rows + B).clamp(0, 1)
    shrink, generator = 1 / (0.01 + VARIANCE), torch.Generator().manual_seed(0)
    mean, log_sigma = (x - B) @ rows.T * shrink, torch.full((5, M), 0.5 * math.log(VARIANCE * shrink))
    one, few, many = (
        density.iwae(lambda z: z @ rows + B, m, log_sigma, x, VARIANCE, n, generator=generator).numpy()
        for m, n in ((mean, 1), (mean + 1, 1), (mean + 1, 20_000))
    )
    truth = exact(x, W=rows)
    assert one == pytest.approx(truth, abs=1e-4)
    assert few.mean() < truth.mean() - 0.3 and many.mean() == pytest.approx(truth.mean(), abs=0.1)


TWO, ONE, X = torch.zeros(1, 2), torch.zeros(1, 1), images(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ais.forward(linear, X + 1, M, VARIANCE, CFG), r"in \[0, 1\]"),
        (lambda: ais.forward(linear, X * math.nan, M, VARIANCE, CFG), "from nan to nan"),
        (lambda: ais.forward(linear, X.byte(), M, VARIANCE, CFG), "float images"),
        (lambda: ais.forward(linear, X, M, math.inf, CFG), "variance must be > 0 and finite"),
        (lambda: ais.forward(lambda z: linear(z)[:, 1:], X, M, VARIANCE, CFG), f"finite values, {D} a code as the images"),
        (lambda: ais.forward(lambda z: linear(z) / 0, X, M, VARIANCE, CFG), "must give finite"),
        (lambda: density.kde(torch.zeros(2, 1), ONE, 0.0), r"0 < std < inf; got \[2, 1\], \[1, 1\], 0.0"),
        (lambda: density.kde(torch.zeros(2, 1), TWO, 1.0), "need samples"),
        (lambda: density.choose_std(torch.full((2, 1), math.inf), ONE), "not finite"),
        (lambda: density.iwae(None, TWO, TWO, torch.zeros(1, 3), 0.0, 1), "need variance > 0 .* got 0.0"),
        (lambda: density.iwae(None, TWO, TWO, torch.zeros(1, 3), 1.0, 0), "n_samples >= 1, got 1.0 and 0"),
        (lambda: replace(CFG, first_step=0.9), "around first_step 0.9"),
        (lambda: replace(CFG, precision="half"), "unknown precision 'half'"),
    ],
)
def test_bad_values_are_refused_before_any_chain(call, message, monkeypatch):
    monkeypatch.setattr(ais, "Chains", None)
    with pytest.raises(ValueError, match=message):
        call()
