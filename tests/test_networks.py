import math

import numpy as np
import pytest
import torch
from torch import nn

from agelib import age, images, model, networks

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)


def build(size=32, channels=3, mean=None, **settings):
    torch.manual_seed(0)
    return age.build(age.Config(**settings), (channels, size, size), mean)


@pytest.mark.parametrize("size", networks.SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("prior", ["sphere", "gaussian"])
def test_shapes_and_ranges(size, channels, prior):
    nets = build(size, channels, M=5, width=4, prior=prior)
    x = nets["g"](torch.randn(6, 5))
    assert x.shape == (6, channels, size, size) and x.dtype == torch.float32 and x.abs().max() <= 1
    e = nets["e"](x)
    assert e.shape == (6, 5) and e.dtype == torch.float32
    assert bool((e.norm(dim=1) - 1).abs().max() < 1e-5) == (prior == "sphere")
    with pytest.raises(ValueError, match=r"codes \(B, 5\), got \(2, 5, 1, 1\)"):
        nets["g"](torch.randn(2, 5, 1, 1))
    with pytest.raises(ValueError, match=rf"images \(B, {channels}, {size}, {size}\), got \(2, {channels}, 48, 48\)"):
        nets["e"](torch.randn(2, channels, 48, 48))


def test_quick_layers_equal_the_convolutions_that_they_stand_for():
    torch.manual_seed(0)
    z, x = torch.randn(3, 7), torch.randn(3, 5, 4, 4)
    layer = networks.FromVector(7, 5, 4, bias=False)
    assert torch.allclose(layer(z), nn.functional.conv_transpose2d(z[:, :, None, None], layer.weight), atol=1e-6)
    layer = networks.ToVector(5, 7, 4)
    assert torch.allclose(layer(x), nn.functional.conv2d(x, layer.weight, layer.bias).flatten(1), atol=1e-6)


def test_codes_of_fakes_that_hardly_differ_keep_their_variance_in_bf16():
    """Under bf16 a code of length 1 is rounded to steps of about 0.002; the last layer of the small encoder is not."""
    layer, x = networks.Float32Linear(64, 10), 1 + torch.randint(0, 2, (500, 64)) / 128  # exact in bf16
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(nn.functional.linear(x, layer.weight, layer.bias).float(), layer(x))
        y = layer(x.bfloat16())
    assert y.dtype == torch.float32 and torch.equal(y, layer(x))
    assert isinstance(networks.ConvEncoder((1, 28, 28), 10, "sphere").layers[-1], networks.Float32Linear)


def test_initialisation():
    nets = build(64, M=64)
    for m in (m for net in nets.values() for m in net.modules()):
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d):
            assert m.weight.std().item() == pytest.approx(0.02, rel=0.05)
        if isinstance(m, nn.BatchNorm2d):
            assert m.weight.mean().item() == pytest.approx(1, abs=0.01) and m.bias.abs().max() == 0
    last = nets["e"].layers[-1]
    assert 0 < last.bias.abs().max() <= (512 * 16) ** -0.5  # the framework's default, +-1/sqrt(fan_in)


def test_spectral_norm_bounds_the_largest_singular_value():
    e = build(M=8, width=8, spectral_norm=True)["e"]
    for _ in range(30):
        e(torch.randn(4, 3, 32, 32))
    largest = [torch.linalg.matrix_norm(m.weight.flatten(1), 2).item() for m in e.modules() if isinstance(m, nn.Conv2d)]
    assert largest == pytest.approx([1] * 4, abs=0.05)


def test_mean_bias_sets_the_level():
    mean = torch.tensor([-0.5, 0.0, 0.5]).view(3, 1, 1).expand(3, 64, 64)
    last = build(64, M=4, width=4, mean=lambda n: mean, mean_bias=True)["g"].layers[-1]
    assert torch.tanh(last.bias).tolist() == pytest.approx([-0.5, 0.0, 0.5])
    assert build(64, M=4, width=4, mean=lambda n: mean)["g"].layers[-1].bias is None  # as released


