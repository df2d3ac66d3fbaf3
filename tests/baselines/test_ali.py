import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from agelib import networks
from agelib.baselines import ali


@pytest.mark.parametrize(
    ("dataset", "counts"),
    [
        ("svhn", (1_767_584, 3_315_488, 5_283_073)),
        ("cifar10", (981_152, 3_118_496, 2_610_049)),
        ("celeba", (11_811_392, 6_794_880, 15_189_057)),
        ("tiny_imagenet", (3_164_224, 7_812_352, 32_985_793)),
    ],
)
def test_parameter_counts(dataset, counts):
    """The fact sheet's section 2.4: generator, encoder, discriminator."""
    with torch.device("meta"):
        nets = ali.build(dataset, ali.SPECS[dataset].size, device="meta")
    assert tuple(networks.n_parameters(nets[name]) for name in "ged") == counts


@pytest.mark.parametrize(
    ("dataset", "width"), [("svhn", 0.25), ("cifar10", 0.25), ("celeba", 0.125), ("tiny_imagenet", 0.03)]
)
def test_shapes_range_and_one_update_of_every_network(dataset, width):
    torch.manual_seed(0)
    spec = ali.SPECS[dataset]
    nets = ali.build(dataset, spec.size, width=width)
    x = torch.rand(4, 3, spec.size, spec.size) * 2 - 1
    mean, log_sigma = nets["e"].moments(x)
    assert mean.shape == log_sigma.shape == (4, spec.M)
    gz = nets["g"](mean)
    assert gz.shape == x.shape and gz.abs().max() < 1
    assert nets["d"](x, mean).shape == (4,)
    before = {name: copy.deepcopy(net.state_dict()) for name, net in nets.items()}
    logs = ali.make_step(nets, ali.AliConfig(precision="fp32"))(x)
    assert set(logs) == {"d_loss", "g_loss", "p_real", "p_fake", "sigma"}
    for name, net in nets.items():
        still = [k for k, p in net.named_parameters() if torch.equal(p, before[name][k])]
        assert not still, f"{name}: {still} did not move"


def test_one_update_equals_the_losses_written_out():
    """Both losses on the same weights, then three plain Adam steps: what the simultaneous update must give."""
    torch.manual_seed(3)
    M, shape = 3, (1, 4, 4)
    nets = {
        "g": networks.MlpGenerator((M, 8, 16), shape),
        "e": networks.GaussianCode(networks.MlpEncoder((16, 8, 2 * M), "gaussian"), sampled=True),
        "d": ali.MlpDiscriminator((16 + M, 8, 1), dropout=0.0),
    }
    other = copy.deepcopy(nets)
    x = torch.rand(6, *shape) * 2 - 1
    step = ali.make_step(nets, ali.AliConfig(lr=1e-2, precision="fp32"))
    torch.manual_seed(9)
    logs = step(x)

    g, e, d = other["g"], other["e"], other["d"]
    torch.manual_seed(9)
    z = torch.randn(6, M)
    mean, log_sigma = e.net(x).chunk(2, 1)
    zh = mean + torch.exp(log_sigma) * torch.randn(6, M)
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


def test_the_discriminator_normalises_both_halves_together():
    torch.manual_seed(0)
    nets = ali.build("svhn", 32, width=0.125)
    d = nets["d"]
    norm = next(m for m in d.modules() if isinstance(m, nn.BatchNorm2d))
    seen = []
    norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    ali.make_step(nets, ali.AliConfig(precision="fp32"))(torch.rand(5, 3, 32, 32) * 2 - 1)
    assert [len(x) for x in seen] == [10]
    torch.testing.assert_close(norm.running_mean, 0.05 * seen[0].mean((0, 2, 3)))  # 0.95 old + 0.05 new, from 0


