import numpy as np
import pytest
import torch

from agelib import age, bench, bench_ais, bench_scores, color, conditional, features, networks
from agelib.metrics import ais, svm_features


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


def test_arithmetic_of_the_rivals_by_hand():
    """ALI's SVHN networks, multiply-adds an image: each convolution's weights times its output's (or, transposed, input's)
    positions. Each step counts 3 G + 3 E + 8 D; VAE and GAN likewise from their layers."""
    convs = 2400 * 784 + 32768 * 169 + 131072 * 100 + 524288 * 16 + 2097152
    E = convs + 262144 + 512 * 512
    G = 1048576 + 524288 * 16 + 131072 * 100 + 32768 * 169 + 25600 * 784 + 1024 * 1024 + 96 * 1024
    D = convs + 256 * 512 + 512 * 512 + 1024 * 1024 * 2 + 1024
    assert bench.rival_flop("ali", 32) == 2 * (3 * G + 3 * E + 8 * D)
    g = 100 * 4096 + 819200 * 16 + 204800 * 64 + 4800 * 256
    d = 4800 * 256 + 204800 * 64 + 819200 * 16 + 4096
    assert bench.rival_flop("gan", 32) == 2 * (3 * g + 8 * d)
    age_e, age_g = 3072 * 256 + 131072 * 64 + 524288 * 16 + 524288 * 4, 524288 + 2097152 * 16 + 524288 * 64 + 262144 * 256
    assert bench.rival_flop("vae", 32) == 2 * (3 * (age_g + 384 * 1024) + 3 * age_e)


@pytest.mark.parametrize("method", bench.rival.METHODS)
def test_both_ways_of_a_rival_compute_the_same_iteration(method, monkeypatch):
    x = torch.rand(4, 3, 32, 32) * 2 - 1
    nets = {}
    for plain in (True, False):
        torch.manual_seed(0)
        nets[plain] = bench.rival_networks(method, 32)
        monkeypatch.setattr(bench.fast, "choose_precision", lambda precision, device: "fp32")
        step = bench.rival_step(method, nets[plain], plain=plain)
        assert {o.defaults["fused"] for o in step.optimizers.values()} == {not plain}
        torch.manual_seed(1)
        step(x)
    for name, net in nets[True].items():
        for a, b in zip(net.parameters(), nets[False][name].parameters(), strict=True):
            assert (a - b).abs().mean() < 2e-5  # Adam moves by up to the learning rate in the gradient's sign


def test_epoch_times_are_of_the_published_sizes(monkeypatch):
    monkeypatch.setattr(bench, "in_turn", lambda ways, device, repeats: {"AGE": [0.5, 0.7, 0.6], "ALI": [2.0, 2.0, 3.0]})
    rows = {(row["model"], row["metric"]): row for row in bench.epoch_times(32, 6400, n_g_steps=3)}
    assert rows["AGE", "seconds per epoch"]["value"] == pytest.approx(60)  # 100 iterations of B 64
    assert rows["ALI", "seconds per epoch"]["value"] == pytest.approx(128)  # 64 of B 100
    assert rows["ALI / AGE", "time_ratio"]["value"] == pytest.approx(128 / 60)
    assert rows["AGE", "parameters"]["value"] == 3_934_595 + 1_183_616
    assert rows["ALI", "parameters"]["value"] == 1_767_584 + 3_315_488 + 5_283_073
    assert rows["AGE", "GFLOP per image"]["value"] * 64 == pytest.approx(bench.iteration_flop(32, 128, 3) / 1e9)
    assert "B 64, 1 e + 3 g updates" in rows["AGE", "seconds per epoch"]["protocol"]


def test_arithmetic_of_an_ais_move_by_hand():
    """10-64-256-256-1024-784 has 1,147,520 weights; ten gradients of 2 passes, 2 operations a weight."""
    assert bench_ais.move_flop() == 40 * (640 + 64 * 256 + 256 * 256 + 256 * 1024 + 1024 * 784)


