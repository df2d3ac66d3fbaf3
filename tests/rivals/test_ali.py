import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from agelib import images, networks
from agelib.rivals import ali


def build(nets="released", size=32, mean=None, **settings):
    torch.manual_seed(0)
    return ali.build(ali.Config(nets=nets, **settings), (3, size, size), mean)


def step(nets, **settings):
    return ali.make_step(nets, ali.Config(precision="fp32", **settings))


def small(M=3, shape=(1, 4, 4)):
    torch.manual_seed(3)
    D = math.prod(shape)
    e = networks.GaussianCode(networks.MlpEncoder((D, 8, 2 * M), "gaussian"), sampled=True)
    return {"g": networks.MlpGenerator((M, 8, D), shape), "e": e, "d": networks.MlpDiscriminator((D + M, 8, 1))}


def dropouts(*modules):
    return [m.p for module in modules for m in module.modules() if isinstance(m, nn.Dropout)]


def test_one_update_equals_the_losses_written_out():
    """Both losses on the same weights, then three plain Adam steps: what the simultaneous update must give."""
    nets = small()
    other = copy.deepcopy(nets)
    x = torch.rand(6, 1, 4, 4) * 2 - 1
    update = step(nets, lr=1e-2)
    torch.manual_seed(9)
    logs = update(x)

    g, e, d = other["g"], other["e"], other["d"]
    torch.manual_seed(9)
    z = torch.randn(6, 3)
    mean, log_sigma = e.net(x).chunk(2, 1)
    zh = mean + torch.exp(log_sigma) * torch.randn(6, 3)
    real, fake = d(x, zh), d(g(z), z)
    d_loss = -(torch.log(torch.sigmoid(real)) + torch.log(1 - torch.sigmoid(fake))).mean()
    g_loss = -(torch.log(1 - torch.sigmoid(real)) + torch.log(torch.sigmoid(fake))).mean()
    for net, loss in ((d, d_loss), (g, g_loss), (e, g_loss)):
        loss.backward(inputs=list(net.parameters()), retain_graph=True)
    for net in other.values():
        torch.optim.Adam(net.parameters(), 1e-2, (0.5, 0.999)).step()
    assert logs["d_loss"].item() == pytest.approx(d_loss.item(), rel=1e-5)
    assert logs["g_loss"].item() == pytest.approx(g_loss.item(), rel=1e-5)
    assert logs["p_real"].item() == pytest.approx(torch.sigmoid(real).mean().item(), rel=1e-5)
    for name, net in nets.items():
        torch.testing.assert_close(net.state_dict(), other[name].state_dict(), rtol=1e-3, atol=2e-5)


def test_the_losses_of_an_undecided_discriminator():
    """d = 0 everywhere gives 2 log 2 for both losses and 1/2 for both probabilities."""
    nets = small()
    for p in nets["d"].parameters():
        nn.init.zeros_(p)
    logs = step(nets)(torch.rand(3, 1, 4, 4))
    assert set(logs) == {"d_loss", "g_loss", "p_real", "p_fake", "sigma"}
    assert logs["d_loss"].item() == pytest.approx(2 * math.log(2)) == pytest.approx(logs["g_loss"].item())
    assert logs["p_real"].item() == logs["p_fake"].item() == 0.5


def test_the_discriminator_normalises_both_halves_together():
    nets = build(width=0.125)
    norm = next(m for m in nets["d"].modules() if isinstance(m, nn.BatchNorm2d))
    seen = []
    norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    step(nets)(torch.rand(5, 3, 32, 32) * 2 - 1)
    assert [len(x) for x in seen] == [10]
    torch.testing.assert_close(norm.running_mean, 0.05 * seen[0].mean((0, 2, 3)))  # 0.95 old + 0.05 new, from 0


def test_where_batchnorm_biases_and_dropout_are():
    d = build("celeba", 64, width=0.05)["d"]
    biases = [m.bias is not None for m in d.x_layers if isinstance(m, nn.Conv2d)]
    assert biases == [True, False, False, False, False] and set(dropouts(d)) == {0.2}  # tied, on the first alone
    kinds = " ".join(type(m).__name__ for m in d.x_layers)
    assert kinds.startswith("Dropout Conv2d LeakyReLU Dropout Conv2d BatchNorm2d LeakyReLU Dropout")
    assert {m.negative_slope for m in d.modules() if isinstance(m, nn.LeakyReLU)} == {0.02}
    maxout = build("cifar10", width=0.125)["d"]
    assert not [m for m in maxout.modules() if isinstance(m, nn.BatchNorm2d | nn.LeakyReLU)]
    assert dropouts(maxout.x_layers) == [0.2, 0, 0.5, 0, 0, 0.5, 0, 0, 0.5, 0]  # before conv 1, maxout 1, ... maxout 5
    assert dropouts(maxout.z_layers) == [0.2, 0.5] and dropouts(maxout.joint_layers) == [0.5, 0.5, 0.5]
    assert ali.Maxout()(torch.tensor([[1.0, 3.0, 2.0, -1.0]])).tolist() == [[3.0, 2.0]]  # of neighbouring channels
    assert set(dropouts(build("cifar10", width=0.125, dropout=0.05)["d"])) == {0.05}
    assert dropouts(build("decoder", 16, M=2, dropout=0.0)["d"]) == [0.0] * 3
    assert dropouts(build("decoder", 16, M=2)["d"]) == [0.2] * 3


