"""pix2pix: sizes as published, normalisation of one image, its own noise, and the losses written out."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agelib import color, networks, sphere
from agelib.rivals import pix2pix

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def build(size=32, **settings):
    torch.manual_seed(0)
    return pix2pix.build(pix2pix.Config(**settings), (3, size, size))


def test_parameter_counts_and_patches():
    nets = build(64)
    assert round(networks.n_parameters(nets["g"]) / 1e6, 2) == 29.24
    assert networks.n_parameters(nets["d"]) == 2_765_633
    assert nets["d"](torch.zeros(2, 2, 64, 64), torch.zeros(2, 1, 64, 64)).shape == (2, 1, 6, 6)
    small = build(width=4, d_width=4)
    assert small["g"](sphere.sample(2, 3), torch.zeros(2, 1, 32, 32)).shape == (2, 2, 32, 32)
    with pytest.raises(ValueError, match="no U-Net for 48x48 images; there are 32x32, 64x64"):
        build(48)
    with pytest.raises(ValueError, match=r"noise \(B, 3\) and lightness \(B, 1, 32, 32\)"):
        small["g"](sphere.sample(2, 3), torch.zeros(2, 1, 64, 64))


def test_its_normalisation_is_batch_norm_of_one_image():
    norm, batch = pix2pix._norm(5), nn.BatchNorm2d(5).train()
    with torch.no_grad():
        for m in (norm, batch):
            m.weight.copy_(torch.arange(1.0, 6.0)), m.bias.copy_(torch.arange(5.0))
    x = torch.randn(3, 5, 4, 4, generator=torch.Generator().manual_seed(1))
    for mode in (True, False):
        together = norm.train(mode)(x)
        for i in range(3):
            torch.testing.assert_close(together[i : i + 1], batch(x[i : i + 1]), rtol=1e-4, atol=1e-5)


def test_dropout_stays_on_at_test_and_the_noise_maps_are_seen():
    torch.manual_seed(0)
    g = pix2pix.UNet(32, width=8).eval()
    n, L = sphere.sample(3, 3), torch.zeros(3, 1, 32, 32)
    assert not torch.equal(g(n, L), g(n, L))
    torch.manual_seed(1)
    one = g(n, L)
    torch.manual_seed(1)
    assert torch.equal(one, g(n, L))
    torch.manual_seed(1)
    assert not torch.equal(one, g(-n, L))


def test_losses_are_those_of_the_definition():
    nets = build(width=4, d_width=4)
    before = copy.deepcopy(nets)
    torch.manual_seed(5)
    logs = pix2pix.make_step(nets, pix2pix.Config(precision="fp32"))(IMAGES)
    torch.manual_seed(5)
    L, x = color.split(IMAGES)
    gx = before["g"](sphere.sample(3, 3), L)
    real, fake = before["d"](x, L), before["d"](gx, L)
    d_loss = (F.binary_cross_entropy_with_logits(real, torch.ones_like(real)) + F.softplus(fake).mean()) / 2
    assert logs["d_loss"].item() == pytest.approx(d_loss.item(), rel=1e-5)
    assert logs["l_x"].item() == pytest.approx((gx - x).abs().mean().item(), rel=1e-5)
    assert logs["p_fake"].item() == pytest.approx(fake.sigmoid().mean().item(), rel=1e-5)
    after = nets["d"](gx.detach(), L)  # the generator meets the discriminator after its update
    g_loss = F.binary_cross_entropy_with_logits(after, torch.ones_like(after))
    assert logs["g_loss"].item() == pytest.approx(g_loss.item(), rel=1e-4)


def test_the_l1_term_has_its_weight():
    """With the discriminator's answer constant, Adam's first step follows the L1 term alone; without that, nothing moves."""
    for l1, moves in ((100.0, True), (0.0, False)):
        nets = build(width=4, d_width=4)
        with torch.no_grad():
            for p in nets["d"].parameters():
                p.zero_()
        nets["d"].forward = lambda x, L: torch.zeros(len(x), 1, 2, 2) + 0 * x.sum() + 0 * next(nets["d"].parameters()).sum()  # noqa: B023
        before = [p.clone() for p in nets["g"].parameters()]
        pix2pix.make_step(nets, pix2pix.Config(precision="fp32", l1=l1))(IMAGES)
        moved = any(not torch.equal(a, b) for a, b in zip(before, nets["g"].parameters(), strict=True))
        assert moved == moves


def test_the_rate_is_constant_then_falls_to_almost_zero():
    step = pix2pix.make_step(build(width=4, d_width=4), pix2pix.Config(lr=2e-4))
    for epoch, share in ((0, 1), (99.9, 1), (100, 100 / 101), (199, 1 / 101)):
        step.set_lr(epoch, 200)
        assert [o.param_groups[0]["lr"] for o in step.optimizers.values()] == [pytest.approx(2e-4 * share)] * 2


def test_it_learns_a_colour_that_the_lightness_tells():
    nets = build(width=8, d_width=8)
    step = pix2pix.make_step(nets, pix2pix.Config(lr=2e-3, precision="fp32"))

    def pictures(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        sign = torch.where(torch.rand(n, 1, 1, 1) < 0.5, -1.0, 1.0)
        L = 0.2 * sign * torch.linspace(-1, 1, 32).view(1, 1, 1, 32).expand(n, 1, 32, 32)  # brighter to the right: red
        return color.join(L, 0.2 * sign.expand(n, 2, 32, 32))[0], sign.flatten()

    for _ in range(100):
        step(pictures(8)[0])
    x, sign = pictures(16)
    with torch.no_grad():
        a = nets["g"](sphere.sample(16, 3), color.split(x)[0])[:, 0].mean((1, 2))
    assert ((a - 0.2 * sign).abs() < 0.1).all()
