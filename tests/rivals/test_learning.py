"""Seconds of training from which a method that works gains something, and one with a wrong sign does not."""

import numpy as np
import pytest
import torch

import agelib
from agelib import data, networks
from agelib.rivals import ali


def shrunk(dataset, split):
    """Images at 8 px, float in [-1, 1]: small enough for small networks to need seconds."""
    images = np.array(data.load(dataset, split, size=32, channels=3).images)
    return torch.from_numpy(images).view(-1, 3, 8, 4, 8, 4).float().mean((3, 5)) / 127.5 - 1


def distances(x, gex):
    """Mean absolute difference of images to their reconstructions, and to other images' reconstructions."""
    return (x - gex).abs().mean().item(), (x - gex.roll(1, 0)).abs().mean().item()


@pytest.mark.parametrize("dataset", ["faces", "house_numbers"])
def test_a_vae_reconstructs_held_out_images(dataset, tmp_path):
    """Far better than the mean image and than the reconstruction of another image."""
    train, test = (np.array(data.load(dataset, split, size=32).images) for split in ("train", "test"))
    settings = {"width": 8, "M": 16, "lr": 2e-3, "batch_size": 32, "n_epochs": None, "max_steps": 200}
    model = agelib.train("vae", train, tmp_path, device="cpu", **settings)
    x, gex = (torch.from_numpy(part).float() for part in (test[:200], model.reconstruct(test[:200])))
    own, of_another = distances(x, gex)
    of_mean = (x - torch.from_numpy(train.mean(0))).abs().mean()
    assert own < 0.75 * of_mean and own < 0.6 * of_another


def test_ali_learns_which_code_belongs_to_which_point():
    """No loss of ALI compares x with g(e(x)); the joint discriminator alone ties them. Ratio 1: not at all."""
    x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.6, 0.2])
    torch.manual_seed(0)
    g = networks.MlpGenerator((2, 64, 64, 2), (2,), torch.nn.ReLU, "linear")
    e = networks.GaussianCode(networks.MlpEncoder((2, 64, 64, 4), "gaussian", torch.nn.ReLU), sampled=True)
    d = ali.MlpDiscriminator((4, 64, 64, 1), leak=0.2, dropout=0.0)
    step = ali.make_step({"g": g, "e": e, "d": d}, ali.Config(lr=3e-4, precision="fp32"))

    def ratio():
        with torch.no_grad():
            own, of_another = distances(x, g(e(x)))
        return own / of_another

    assert ratio() > 0.95
    ratios = [1.0]
    for i in range(15_000):  # most runs get there after 3,000 to 5,000, and show nothing before 2,000
        step(x[torch.randint(len(x), (128,))])
        ratios += [ratio()] if i % 100 == 0 else []
        if np.mean(ratios[-5:]) < 0.75:
            return
    pytest.fail(f"after 15,000 iterations the ratio is still {np.mean(ratios[-5:]):.2f}")


def test_ali_reconstructs_held_out_images():
    """Nearer than the mean image, and far nearer than another image's reconstruction."""
    x, test, M, hidden = shrunk("faces", "train"), shrunk("faces", "test")[:400], 4, (128, 128)
    torch.manual_seed(0)
    g = networks.MlpGenerator((M, *hidden, 192), (3, 8, 8), torch.nn.ReLU)
    e = networks.GaussianCode(networks.MlpEncoder((192, *hidden, 2 * M), "gaussian", torch.nn.ReLU), sampled=True)
    d = ali.MlpDiscriminator((192 + M, *hidden, 1), leak=0.2, dropout=0.0)
    step = ali.make_step({"g": g, "e": e, "d": d}, ali.Config(lr=1e-3, d_lr=5e-4, noise=0.1, precision="fp32"))
    of_mean, recent = (test - x.mean(0)).abs().mean().item(), []
    for i in range(10_000):
        if i in (3000, 4500):  # a smaller lr, or the game goes on swinging
            for group in (group for optimizer in step.optimizers.values() for group in optimizer.param_groups):
                group["lr"] *= 0.4
        step(x[torch.randint(len(x), (64,))])
        if i % 100 == 0:
            with torch.no_grad():
                recent = [*recent[-4:], distances(test, g(e(test)))]
            own, of_another = np.mean(recent, 0)
            if i > 1000 and own < 0.95 * of_mean and own < 0.7 * of_another:
                return
    pytest.fail(f"after 10,000 iterations: L1 {own:.3f}, mean image {of_mean:.3f}, another image {of_another:.3f}")
