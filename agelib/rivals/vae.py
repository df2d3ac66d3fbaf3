"""A variational autoencoder (Kingma & Welling, 2014) on AGE's networks, the last column of the paper's Figure 3.

The paper does not describe its VAE. Here: AGE's generator; AGE's encoder with a head of 2 M outputs, mean and log variance
of q(z|x), not normalised; prior N(0, I); p(x|z) = N(g(z), sigma2 I) over the D values of an image in [-1, 1]. With

    KL = 1/2 sum_j (mean_j^2 + sigma_j^2 - 1 - log sigma_j^2),

training minimises D/2 log(2 pi sigma2) + |x - g(z)|^2 / (2 sigma2) + KL, in nats an image, the mean over the batch. If
sigma2 is not given it is learnt, as the value that is best for the batch: the mean squared error, which turns the first
two terms into D/2 (log(2 pi MSE) + 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agelib import losses, networks
from agelib.training import hardware
from agelib.training.step import Step, check_config

LABEL = "VAE"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one VAE training; Adam as AGE's."""

    nets: str = "released"  # released: AGE's, 32 or 64 px | decoder: Wu et al.'s fully connected ones
    width: int = 64  # channels of the narrowest layer
    M: int | None = None  # dimensions of z; None: 64, 10 for the decoder
    lr: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    sigma2: float | None = None  # variance of an observed value, pixels in [-1, 1]; None: learnt
    precision: str = "auto"  # fp32 | bf16 | auto

    def __post_init__(self):
        choices = {"nets": ("released", "decoder"), "precision": hardware.PRECISIONS}
        above, least = {"lr": 0, "sigma2": 0}, {"width": 1, "M": 1}
        check_config(self, above=above, least=least, shares=("beta1", "beta2"), choices=choices)


def build(cfg: Config, shape: tuple[int, int, int], mean: networks.Mean | None = None) -> dict[str, nn.Module]:
    """{"g", "e"} for images of `shape` (C, H, W): AGE's networks, the encoder with 2 M outputs; fully connected the decoder
    and the D-256-64-2M encoder of Wu et al. (2017), started at the data's `mean`.

    Raises ValueError for a shape that there are no networks for.
    """
    M = cfg.M or (10 if cfg.nets == "decoder" else 64)
    if cfg.nets == "decoder":
        e: nn.Module = networks.MlpEncoder((math.prod(shape), 256, 64, 2 * M), "gaussian")
        g: nn.Module = networks.published_decoder(shape, M)
        networks.start_decoder(g, mean and mean(5000))
    else:
        size = networks.square(shape)
        g = networks.Generator(size, M, shape[0], cfg.width)
        networks.initialise(g)
        e = networks.Encoder(size, 2 * M, shape[0], cfg.width, "gaussian")
    return {"g": g, "e": networks.GaussianCode(e, sampled=False, log_variance=True)}


def kl_to_prior(mean: Tensor, log_sigma: Tensor) -> Tensor:
    """KL(N(mean, diag sigma^2) || N(0, I)) of each row, (B, M) -> (B,), in nats: the sum over the M coordinates."""
    return 0.5 * (mean**2 + (2 * log_sigma).exp() - 1 - 2 * log_sigma).sum(1)


def neg_log_likelihood(x: Tensor, gz: Tensor, sigma2: float | None) -> Tensor:
    """-log N(x; gz, sigma2 I) in nats an image, the mean over the batch; sigma2 None: the batch's mean squared error."""
    D, mse = x[0].numel(), losses.recon_x_l2(gz, x)
    if sigma2 is None:
        return D / 2 * (torch.log(2 * math.pi * mse) + 1)
    return D / 2 * (math.log(2 * math.pi * sigma2) + mse / sigma2)


def make_step(nets: dict[str, nn.Module], cfg: Config) -> Step:
    """One update of generator and encoder on the batch x.

    nets: {"g", "e"}: g(z) -> x, e.moments(x) -> (mean, log sigma). The step logs neg_elbo and its parts nll and kl (nats an
    image, mean over the batch) and l_x, the mean absolute difference to the sampled reconstruction.
    """
    g, e = nets["g"], nets["e"]
    device = next(g.parameters()).device
    precision = hardware.choose_precision(cfg.precision, device)
    optimizers = {name: hardware.adam(net, cfg.lr, (cfg.beta1, cfg.beta2)) for name, net in nets.items()}

    def update(x: Tensor) -> dict[str, Tensor]:
        with hardware.autocast(device, precision):
            mean, log_sigma = e.moments(x)
            gz = g(networks.draw(mean, log_sigma))
        nll, kl = neg_log_likelihood(x, gz, cfg.sigma2), kl_to_prior(mean, log_sigma).mean()
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        (nll + kl).backward()
        for optimizer in optimizers.values():
            optimizer.step()
        logs = {"neg_elbo": nll + kl, "nll": nll, "kl": kl, "l_x": losses.recon_x_l1(gz, x)}
        return {name: value.detach() for name, value in logs.items()}

    return Step(update, dict(nets), optimizers, None, precision)
