"""AGE, ALI and a GAN for points of the plane, fully connected, for the grid of 25 Gaussians."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from agelib import age, networks, sphere
from agelib.baselines import ali, gan
from agelib.step import Step

METHODS = ("AGE", "ALI", "GAN")
AGE_M = 3  # AGE's codes lie on the sphere in three dimensions, a surface as the plane is
M = 2


def make_step(method: str, width: int, lr: float = 1e-3) -> Step:
    """The method's Step for points (B, 2), networks of two hidden layers of `width` units (ReLU; discriminators LeakyReLU).

    AGE: released objective, lam 30 at M 3 (5 on the squared distance of one code), mu 50, margin 0.5. ALI without dropout.
    fp32: layers this small gain nothing from bf16. Raises ValueError for another method.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; valid: {', '.join(METHODS)}")
    hidden = (width, width)
    g = networks.MlpGenerator((AGE_M if method == "AGE" else M, *hidden, 2), (2,), nn.ReLU, "linear")
    if method == "AGE":
        e = networks.MlpEncoder((2, *hidden, AGE_M), "sphere", nn.ReLU)
        cfg = age.AgeConfig(M=AGE_M, lam=30, mu=50, margin=0.5, drop_lr=0, lr=lr, precision="fp32")
        return age.make_step({"g": g, "e": e}, cfg)
    if method == "ALI":
        e = networks.GaussianCode(networks.MlpEncoder((2, *hidden, 2 * M), "gaussian", nn.ReLU), sampled=True)
        d = ali.MlpDiscriminator((2 + M, *hidden, 1), leak=0.2, dropout=0.0)
        return ali.make_step({"g": g, "e": e, "d": d}, ali.AliConfig(lr=lr, precision="fp32"))
    d = gan.MlpDiscriminator((2, *hidden, 1))
    return gan.make_step({"g": g, "d": d}, gan.GanConfig(lr=lr, precision="fp32"))


def train(method: str, X: np.ndarray, *, width: int, n_steps: int, B: int, seed: int, n_samples: int = 10_000) -> np.ndarray:
    """Train on points X (N, 2) and return samples (n_samples, 2); everything random comes from `seed`."""
    torch.manual_seed(seed)
    step, data = make_step(method, width), torch.from_numpy(X)
    for _ in range(n_steps):
        step(data[torch.randint(len(data), (B,))])
    z = sphere.sample(n_samples, AGE_M) if method == "AGE" else torch.randn(n_samples, M)
    with torch.no_grad():
        return step.modules["g"](z).numpy()
