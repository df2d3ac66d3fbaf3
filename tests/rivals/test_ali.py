import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from agelib import images, networks
from agelib.rivals import ali


def build(nets="released", size=32, channels=3, mean=None, **settings):
    torch.manual_seed(0)
    return ali.build(ali.Config(nets=nets, **settings), (channels, size, size), mean)


def step(nets, **settings):
    return ali.make_step(nets, ali.Config(precision="fp32", **settings))


def dropouts(*modules):
    return [m.p for module in modules for m in module.modules() if isinstance(m, nn.Dropout)]


@pytest.mark.parametrize(
    ("nets", "counts"),
    [
        ("svhn", (1_767_584, 3_315_488, 5_283_073)),
        ("cifar10", (981_152, 3_118_496, 2_610_049)),
        ("celeba", (11_811_392, 6_794_880, 15_189_057)),
        ("tiny_imagenet", (3_164_224, 7_812_352, 32_985_793)),
    ],
)
def test_parameter_counts(nets, counts):
    """Generator, encoder, discriminator of the released code."""
    with torch.device("meta"):
        made = build(nets, ali.SPECS[nets].size)
    assert tuple(networks.n_parameters(made[name]) for name in "ged") == counts


@pytest.mark.parametrize(("spec", "width"), [("svhn", 0.25), ("cifar10", 0.25), ("celeba", 0.125), ("tiny_imagenet", 0.03)])
def test_shapes_range_and_one_update_of_every_network(spec, width):
    size, M = ali.SPECS[spec].size, ali.SPECS[spec].M
    nets = build(spec, size, width=width)
    x = torch.rand(4, 3, size, size) * 2 - 1
    mean, log_sigma = nets["e"].moments(x)
    assert mean.shape == log_sigma.shape == (4, M)
    gz = nets["g"](mean)
    assert gz.shape == x.shape and gz.abs().max() < 1
    assert nets["d"](x, mean).shape == (4,)
    before = {name: copy.deepcopy(net.state_dict()) for name, net in nets.items()}
    assert set(step(nets)(x)) == {"d_loss", "g_loss", "p_real", "p_fake", "sigma"}
    for name, net in nets.items():
        still = [k for k, p in net.named_parameters() if torch.equal(p, before[name][k])]
        assert not still, f"{name}: {still} did not move"


def small(M=3, shape=(1, 4, 4)):
    torch.manual_seed(3)
    D = math.prod(shape)
    e = networks.GaussianCode(networks.MlpEncoder((D, 8, 2 * M), "gaussian"), sampled=True)
    return {
        "g": networks.MlpGenerator((M, 8, D), shape), "e": e, "d": ali.MlpDiscriminator((D + M, 8, 1), dropout=0.0)
    }  # fmt: skip


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
    grads = {"d": torch.autograd.grad(d_loss, list(d.parameters()), retain_graph=True)}
    grads["g"] = torch.autograd.grad(g_loss, list(g.parameters()), retain_graph=True)
    grads["e"] = torch.autograd.grad(g_loss, list(e.parameters()))
    for name, net in other.items():
        for p, grad in zip(net.parameters(), grads[name], strict=True):
            p.grad = grad
        torch.optim.Adam(net.parameters(), 1e-2, (0.5, 0.999)).step()
    assert logs["d_loss"].item() == pytest.approx(d_loss.item(), rel=1e-5)
    assert logs["g_loss"].item() == pytest.approx(g_loss.item(), rel=1e-5)
    assert logs["p_real"].item() == pytest.approx(torch.sigmoid(real).mean().item(), rel=1e-5)
    for name, net in nets.items():
        for p, q in zip(net.parameters(), other[name].parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-3, atol=2e-5)


def test_the_losses_of_an_undecided_discriminator():
    """d = 0 everywhere gives 2 log 2 for both losses and 1/2 for both probabilities."""
    nets = small()
    for p in nets["d"].parameters():
        nn.init.zeros_(p)
    logs = step(nets)(torch.rand(3, 1, 4, 4))
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
    convs = [m for m in d.x_layers if isinstance(m, nn.Conv2d)]
    assert [m.bias is not None for m in convs] == [True, False, False, False, False]  # tied, on the first alone
    kinds = [type(m).__name__ for m in d.x_layers]
    assert kinds[:3] == ["Dropout", "Conv2d", "LeakyReLU"]
    assert kinds[3:7] == ["Dropout", "Conv2d", "BatchNorm2d", "LeakyReLU"]
    assert set(dropouts(d)) == {0.2}
    assert {m.negative_slope for m in d.modules() if isinstance(m, nn.LeakyReLU)} == {0.02}
    maxout = build("cifar10", width=0.125)["d"]
    assert not [m for m in maxout.modules() if isinstance(m, nn.BatchNorm2d | nn.LeakyReLU)]
    assert dropouts(maxout.x_layers) == [0.2, 0, 0.5, 0, 0, 0.5, 0, 0, 0.5, 0]  # before conv 1, maxout 1, ... maxout 5
    assert dropouts(maxout.z_layers) == [0.2, 0.5] and dropouts(maxout.joint_layers) == [0.5, 0.5, 0.5]
    assert set(dropouts(build("cifar10", width=0.125, dropout=0.05)["d"])) == {0.05}
    assert dropouts(build("decoder", 16, M=2, dropout=0.0)["d"]) == [0.0] * 3


