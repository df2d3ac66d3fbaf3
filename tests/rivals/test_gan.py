import copy

import numpy as np
import pytest
import torch

from agelib import networks
from agelib.rivals import gan


def build(size=32, channels=3, **settings):
    torch.manual_seed(2)
    return gan.build(gan.Config(**settings), (channels, size, size))


def test_parameter_counts():
    """The DCGAN authors' SVHN networks at 32 px, PyTorch's example at 64 px."""
    for size, counts in ((32, (1_446_976, 1_033_664)), (64, (3_576_704, 2_765_568))):
        assert tuple(networks.n_parameters(net) for net in build(size).values()) == counts


@pytest.mark.parametrize(("size", "channels"), [(32, 1), (32, 3), (64, 3)])
def test_shapes_range_and_one_update(size, channels):
    nets = build(size, channels, M=7, width=4)
    x = torch.rand(5, channels, size, size) * 2 - 1
    gz = nets["g"](torch.randn(5, 7))
    assert gz.shape == x.shape and gz.abs().max() < 1 and nets["d"](x).shape == (5,)
    before = {name: copy.deepcopy(net.state_dict()) for name, net in nets.items()}
    gan.make_step(nets, gan.Config(precision="fp32"))(x)
    for name, net in nets.items():
        assert not [k for k, p in net.named_parameters() if torch.equal(p, before[name][k])]


def test_one_iteration_equals_the_losses_written_out():
    torch.manual_seed(2)
    nets = {"g": networks.MlpGenerator((3, 8, 16), (1, 4, 4)), "d": gan.MlpDiscriminator((16, 8, 1))}
    other = copy.deepcopy(nets)
    x = torch.rand(6, 1, 4, 4) * 2 - 1
    step = gan.make_step(nets, gan.Config(lr=1e-2, precision="fp32"))
    torch.manual_seed(4)
    logs = step(x)
    g, d = other["g"], other["d"]
    torch.manual_seed(4)
    z = torch.randn(6, 3)
    d_loss = -(torch.log(torch.sigmoid(d(x))) + torch.log(1 - torch.sigmoid(d(g(z).detach())))).mean()
    d_loss.backward()
    torch.optim.Adam(d.parameters(), 1e-2, (0.5, 0.999)).step()
    g_loss = -torch.log(torch.sigmoid(d(g(z)))).mean()  # d is the new one
    g_loss.backward()
    torch.optim.Adam(g.parameters(), 1e-2, (0.5, 0.999)).step()
    assert logs["d_loss"].item() == pytest.approx(d_loss.item(), rel=1e-5)
    assert logs["g_loss"].item() == pytest.approx(g_loss.item(), rel=1e-5)
    for name, net in nets.items():
        for p, q in zip(net.parameters(), other[name].parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-3, atol=2e-5)


def test_what_it_has_no_networks_for_is_refused():
    with pytest.raises(ValueError, match="networks for 32 and 64 px and 1 or 3 channels, not for 28 px and 1"):
        build(28, channels=1)


def test_features_are_those_of_the_published_discriminator():
    batch = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    assert gan.features(build())(batch).shape == (2, 7_168)
