"""Conditional AGE for colorization: networks that see the lightness L beside the code or the colours, and both updates.

Symbols as in `agelib.age`, with L (B, 1, H, W), the given lightness, and x (B, 2, H, W), the colours ab, both in the scale
of `agelib.color`; g(z|L) -> x, e(x|L) -> code. Networks, game and schedule are those of the authors' branch cAGE
(github.com/DmitryUlyanov/AGE, commit 058cdf9, the command cars.cmd), which made Figure 4 (a); the defaults of `Config`:

    encoder:    minimise  KL(e(x|L)) - 1/2 KL(e(g(z|L)|L))        g(z|L) without gradient to g
    generator:  minimise  KL(e(g(z|L)|L))                         four times, fresh z and fresh L (another real batch) each

Section "Conditional AGE" of the paper has another game: M = 3, the full weight of KL(e(g(z|L)|L)), mu L_X, lam L_Z, two
generator steps, and a generator "after Johnson et al. (2016)". A batch lends its own L to the generated half of the
encoder's update, so real and generated codes are compared on the same lightnesses.
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
    """Settings of one conditional AGE training: the game's and the networks', with the defaults of cars.cmd."""

    M: int = 16
    lam: float = 0.0
    mu: float = 0.0  # on the mean absolute difference of ab/110
    n_g_steps: int = 4
    kl_fake_weight: float = stabiliser(0.5, "KL fake weight {:g}")
    lr: float = 6e-4
    drop_lr: int = 2
    lr_factor: float = 0.96
    width: int = 64  # channels of the generator
    e_width: int = 64  # of the encoder's first layer
    n_blocks: int = 10  # residual blocks

    def __post_init__(self):
        super().__post_init__()
        check_config(self, least={"width": 1, "e_width": 1, "n_blocks": 0})


def game(cfg: Config) -> str:
    """Whose losses these settings have, and at what weight of KL(e(g(z|L)|L)), in words for a table; see the module."""
    if cfg.recon_x_in_g and cfg.recon_z_in_e:
        whose = "authors' reconstruction command"
    elif cfg.recon_x_in_g or cfg.recon_z_in_e or bool(cfg.mu) != bool(cfg.lam):
        whose = "losses of neither the paper nor the authors"
    else:
        whose = "paper's losses" if cfg.mu else "authors' game"
    weight = 1.0 if whose == "paper's losses" else Config().kl_fake_weight
    told = whose if cfg.kl_fake_weight == weight else f"{whose} at KL fake weight {cfg.kl_fake_weight:g}"
    return f"{told}, paper's M" if cfg.M == 3 else told


class ColorGenerator(nn.Module):
    """g: codes (B, M) and L (B, 1, H, W) in [-1, 1] -> ab/110 (B, 2, H, W), unbounded; H and W divisible by 4.

    Sees L in 0..100 and makes ab in Lab units: two 5x5 convolutions of stride 2, BatchNorm and ReLU between, residual blocks
    at a quarter of the size, a 3x3 convolution and PixelShuffle(4). 888,160 parameters at width 64, ten blocks and M = 16.
    """

    def __init__(self, M: int = 16, width: int = 64, n_blocks: int = 10):
        super().__init__()
        first = networks.normed(nn.Conv2d(1 + M, width, 5, 2, 2))
        blocks = [Residual(width) for _ in range(n_blocks)]
        last = [nn.Conv2d(width, 2 * 4**2, 3, 1, 1), nn.PixelShuffle(4)]
        self.layers = nn.Sequential(*first, nn.Conv2d(width, width, 5, 2, 2), *blocks, *last)
        self.M = M
        networks.initialise(self)

    def forward(self, z: Tensor, L: Tensor) -> Tensor:
        check(z, L, self.M)
        return self.layers(networks.with_maps(z, color.L_SCALE * (L + 1))).float() / color.AB_SCALE


class Residual(nn.Module):
    """x + BN(conv(ReLU(BN(conv(x))))), 3x3 over reflected borders, (B, channels, H, W)."""

    def __init__(self, channels: int):
        super().__init__()
        first, second = (nn.Conv2d(channels, channels, 3, 1, 1, bias=False, padding_mode="reflect") for _ in range(2))
        self.layers = nn.Sequential(*networks.normed(first), second, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class ColorEncoder(nn.Module):
    """e: ab/110 (B, 2, H, W) and L (B, 1, H, W) in [-1, 1] -> codes (B, M): AGE's encoder for 32 or 64 px on the channels
    (L, ab) in Lab units. 2,888,464 parameters at 64 px, width 64 and M = 16."""

    def __init__(self, size: int, M: int = 16, width: int = 64, prior: str = "sphere"):
        super().__init__()
        self.net = networks.Encoder(size, M, 3, width, prior)
        self.M, self.prior = M, self.net.prior

    def forward(self, x: Tensor, L: Tensor) -> Tensor:
        return self.net(torch.cat([color.L_SCALE * (L + 1), color.AB_SCALE * x], 1))


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
    return {"g": g, "e": age.with_weight(ColorEncoder(size, cfg.M, cfg.e_width, cfg.prior), cfg)}


def given(x: Tensor) -> tuple[Tensor, Tensor]:
    """What the networks make of images (B, 3, H, W) in [-1, 1]: the colours (B, 2, H, W) and the lightness (B, 1, H, W)."""
    return color.split(x)[::-1]


def make_step(nets: dict[str, nn.Module], cfg: Config) -> Step:
    """`age.make_step` on images (B, 3, H, W) in [-1, 1], RGB: x their ab, and L told to both networks.

    The batch is 1 + cfg.n_g_steps mini-batches of different images, joined: the encoder's, then one for each generator
    update, which takes its L. nets: {"g", "e"} of `build`. Logged l_x is the mean |g(e(x|L)|L) - x| of ab/110.
    """
    return age.make_step(nets, cfg, given=given, fresh=True)


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
