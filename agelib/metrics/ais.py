"""Annealed importance sampling of log p(x) for a decoder, with HMC moves, and the two-sided check of it (BDMC).

The model is p(x) = integral of N(z; 0, I) N(x; decode(z), variance I) over z in R^M, as in Wu et al. (2017, "On the
quantitative analysis of decoder-based generative models") and its released code eval_gen. `decode` is any callable
z (B, M) float32 -> (B, ...) of D values; a prior on the sphere enters as decode(h / |h|) with h normal. x has values in
[0, 1]; densities are in nats on that scale. `variance` is a variance, as eval_gen's "sigma" is.

A forward chain starts at z ~ N(0, I) and goes through p_t ~ N(z; 0, I) N(x; decode(z), variance I)^beta_t, beta from 0 to 1.
The mean of its weights is an unbiased estimate of p(x), so its logarithm is, in expectation, a lower bound of log p(x). A
reversed chain that starts at an exact posterior draw gives an upper bound (Grosse et al. 2015, bidirectional Monte Carlo);
such a draw exists for x simulated from the model. All chains of all images of a block are one tensor.

Forces in bf16 leave the result right: a leapfrog trajectory preserves volume and can be reversed under any force that
depends on the position alone, and whether its end is accepted, and what it weighs, is decided by float32 likelihoods. A
coarser force only makes the accepted step smaller.
"""

from __future__ import annotations

import math
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from agelib.annealing import AisConfig, Chains, Decode, Estimate, betas, bound
from agelib.progress import Progress

__all__ = [
    "AisConfig",
    "Decode",
    "Estimate",
    "backward",
    "bdmc",
    "betas",
    "bound",
    "dequantise",
    "forward",
    "select_variance",
    "simulate",
]


def dequantise(images: np.ndarray, seed: int = 41242) -> Tensor:
    """uint8 images (N, ...) -> (N, D) float32 in [0, 1): pixel/256 + U(0, 1)/256, as eval_gen does."""
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim < 2 or not len(images):
        raise ValueError(f"images must be uint8 (N, ...), N >= 1; got {images.dtype} {images.shape}")
    noise = np.random.default_rng(seed).random(images.shape)
    x = ((images + noise) / 256).reshape(len(images), -1).astype(np.float32)
    return torch.from_numpy(np.minimum(x, np.float32(1 - 2**-24)))  # rounding to float32 may reach 1


def forward(
    decode: Decode, x: Tensor, M: int, variance: float, cfg: AisConfig, *, folder: str | Path | None = None,
    checkpoint_every_s: float = 60.0, label: str = "AIS",
) -> Estimate:  # fmt: skip
    """Estimate log p(x) for x (N, D) or (N, ...) in [0, 1]; the expectation of the result is a lower bound.

    folder: keeps checkpoints there, from which a killed estimate goes on with the same result bit for bit (same number of
    threads); a folder of another estimate (settings, images or decoder) is refused. Raises ValueError before any chain
    starts for values outside [0, 1] or not finite, variance <= 0, and a decoder with another output size or with values
    that are not finite. Warns when `Estimate.doubts` has something to say.
    """
    x = _images(x)
    if x.min() < 0 or x.max() > 1:
        raise ValueError(f"x must lie in [0, 1], it has values from {x.min():.3g} to {x.max():.3g}")
    _check(decode, x, M, variance)
    return _anneal(decode, x, None, M, variance, cfg, folder, checkpoint_every_s, label)


def select_variance(
    decode: Decode, x: Tensor, M: int, variances: tuple[float, ...], cfg: AisConfig, *, folder: str | Path | None = None
) -> tuple[float, dict[float, Estimate]]:
    """The variance under which validation images x are likeliest by `forward`, and the estimate for each of `variances`."""
    if not variances:
        raise ValueError("need at least one variance to choose from")
    found = {}
    for variance in variances:
        place = Path(folder) / f"variance-{variance:g}" if folder else None
        found[variance] = forward(decode, x, M, variance, cfg, folder=place, label=f"variance {variance:g}")
    return max(found, key=lambda variance: found[variance].mean), found


def simulate(decode: Decode, n: int, M: int, variance: float, *, seed: int = 0, device="cpu") -> tuple[Tensor, Tensor]:
    """n draws of the model: z (n, M) ~ N(0, I) and x (n, D) = decode(z) + sqrt(variance) noise. z is a draw of p(z|x)."""
    generator = torch.Generator(device).manual_seed(seed)
    z = torch.randn(n, M, generator=generator, device=device)
    with torch.no_grad():
        mean = decode(z).float().flatten(1)
    return z, mean + math.sqrt(variance) * torch.randn(mean.shape, generator=generator, device=device)


