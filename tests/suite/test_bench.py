import functools

import numpy as np
import pytest
import torch

from agelib.metrics import ais, svm
from agelib.model import METHODS
from suite.bench import judges, training

SMALL = [case for case in training.CASES if case[0] != "conditional" and case != ("ali", 64)] + [("conditional", 32)]


def test_arithmetic_by_hand():
    """E = 19.7 and G = 135.1 million multiply-adds an image at 32 px, M = 128. An iteration of 1 e + 2 g updates: e forward
    and backward on x and on gz, g(z) forward, g forward and back to its input; then twice g forward and backward, e forward
    and back to its input. Backward is twice forward, but no layer asks for the gradient of what it is given first."""
    e_first, g_first = 3072 * 256, 1048576
    e = e_first + 131072 * 64 + 524288 * 16 + 524288 * 4
    g = g_first + 2097152 * 16 + 524288 * 64 + 262144 * 256 + 384 * 1024
    by_hand = 6 * e - 2 * e_first + 3 * g + 2 * (3 * g - g_first + 2 * e)
    assert training.flop("age", 32) == pytest.approx(2 * 64 * by_hand, rel=1e-3)
    # The GAN at 32 px: d forward and backward on real and generated images, d there and back to its input for g.
    g_first, d_first = 100 * 4096, 4800 * 256
    g = g_first + 819200 * 16 + 204800 * 64 + 4800 * 256
    d = d_first + 204800 * 64 + 819200 * 16 + 4096
    assert training.flop("gan", 32, 1) == pytest.approx(2 * (3 * g - g_first + 8 * d - 2 * d_first), rel=1e-3)


@pytest.mark.parametrize("method, size", SMALL)
def test_both_ways_compute_the_same_iteration(method, size, monkeypatch):
    """One iteration of 4 images from equal weights, fp32: Adam moves by up to lr in the gradient's sign, rounding flips few.
    ALI's own initial weights pass g a gradient of the size of rounding, and dropout draws in the order of memory."""
    he = {"init": "he", "dropout": 0.0} if method == "ali" else {}
    monkeypatch.setattr(training, "config", functools.partial(training.config, **he))
    torch.manual_seed(0)
    nets = {plain: training.build(method, size, plain=plain) for plain in (True, False)}
    for name, net in nets[False].items():
        theirs = nets[True][name].state_dict().values()
        net.load_state_dict(dict(zip(net.state_dict(), theirs, strict=True)))
    cfg = training.config(method, size, precision="fp32")
    steps = training.plain_step(method, size, nets[True]), METHODS[method].make_step(nets[False], cfg)
    x = torch.rand(4 * steps[1].n_batches, 3, size, size) * 0.6 - 0.3
    for step, fused in zip(steps, (False, True), strict=True):  # the plain way is without
        torch.manual_seed(1)
        step(x)
        assert {each.defaults["fused"] for each in getattr(step, "optimizers", {}).values()} <= {fused}
    for name, net in nets[False].items():
        pairs = zip(net.parameters(), nets[True][name].parameters(), strict=True)
        apart = torch.cat([(a - b).detach().abs().ravel() for a, b in pairs])
        assert apart.mean() < max(4e-5, 0.1 * cfg.lr * getattr(cfg, "n_g_steps", 1)), name  # of up to lr a step


def test_epoch_times_are_of_the_published_sizes(monkeypatch):
    monkeypatch.setattr(training, "in_turn", lambda *_, **__: {"AGE": [0.5, 0.7, 0.6], "ALI": [2.0, 2.0, 3.0]})
    rows = {(row["model"].split(" at ")[0], row["metric"]): row for row in training.epoch_times(32, 6400, n_g_steps=3)}
    assert {key: row["value"] for key, row in rows.items()} == {
        ("AGE", "seconds per epoch"): pytest.approx(60),  # 100 iterations of B 64
        ("ALI", "seconds per epoch"): pytest.approx(128),  # 64 of B 100
        ("ALI / AGE", "time_ratio"): pytest.approx(128 / 60),
        ("AGE", "parameters"): 3_934_595 + 1_183_616,
        ("ALI", "parameters"): 1_767_584 + 3_315_488 + 5_283_073,
        ("AGE", "GFLOP per image"): pytest.approx(training.flop("age", 32, 1, n_g_steps=3) / 1e9),
        ("ALI", "GFLOP per image"): pytest.approx(training.flop("ali", 32, 1) / 1e9),
    }
    assert "B 64, 1 e + 3 g updates" in rows["AGE", "seconds per epoch"]["protocol"]


def test_rates_of_ais_and_the_arithmetic_of_a_move_by_hand():
    """10-64-256-256-1024-784 has 1,147,520 weights; ten gradients of 2 passes, 2 operations a weight. A transposed
    convolution uses each weight at every input position: 1, 4x4, 7x7 and 14x14."""
    mlp, conv = (judges.seen(g) for g in judges.decoders().values())
    assert judges.move_flop(mlp) == 40 * (640 + 64 * 256 + 256 * 256 + 256 * 1024 + 1024 * 784)
    each = 10 * 128 * 16, 16 * 128 * 64 * 9, 49 * 64 * 32 * 16, 196 * 32 * 16
    assert judges.move_flop(conv) == 40 * sum(each)
    assert ais.AisConfig().n_leapfrog == 10  # which the arithmetic counts
    found = judges.rates(conv, 3, 2, torch.device("cpu"), 1)
    assert set(found) == {"plain", "fp32", "bf16"} and all(rate > 0 for rate in found.values())


def test_the_plain_move_leaves_the_posterior_as_it_is():
    """A constant decoder leaves the prior: 2,000 chains keep mean 0 and variance 1, and nearly all moves are taken."""
    torch.manual_seed(0)
    z, constant = torch.randn(2000, 10), torch.full((judges.D,), 0.5)
    new = judges.plain_move(lambda z: constant + 0 * z.sum(1, keepdim=True), constant, z, 0.5, 0.3)
    assert (new != z).any(1).float().mean() > 0.9
    assert new.mean() == pytest.approx(0, abs=0.02) and new.var() == pytest.approx(1, abs=0.04)


def test_the_scores_benchmark_times_each_part_and_scales_it(monkeypatch):
    labels = np.arange(300) % 10
    noise = np.random.default_rng(0).integers(0, 60, (300, 3, 32, 32))
    images = (noise + 19 * labels[:, None, None, None]).astype(np.uint8)
    taken = {"features": 3.0, "read": 1.5, "fit": 0.5, "plain fit": 4.0, "choice": 7.0, "all": 11.0}
    ran = []

    def fake(calls, device, repeats):
        ran.extend(name for name, call in calls.items() if call() is not None)
        return {name: [taken[name]] for name in calls}

    monkeypatch.setattr(judges, "in_turn", fake)
    cfg = svm.SvmConfig(per_class=5, n_valid=50, n_draws=2, Cs=(1e-3, 1e-2))
    found = judges.measure(images, labels, cfg, 1, torch.device("cpu"))
    assert ran == list(taken)
    assert found["features"] == pytest.approx(1000) and found["read"] == pytest.approx(250)  # 100,000 and 50,000 from 300
    assert found["protocol"] == pytest.approx(7 + 4 * 50 + 260.32)  # two draws took 11 - 7 seconds; SVHN's test images
    assert judges.NEAR_BEST[5] == svm.ALI_GRID[17]
