"""Conditional AGE: what L reaches, the losses written out once more, and that it learns a mixture of colours."""

import copy

import pytest
import torch
from torch import nn

from agelib import age, color, conditional, losses, networks, sphere

IMAGES = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def tiny(seed: int = 0, **settings) -> dict:
    torch.manual_seed(seed)
    return conditional.build(32, width=4, e_width=4, n_blocks=1, **settings)


def test_parameter_counts_of_the_fact_sheet():
    nets = conditional.build(64)
    assert networks.n_parameters(nets["g"]) == 1_677_634
    assert networks.n_parameters(nets["e"]) == 2_781_955


def test_the_code_enters_as_constant_maps_beside_the_lightness():
    L = torch.arange(32.0).view(2, 1, 4, 4)
    z = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    maps = networks.with_maps(z, L)
    assert maps.shape == (2, 3, 4, 4) and torch.equal(maps[:, :1], L)
    assert (maps[0, 1] == 1).all() and (maps[0, 2] == 2).all() and (maps[1, 1] == 3).all() and (maps[1, 2] == 4).all()


def test_both_networks_see_the_lightness():
    nets = {name: net.eval() for name, net in tiny().items()}
    L, x = color.split(IMAGES)
    z = sphere.sample(6, 3)
    assert nets["g"](z, L).shape == (6, 2, 32, 32) and nets["g"](z, L).abs().max() <= 1
    assert not torch.equal(nets["g"](z, L), nets["g"](z, L.flip(0)))
    assert not torch.equal(nets["e"](x, L), nets["e"](x, L.flip(0)))
    torch.testing.assert_close(nets["e"](x, L).norm(dim=1), torch.ones(6))


@pytest.mark.parametrize(
    ("z", "L"), [((6, 2), (6, 1, 32, 32)), ((5, 3), (6, 1, 32, 32)), ((6, 3), (6, 2, 32, 32)), ((6, 3), (6, 1, 30, 32))]
)
def test_other_shapes_are_refused(z, L):
    with pytest.raises(ValueError, match=r"codes \(B, 3\) and lightness \(B, 1, H, W\), H and W divisible by 4"):
        tiny()["g"](torch.zeros(z), torch.zeros(L))


def test_logged_losses_are_those_of_the_definition():
    nets = tiny()
    before = copy.deepcopy(nets)
    logs = conditional.make_step(nets, conditional.ConditionalConfig(precision="fp32"))(IMAGES)
    L, x = color.split(IMAGES)
    ex = before["e"](x, L)
    gex = before["g"](ex, L)
    assert logs["l_x"].item() == pytest.approx((gex - x).abs().mean().item(), rel=1e-5)
    assert logs["kl_real"].item() == pytest.approx(losses.kl_released(ex).item(), rel=1e-5)
    assert logs["var_real"].item() == pytest.approx(ex.var(0, unbiased=False).mean().item(), rel=1e-5)
    assert 0 < logs["l_z"].item() < 2


def test_without_the_game_the_encoder_follows_the_reconstruction_alone():
    """Adam's first step is lr times the sign of the gradient, so the direction tells which loss was there."""
    for adversarial in (True, False):
        nets = tiny()
        reference = copy.deepcopy(nets)
        cfg = conditional.ConditionalConfig(precision="fp32", adversarial=adversarial, lr=1e-3)
        conditional.make_step(nets, cfg)(IMAGES)
        L, x = color.split(IMAGES)
        l_x = losses.recon_x_l1(reference["g"](reference["e"](x, L), L), x)
        weight = next(reference["e"].parameters())
        (grad,) = torch.autograd.grad(cfg.mu * l_x, weight)
        moved = next(nets["e"].parameters()).detach() - weight.detach()
        agree = (moved.sign() == -grad.sign())[grad.abs() > 1e-5].float().mean().item()
        assert agree == 1.0 if not adversarial else agree < 0.95


