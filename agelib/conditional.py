"""Conditional AGE for colorization: networks that see the lightness L beside the code or the colours, and both updates.

Symbols as in `agelib.age`, with L (B, 1, H, W), the given lightness, and x (B, 2, H, W), the colours ab, both in the scale
of `agelib.color`; g(z|L) -> x, e(x|L) -> code. Section "Conditional AGE" of the paper says: Lab, z spread into constant
maps beside L, a ResNet generator after Johnson et al. (2016), a convolutional encoder of (L, ab), M = 3, 64 px, and the
divergence over a mini-batch with many different L. Widths, normalisation, weights and schedule are not published.

    encoder:    minimise  KL(e(x|L)) - KL(e(g(z|L)|L)) + mu L_X        g(z|L) without gradient to g
    generator:  minimise  KL(e(g(z|L)|L)) + lam L_Z                    n_g_steps times, fresh z each

A batch lends its own L to the generated half, so real and generated codes are compared on the same lightnesses.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from agelib import age, color, fast, losses, networks, sphere
from agelib.step import Step


@dataclass(frozen=True)
class ConditionalConfig(age.AgeConfig):
    """Settings of one conditional AGE training: those of `AgeConfig`, with defaults for M = 3.

    adversarial: False drops both divergences, which leaves a conditional autoencoder where recon_x_in_g > 0: the control.
    """

    M: int = 3
    lam: float = 50.0  # lam/(2M) = 8.3 on the squared distance of one code; 25 to 100 keep to the published 4 to 17
    drop_lr: int = 60
    adversarial: bool = True


class ColorGenerator(nn.Module):
    """g: codes (B, M) and L (B, 1, H, W) in [-1, 1] -> ab (B, 2, H, W) in [-1, 1]; H and W divisible by 4.

    Johnson et al.'s layout: 9x9 convolution, two of stride 2, five residual blocks, two transposed, 9x9, tanh; BatchNorm and
    ReLU between. 1,677,634 parameters at width 32 and M = 3. The last layer starts at a tenth of the others' weights, so
    that the game starts from near grey, as photographs are.
    """

    def __init__(self, M: int = 3, width: int = 32, n_blocks: int = 5):
        super().__init__()
        if M < 1 or width < 1 or n_blocks < 0:
            raise ValueError(f"need M >= 1, width >= 1 and n_blocks >= 0, got {M}, {width} and {n_blocks}")
        w = width
        self.layers = nn.Sequential(nn.ReflectionPad2d(4), *_normed(nn.Conv2d(1 + M, w, 9, bias=False)))
        for c_in in (w, 2 * w):
            self.layers.extend(_normed(nn.Conv2d(c_in, 2 * c_in, 3, 2, 1, bias=False)))
        self.layers.extend([Residual(4 * w) for _ in range(n_blocks)])
        for c_in in (4 * w, 2 * w):
            up = nn.ConvTranspose2d(c_in, c_in // 2, 3, 2, 1, output_padding=1, bias=False)
            self.layers.extend(_normed(up))
        self.layers.extend([nn.ReflectionPad2d(4), nn.Conv2d(w, 2, 9)])
        self.M = M
        networks.initialise(self)
        with torch.no_grad():
            self.layers[-1].weight.mul_(0.1), self.layers[-1].bias.zero_()

    def forward(self, z: Tensor, L: Tensor) -> Tensor:
        check(z, L, self.M)
        return torch.tanh(self.layers(networks.with_maps(z, L)).float())


class Residual(nn.Module):
    """x + BN(conv(ReLU(BN(conv(x))))), 3x3, (B, channels, H, W)."""

    def __init__(self, channels: int):
        super().__init__()
        first, second = (nn.Conv2d(channels, channels, 3, 1, 1, bias=False) for _ in range(2))
        self.layers = nn.Sequential(*_normed(first), second, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class ColorEncoder(nn.Module):
    """e: ab (B, 2, H, W) and L (B, 1, H, W) -> codes (B, M): AGE's encoder for 32 or 64 px on the three channels (L, ab).

    2,781,955 parameters at 64 px, width 64 and M = 3. in_bias: see `networks.Encoder`. ab_gain: the colours are seen this
    many times stronger; photographs' ab/110 deviate by about 0.1, a fifth of what L does.
    """

    def __init__(
        self, size: int, M: int = 3, width: int = 64, prior: str = "sphere", in_bias: bool = False, ab_gain: float = 1.0
    ):
        super().__init__()
        self.net = networks.Encoder(size, M, 3, width, prior, in_bias)
        self.M, self.prior, self.ab_gain = M, self.net.prior, ab_gain

    def forward(self, x: Tensor, L: Tensor) -> Tensor:
        return self.net(torch.cat([L, self.ab_gain * x], 1))


def check(z: Tensor, L: Tensor, M: int) -> None:
    """Raise ValueError unless z is (B, M) and L (B, 1, H, W) with H and W divisible by 4."""
    if z.ndim != 2 or z.shape[1] != M or L.ndim != 4 or L.shape[:2] != (len(z), 1) or L.shape[2] % 4 or L.shape[3] % 4:
        want = f"codes (B, {M}) and lightness (B, 1, H, W), H and W divisible by 4"
        raise ValueError(f"the generator takes {want}, got {tuple(z.shape)} and {tuple(L.shape)}")


def build(
    size: int,
    M: int = 3,
    *,
    width: int = 32,
    e_width: int = 64,
    n_blocks: int = 5,
    prior: str = "sphere",
    in_bias: bool = False,
    ab_gain: float = 1.0,
    device: torch.device | str = "cpu",
) -> dict[str, nn.Module]:
    """The pair {"g": ColorGenerator, "e": ColorEncoder} for 32 or 64 px on `device`, from torch's global RNG."""
    nets = {"g": ColorGenerator(M, width, n_blocks), "e": ColorEncoder(size, M, e_width, prior, in_bias, ab_gain)}
    return {name: net.to(device, memory_format=torch.channels_last) for name, net in nets.items()}


