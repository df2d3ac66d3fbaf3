import pytest
import torch

from agelib import age, bench, networks


def test_arithmetic_by_hand():
    """E = 19.7 and G = 135.1 million multiply-adds an image at 32 px, M = 128; an iteration is 179 GFLOP at batch 64."""
    nets = networks.build(32, 128)
    e = 3072 * 256 + 131072 * 64 + 524288 * 16 + 524288 * 4
    g = 1048576 + 2097152 * 16 + 524288 * 64 + 262144 * 256 + 384 * 1024
    assert bench.multiplications(nets["e"], torch.zeros(1, 3, 32, 32)) == e
    assert bench.multiplications(nets["g"], torch.zeros(1, 128)) == g
    assert bench.iteration_flop(32, 128) == pytest.approx(2 * 64 * (10 * e + 9 * g))
    assert bench.iteration_flop(32, 128) / 1e9 == pytest.approx(180, abs=2)


@pytest.mark.parametrize("size", networks.SIZES)
def test_both_ways_compute_the_same_iteration(size):
    torch.manual_seed(0)
    plain = bench.plain_networks(size, 4)
    ours = networks.build(size, 4)
    for name, net in ours.items():
        theirs = plain[name].state_dict()
        net.load_state_dict({k: v for k, v in zip(net.state_dict(), theirs.values(), strict=True)})
    x = torch.rand(4, 3, size, size) * 2 - 1
    torch.manual_seed(1)
    bench.released_step(plain, 4)(x)
    torch.manual_seed(1)
    age.make_step(ours, age.AgeConfig(M=4, precision="fp32"))(x)
    for name, net in ours.items():
        for a, b in zip(net.parameters(), plain[name].parameters(), strict=True):
            difference = (a - b).abs()  # Adam moves a weight by up to 2e-4, in the gradient's sign: rounding flips a few
            assert difference.mean() < 4e-6 and difference.max() < 1e-3