def test_where_batchnorm_biases_and_dropout_are():
    d = ali.build("celeba", 64, width=0.05)["d"]
    convs = [m for m in d.x_layers if isinstance(m, nn.Conv2d)]
    assert [m.bias is not None for m in convs] == [True, False, False, False, False]  # tied, on the first alone
    kinds = [type(m).__name__ for m in d.x_layers]
    assert kinds[:3] == ["Dropout", "Conv2d", "LeakyReLU"]
    assert kinds[3:7] == ["Dropout", "Conv2d", "BatchNorm2d", "LeakyReLU"]
    assert {m.p for m in d.modules() if isinstance(m, nn.Dropout)} == {0.2}
    assert {m.negative_slope for m in d.modules() if isinstance(m, nn.LeakyReLU)} == {0.02}
    maxout = ali.build("cifar10", 32, width=0.125)["d"]
    assert not [m for m in maxout.modules() if isinstance(m, nn.BatchNorm2d | nn.LeakyReLU)]
    rates = [m.p for m in maxout.x_layers if isinstance(m, nn.Dropout)]
    assert rates == [0.2, 0, 0.5, 0, 0, 0.5, 0, 0, 0.5, 0]  # before conv 1, maxout 1, conv 2, ... maxout 5
    assert [m.p for m in maxout.z_layers if isinstance(m, nn.Dropout)] == [0.2, 0.5]
    assert [m.p for m in maxout.joint_layers if isinstance(m, nn.Dropout)] == [0.5, 0.5, 0.5]


def test_maxout_takes_the_larger_of_neighbouring_channels():
    x = torch.tensor([1.0, 3.0, 2.0, -1.0]).view(1, 4, 1, 1)
    assert ali.Maxout()(x).flatten().tolist() == [3.0, 2.0]
    assert ali.Maxout()(x.to(memory_format=torch.channels_last)).shape == (1, 2, 1, 1)


def test_the_last_bias_is_the_mean_image_and_differs_by_position():
    g = ali.build("svhn", 32, width=0.125)["g"].eval()
    mean = torch.from_numpy(np.random.default_rng(0).uniform(-0.9, 0.9, (3, 32, 32))).float()
    g.set_mean(mean)
    nn.init.zeros_(g.layers[-2].weight)
    with torch.no_grad():
        torch.testing.assert_close(g(torch.randn(2, 256)), mean.expand(2, -1, -1, -1), atol=1e-5, rtol=0)


def test_weights_start_at_a_hundredth():
    nets = ali.build("svhn", 32)
    for net in nets.values():
        for m in net.modules():
            if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and m.weight.numel() > 10_000:
                assert m.weight.std().item() == pytest.approx(0.01, rel=0.03)


def test_the_encoder_draws_its_code():
    torch.manual_seed(0)
    e = networks.GaussianCode(lambda x: torch.tensor([[2.0, math.log(3.0)]]).expand(len(x), 2), sampled=True)
    codes = e(torch.zeros(20_000, 1))
    assert codes.mean().item() == pytest.approx(2, abs=0.08) and codes.std().item() == pytest.approx(3, abs=0.06)


def test_what_it_has_no_networks_for_is_refused_with_what_it_has():
    with pytest.raises(ValueError, match=r"no networks for svhn at 48 px; it has: svhn \(32 px\), cifar10"):
        ali.build("svhn", 48)
    with pytest.raises(ValueError, match="1 or 3 channels and width > 0, got 2"):
        ali.build("svhn", 32, channels=2)
    assert ali.spec_for("faces", 64) == ali.SPECS["celeba"] and ali.spec_for("svhn", 64) == ali.SPECS["celeba"]
    assert ali.spec_for("house_numbers", 32) == ali.SPECS["svhn"] and ali.spec_for("cifar10", 32) == ali.SPECS["cifar10"]


def test_the_losses_of_an_undecided_discriminator():
    """d = 0 everywhere gives 2 log 2 for both losses and 1/2 for both probabilities."""
    nets = ali.build_mlp((1, 4, 4), 2)
    for m in nets["d"].modules():
        if isinstance(m, nn.Linear):
            nn.init.zeros_(m.weight), nn.init.zeros_(m.bias)
    logs = ali.make_step(nets, ali.AliConfig(precision="fp32"))(torch.rand(3, 1, 4, 4))
    assert logs["d_loss"].item() == pytest.approx(2 * math.log(2)) == pytest.approx(logs["g_loss"].item())
    assert logs["p_real"].item() == logs["p_fake"].item() == 0.5


