import copy

import pytest
import torch

from agelib import networks
from agelib.rivals import gan


def test_one_iteration_equals_the_losses_written_out():
    torch.manual_seed(2)
    nets = {"g": networks.MlpGenerator((3, 8, 16), (1, 4, 4)), "d": networks.MlpDiscriminator((16, 8, 1))}
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
        torch.testing.assert_close(net.state_dict(), other[name].state_dict(), rtol=1e-3, atol=2e-5)
