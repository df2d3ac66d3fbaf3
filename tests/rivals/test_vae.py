import copy
import math

import pytest
import torch

from agelib.rivals import vae


def build(**settings):
    torch.manual_seed(1)
    return vae.build(vae.Config(width=4, **settings), (3, 32, 32))


def test_kl_by_hand():
    """mean (1, 0), sigma (1, 2): ((1 + 1 - 1 - 0) + (0 + 4 - 1 - log 4)) / 2 = 1.306853."""
    mean, log_sigma = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, math.log(2)], [0.0, 0.0]])
    assert vae.kl_to_prior(mean, log_sigma).tolist() == pytest.approx([1.306853, 0.0], abs=1e-6)


def test_likelihood_by_hand():
    """Four values, each off by 1: sigma2 = 1/2 gives 2 (log pi + 2); learnt (sigma2 = 1) gives 2 (log 2 pi + 1)."""
    x, gz = torch.ones(3, 1, 2, 2), torch.zeros(3, 1, 2, 2)
    assert vae.neg_log_likelihood(x, gz, 0.5).item() == pytest.approx(6.289460, abs=1e-5)
    assert vae.neg_log_likelihood(x, gz, None).item() == pytest.approx(5.675754, abs=1e-5)
    assert all(vae.neg_log_likelihood(x, gz, other).item() > 5.6768 for other in (0.8, 1.25))  # the learnt one is the best
    with pytest.raises(ValueError, match="shapes differ"):
        vae.neg_log_likelihood(x, gz[:, :, :1], None)


@pytest.mark.parametrize("sigma2", [None, 0.1])
def test_one_update_equals_the_bound_written_out(sigma2):
    nets = build(M=4)
    other = copy.deepcopy(nets)
    x = torch.rand(6, 3, 32, 32) * 2 - 1
    step = vae.make_step(nets, vae.Config(lr=1e-3, sigma2=sigma2, precision="fp32"))
    torch.manual_seed(5)
    logs = step(x)
    torch.manual_seed(5)
    mean, log_variance = other["e"].net(x).chunk(2, 1)
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    gz = other["g"](mean + q.scale * torch.randn(6, 4))
    variance = ((x - gz) ** 2).mean() if sigma2 is None else torch.tensor(sigma2)
    p = torch.distributions.Normal(gz, variance.sqrt().expand_as(gz))
    prior = torch.distributions.Normal(torch.zeros(4), torch.ones(4))
    nll = -p.log_prob(x).sum((1, 2, 3)).mean()
    kl = torch.distributions.kl_divergence(q, prior).sum(1).mean()
    (nll + kl).backward()
    for net in other.values():
        torch.optim.Adam(net.parameters(), 1e-3, (0.5, 0.999)).step()
    found = {"nll": nll, "kl": kl, "neg_elbo": nll + kl, "l_x": (x - gz).abs().mean()}
    assert {name: value.item() for name, value in logs.items()} == pytest.approx(
        {name: value.item() for name, value in found.items()}, rel=1e-4
    )
    for name, net in nets.items():
        for p, expected in zip(net.parameters(), other[name].parameters(), strict=True):
            clear = expected.grad.abs() > 1e-4 * expected.grad.abs().max() + 1e-7  # else Adam's first step has any sign
            torch.testing.assert_close(p[clear], expected[clear], rtol=1e-3, atol=1e-5)


def test_reconstructions_take_the_mean_and_the_head_gives_log_variances():
    e, x = build()["e"].eval(), torch.rand(2, 3, 32, 32)
    mean, log_sigma = e.moments(x)
    assert mean.shape == log_sigma.shape == (2, 64) and torch.equal(e(x), mean)
    torch.testing.assert_close(2 * log_sigma, e.net(x)[:, 64:])
