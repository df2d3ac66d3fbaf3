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
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from agelib import fast, networks
from agelib.step import Step


@dataclass(frozen=True)
class VaeConfig:
    """Settings of one VAE training; Adam as AGE's."""

    lr: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    sigma2: float | None = None  # variance of an observed value, pixels in [-1, 1]; None: learnt
    precision: str = "auto"  # fp32 | bf16 | auto


def build(
    size: int, M: int, *, channels: int = 3, width: int = 64, device: torch.device | str = "cpu"
) -> dict[str, nn.Module]:
    """{"g", "e"}, channels_last on `device`: AGE's networks of `width`, the encoder with 2 M outputs.

    Raises ValueError for a size or a number of channels that there are no networks for.
    """
    g = networks.Generator(size, M, channels, width)
    networks.initialise(g)
    e = networks.GaussianCode(
        networks.Encoder(size, 2 * M, channels, width, "gaussian"), sampled=False, head="log_variance"
    )
    return {name: net.to(device, memory_format=torch.channels_last) for name, net in (("g", g), ("e", e))}


def build_mlp(
    shape: tuple[int, ...] = (1, 28, 28), M: int = 10, *, device: torch.device | str = "cpu"
) -> dict[str, nn.Module]:
    """{"g", "e"}, fully connected: the 10-d decoder and the 784-256-64-20 encoder of Wu et al. (2017)."""
    D = math.prod(shape)
    e = networks.MlpEncoder((D, 256, 64, 2 * M), "gaussian")
    nets = {"g": networks.published_decoder(shape, M)}
    nets["e"] = networks.GaussianCode(e, sampled=False, head="log_variance")
    return {name: net.to(device) for name, net in nets.items()}


def kl_to_prior(mean: Tensor, log_sigma: Tensor) -> Tensor:
    """KL(N(mean, diag sigma^2) || N(0, I)) of each row, (B, M) -> (B,), in nats: the sum over the M coordinates."""
    return 0.5 * (mean**2 + (2 * log_sigma).exp() - 1 - 2 * log_sigma).sum(1)


def neg_log_likelihood(x: Tensor, gz: Tensor, sigma2: float | None) -> Tensor:
    """-log N(x; gz, sigma2 I) in nats an image, the mean over the batch; sigma2 None: the batch's mean squared error."""
    if x.shape != gz.shape:
        raise ValueError(f"shapes differ: {tuple(x.shape)} and {tuple(gz.shape)}")
    D, mse = x[0].numel(), ((x - gz.float()) ** 2).mean()
    if sigma2 is None:
        return D / 2 * (torch.log(2 * math.pi * mse) + 1)
    return D / 2 * (math.log(2 * math.pi * sigma2) + mse / sigma2)


def make_step(nets: dict[str, nn.Module], cfg: VaeConfig) -> Step:
    """One update of generator and encoder on the batch x.

    nets: {"g", "e"}: g(z) -> x, e.moments(x) -> (mean, log sigma). The step logs neg_elbo and its parts nll and kl (nats an
    image, mean over the batch) and l_x, the mean absolute difference to the sampled reconstruction.
    """
    g, e = nets["g"], nets["e"]
    device = next(g.parameters()).device
    precision = fast.choose_precision(cfg.precision, device)
    optimizers = {name: fast.adam(net, cfg.lr, (cfg.beta1, cfg.beta2)) for name, net in nets.items()}

    def update(x: Tensor) -> dict[str, Tensor]:
        with fast.autocast(device, precision):
            mean, log_sigma = e.moments(x)
            gz = g(networks.draw(mean, log_sigma))
        nll, kl = neg_log_likelihood(x, gz, cfg.sigma2), kl_to_prior(mean, log_sigma).mean()
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        (nll + kl).backward()
        for optimizer in optimizers.values():
            optimizer.step()
        logs = {"neg_elbo": nll + kl, "nll": nll, "kl": kl, "l_x": (x - gz).abs().mean()}
        return {name: value.detach() for name, value in logs.items()}

    config = asdict(cfg) | {"method": "vae", "precision": precision}
    return Step(update, dict(nets), optimizers, None, config)