def make_step(nets: dict[str, nn.Module], cfg: ConditionalConfig) -> Step:
    """`age.make_step` on images (B, 3, H, W) in [-1, 1], RGB: x their ab, and L told to both networks.

    nets: {"g", "e"} of `build`. Logged l_x is the mean |g(e(x|L)|L) - x| of ab/110.
    """
    return age.make_step(nets, cfg, given=lambda images: color.split(images)[::-1], adversarial=cfg.adversarial)


@dataclass(frozen=True)
class RegressionConfig:
    """Settings of the plain control: mean |g(z|L) - x| alone, z drawn anew each time, so that nothing rewards its use."""

    lr: float = 2e-4  # Adam
    drop_lr: int = 60  # as in AgeConfig
    beta1: float = 0.5
    beta2: float = 0.999
    precision: str = "auto"


def make_regression_step(nets: dict[str, nn.Module], cfg: RegressionConfig) -> Step:
    """One update of nets["g"], a ColorGenerator, on images (B, 3, H, W) in [-1, 1], RGB. Logs l_x, on ab/110."""
    g = nets["g"]
    device = next(g.parameters()).device
    precision = fast.choose_precision(cfg.precision, device)
    opt_g = fast.adam(g, cfg.lr, (cfg.beta1, cfg.beta2))

    def update(images: Tensor) -> dict[str, Tensor]:
        L, x = color.split(images)
        with fast.autocast(device, precision):
            gx = g(sphere.sample(len(x), g.M, device=device), L)
        l_x = losses.recon_x_l1(gx, x)
        opt_g.zero_grad()
        l_x.backward()
        opt_g.step()
        return {"l_x": l_x.detach()}

    config = asdict(cfg) | {"method": "regression", "precision": precision}
    return Step(update, {"g": g}, {"g": opt_g}, lambda epoch: age.halved(cfg.lr, epoch, cfg.drop_lr), config)


def _normed(layer: nn.Module) -> list[nn.Module]:
    return [layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU(inplace=True)]
