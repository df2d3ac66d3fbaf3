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

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agelib import age, color, images, networks
from agelib.training.step import Step, check_config, stabiliser

LABEL = "AGE"


@dataclass(frozen=True, kw_only=True)
class Config(age.Game):
    """Settings of one conditional AGE training: the game's, with defaults for M = 3, and the networks'."""

    M: int = 3
    lam: float = 50.0  # lam/(2M) = 8.3 on the squared distance of one code; 25 to 100 keep to the published 4 to 17
    drop_lr: int = 60
    width: int = 32  # channels of the generator's first layer
    e_width: int = 64  # of the encoder's
    n_blocks: int = 5  # residual blocks
    in_bias: bool = stabiliser(False, "bias in the encoder's first layer")
    ab_gain: float = stabiliser(1.0, "colours seen {:g} times stronger")  # by the encoder

    def __post_init__(self):
        super().__post_init__()
        check_config(self, above={"ab_gain": 0}, least={"width": 1, "e_width": 1, "n_blocks": 0})


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


def build(cfg: Config, shape: tuple[int, int, int], mean: networks.Mean | None = None) -> dict[str, nn.Module]:
    """The pair {"g": ColorGenerator, "e": ColorEncoder} for RGB images of 32 or 64 px, from torch's global RNG.

    Raises ValueError for a shape that there are no networks for.
    """
    size = networks.square(shape)
    g = ColorGenerator(cfg.M, cfg.width, cfg.n_blocks)
    return {"g": g, "e": ColorEncoder(size, cfg.M, cfg.e_width, cfg.prior, cfg.in_bias, cfg.ab_gain)}


def given(x: Tensor) -> tuple[Tensor, Tensor]:
    """What the networks make of images (B, 3, H, W) in [-1, 1]: the colours (B, 2, H, W) and the lightness (B, 1, H, W)."""
    return color.split(x)[::-1]


def make_step(nets: dict[str, nn.Module], cfg: Config) -> Step:
    """`age.make_step` on images (B, 3, H, W) in [-1, 1], RGB: x their ab, and L told to both networks.

    nets: {"g", "e"} of `build`. Logged l_x is the mean |g(e(x|L)|L) - x| of ab/110.
    """
    return age.make_step(nets, cfg, given=given)


# ------------------------------------------------------------------------------------------------------- colours


def lightness(batch: np.ndarray) -> Tensor:
    """L/50 - 1 (N, 1, H, W) of uint8 images, RGB or grey."""
    x = images.to_float(batch)
    return color.split(x.expand(-1, 3, -1, -1))[0]


def colours(batch: np.ndarray) -> np.ndarray:
    """The images' own ab in Lab units, float32 (N, 2, H, W), for uint8 RGB images."""
    return (color.split(images.to_float(batch))[1] * color.AB_SCALE).numpy()


def coloured_only(batch: np.ndarray, name: str, batch_size: int = 500) -> np.ndarray:
    """Which of the uint8 images (N, 3, H, W) have colour, (N,) bool; see `color.is_grey`.

    Raises ValueError for a set to learn from, `name`, that has fewer than half of them in colour, with the count.
    """
    if batch.ndim != 4 or batch.shape[1] != 3:
        raise ValueError(f"{name}: colours are learnt from RGB images (N, 3, H, W), got {batch.shape}")
    parts = [color.is_grey(images.to_float(batch[i : i + batch_size])) for i in range(0, len(batch), batch_size)]
    grey = torch.cat(parts).numpy()
    if grey.mean() > 0.5:
        raise ValueError(f"{name}: {grey.sum():,} of {len(batch):,} images are grey; there are no colours to learn")
    return ~grey


def paint(model: Any, batch: np.ndarray, z: Tensor, batch_size: int = 250) -> np.ndarray:
    """K colorizations of each image by a trained model of any colour method (`agelib.Model`): uint8 (N, 3 or 1, H, W), of
    which L alone is seen, and codes (K, M) for all images or (N, K, M) -> ab in Lab units, float32 (N, K, 2, H, W). A pair
    alone decides its colours, but for pix2pix's dropout."""
    N, K, g = len(batch), z.shape[-2], model.g
    L = lightness(batch)
    codes, which = z.expand(N, K, -1).reshape(N * K, -1), torch.arange(N).repeat_interleave(K)
    with images.evaluating(g):
        parts = [
            g(codes[i].to(model.device), L[which[i]].to(model.device)).cpu() for i in torch.arange(N * K).split(batch_size)
        ]
    ab = torch.cat(parts) * color.AB_SCALE
    return ab.view(N, K, *ab.shape[1:]).numpy()


def reconstruct(model: Any, batch: np.ndarray) -> np.ndarray:
    """g(e(x|L)|L) in Lab units, (N, 2, H, W), for uint8 images (N, 3, H, W)."""
    return paint(model, batch, model.encode(batch)[:, None])[:, 0]


def transfer(model: Any, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """g(e(x1|L1)|L2), Figure 4 (b): the colours of each source on each target, Lab units, (targets, sources, 2, H, W)."""
    return paint(model, targets, model.encode(sources))


def pictures(batch: np.ndarray, ab: np.ndarray) -> tuple[np.ndarray, float]:
    """Colorizations (N, K, 2, H, W) in Lab units on the L of the images they were made for, as uint8 (N, K, 3, H, W), and
    the share of their pixels that no sRGB colour has, which were clipped."""
    K = ab.shape[1]
    L = lightness(batch).repeat_interleave(K, 0)
    x, outside = color.join(L, torch.from_numpy(ab).flatten(0, 1) / color.AB_SCALE)
    return images.to_uint8(x).reshape(len(batch), K, 3, *ab.shape[3:]), outside.float().mean().item()


def _normed(layer: nn.Module) -> list[nn.Module]:
    return [layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU(inplace=True)]
