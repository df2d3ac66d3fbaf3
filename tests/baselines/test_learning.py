"""Seconds of training from which a method that works gains something, and one with a wrong sign does not."""

import numpy as np
import pytest
import torch

from agelib import apply, data, fit, points, rival
from agelib.metrics import reconstruction


@pytest.mark.parametrize("dataset", ["faces", "house_numbers"])
def test_a_vae_reconstructs_held_out_images(dataset):
    """Far better than the mean image and than the reconstruction of another image."""
    train, test = data.load(dataset, "train", size=32), data.load(dataset, "test", size=32).images[:200]
    torch.manual_seed(0)
    nets = rival.build("vae", dataset, train.images, width=8, M=16, device="cpu")
    step, batches = rival.make_step("vae", nets, "fp32", lr=2e-3), fit.Batches(train.images, 32, seed=0)
    for i in range(200):
        step(batches.batch(i))
    gex = apply.reconstruct(nets["g"], nets["e"], test)
    mean = np.broadcast_to(train.images.mean(0).astype(np.uint8), test.shape)
    own, of_mean, of_another = (reconstruction.l1(test, y).mean() for y in (gex, mean, np.roll(gex, 1, 0)))
    assert own < 0.75 * of_mean and own < 0.6 * of_another


def test_ali_learns_which_code_belongs_to_which_point():
    """No loss of ALI compares x with g(e(x)); the joint discriminator alone ties them. Ratio 1: not at all."""
    x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.6, 0.2])
    torch.manual_seed(0)
    step = points.make_step("ALI", 64, lr=3e-4)
    g, e = step.modules["g"], step.modules["e"]

    def ratio() -> float:
        with torch.no_grad():
            gex = g(e(x))
        return ((x - gex).abs().mean() / (x - gex.roll(1, 0)).abs().mean()).item()

    assert ratio() > 0.95
    ratios = [1.0]
    for i in range(15_000):  # most runs get there after 3,000 to 5,000, and show nothing before 2,000
        step(x[torch.randint(len(x), (128,))])
        ratios += [ratio()] if i % 100 == 0 else []
        if np.mean(ratios[-5:]) < 0.75:
            return
    pytest.fail(f"after 15,000 iterations the ratio is still {np.mean(ratios[-5:]):.2f}")