def test_maxout_takes_the_larger_of_neighbouring_channels():
    x = torch.tensor([1.0, 3.0, 2.0, -1.0]).view(1, 4, 1, 1)
    assert ali.Maxout()(x).flatten().tolist() == [3.0, 2.0]
    assert ali.Maxout()(x.to(memory_format=torch.channels_last)).shape == (1, 2, 1, 1)


def test_an_image_starts_at_the_mean_of_500_and_its_bias_differs_by_position():
    mean = torch.from_numpy(np.random.default_rng(0).uniform(-0.9, 0.9, (3, 32, 32))).float()
    asked = []
    g = build(width=0.125, mean=lambda n: asked.append(n) or mean)["g"].eval()
    nn.init.zeros_(g.layers[-2].weight)
    with torch.no_grad():
        torch.testing.assert_close(g(torch.randn(2, 256)), mean.expand(2, -1, -1, -1), atol=1e-5, rtol=0)
    assert asked == [500]


def test_weights_start_at_a_hundredth():
    for net in build("svhn").values():
        for m in net.modules():
            if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and m.weight.numel() > 10_000:
                assert m.weight.std().item() == pytest.approx(0.01, rel=0.03)


def test_he_weights_keep_the_code_visible_to_a_narrow_discriminator():
    """By hand: N(0, 0.01) passes a code of 8 dimensions through D(z)'s two layers of 128 with deviation about
    0.01 sqrt(8) * 0.01 sqrt(128 / 2) = 0.0023, weights of deviation sqrt(2 / fan-in) with sqrt(2) * sqrt(2 / 2) = 1.4."""
    deviation = {}
    for init in ali.INITS:
        nets = build(width=0.25, M=8, init=init)
        assert [m.out_features for m in nets["d"].z_layers if isinstance(m, nn.Linear)] == [128, 128]
        with torch.no_grad():
            deviation[init] = nets["d"].eval().z_layers[:-1](torch.randn(1000, 8)).std().item()
        assert nets["g"].layers[-2].weight.std().item() == pytest.approx(0.01, rel=0.3)  # an image starts at its mean
    assert deviation == {"released": pytest.approx(0.0023, rel=0.3), "he": pytest.approx(1.4, rel=0.3)}


def test_networks_are_chosen_by_size_or_name_and_others_refused_with_what_there_is():
    assert ali.spec_for("released", 64) == ali.SPECS["celeba"] and ali.spec_for("released", 32) == ali.SPECS["svhn"]
    assert ali.spec_for("cifar10", 32) == ali.SPECS["cifar10"]
    for nets, size in (("released", 48), ("svhn", 64)):
        with pytest.raises(ValueError, match=rf"no networks '{nets}' for {size} px; it has: svhn \(32 px\), cifar10"):
            build(nets, size)
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        build(channels=2)


def test_noise_and_a_learning_rate_for_the_discriminator():
    nets = small(2, (1, 16, 16))
    seen = []
    nets["d"].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    x = torch.zeros(40, 1, 16, 16)
    noisy = step(nets, lr=1e-3, d_lr=1e-4, noise=0.25)
    noisy(x)
    assert seen[0][:40].std().item() == pytest.approx(0.25, rel=0.03) and abs(seen[0][:40].mean().item()) < 0.01
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in noisy.optimizers.items()}
    assert rates == {"g": 1e-3, "e": 1e-3, "d": 1e-4}
    plain = step(nets, lr=1e-3)
    plain(x)
    assert torch.equal(seen[1][:40], x)
    assert {o.param_groups[0]["lr"] for o in plain.optimizers.values()} == {1e-3}


def test_the_averages_follow_generator_and_encoder_and_train_nothing():
    nets = small(2, (1, 8, 8))
    before = {name: copy.deepcopy(nets[name].state_dict()) for name in "ge"}
    averaging = step(nets, lr=1e-3, ema=0.75)
    assert sorted(averaging.modules) == ["d", "e", "e_ema", "g", "g_ema"] and sorted(averaging.optimizers) == ["d", "e", "g"]
    averaging(torch.zeros(4, 1, 8, 8))
    for name in "ge":
        now, average = nets[name].state_dict(), averaging.modules[f"{name}_ema"].state_dict()
        for key, start in before[name].items():
            assert torch.allclose(average[key], 0.75 * start + 0.25 * now[key], atol=1e-7)
        assert any(not torch.equal(before[name][key], now[key]) for key in now)


def test_features_end_in_the_mean_of_the_code():
    batch = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    assert ali.features({"e": build()["e"]})(batch[:2]).shape == (2, 5_376)
    e = build(width=0.1, M=6)["e"].eval()
    found = ali.features({"e": e})(batch)
    assert found[:, -6:] == pytest.approx(e.moments(images.to_float(batch))[0].detach().numpy(), abs=1e-6)
    assert (ali.features({"e": e})(batch) == found).all()  # no draw in it