def test_mlp_form_has_the_decoder_of_the_likelihood_experiment():
    nets = ali.build_mlp()
    assert networks.n_parameters(nets["g"]) == 1_149_904  # fact sheet, section 3.2
    assert nets["g"](torch.zeros(2, 10)).shape == (2, 1, 28, 28)


def test_stabilisers_noise_and_a_learning_rate_for_the_discriminator():
    torch.manual_seed(0)
    nets = ali.build_mlp((1, 16, 16), 2)
    seen = []
    nets["d"].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    x = torch.zeros(40, 1, 16, 16)
    step = ali.make_step(nets, ali.AliConfig(lr=1e-3, d_lr=1e-4, noise=0.25, precision="fp32"))
    step(x)
    assert seen[0][:40].std().item() == pytest.approx(0.25, rel=0.03) and abs(seen[0][:40].mean().item()) < 0.01
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in step.optimizers.items()}
    assert rates == {"g": 1e-3, "e": 1e-3, "d": 1e-4}
    plain = ali.make_step(nets, ali.AliConfig(lr=1e-3, precision="fp32"))
    plain(x)
    assert torch.equal(seen[1][:40], x)
    assert {o.param_groups[0]["lr"] for o in plain.optimizers.values()} == {1e-3}


def test_the_averages_follow_generator_and_encoder_and_train_nothing():
    torch.manual_seed(0)
    nets = ali.build_mlp((1, 8, 8), 2)
    before = {name: nets[name].state_dict() for name in "ge"}
    before = {name: {key: value.clone() for key, value in state.items()} for name, state in before.items()}
    step = ali.make_step(nets, ali.AliConfig(lr=1e-3, ema=0.75, precision="fp32"))
    assert sorted(step.modules) == ["d", "e", "e_ema", "g", "g_ema"] and sorted(step.optimizers) == ["d", "e", "g"]
    step(torch.zeros(4, 1, 8, 8))
    for name in "ge":
        now, average = nets[name].state_dict(), step.modules[f"{name}_ema"].state_dict()
        for key, start in before[name].items():
            assert torch.allclose(average[key], 0.75 * start + 0.25 * now[key], atol=1e-7)
        assert any(not torch.equal(before[name][key], now[key]) for key in now)
    assert not any(p.requires_grad for p in step.modules["e_ema"].parameters())
    with pytest.raises(ValueError, match="need 0 <= ema < 1"):
        ali.AliConfig(ema=1.0)


def test_he_weights_keep_the_code_visible_to_a_narrow_discriminator():
    """By hand: N(0, 0.01) passes a code of 8 dimensions through D(z)'s two layers of 128 with deviation about
    0.01 sqrt(8) * 0.01 sqrt(128 / 2) = 0.0023, weights of deviation sqrt(2 / fan-in) with sqrt(2) * sqrt(2 / 2) = 1.4."""
    deviation = {}
    for init in ali.INITS:
        torch.manual_seed(0)
        nets = ali.build("svhn", 32, width=0.25, M=8, init=init)
        z_linear = [m for m in nets["d"].z_layers.eval() if not isinstance(m, torch.nn.LeakyReLU)]
        assert [m.out_features for m in z_linear if isinstance(m, torch.nn.Linear)] == [128, 128]
        with torch.no_grad():
            deviation[init] = nets["d"].z_layers[:-1](torch.randn(1000, 8)).std().item()
        assert nets["g"].layers[-2].weight.std().item() == pytest.approx(0.01, rel=0.3)  # an image starts at its mean
    assert deviation == {"released": pytest.approx(0.0023, rel=0.3), "he": pytest.approx(1.4, rel=0.3)}
    with pytest.raises(ValueError, match="unknown init 'xavier'; valid: released, he"):
        ali.build("svhn", 32, init="xavier")


def test_dropout_replaces_every_rate():
    def rates(**settings):
        d = ali.build("cifar10", 32, width=0.125, **settings)["d"]
        return {m.p for m in d.modules() if isinstance(m, torch.nn.Dropout)}

    assert rates() == {0, 0.2, 0.5}
    assert rates(dropout=0.05) == {0.05}
