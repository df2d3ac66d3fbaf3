"""The cheap likelihood estimates: by hand, and against a model whose log p(x) is known exactly."""

import math

import pytest
import torch

from agelib.metrics import density

D, M = 6, 3
W = torch.randn(M, D, generator=torch.Generator().manual_seed(0)) * 0.1
B = torch.full((D,), 0.5)


def test_kde_by_hand():
    """Two samples at 0 and 1, x at 0, std 0.5: log((1 + exp(-2)) / 2) + log N(0; 0, 0.25)."""
    samples, x = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0]])
    expected = math.log((1 + math.exp(-2)) / 2) - 0.5 * math.log(2 * math.pi * 0.25)
    for block in (1, 2):
        assert density.kde(samples, x, 0.5, block).item() == pytest.approx(expected, abs=1e-6)


def test_kde_finds_the_width_of_the_data():
    rng = torch.Generator().manual_seed(0)
    samples, x = (0.5 + 0.17 * torch.randn(n, 1, generator=rng) for n in (3, 4000))
    best, means = density.choose_std(torch.full((3, 1), 0.5), x)
    assert best == 0.17 and len(means) == 20 and max(means) == means[7]


def test_iwae_of_the_exact_posterior_is_exact_with_one_sample():
    """A diagonal posterior: W with orthogonal rows. Then every weight is p(x)."""
    variance = 0.05
    rows = 0.1 * torch.linalg.qr(W.T)[0].T
    x = (torch.randn(5, M, generator=torch.Generator().manual_seed(3)) @ rows + B).clamp(0, 1)
    shrink = 1 / (0.01 + variance)
    mean, log_sigma = (x - B) @ rows.T * shrink, torch.full((5, M), 0.5 * math.log(variance * shrink))
    covariance = (rows.T @ rows + variance * torch.eye(D)).double()
    truth = torch.distributions.MultivariateNormal(B.double(), covariance).log_prob(x.double())
    generator = torch.Generator().manual_seed(0)
    one = density.iwae(lambda z: z @ rows + B, mean, log_sigma, x, variance, 1, generator=generator)
    assert one.numpy() == pytest.approx(truth.numpy(), abs=1e-4)
    off = density.iwae(lambda z: z @ rows + B, mean + 1, log_sigma, x, variance, 1, generator=generator)
    many = density.iwae(lambda z: z @ rows + B, mean + 1, log_sigma, x, variance, 20_000, generator=generator)
    assert off.mean() < truth.mean() - 0.3 and many.mean().item() == pytest.approx(truth.mean().item(), abs=0.1)


TWO = torch.zeros(1, 2), torch.zeros(1, 2)


@pytest.mark.parametrize(
    ("call", "args", "message"),
    [
        (density.kde, (torch.zeros(2, 1), torch.zeros(1, 1), 0.0), "std must be > 0 and finite, got 0.0"),
        (density.kde, (torch.zeros(2, 1), torch.zeros(1, 2), 1.0), "need samples"),
        (density.kde, (torch.full((2, 1), math.nan), torch.zeros(1, 1), 1.0), "not finite"),
        (density.choose_std, (torch.full((2, 1), math.inf), torch.zeros(1, 1)), "not finite"),
        (density.iwae, (None, *TWO, torch.zeros(1, 3), 0.0, 1), "need variance > 0 .* got 0.0"),
        (density.iwae, (None, *TWO, torch.zeros(1, 3), 1.0, 0), "n_samples >= 1, got 1.0 and 0"),
        (density.iwae, (None, *TWO, torch.zeros(2, 3), 1.0, 1), r"need \(N, M\)"),
    ],
)
def test_bad_input_is_refused(call, args, message):
    with pytest.raises(ValueError, match=message):
        call(*args)
