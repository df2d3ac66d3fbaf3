"""pix2pix (Isola et al., CVPR 2017) for colorization, with three constant noise maps beside L, as the AGE paper extends it.

Symbols: L (B, 1, H, W) the lightness and x (B, 2, H, W) the colours ab, both in the scale of `agelib.color`; n (B, 3) the
noise, one point of the unit sphere an image, drawn anew in each iteration (its law is not published; this is the law of
AGE's z); d the discriminator's logits, one a patch, high for real colours.

    discriminator:  minimise  1/2 [E softplus(-d(x, L)) + E softplus(d(g(n, L), L))]
    generator:      minimise  E softplus(-d(g(n, L), L)) + 100 mean |g(n, L) - x|

Networks of the released code (github.com/phillipi/pix2pix, junyanz/pytorch-CycleGAN-and-pix2pix): a U-Net down to 1x1 and a
PatchGAN of three strided layers. They were trained one image at a time, where BatchNorm takes the statistics of that image,
in training and at test: that is instance normalisation, written so here, so that a larger batch changes nothing but the
gradient's noise. The 1x1 bottleneck has none, since normalised it would be zero. Dropout in the decoder stays on at test:
it is pix2pix's own noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agelib import losses, networks, sphere
from agelib.conditional import given
from agelib.training import hardware
from agelib.training.step import Step, check_config

WIDTHS = {64: (1, 2, 4, 8, 8, 8), 32: (1, 2, 4, 8, 8)}  # of the U-Net's levels, in units of `width`


LABEL = "pix2pix + noise"
PRIOR = "sphere"  # the law of the noise maps


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one pix2pix training; lr, betas and the L1 weight are the released ones."""

    M: int = 3  # noise maps
    width: int = 64  # channels of the U-Net's first level
    d_width: int = 64  # and of the discriminator's first layer
    l1: float = 100.0  # weight of mean |g - x|
    lr: float = 2e-4  # Adam, both networks; constant in the first half of the epochs, then falling linearly to 0
    beta1: float = 0.5
    beta2: float = 0.999
    precision: str = "auto"  # fp32 | bf16 | auto

    def __post_init__(self):
        least = {"M": 1, "width": 1, "d_width": 1, "l1": 0}
        check_config(
            self, above={"lr": 0}, least=least, shares=("beta1", "beta2"), choices={"precision": hardware.PRECISIONS}
        )

    def lr_at(self, epoch: float, n_epochs: float) -> float:
        """Learning rate in 0-based `epoch` of `n_epochs`."""
        half = n_epochs // 2
        return self.lr * (1 - max(0, int(epoch) + 1 - half) / (n_epochs - half + 1))


class UNet(nn.Module):
    """g: noise (B, M) and L (B, 1, size, size) in [-1, 1] -> ab (B, 2, size, size) in [-1, 1].

    Kernel 4, stride 2 down to 1x1 and back, each level joined to its mirror; LeakyReLU(0.2) down, ReLU up, dropout 0.5 on
    the first three levels up. At 64 px, width 64 and M = 3: 29.24 million parameters.
    """

    def __init__(self, size: int, M: int = 3, width: int = 64):
        super().__init__()
        if size not in WIDTHS:
            raise ValueError(f"no U-Net for {size}x{size} images; there are {', '.join(f'{s}x{s}' for s in sorted(WIDTHS))}")
        widths = [width * k for k in WIDTHS[size]]
        last = len(widths) - 1
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, (c_in, c_out) in enumerate(zip([1 + M, *widths], widths, strict=False)):
            act = [nn.LeakyReLU(0.2)] if i else []
            norm = [_norm(c_out)] if 0 < i < last else []
            self.down.append(nn.Sequential(*act, nn.Conv2d(c_in, c_out, 4, 2, 1, bias=not norm), *norm))
        for i in range(last, 0, -1):
            c_in = widths[i] * (1 if i == last else 2)
            layers = [nn.ReLU(), nn.ConvTranspose2d(c_in, widths[i - 1], 4, 2, 1, bias=False), _norm(widths[i - 1])]
            self.up.append(nn.Sequential(*layers, *([Dropout()] if i > last - 3 else [])))
        self.up.append(nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(2 * widths[0], 2, 4, 2, 1)))
        self.M, self.size = M, size
        initialise(self)

    def forward(self, z: Tensor, L: Tensor) -> Tensor:
        if z.shape != (len(L), self.M) or L.shape[1:] != (1, self.size, self.size):
            want = f"noise (B, {self.M}) and lightness (B, 1, {self.size}, {self.size})"
            raise ValueError(f"the U-Net takes {want}, got {tuple(z.shape)} and {tuple(L.shape)}")
        x = networks.with_maps(z, L)
        found = []
        for layer in self.down:
            x = layer(x)
            found.append(x)
        for i, layer in enumerate(self.up):
            x = layer(x if i == 0 else torch.cat([x, found[-1 - i]], 1))
        return torch.tanh(x.float())