def test_the_generator_does_not_learn_in_the_encoders_update():
    nets = tiny()
    without = {"precision": "fp32", "lam": 0.0, "adversarial": False}
    step = conditional.make_step(nets, conditional.ConditionalConfig(n_g_steps=1, **without))
    before = [p.clone() for p in nets["g"].parameters()]
    step(IMAGES)  # no divergence and no L_Z: nothing is left that may train g
    assert all(torch.equal(a, b) for a, b in zip(before, nets["g"].parameters(), strict=True))
    step = conditional.make_step(nets, conditional.ConditionalConfig(recon_x_in_g=10.0, **without))
    step(IMAGES)
    assert not all(torch.equal(a, b) for a, b in zip(before, nets["g"].parameters(), strict=True))


def test_regression_learns_and_its_rate_falls_as_ages_does():
    torch.manual_seed(0)
    nets = {"g": conditional.ColorGenerator(3, 4, 1)}
    step = conditional.make_regression_step(nets, conditional.RegressionConfig(lr=5e-3, drop_lr=3, precision="fp32"))
    x = color.join(torch.zeros(6, 1, 32, 32), torch.full((6, 2, 32, 32), 0.2))[0]  # one colour
    found = [step(x)["l_x"].item() for _ in range(30)]
    assert found[0] > 0.15 and found[-1] < 0.5 * found[0]
    cfg = age.AgeConfig(lr=5e-3, drop_lr=3)
    assert [step.lr_at(k) for k in range(8)] == [cfg.lr_at(k) for k in range(8)] == [5e-3] * 2 + [2.5e-3] * 3 + [1.25e-3] * 3


class _Painter(nn.Module):
    """g of the smallest kind: one colour for the whole picture."""

    def __init__(self):
        super().__init__()
        self.layers, self.M = networks.mlp((4, 64, 64, 2), nn.ReLU), 3

    def forward(self, z, L):
        ab = self.layers(torch.cat([z, L.mean((1, 2, 3))[:, None]], 1))
        return torch.tanh(ab)[:, :, None, None].expand(-1, -1, *L.shape[2:])


class _Reader(nn.Module):
    """e of the smallest kind: a code from the mean colour and the mean lightness."""

    def __init__(self):
        super().__init__()
        first = nn.Linear(3, 64), nn.BatchNorm1d(64), nn.ReLU()
        self.layers = nn.Sequential(*first, nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))

    def forward(self, x, L):
        return sphere.project(self.layers(torch.cat([x.mean((2, 3)), L.mean((2, 3))], 1)))


def test_colours_of_a_mixture_are_all_drawn_for_each_lightness():
    """Pictures of one colour, one of two whatever the lightness: under every L, codes give both, and nothing in between."""
    torch.manual_seed(0)
    nets = {"g": _Painter(), "e": _Reader()}
    step = conditional.make_step(nets, conditional.ConditionalConfig(lr=1e-3, margin=0.5, precision="fp32"))
    way = 0.25 * torch.tensor([1.0, 0.6]).view(1, 2, 1, 1)

    def pictures(n: int) -> torch.Tensor:
        L = (torch.rand(n, 1, 1, 1) * 0.6 - 0.3).expand(n, 1, 4, 4)
        sign = torch.where(torch.rand(n, 1, 1, 1) < 0.5, -1.0, 1.0)
        return color.join(L, (sign * way).expand(n, 2, 4, 4))[0]

    for _ in range(1200):
        step(pictures(64))
    L = torch.linspace(-0.3, 0.3, 7).view(7, 1, 1, 1).expand(7, 1, 4, 4).repeat_interleave(200, 0)
    with torch.no_grad():
        x = nets["g"].eval()(sphere.sample(1400, 3), L)[:, :, 0, 0]
    side = (x @ way.flatten() / way.square().sum()).view(7, 200)  # 1 and -1 are the two colours
    assert ((side > 0.6).float().mean(1) > 0.1).all() and ((side < -0.6).float().mean(1) > 0.1).all()
    assert (side.abs() < 0.5).float().mean() < 0.4
