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

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agelib import color, fast, losses, networks, sphere
from agelib.step import Step

WIDTHS = {64: (1, 2, 4, 8, 8, 8), 32: (1, 2, 4, 8, 8)}  # of the U-Net's levels, in units of `width`


@dataclass(frozen=True)
class Pix2pixConfig:
    """Settings of one pix2pix training; lr, betas and the L1 weight are the released ones."""

    l1: float = 100.0  # weight of mean |g - x|
    lr: float = 2e-4  # Adam, both networks
    n_epochs: int = 200  # lr is constant in the first half and falls linearly to 0 in the second
    beta1: float = 0.5
    beta2: float = 0.999
    precision: str = "auto"  # fp32 | bf16 | auto

    def lr_at(self, epoch: int) -> float:
        """Learning rate of 0-based `epoch`."""
        half = self.n_epochs // 2
        return self.lr * (1 - max(0, epoch + 1 - half) / (self.n_epochs - half + 1))


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


def build(
    size: int, M: int = 3, *, width: int = 64, d_width: int = 64, device: torch.device | str = "cpu"
) -> dict[str, nn.Module]:
    """{"g": UNet, "d": PatchGan} for 32 or 64 px on `device`, from torch's global RNG."""
    nets = {"g": UNet(size, M, width), "d": PatchGan(d_width)}
    return {name: net.to(device, memory_format=torch.channels_last) for name, net in nets.items()}


def make_step(nets: dict[str, nn.Module], cfg: Pix2pixConfig) -> Step:
    """One update of the discriminator and one of the generator on a batch of images (B, 3, H, W) in [-1, 1], RGB.

    nets: {"g", "d"} of `build`. The step logs d_loss and g_loss (nats, mean over patches and batch), l_x = mean |g - x| of
    ab/110, and the mean probability that d gives to real and to generated colours, p_real and p_fake, before its update.
    """
    g, d = nets["g"], nets["d"]
    device = next(g.parameters()).device
    precision = fast.choose_precision(cfg.precision, device)
    opt_g, opt_d = (fast.adam(net, cfg.lr, (cfg.beta1, cfg.beta2)) for net in (g, d))

    def update(images: Tensor) -> dict[str, Tensor]:
        L, x = color.split(images)
        n = sphere.sample(len(x), g.M, device=device)
        d.requires_grad_(True)
        with fast.autocast(device, precision):
            gx = g(n, L)
            real, fake = d(x, L), d(gx.detach(), L)
        d_loss = (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2
        opt_d.zero_grad()
        d_loss.backward()
        opt_d.step()
        d.requires_grad_(False)
        with fast.autocast(device, precision):
            again = d(gx, L)
        g_loss, l_x = F.softplus(-again).mean(), losses.recon_x_l1(gx, x)
        opt_g.zero_grad()
        (g_loss + cfg.l1 * l_x).backward()
        opt_g.step()
        logs = {"d_loss": d_loss, "g_loss": g_loss, "l_x": l_x}
        logs |= {"p_real": real.sigmoid().mean(), "p_fake": fake.sigmoid().mean()}
        return {name: value.detach() for name, value in logs.items()}

    config = asdict(cfg) | {"method": "pix2pix", "precision": precision}
    return Step(update, dict(nets), {"g": opt_g, "d": opt_d}, cfg.lr_at, config)