def test_an_image_starts_at_the_mean_of_500_and_its_bias_differs_by_position():
    mean = torch.from_numpy(np.random.default_rng(0).uniform(-0.9, 0.9, (3, 32, 32))).float()
    asked = []
    g = build(width=0.125, mean=lambda n: asked.append(n) or mean)["g"].eval()
    nn.init.zeros_(g.layers[-2].weight)
    with torch.no_grad():
        torch.testing.assert_close(g(torch.randn(2, 256)), mean.expand(2, -1, -1, -1), atol=1e-5, rtol=0)
    assert asked == [500]


def test_weights_start_at_a_hundredth_and_he_weights_keep_the_code_visible_to_a_narrow_discriminator():
    """By hand: N(0, 0.01) passes a code of 8 dimensions through D(z)'s two layers of 128 with deviation about
    0.01 sqrt(8) * 0.01 sqrt(128 / 2) = 0.0023, weights of deviation sqrt(2 / fan-in) with sqrt(2) * sqrt(2 / 2) = 1.4."""
    deviation = {}
    for init in ("released", "he"):
        nets = build(width=0.25, M=8, init=init)
        assert [m.out_features for m in nets["d"].z_layers if isinstance(m, nn.Linear)] == [128, 128]
        with torch.no_grad():
            deviation[init] = nets["d"].eval().z_layers[:-1](torch.randn(1000, 8)).std().item()
        assert nets["g"].layers[-2].weight.std().item() == pytest.approx(0.01, rel=0.3)  # an image starts at its mean
    assert deviation == {"released": pytest.approx(0.0023, rel=0.3), "he": pytest.approx(1.4, rel=0.3)}
    for m in (m for net in build().values() for m in net.modules()):
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and m.weight.numel() > 10_000:
            assert m.weight.std().item() == pytest.approx(0.01, rel=0.03)


def test_networks_are_chosen_by_size_or_name():
    assert ali.spec_for("released", 64) == ali.SPECS["celeba"] and ali.spec_for("released", 32) == ali.SPECS["svhn"]
    with pytest.raises(ValueError, match=r"no networks 'svhn' for 64 px; it has: svhn \(32 px\), cifar10"):
        build("svhn", 64)


def test_noise_and_a_learning_rate_for_the_discriminator_and_averages_of_the_others():
    nets = small(2, (1, 16, 16))
    seen = []
    nets["d"].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    bias, x = nets["e"].net.layers[-1].bias.clone(), torch.zeros(40, 1, 16, 16)
    noisy, plain = step(nets, lr=1e-3, d_lr=1e-4, noise=0.25, ema=0.75), step(nets, lr=1e-3)
    noisy(x)
    average, now = (noisy.modules[name].net.layers[-1].bias for name in ("e_ema", "e"))
    assert torch.allclose(average, 0.75 * bias + 0.25 * now, atol=1e-7) and not torch.equal(bias, now)
    plain(x)
    assert seen[0][:40].std().item() == pytest.approx(0.25, rel=0.03) and abs(seen[0][:40].mean().item()) < 0.01
    assert torch.equal(seen[1][:40], x)
    for made, d_lr, names in ((noisy, 1e-4, "d e e_ema g g_ema"), (plain, 1e-3, "d e g")):
        rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in made.optimizers.items()}
        assert rates == {"g": 1e-3, "e": 1e-3, "d": d_lr} and sorted(made.modules) == names.split()


def test_features_end_in_the_mean_of_the_code():
    batch = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    e = build(width=0.1, M=6)["e"].eval()
    found = ali.features({"e": e})(batch)
    assert found[:, -6:] == pytest.approx(e.moments(images.to_float(batch))[0].detach().numpy(), abs=1e-6)
    assert (ali.features({"e": e})(batch) == found).all()  # no draw in it
