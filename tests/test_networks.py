import pytest
import torch
from torch import nn

from agelib import fast, networks


@pytest.mark.parametrize(
    "size, M, g, e",
    [
        (32, 64, 3_410_307, 921_408),
        (32, 128, 3_934_595, 1_183_616),
        (64, 64, 3_281_792, 3_281_728),
        (64, 128, 3_806_080, 3_806_080),
    ],
)
def test_parameter_counts_are_the_released_ones(size, M, g, e):
    nets = networks.build(size, M)
    assert networks.n_parameters(nets["g"]) == g
    assert networks.n_parameters(nets["e"]) == e


@pytest.mark.parametrize("size", networks.SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("prior", ["sphere", "gaussian"])
def test_shapes_and_ranges(size, channels, prior):
    torch.manual_seed(0)
    nets = networks.build(size, 5, channels=channels, width=4, prior=prior)
    x = nets["g"](torch.randn(6, 5))
    assert x.shape == (6, channels, size, size) and x.dtype == torch.float32 and x.abs().max() <= 1
    e = nets["e"](x)
    assert e.shape == (6, 5) and e.dtype == torch.float32
    on_sphere = bool((e.norm(dim=1) - 1).abs().max() < 1e-5)
    assert on_sphere == (prior == "sphere")


def test_quick_layers_equal_the_convolutions_that_they_stand_for():
    torch.manual_seed(0)
    z = torch.randn(3, 7)
    layer = fast.FromVector(7, 5)
    expected = nn.functional.conv_transpose2d(z[:, :, None, None], layer.weight)
    assert torch.allclose(layer(z), expected, atol=1e-6)
    layer = fast.ToVector(5, 7)
    x = torch.randn(3, 5, 4, 4)
    assert torch.allclose(layer(x), nn.functional.conv2d(x, layer.weight, layer.bias).flatten(1), atol=1e-6)


def test_initialisation():
    torch.manual_seed(0)
    nets = networks.build(64, 64)
    for net in nets.values():
        for m in net.modules():
            if isinstance(m, nn.Conv2d | nn.ConvTranspose2d):
                assert m.weight.std().item() == pytest.approx(0.02, rel=0.05)
            if isinstance(m, nn.BatchNorm2d):
                assert m.weight.mean().item() == pytest.approx(1, abs=0.01) and m.bias.abs().max() == 0
    last = nets["e"].layers[-1]
    assert 0 < last.bias.abs().max() <= (512 * 16) ** -0.5  # the framework's default, +-1/sqrt(fan_in)


def test_spectral_norm_bounds_the_largest_singular_value():
    torch.manual_seed(0)
    e = networks.build(32, 8, width=8, spectral_norm=True)["e"]
    for _ in range(30):
        e(torch.randn(4, 3, 32, 32))
    weights = [m.weight.flatten(1) for m in e.modules() if isinstance(m, nn.Conv2d)]
    assert len(weights) == 4
    for w in weights:
        assert torch.linalg.matrix_norm(w, 2).item() == pytest.approx(1, abs=0.05)


def test_mean_bias_sets_the_level():
    torch.manual_seed(0)
    g = networks.build(64, 4, width=4, out_bias=True)["g"]
    g.set_mean(torch.tensor([-0.5, 0.0, 0.5]))
    assert torch.tanh(g.layers[-1].bias).tolist() == pytest.approx([-0.5, 0.0, 0.5])
    with pytest.raises(ValueError, match="out_bias"):
        networks.build(64, 4, width=4)["g"].set_mean(torch.zeros(3))


def test_wrong_sizes_are_refused_with_what_there_is():
    with pytest.raises(ValueError, match="48x48.*32x32, 64x64"):
        networks.build(48, 4)
    with pytest.raises(ValueError, match="1 or 3"):
        networks.build(32, 4, channels=4)
    nets = networks.build(32, 4, width=4)
    with pytest.raises(ValueError, match=r"\(B, 4\)"):
        nets["g"](torch.randn(2, 4, 1, 1))
    with pytest.raises(ValueError, match="32, 32"):
        nets["e"](torch.randn(2, 3, 64, 64))


def test_a_first_bias_lets_the_encoder_see_contrast():
    """Training mode, images and the same at half contrast: without the bias their codes are equal, with it they differ."""
    x = torch.rand(16, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    distance = {}
    for in_bias in (False, True):
        torch.manual_seed(0)
        e = networks.build(32, 6, channels=1, width=8, in_bias=in_bias)["e"]
        convolutions = 8 * 16 + 16 * 8 * 16 + 32 * 16 * 16 + 6 * 32 * 16
        assert networks.n_parameters(e) == convolutions + 2 * (16 + 32) + 6 + 8 * in_bias
        with torch.no_grad():
            distance[in_bias] = (e(x) - e(x / 2)).norm(dim=1).mean().item()
    assert 10 * distance[False] < distance[True]  # BatchNorm's eps alone leaves 0.02


def test_an_encoder_of_its_own_width():
    nets = networks.build(32, 8, channels=1, width=4, e_width=12)
    plain, wide = (networks.build(32, 8, channels=1, width=width) for width in (4, 12))
    assert networks.n_parameters(nets["g"]) == networks.n_parameters(plain["g"])
    assert networks.n_parameters(nets["e"]) == networks.n_parameters(wide["e"]) > networks.n_parameters(plain["e"])
