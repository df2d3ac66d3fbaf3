import pytest
import torch


@pytest.fixture
def assert_trained_alike():
    """The same weights after an update and after the loss written out, whose gradients are those of `other`.

    Adam's first step is the sign of the gradient: compared where that is not next to zero.
    """

    def check(nets, other):
        for name, net in nets.items():
            for p, q in zip(net.parameters(), other[name].parameters(), strict=True):
                clear = q.grad.abs() > 1e-4 * q.grad.abs().max() + 1e-7
                torch.testing.assert_close(p[clear], q[clear], rtol=1e-3, atol=1e-5)

    return check
