"""The models of the colorization experiment, trained by the one loop, and their colours for images of one's own.

All have a generator g(z, L) -> ab, z (B, M) on the unit sphere: conditional AGE, pix2pix with noise maps, and two controls,
AGE's networks as an autoencoder without the game (no divergence, and L_X trains the generator too), and L1 regression.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from agelib import apply, color, conditional
from agelib.baselines import pix2pix
from agelib.run import Run
from agelib.step import Step, check_settings
from agelib.trained import Trained, run_fit

NAMES = {"age": "AGE", "autoencoder": "AGE without the game", "pix2pix": "pix2pix + noise", "regression": "L1 regression"}
_CONFIGS = {
    "age": conditional.ConditionalConfig,
    "autoencoder": conditional.ConditionalConfig,
    "pix2pix": pix2pix.Pix2pixConfig,
    "regression": conditional.RegressionConfig,
}


class Colorizer(Trained):
    """A trained model; method: of NAMES. g: (z, L) -> ab/110; e: (ab/110, L) -> codes, None for pix2pix and regression."""

    @property
    def label(self) -> str:
        """The name in tables and figures."""
        return NAMES[self.method]

    @torch.no_grad()
    def paint(self, images: np.ndarray, z: Tensor, batch_size: int = 250) -> np.ndarray:
        """K colorizations of each image: uint8 (N, 3 or 1, H, W), of which L alone is seen, and codes (K, M) for all images
        or (N, K, M) -> ab in Lab units, float32 (N, K, 2, H, W). A pair alone decides its colours, but for pix2pix's
        dropout."""
        N, K = len(images), z.shape[-2]
        device = next(self.g.parameters()).device
        L = lightness(images)
        codes, which = z.expand(N, K, -1).reshape(N * K, -1), torch.arange(N).repeat_interleave(K)
        parts = [
            self.g(codes[i].to(device), L[which[i]].to(device)).cpu()
            for i in torch.arange(N * K).split(batch_size)
        ]  # fmt: skip
        ab = torch.cat(parts) * color.AB_SCALE
        return ab.view(N, K, *ab.shape[1:]).numpy()

    @torch.no_grad()
    def encode(self, images: np.ndarray, batch_size: int = 250) -> Tensor:
        """e(x|L) for uint8 images (N, 3, H, W): codes (N, M) on the CPU. Raises ValueError without an encoder."""
        if self.e is None:
            raise ValueError(f"{self.label} has no encoder")
        device = next(self.e.parameters()).device
        pairs = [color.split(apply.to_float(images[i : i + batch_size], device)) for i in range(0, len(images), batch_size)]
        return torch.cat([self.e(ab, L).cpu() for L, ab in pairs])

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """g(e(x|L)|L) in Lab units, (N, 2, H, W), for uint8 images (N, 3, H, W)."""
        return self.paint(images, self.encode(images)[:, None])[:, 0]

    def transfer(self, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """g(e(x1|L1)|L2), Figure 4 (b): the colours of each source on each target, Lab units, (targets, sources, 2, H,
        W)."""
        return self.paint(targets, self.encode(sources))


def lightness(images: np.ndarray) -> Tensor:
    """L/50 - 1 (N, 1, H, W) of uint8 images, RGB or grey."""
    x = apply.to_float(images)
    return color.split(x.expand(-1, 3, -1, -1))[0]


def colours(images: np.ndarray) -> np.ndarray:
    """The images' own ab in Lab units, float32 (N, 2, H, W), for uint8 RGB images."""
    return (color.split(apply.to_float(images))[1] * color.AB_SCALE).numpy()


def pictures(images: np.ndarray, ab: np.ndarray) -> tuple[np.ndarray, float]:
    """Colorizations (N, K, 2, H, W) in Lab units on the L of the images they were made for, as uint8 (N, K, 3, H, W), and
    the share of their pixels that no sRGB colour has, which were clipped."""
    K = ab.shape[1]
    L = lightness(images).repeat_interleave(K, 0)
    x, outside = color.join(L, torch.from_numpy(ab).flatten(0, 1) / color.AB_SCALE)
    return apply.to_uint8(x).reshape(len(images), K, 3, *ab.shape[3:]), outside.float().mean().item()