def backward(
    decode: Decode, x: Tensor, z: Tensor, variance: float, cfg: AisConfig, *, folder: str | Path | None = None,
    checkpoint_every_s: float = 60.0, label: str = "reversed AIS",
) -> Estimate:  # fmt: skip
    """An upper bound, in expectation, of log p(x) by chains from the exact posterior draws z (N, M) back to the prior.

    x (N, D) and z come from `simulate`; all chains of an image start at its z. Otherwise as `forward`.
    """
    x = _images(x)
    if z.ndim != 2 or len(z) != len(x):
        raise ValueError(f"need one z (N, M) for each of {len(x)} images, got {tuple(z.shape)}")
    _check(decode, x, z.shape[1], variance)
    return _anneal(decode, x, z, z.shape[1], variance, cfg, folder, checkpoint_every_s, label)


def bdmc(
    decode: Decode, M: int, variance: float, n: int, cfg: AisConfig, *, device="cpu", folder: str | Path | None = None,
    checkpoint_every_s: float = 60.0,
) -> dict[str, float]:  # fmt: skip
    """The gap between upper and lower bound on n simulated images, nats: {"lower", "upper", "gap", "interval"}.

    interval: half the 95 % confidence interval of the gap over images. The true mean log p lies between the bounds.
    """
    z, x = simulate(decode, n, M, variance, seed=cfg.seed + 1, device=device)
    parts = {name: Path(folder) / name if folder else None for name in ("forward", "backward")}
    _check(decode, x, M, variance)
    lower = _anneal(decode, x, None, M, variance, cfg, parts["forward"], checkpoint_every_s, "BDMC, lower bound")
    about = {"folder": parts["backward"], "checkpoint_every_s": checkpoint_every_s, "label": "BDMC, upper bound"}
    upper = backward(decode, x, z, variance, cfg, **about)
    gap = upper.log_p - lower.log_p
    half = 1.96 * gap.std(ddof=1) / math.sqrt(n) if n > 1 else math.nan
    return {"lower": lower.mean, "upper": upper.mean, "gap": float(gap.mean()), "interval": float(half)}


def _images(x: Tensor) -> Tensor:
    if x.ndim < 2 or not len(x) or not x.is_floating_point():
        raise ValueError(f"x must be float images (N, ...), N >= 1; got {x.dtype} {tuple(x.shape)}")
    x = x.float().flatten(1)
    if not torch.isfinite(x).all():
        raise ValueError("x has values that are not finite")
    return x


@torch.no_grad()
def _check(decode: Decode, x: Tensor, M: int, variance: float) -> None:
    if not variance > 0:
        raise ValueError(f"the variance must be > 0, got {variance}")
    trial = decode(torch.randn(3, M, generator=torch.Generator().manual_seed(0)).to(x.device))
    if len(trial) != 3 or trial[0].numel() != x.shape[1]:
        raise ValueError(f"the decoder gives {tuple(trial.shape)} for 3 codes, the images have {x.shape[1]} values each")
    if not torch.isfinite(trial).all():
        raise ValueError("the decoder gives values that are not finite")


def _anneal(decode, x, z, M, variance, cfg, folder, every_s, label) -> Estimate:
    """All blocks in turn. z None: forward from the prior; else backward from z (N, M)."""
    parts = []
    progress, started = Progress(), time.monotonic()
    n_blocks = math.ceil(len(x) / cfg.block)
    for k in range(n_blocks):
        rows = slice(k * cfg.block, (k + 1) * cfg.block)
        place = None if folder is None else Path(folder) / f"block-{k:04d}"
        chains = Chains(decode, x[rows], None if z is None else z[rows], M, variance, cfg, k, place)
        while not chains.finished:
            saved = time.monotonic()
            while not chains.finished and (place is None or time.monotonic() - saved < every_s):
                chains.advance()
                share = (k + chains.t / (cfg.n_distributions - 1)) / n_blocks
                left = (time.monotonic() - started) * (1 / share - 1)
                progress.show(f"{label}: {share:.0%}, about {left / 60:.0f} min left if not resumed")
            chains.save()
        parts.append(chains.result())
    names = ("log_p", "ess", "acceptance", "step_size")
    arrays = {name: np.concatenate([getattr(p, name) for p in parts]) for name in names}
    found = Estimate(**arrays, z=torch.cat([p.z for p in parts], 1))
    for doubt in found.doubts():
        warnings.warn(f"{label}: {doubt}; more distributions would help", stacklevel=3)
    progress.done(f"{label}: {found.mean:.2f} nats, {len(x)} images, {time.monotonic() - started:.0f} s")
    return found
