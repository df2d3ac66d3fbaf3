"""Conditional AGE: what L reaches, its losses written out once more, that it learns a mixture of colours; its colours."""

import copy

import numpy as np
import pytest
import torch
from fit_worker import IMAGES, train
from torch import nn

from agelib import color, conditional, images, losses, networks, sphere
from agelib.rivals import regression

X = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def setup(**settings):
    torch.manual_seed(0)
    small = {"M": 3, "width": 4, "e_width": 4, "n_blocks": 1, "n_g_steps": 1, "precision": "fp32"}
    cfg = conditional.Config(**small | settings)
    return conditional.build(cfg, (3, 32, 32)), cfg


def test_published_parameter_counts():
    nets = conditional.build(conditional.Config(), (3, 64, 64))
    assert networks.n_parameters(nets["g"]) == 888_160
    assert networks.n_parameters(nets["e"]) == 2_888_464


def test_the_code_enters_as_constant_maps_beside_the_lightness():
    L = torch.arange(32.0).view(2, 1, 4, 4)
    z = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    maps = networks.with_maps(z, L)
    assert maps.shape == (2, 3, 4, 4) and torch.equal(maps[:, :1], L)
    assert (maps[0, 1] == 1).all() and (maps[0, 2] == 2).all() and (maps[1, 1] == 3).all() and (maps[1, 2] == 4).all()


def test_both_networks_see_the_lightness():
    nets = {name: net.eval() for name, net in setup()[0].items()}
    L, x = color.split(X)
    z = sphere.sample(12, 3)
    assert nets["g"](z, L).shape == (12, 2, 32, 32)
    assert not torch.equal(nets["g"](z, L), nets["g"](z, L.flip(0)))
    assert not torch.equal(nets["e"](x, L), nets["e"](x, L.flip(0)))
    torch.testing.assert_close(nets["e"](x, L).norm(dim=1), torch.ones(12))


def test_every_generator_update_has_the_lightness_of_other_images():
    nets, cfg = setup(n_g_steps=3)
    seen, forward = [], nets["g"].forward
    nets["g"].forward = lambda z, L: (seen.append(L), forward(z, L))[1]
    step = conditional.make_step(nets, cfg)
    step(X)
    L = color.split(X)[0]
    assert step.n_batches == 4 and len(seen) == 4  # the encoder's update, then three
    assert all(torch.equal(a, b) for a, b in zip(seen, L.chunk(4), strict=True))


@pytest.mark.parametrize(
    ("z", "L"), [((6, 2), (6, 1, 32, 32)), ((5, 3), (6, 1, 32, 32)), ((6, 3), (6, 2, 32, 32)), ((6, 3), (6, 1, 30, 32))]
)
def test_other_shapes_are_refused(z, L):
    with pytest.raises(ValueError, match=r"codes \(B, 3\) and lightness \(B, 1, H, W\), H and W divisible by 4"):
        setup()[0]["g"](torch.zeros(z), torch.zeros(L))


def test_logged_losses_are_those_of_the_definition():
    nets, cfg = setup(mu=10.0)
    before = copy.deepcopy(nets)
    logs = conditional.make_step(nets, cfg)(X)
    L, x = color.split(X[:6])
    ex = before["e"](x, L)
    gex = before["g"](ex, L)
    assert logs["l_x"].item() == pytest.approx((gex - x).abs().mean().item(), rel=1e-5)
    assert logs["kl_real"].item() == pytest.approx(losses.kl_released(ex).item(), rel=1e-5)
    assert logs["var_real"].item() == pytest.approx(ex.var(0, unbiased=False).mean().item(), rel=1e-5)
    assert 0 < logs["l_z"].item() < 2


def test_without_the_game_the_encoder_follows_the_reconstruction_alone():
    """Adam's first step is lr times the sign of the gradient, so the direction tells which loss was there."""
    for adversarial in (True, False):
        nets, cfg = setup(adversarial=adversarial, lr=1e-3, mu=10.0)
        reference = copy.deepcopy(nets)
        conditional.make_step(nets, cfg)(X)
        L, x = color.split(X[:6])
        l_x = losses.recon_x_l1(reference["g"](reference["e"](x, L), L), x)
        weight = next(reference["e"].parameters())
        (grad,) = torch.autograd.grad(cfg.mu * l_x, weight)
        moved = next(nets["e"].parameters()).detach() - weight.detach()
        agree = (moved.sign() == -grad.sign())[grad.abs() > 1e-5].float().mean().item()
        assert agree == 1.0 if not adversarial else agree < 0.95


@pytest.mark.parametrize("in_g", [0.0, 10.0])
def test_the_reconstruction_reaches_the_generator_where_it_is_asked_for_alone(in_g):
    nets, cfg = setup(adversarial=False, mu=10.0, recon_x_in_g=in_g)
    before = [p.clone() for p in nets["g"].parameters()]
    conditional.make_step(nets, cfg)(X)  # no divergence and no L_Z: nothing else is left that may train g
    assert all(torch.equal(a, b) for a, b in zip(before, nets["g"].parameters(), strict=True)) == (not in_g)


