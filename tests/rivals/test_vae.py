import copy
import math

import pytest
import torch

from agelib import networks
from agelib.rivals import vae


def build(size=32, **settings):
    torch.manual_seed(1)
    return vae.build(vae.Config(**settings), (3, size, size))


def test_kl_by_hand():
    """mean (1, 0), sigma (1, 2): ((1 + 1 - 1 - 0) + (0 + 4 - 1 - log 4)) / 2 = 1.306853."""
    mean, log_sigma = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, math.log(2)], [0.0, 0.0]])
    assert vae.kl_to_prior(mean, log_sigma).tolist() == pytest.approx([1.306853, 0.0], abs=1e-6)


def test_likelihood_by_hand():
    """Four values, each off by 1: sigma2 = 1/2 gives 2 (log pi + 2); learnt (sigma2 = 1) gives 2 (log 2 pi + 1)."""
    x, gz = torch.ones(3, 1, 2, 2), torch.zeros(3, 1, 2, 2)
    assert vae.neg_log_likelihood(x, gz, 0.5).item() == pytest.approx(6.289460, abs=1e-5)
    assert vae.neg_log_likelihood(x, gz, None).item() == pytest.approx(5.675754, abs=1e-5)
    with pytest.raises(ValueError, match="shapes differ"):
        vae.neg_log_likelihood(x, gz[:, :, :1], None)


def test_the_learnt_variance_is_the_best_given_one():
    torch.manual_seed(0)
    x, gz = torch.randn(5, 3, 4, 4), torch.zeros(5, 3, 4, 4)
    learnt = vae.neg_log_likelihood(x, gz, None).item()
    best = (x**2).mean().item()
    assert learnt == pytest.approx(vae.neg_log_likelihood(x, gz, best).item(), rel=1e-5)
    assert all(learnt < vae.neg_log_likelihood(x, gz, best * factor).item() - 1e-3 for factor in (0.8, 1.25))


@pytest.mark.parametrize("sigma2", [None, 0.1])
def test_one_update_equals_the_bound_written_out(sigma2):
    nets = build(M=4, width=4)
    other = copy.deepcopy(nets)
    x = torch.rand(6, 3, 32, 32) * 2 - 1
    step = vae.make_step(nets, vae.Config(lr=1e-3, sigma2=sigma2, precision="fp32"))
    torch.manual_seed(5)
    logs = step(x)
    torch.manual_seed(5)
    mean, log_variance = other["e"].net(x).chunk(2, 1)
    z = mean + (log_variance / 2).exp() * torch.randn(6, 4)
    gz = other["g"](z)
    variance = ((x - gz) ** 2).mean() if sigma2 is None else torch.tensor(sigma2)
    p = torch.distributions.Normal(gz, variance.sqrt().expand_as(gz))
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    prior = torch.distributions.Normal(torch.zeros(4), torch.ones(4))
    nll = -p.log_prob(x).sum((1, 2, 3)).mean()
    kl = torch.distributions.kl_divergence(q, prior).sum(1).mean()
    (nll + kl).backward()
    for net in other.values():
        torch.optim.Adam(net.parameters(), 1e-3, (0.5, 0.999)).step()
    assert logs["nll"].item() == pytest.approx(nll.item(), rel=1e-5)
    assert logs["kl"].item() == pytest.approx(kl.item(), rel=1e-4)
    assert logs["neg_elbo"].item() == pytest.approx((nll + kl).item(), rel=1e-5)
    assert logs["l_x"].item() == pytest.approx((x - gz).abs().mean().item(), rel=1e-4)
    # Adam's first step is the sign of the gradient: compare where it is not next to zero
    for name, net in nets.items():
        for p, q in zip(net.parameters(), other[name].parameters(), strict=True):
            clear = q.grad.abs() > 1e-4 * q.grad.abs().max() + 1e-7
            torch.testing.assert_close(p[clear], q[clear], rtol=1e-3, atol=1e-5)


def test_networks_are_ages_with_a_head_of_two():
    nets = build(64)
    assert networks.n_parameters(nets["g"]) == 3_281_792
    assert networks.n_parameters(nets["e"]) == 3_281_728 + 64 * (512 * 16 + 1)  # 64 outputs more, each with its bias
    x = torch.rand(2, 3, 64, 64)
    mean, log_sigma = nets["e"].eval().moments(x)
    assert mean.shape == log_sigma.shape == (2, 64)
    assert torch.equal(nets["e"](x), mean)  # reconstructions take the mean
    torch.testing.assert_close(2 * log_sigma, nets["e"].net(x)[:, 64:])  # the head gives log variances


def test_an_unknown_size_is_refused():
    with pytest.raises(ValueError, match="no network for 48x48 images; there are 32x32, 64x64"):
        build(48, M=4)
