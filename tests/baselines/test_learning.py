"""Seconds of training from which a method that works gains something, and one with a wrong sign does not."""

import numpy as np
import pytest
import torch

from agelib import apply, data, fit, networks, points, rival
from agelib.baselines import ali
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


@pytest.mark.parametrize(("dataset", "M", "width", "noise"), [("faces", 4, 128, 0.1), ("house_numbers", 8, 256, 0.05)])
def test_ali_reconstructs_held_out_images(dataset, M, width, noise):
    """Nearer than the mean image, and far nearer than another image's reconstruction; pictures shrunk to 8 px, small MLPs,
    so that the thousands of iterations that ALI needs take seconds."""
    parts = (data.load(dataset, split, size=32, channels=3) for split in ("train", "test"))
    x, test = (torch.from_numpy(np.array(p.images)).view(-1, 3, 8, 4, 8, 4).float().mean((3, 5)) / 127.5 - 1 for p in parts)
    test, hidden = test[:400], (width, width)
    torch.manual_seed(0)
    g = networks.MlpGenerator((M, *hidden, 192), (3, 8, 8), torch.nn.ReLU)
    e = networks.GaussianCode(networks.MlpEncoder((192, *hidden, 2 * M), "gaussian", torch.nn.ReLU), sampled=True)
    d = ali.MlpDiscriminator((192 + M, *hidden, 1), leak=0.2, dropout=0.0)
    cfg = ali.AliConfig(lr=1e-3, d_lr=5e-4, noise=noise, precision="fp32")
    step = ali.make_step({"g": g, "e": e, "d": d}, cfg)
    of_mean, recent = (test - x.mean(0)).abs().mean().item(), []
    for i in range(10_000):
        if i in (3000, 4500):  # a smaller lr, or the game goes on swinging
            for group in (group for optimizer in step.optimizers.values() for group in optimizer.param_groups):
                group["lr"] *= 0.4
        step(x[torch.randint(len(x), (64,))])
        if i % 100 == 0:
            with torch.no_grad():
                gex = g(e(test))
            recent = [*recent[-4:], [(test - y).abs().mean().item() for y in (gex, gex.roll(1, 0))]]
            own, of_another = np.mean(recent, 0)
            if i > 1000 and own < 0.95 * of_mean and own < 0.7 * of_another:
                return
    pytest.fail(f"after 10,000 iterations: L1 {own:.3f}, mean image {of_mean:.3f}, another image {of_another:.3f}")
