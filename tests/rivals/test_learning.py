"""Seconds of training from which a method that works gains something, and one with a wrong sign does not."""

import numpy as np
import pytest
import torch

import agelib
from agelib import data, networks
from agelib.rivals import ali


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
    d = networks.MlpDiscriminator((4, 64, 64, 1), leak=0.2, dropout=0.0)
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