def test_regression_learns_and_its_rate_falls_as_ages_does():
    torch.manual_seed(0)
    cfg = regression.Config(width=4, n_blocks=1, lr=5e-3, drop_lr=3, precision="fp32")
    step = regression.make_step(regression.build(cfg, (3, 32, 32)), cfg)
    x = color.join(torch.zeros(6, 1, 32, 32), torch.full((6, 2, 32, 32), 0.2))[0]  # one colour
    found = [step(x)["l_x"].item() for _ in range(30)]
    assert found[0] > 0.15 and found[-1] < 0.5 * found[0]
    assert [step.lr_at(k, 8) for k in range(8)] == [5e-3] * 2 + [2.5e-3] * 3 + [1.25e-3] * 3


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
    step = conditional.make_step(nets, conditional.Config(M=3, lr=1e-3, drop_lr=0, mu=10.0, lam=50.0, precision="fp32"))
    way = 0.25 * torch.tensor([1.0, 0.6]).view(1, 2, 1, 1)

    def pictures(n):
        L = (torch.rand(n, 1, 1, 1) * 0.6 - 0.3).expand(n, 1, 4, 4)
        sign = torch.where(torch.rand(n, 1, 1, 1) < 0.5, -1.0, 1.0)
        return color.join(L, (sign * way).expand(n, 2, 4, 4))[0]

    for _ in range(1200):
        step(pictures(64 * step.n_batches))
    L = torch.linspace(-0.3, 0.3, 7).view(7, 1, 1, 1).expand(7, 1, 4, 4).repeat_interleave(200, 0)
    with torch.no_grad():
        x = nets["g"].eval()(sphere.sample(1400, 3), L)[:, :, 0, 0]
    side = (x @ way.flatten() / way.square().sum()).view(7, 200)  # 1 and -1 are the two colours
    assert ((side > 0.6).float().mean(1) > 0.1).all() and ((side < -0.6).float().mean(1) > 0.1).all()
    assert (side.abs() < 0.5).float().mean() < 0.4


# ------------------------------------------------------------------------------------------------------- colours


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return train("conditional", tmp_path_factory.mktemp("conditional"), max_steps=2)


def test_codes_for_all_images_and_for_each(model):
    z = model.codes(2)
    shared = conditional.paint(model, IMAGES[:3], z, batch_size=4)
    assert shared.shape == (3, 2, 2, 32, 32) and np.abs(shared).max() <= 110
    same = {"atol": 1e-3}
    np.testing.assert_allclose(shared, conditional.paint(model, IMAGES[:3], z.expand(3, 2, 3)), **same)
    np.testing.assert_allclose(shared[1, 1], conditional.paint(model, IMAGES[1:2], z[1:])[0, 0], **same)
    codes = model.encode(IMAGES)
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(24))
    carried = conditional.transfer(model, IMAGES[:4], IMAGES[4:6])
    assert carried.shape == (2, 4, 2, 32, 32)
    np.testing.assert_allclose(carried[1, 2], conditional.paint(model, IMAGES[5:6], codes[2:3])[0, 0], **same)
    own = conditional.reconstruct(model, IMAGES)
    np.testing.assert_allclose(own[7], conditional.paint(model, IMAGES[7:8], codes[7:8])[0, 0], **same)
    assert np.array_equal(model.reconstruct(IMAGES), conditional.pictures(IMAGES, own[:, None])[0][:, 0])


def test_pictures_keep_the_lightness_and_count_what_was_clipped():
    own = conditional.colours(IMAGES)
    back, clipped = conditional.pictures(IMAGES, own[:, None])
    assert np.abs(back[:, 0].astype(int) - IMAGES).max() <= 1 and clipped == 0
    grey, _ = conditional.pictures(IMAGES, 0 * own[:, None])
    L = conditional.lightness(IMAGES)
    np.testing.assert_allclose(L, color.split(images.to_float(IMAGES))[0], atol=1e-6)
    assert (conditional.lightness(grey[:, 0]) - L).abs().max() < 0.01
    assert np.ptp(grey[:, 0], axis=1).max() <= 1
    assert conditional.pictures(IMAGES, own[:, None] * 0 + 110)[1] > 0.9  # no sRGB colour has a = b = 110
    assert torch.equal(conditional.lightness(grey[:, 0, :1]), conditional.lightness(np.repeat(grey[:, 0, :1], 3, 1)))


def test_grey_images_are_found_and_a_grey_set_is_refused():
    some = IMAGES[:12].copy()
    some[2:5] = some[2:5, :1]
    assert conditional.coloured_only(some, "mine").tolist() == [True] * 2 + [False] * 3 + [True] * 7
    with pytest.raises(ValueError, match="mine: 24 of 24 images are grey; there are no colours to learn"):
        conditional.coloured_only(np.repeat(IMAGES[:, :1], 3, 1), "mine")
    with pytest.raises(ValueError, match="RGB images"):
        conditional.coloured_only(IMAGES[:, :1], "mine")