def coloured_only(images: np.ndarray, name: str, batch_size: int = 500) -> np.ndarray:
    """Which of the uint8 images (N, 3, H, W) have colour, (N,) bool; see `color.is_grey`.

    Raises ValueError for a set to learn from, `name`, that has fewer than half of them in colour, with the count.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"{name}: colours are learnt from RGB images (N, 3, H, W), got {images.shape}")
    parts = [color.is_grey(apply.to_float(images[i : i + batch_size])) for i in range(0, len(images), batch_size)]
    grey = torch.cat(parts).numpy()
    if grey.mean() > 0.5:
        raise ValueError(f"{name}: {grey.sum():,} of {len(images):,} images are grey; there are no colours to learn")
    return ~grey


def build(
    method: str, size: int, M: int = 3, *, width: int | None = None, e_width: int | None = None, n_blocks: int = 5,
    in_bias: bool = False, ab_gain: float = 1.0, device: torch.device | str = "cpu",
) -> dict[str, nn.Module]:  # fmt: skip
    """The networks of a method of NAMES for size x size images. width: the generator's, default the published or, for AGE,
    32; e_width: of AGE's encoder (64) or pix2pix's discriminator's (64). Raises ValueError for an unknown method."""
    if method not in NAMES:
        raise ValueError(f"unknown method {method!r}; valid: {', '.join(NAMES)}")
    if method == "pix2pix":
        return pix2pix.build(size, M, width=width or 64, d_width=e_width or 64, device=device)
    nets = conditional.build(
        size, M, width=width or 32, e_width=e_width or 64, n_blocks=n_blocks, in_bias=in_bias, ab_gain=ab_gain, device=device
    )
    return {"g": nets["g"]} if method == "regression" else nets


def make_step(method: str, nets: dict[str, nn.Module], settings: Mapping, precision: str) -> Step:
    """The method's Step with `settings` of its config; the autoencoder gets its weight mu on L_X in both networks.

    Raises ValueError naming settings that the method does not have.
    """
    config = _CONFIGS[method]
    check_settings(NAMES[method], config, settings)
    if method == "pix2pix":
        return pix2pix.make_step(nets, config(precision=precision, **settings))
    if method == "regression":
        return conditional.make_regression_step(nets, config(precision=precision, **settings))
    cfg = config(M=nets["g"].M, precision=precision, **settings)
    if method == "autoencoder":
        cfg = config(**cfg.__dict__ | {"adversarial": False, "recon_x_in_g": cfg.mu})
    return conditional.make_step(nets, cfg)


def train(
    method: str,
    images: np.ndarray,
    folder: str | Path,
    *,
    n_epochs: int,
    batch_size: int = 64,
    max_steps: int | None = None,
    M: int = 3,
    width: int | None = None,
    e_width: int | None = None,
    n_blocks: int = 5,
    in_bias: bool = False,
    ab_gain: float = 1.0,
    flip: bool = True,
    seed: int = 0,
    device: torch.device | str = "cpu",
    precision: str = "auto",
    checkpoint_every_s: float = 60.0,
    **settings,
) -> Colorizer:
    """Train `method` on uint8 RGB images (N, 3, H, W) in the run directory `folder`, or take from there what is trained.

    settings: of the method's config. flip: half of the images are mirrored. pix2pix's schedule gets n_epochs. A training
    that diverges gives a model whose status says so.
    """
    about = {"M": M, "width": width, "e_width": e_width, "n_blocks": n_blocks, "in_bias": in_bias, "ab_gain": ab_gain}
    config = about | settings | {"method": method, "n_epochs": n_epochs, "batch_size": batch_size, "max_steps": max_steps}
    run = Run(folder, config | {"flip": flip, "seed": seed}, seed=seed)
    nets = build(method, images.shape[3], device=device, **about)
    if method == "pix2pix":
        settings = {"n_epochs": n_epochs} | settings
    step = make_step(method, nets, settings, precision)
    schedule = {"n_epochs": n_epochs, "batch_size": batch_size, "max_steps": max_steps, "flip": flip, "seed": seed}
    fitted = run_fit(step, images, run=run, checkpoint_every_s=checkpoint_every_s, **schedule)
    return Colorizer(method, **fitted)