class Dropout(nn.Module):
    """Dropout 0.5, at test as in training."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=True)


class PatchGan(nn.Module):
    """d: ab (B, 2, H, W) and L (B, 1, H, W) -> logits (B, 1, h, w), each of a patch of 70 px; 64 px gives 6x6, 32 px 2x2.

    2,765,633 parameters at width 64.
    """

    def __init__(self, width: int = 64):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        for k, stride in ((1, 2), (2, 2), (4, 1)):
            layers += [nn.Conv2d(k * width, 2 * k * width, 4, stride, 1, bias=False), _norm(2 * k * width)]
            layers += [nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 1))
        initialise(self)

    def forward(self, x: Tensor, L: Tensor) -> Tensor:
        return self.layers(torch.cat([L, x], 1)).float()


def initialise(net: nn.Module) -> None:
    """Convolutions N(0, 0.02) with biases 0, normalisation N(1, 0.02) and 0."""
    for m in net.modules():
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.InstanceNorm2d):
            nn.init.normal_(m.weight, float(isinstance(m, nn.InstanceNorm2d)), 0.02)
            if m.bias is not None:
                nn.init.zeros_(m.bias)


def _norm(channels: int) -> nn.InstanceNorm2d:
    return nn.InstanceNorm2d(channels, affine=True)


def build(cfg: Config, shape: tuple[int, int, int], mean: networks.Mean | None = None) -> dict[str, nn.Module]:
    """{"g": UNet, "d": PatchGan} for RGB images of 32 or 64 px, from torch's global RNG. Raises ValueError for others."""
    return {"g": UNet(networks.square(shape), cfg.M, cfg.width), "d": PatchGan(cfg.d_width)}


def make_step(nets: dict[str, nn.Module], cfg: Config) -> Step:
    """One update of the discriminator and one of the generator on a batch of images (B, 3, H, W) in [-1, 1], RGB.

    nets: {"g", "d"} of `build`. The step logs d_loss and g_loss (nats, mean over patches and batch), l_x = mean |g - x| of
    ab/110, and the mean probability that d gives to real and to generated colours, p_real and p_fake, before its update.
    """
    g, d = nets["g"], nets["d"]
    device = next(g.parameters()).device
    precision = hardware.choose_precision(cfg.precision, device)
    opt_g, opt_d = (hardware.adam(net, cfg.lr, (cfg.beta1, cfg.beta2)) for net in (g, d))

    def update(images: Tensor) -> dict[str, Tensor]:
        x, L = given(images)
        n = sphere.sample(len(x), g.M, device=device)
        d.requires_grad_(True)
        with hardware.autocast(device, precision):
            gx = g(n, L)
            real, fake = d(x, L), d(gx.detach(), L)
        d_loss = (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2
        opt_d.zero_grad()
        d_loss.backward()
        opt_d.step()
        d.requires_grad_(False)
        with hardware.autocast(device, precision):
            again = d(gx, L)
        g_loss, l_x = F.softplus(-again).mean(), losses.recon_x_l1(gx, x)
        opt_g.zero_grad()
        (g_loss + cfg.l1 * l_x).backward()
        opt_g.step()
        logs = {"d_loss": d_loss, "g_loss": g_loss, "l_x": l_x}
        logs |= {"p_real": real.sigmoid().mean(), "p_fake": fake.sigmoid().mean()}
        return {name: value.detach() for name, value in logs.items()}

    return Step(update, dict(nets), {"g": opt_g, "d": opt_d}, cfg.lr_at, precision)