def test_the_plain_move_leaves_the_posterior_as_it_is():
    """A constant decoder leaves the prior: 2,000 chains keep mean 0 and variance 1, and nearly all moves are taken."""
    torch.manual_seed(0)
    z = torch.randn(2000, 10)
    constant = torch.full((bench_ais.D,), 0.5)
    new = bench_ais.plain_move(lambda z: constant + 0 * z.sum(1, keepdim=True), constant, z, 0.5, 0.3)
    assert (new != z).any(1).float().mean() > 0.9
    assert new.mean() == pytest.approx(0, abs=0.02) and new.var() == pytest.approx(1, abs=0.04)


def test_rates_are_positive_and_of_every_way():
    found = bench_ais.rates(3, 2, torch.device("cpu"), 1)
    assert set(found) == {"plain", "fp32", "bf16"} and all(rate > 0 for rate in found.values())
    assert ais.AisConfig().n_leapfrog == 10  # which the arithmetic counts


def test_both_ways_of_the_conditional_game_compute_the_same_iteration():
    """One iteration from equal weights and codes, fp32: the same weights after it."""
    torch.manual_seed(0)
    plain = bench.plain_conditional(32)
    ours = conditional.build(32)
    for name, net in ours.items():
        net.load_state_dict(plain[name].state_dict())
    x = torch.rand(4, 3, 32, 32) * 0.6 - 0.3
    torch.manual_seed(1)
    bench.released_step(plain, 3, 50.0, given=lambda images: color.split(images)[::-1])(x)
    torch.manual_seed(1)
    conditional.make_step(ours, conditional.ConditionalConfig(precision="fp32"))(x)
    for name, net in ours.items():
        for (key, a), b in zip(net.state_dict().items(), plain[name].state_dict().values(), strict=True):
            apart = (a - b).abs().float()
            assert (apart < 1e-4).float().mean() > 0.98, (name, key)  # Adam's sign flips where a gradient is rounding


def test_arithmetic_of_the_conditional_game_by_hand():
    """64 px, multiply-adds an image: g 9x9 on 4 and from 32 channels, 3x3 down and up, ten of a block; e as AGE's."""
    up = 9 * (128 * 64 * 16**2 + 64 * 32 * 32**2)  # a transposed convolution works at its input's size
    G = 81 * 4 * 32 * 64**2 + 9 * (32 * 64 * 32**2 + 64 * 128 * 16**2) + 10 * 9 * 128**2 * 16**2 + up + 81 * 32 * 2 * 64**2
    E = 16 * (3 * 64 * 32**2 + 64 * 128 * 16**2 + 128 * 256 * 8**2 + 256 * 512 * 4**2) + 16 * 512 * 3
    assert bench.conditional_flop(64) == 2 * 64 * (6 * E + 3 * G + 2 * (3 * G + 2 * E))


def test_the_scores_benchmark_times_each_part_and_scales_it(monkeypatch):
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 10
    images = (rng.integers(0, 60, (300, 3, 32, 32)) + 19 * labels[:, None, None, None]).astype(np.uint8)
    taken = iter([{"features": 3.0, "read": 1.5, "fit": 0.5, "plain fit": 4.0}, {"C": 7.0}, {"all": 11.0}])
    ran = []

    def fake(calls, repeats):
        for name, call in calls.items():
            call()
            ran.append(name)
        return next(taken)

    monkeypatch.setattr(bench_scores, "seconds_of", fake)
    cfg = svm_features.SvmConfig(per_class=5, n_valid=50, n_draws=2, Cs=(1e-3, 1e-2))
    found = bench_scores.measure(images, labels, cfg, 1, torch.device("cpu"))
    assert ran == ["features", "read", "fit", "plain fit", "C", "all"]
    assert found["features"] == pytest.approx(1000) and found["read"] == pytest.approx(250)  # 100,000 and 50,000 from 300
    assert found["protocol"] == pytest.approx(7 + 4 * 50 + 260.32)  # two draws took 11 - 7 seconds; SVHN's test images
    assert bench_scores.NEAR_BEST[5] == svm_features.ALI_GRID[17]
    e = networks.build(32, 128)["e"]
    assert features.of_age(e)(images[:2]).shape == (2, 7296)  # the dimensions that the benchmark names
