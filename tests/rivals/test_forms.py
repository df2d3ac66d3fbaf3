"""Networks of every method: sizes as published, shapes and ranges, one update that moves every weight."""

import copy

import numpy as np
import pytest
import torch

from agelib import networks
from agelib.model import METHODS


def build(method, size=32, channels=3, **settings):
    torch.manual_seed(2)
    return METHODS[method].build(METHODS[method].Config(**settings), (channels, size, size))


@pytest.mark.parametrize(
    ("method", "size", "settings", "counts"),
    [  # of the released code: AGE's, ALI's, the DCGAN authors' SVHN script, PyTorch's DCGAN example
        ("age", 32, {"M": 128}, {"g": 3_934_595, "e": 1_183_616}),
        ("age", 64, {"M": 64}, {"g": 3_281_792, "e": 3_281_728}),
        ("ali", 32, {"nets": "svhn"}, {"g": 1_767_584, "e": 3_315_488, "d": 5_283_073}),
        ("ali", 32, {"nets": "cifar10"}, {"g": 981_152, "e": 3_118_496, "d": 2_610_049}),
        ("ali", 64, {"nets": "celeba"}, {"g": 11_811_392, "e": 6_794_880, "d": 15_189_057}),
        ("ali", 64, {"nets": "tiny_imagenet"}, {"g": 3_164_224, "e": 7_812_352, "d": 32_985_793}),
        ("gan", 32, {}, {"g": 1_446_976, "d": 1_033_664}),
        ("gan", 64, {}, {"g": 3_576_704, "d": 2_765_568}),
        ("vae", 64, {}, {"g": 3_281_792, "e": 3_281_728 + 64 * (512 * 16 + 1)}),  # AGE's, 64 outputs and biases more
    ],
)
def test_parameter_counts_are_the_released_ones(method, size, settings, counts):
    with torch.device("meta"):
        nets = build(method, size, **settings)
    assert {name: networks.n_parameters(net) for name, net in nets.items()} == counts


@pytest.mark.parametrize(
    ("method", "size", "channels", "settings"),
    [
        ("ali", 32, 3, {"nets": "svhn", "width": 0.25}),
        ("ali", 32, 3, {"nets": "cifar10", "width": 0.25}),
        ("ali", 64, 3, {"nets": "celeba", "width": 0.125}),
        ("ali", 64, 3, {"nets": "tiny_imagenet", "width": 0.03}),
        ("gan", 32, 1, {"M": 7, "width": 4}),
        ("gan", 32, 3, {"M": 7, "width": 4}),
        ("gan", 64, 3, {"M": 7, "width": 4}),
    ],
)
def test_shapes_range_and_one_update_of_every_weight(method, size, channels, settings):
    nets = build(method, size, channels, **settings)
    x, M = torch.rand(4, channels, size, size) * 2 - 1, nets["g"].M
    pair = [x]
    if "e" in nets:
        mean, log_sigma = nets["e"].moments(x)
        assert mean.shape == log_sigma.shape == (4, M)
        pair.append(mean)
    gz = nets["g"](torch.randn(4, M))
    assert gz.shape == x.shape and gz.abs().max() < 1 and nets["d"](*pair).shape == (4,)
    before = copy.deepcopy(nets)
    METHODS[method].make_step(nets, METHODS[method].Config(precision="fp32"))(x)
    for name, net in nets.items():
        old = dict(before[name].named_parameters())
        still = [key for key, p in net.named_parameters() if torch.equal(p, old[key])]
        assert not still, f"{name}: {still} did not move"


@pytest.mark.parametrize(("method", "D"), [("ali", 5_376), ("gan", 7_168)])
def test_features_of_the_published_networks(method, D):
    batch = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    assert METHODS[method].features(build(method))(batch).shape == (2, D)
