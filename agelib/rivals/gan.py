"""A generative adversarial network with DCGAN's layers (Radford et al., ICLR 2016); it has no encoder.

z ~ N(0, I), (B, M); d the discriminator's logit of an image, high for real ones. One iteration is

    discriminator:  minimise  E softplus(-d(x)) + E softplus(d(g(z)))        g(z) without gradient to g
    generator:      minimise  E softplus(-d(g(z)))                           the non-saturating loss, the same z

Networks. 64 px: those of PyTorch's DCGAN example, which AGE's code starts from (kernel 4, width 64, M 100; 3,576,704 and
2,765,568 parameters). 32 px: those of the DCGAN authors' SVHN script (kernel 5, width 64, M 100, a dense layer with
BatchNorm for each unit; 1,446,976 and 1,033,664). Their images are in [-1, 1] as here. Real and generated images pass d
separately, each with its own batch statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agelib import networks
from agelib.training import hardware
from agelib.training.step import Step, check_config

LABEL = "GAN"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one GAN training; the defaults are DCGAN's (its SVHN script takes lr 5e-4)."""

    nets: str = "released"  # released: DCGAN's, 32 or 64 px | decoder: Wu et al.'s fully connected one
    width: int = 64  # channels of the narrowest layer
    M: int | None = None  # dimensions of z; None: 100, 10 for the decoder
    lr: float = 2e-4  # Adam, both networks
    beta1: float = 0.5
    beta2: float = 0.999
    precision: str = "auto"  # fp32 | bf16 | auto

    def __post_init__(self):
        choices = {"nets": ("released", "decoder"), "precision": hardware.PRECISIONS}
        check_config(self, above={"lr": 0}, least={"width": 1, "M": 1}, shares=("beta1", "beta2"), choices=choices)


class Generator32(nn.Module):
    """g: codes (B, M) -> images (B, channels, 32, 32) in [-1, 1], with kernels of 5 and a dense first layer."""

    def __init__(self, M: int, channels: int, width: int):
        super().__init__()
        self.first = nn.Linear(M, 4 * width * 16, bias=False)
        self.norm = nn.BatchNorm1d(4 * width * 16)
        conv = partial(nn.ConvTranspose2d, kernel_size=5, stride=2, padding=2, output_padding=1, bias=False)
        hidden = [*networks.normed(conv(4 * width, 2 * width)), *networks.normed(conv(2 * width, width))]
        self.layers = nn.Sequential(nn.ReLU(inplace=True), *hidden, conv(width, channels))
        self.M = M

    def forward(self, z: Tensor) -> Tensor:
        networks.check_input("the generator takes codes", z, self.M)
        first = self.norm(self.first(z)).view(len(z), 4, 4, -1).permute(0, 3, 1, 2)  # (B, 4 width, 4, 4), channels last
        return torch.tanh(self.layers(first).float())


class Discriminator(nn.Module):
    """d: images (B, channels, size, size) in [-1, 1] -> logits (B,); LeakyReLU(0.2), BatchNorm but on the first layer."""

    def __init__(self, size: int, channels: int, width: int):
        super().__init__()
        kernel, n = (5, 3) if size == 32 else (4, 4)
        widths = [channels, *(width * 2**i for i in range(n))]
        self.layers = nn.Sequential(*networks.down(widths, kernel), nn.Conv2d(widths[-1], 1, 4, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).float().flatten()


def build(cfg: Config, shape: tuple[int, int, int], mean: networks.Mean | None = None) -> dict[str, nn.Module]:
    """{"g", "d"} for images of `shape` (C, H, W). Raises ValueError for a shape that there are no networks for.

    The fully connected ones: the decoder of Wu et al. (2017), and its widths turned round for d; mean: of the data, where
    that decoder starts.
    """
    if cfg.nets == "decoder":
        g = networks.published_decoder(shape, cfg.M or 10)
        d = networks.MlpDiscriminator((math.prod(shape), 1024, 256, 256, 64, 1))
        networks.start_decoder(g, mean and mean(5000))
        return {"g": g, "d": d}
    size, M, C = networks.square(shape), cfg.M or 100, shape[0]
    g = Generator32(M, C, cfg.width) if size == 32 else networks.Generator(size, M, C, cfg.width)
    nets = {"g": g, "d": Discriminator(size, C, cfg.width)}
    for net in nets.values():
        networks.initialise(net)
        for m in net.modules():
            if isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, 0.0, 0.02)
    return nets


def make_step(nets: dict[str, nn.Module], cfg: Config) -> Step:
    """One update of the discriminator on the batch x, then one of the generator.

    nets: {"g", "d"}: g(z) -> x, g.M, d(x) -> logits. The step logs d_loss and g_loss (nats, mean over the batch) and the
    mean probability that d gives to real and to generated images, p_real and p_fake, before its update.
    """
    g, d = nets["g"], nets["d"]
    device = next(g.parameters()).device
    precision = hardware.choose_precision(cfg.precision, device)
    opt_g, opt_d = (hardware.adam(net, cfg.lr, (cfg.beta1, cfg.beta2)) for net in (g, d))

    def update(x: Tensor) -> dict[str, Tensor]:
        z = torch.randn(len(x), g.M, device=device)
        d.requires_grad_(True)
        with hardware.autocast(device, precision):
            gz = g(z)
            real, fake = d(x), d(gz.detach())
        d_loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        opt_d.zero_grad()
        d_loss.backward()
        opt_d.step()
        d.requires_grad_(False)
        with hardware.autocast(device, precision):
            again = d(gz)
        g_loss = F.softplus(-again).mean()
        opt_g.zero_grad()
        g_loss.backward()
        opt_g.step()
        logs = {"d_loss": d_loss, "g_loss": g_loss, "p_real": real.sigmoid().mean(), "p_fake": fake.sigmoid().mean()}
        return {name: value.detach() for name, value in logs.items()}

    return Step(update, dict(nets), {"g": opt_g, "d": opt_d}, None, precision)


def features(nets: dict[str, nn.Module]) -> Callable[[np.ndarray], np.ndarray]:
    """Activations of the discriminator's hidden layers, maxima over windows that leave 4x4, as DCGAN's SVHN script takes
    them: uint8 (n, C, H, W) -> (n, D), 7,168 at 32 px and width 64."""
    return networks.layer_features(nets["d"], networks.hidden_layers(nets["d"]))