def test_a_first_bias_lets_the_encoder_see_contrast():
    """Training mode, images and the same at half contrast: without the bias their codes are equal, with it they differ."""
    x = torch.rand(16, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    distance = {}
    for in_bias in (False, True):
        e = build(channels=1, M=6, width=8, in_bias=in_bias)["e"]
        with torch.no_grad():
            distance[in_bias] = (e(x) - e(x / 2)).norm(dim=1).mean().item()
    assert 10 * distance[False] < distance[True]  # BatchNorm's eps alone leaves 0.02


def test_an_encoder_of_its_own_width():
    nets = build(M=8, width=4, e_width=12)
    assert nets["g"].layers[0].out_channels == 8 * 4 and nets["e"].layers[0].out_channels == 12


def test_a_stochastic_code_is_noisy_in_training_alone():
    e = build(M=6, width=4, noisy_code=0.5)["e"]
    x = images.to_float(IMAGES)
    a, b = e.train()(x), e.train()(x)
    assert not torch.allclose(a, b, atol=1e-3)
    torch.testing.assert_close(a.norm(dim=1), torch.ones(5))
    assert torch.equal(e.eval()(x), e(x)) and torch.equal(e(x), e.net(x))
    assert age.features({"e": e})(IMAGES[:2]).shape == (2, 16 * (4 + 8 + 16) + 6)


@pytest.mark.parametrize("method", ["age", "ali", "vae", "gan"])
def test_every_method_has_the_decoder_of_the_likelihood_experiment(method):
    module = model.METHODS[method]
    mean = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean[:, :3] = -1.0  # black, as a digit's margin
    settings = {"M": 10} if method == "age" else {}
    nets = module.build(module.Config(nets="decoder", **settings), (1, 28, 28), lambda n: mean)
    assert networks.n_parameters(nets["g"]) == 1_149_904
    start = nets["g"].layers[-1].bias.sigmoid().view(1, 28, 28)  # the output where its input is zero: the mean image
    torch.testing.assert_close(start, ((mean + 1) / 2).clamp(0.01, 0.99))
    y = nets["g"](torch.randn(5, 10))
    assert y.shape == (5, 1, 28, 28) and y.abs().max() <= 1
    of_e = {"age": 1_149_130, "vae": 784 * 256 + 256 + 256 * 64 + 64 + 64 * 20 + 20}
    assert method not in of_e or networks.n_parameters(nets["e"]) == of_e[method]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 30, 21)])
def test_the_convolutional_encoder_beside_the_decoder(shape):
    e = age.build(age.Config(nets="decoder", M=7, encoder="conv"), shape)["e"]
    torch.testing.assert_close(e(torch.rand(4, *shape)).norm(dim=1), torch.ones(4))


def test_a_gaussian_code_is_drawn_or_its_mean():
    """mean 2 and sigma 3; as a log variance it says sigma^2 = 3."""
    net = lambda x: torch.tensor([[2.0, math.log(3.0)]]).expand(len(x), 2)  # noqa: E731
    x = torch.zeros(20_000, 1)
    torch.manual_seed(0)
    codes = networks.GaussianCode(net, sampled=True)(x)
    assert codes.mean().item() == pytest.approx(2, abs=0.08) and codes.std().item() == pytest.approx(3, abs=0.06)
    plain = networks.GaussianCode(net, sampled=False, log_variance=True)
    assert set(plain(x).ravel().tolist()) == {2.0} and plain.moments(x)[1][0].item() == pytest.approx(math.log(3) / 2)


def test_fully_connected_widths_must_end_in_the_image():
    with pytest.raises(ValueError, match="dims must end in 16"):
        networks.MlpGenerator((3, 8, 15), (1, 4, 4))
    assert networks.MlpGenerator((3, 8, 2), (2,), out="linear")(100 * torch.ones(1, 3)).shape == (1, 2)


def test_features_by_hand_their_dimensions_and_what_is_refused():
    e = model.reestimate(build(M=64)["e"], np.concatenate([IMAGES] * 4), batch_size=10)

    def features(**options):
        return age.features({"e": e}, **options)(IMAGES)

    x, layers = images.to_float(IMAGES), e.layers
    with torch.no_grad():
        one = nn.functional.leaky_relu(layers[0](x), 0.2)  # (5, 64, 16, 16)
        normed = layers[3](layers[2](one))  # (5, 128, 8, 8)
        code = e(x)
    found = features()
    assert found.shape == (5, 7_232) and features(pool=None).shape == (5, 28_736) and features(layers=()).shape == (5, 64)
    assert found[:, :1024] == pytest.approx(one.unfold(2, 4, 4).unfold(3, 4, 4).amax((4, 5)).flatten(1).numpy(), abs=1e-5)
    assert found[:, -64:] == pytest.approx(code.numpy(), abs=1e-6)
    before = features(layers=(2,), pool=None, code=False, moment="before")
    assert before == pytest.approx(normed.flatten(1).numpy(), abs=1e-5)
    after = features(layers=(2,), pool=None, code=False)
    assert after == pytest.approx(np.where(before > 0, before, 0.2 * before), abs=1e-5)
    for options, message in (
        ({"layers": (4,)}, "layers are from 1 to 3"),
        ({"layers": (), "code": False}, "code must be True"),
        ({"moment": "during"}, "moment is before or after"),
    ):
        with pytest.raises(ValueError, match=message):
            features(**options)
