"""The priors on the latent code z: uniform on the unit sphere of R^M (the paper's), or a standard normal.

Codes are float tensors of shape (B, M); the sphere is the set of rows with Euclidean norm 1.
Source: AGE paper, section "Adversarial Generator-Encoder Networks"; the Gaussian prior is the variant it calls comparable.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PRIORS = ("sphere", "gaussian")


def check_prior(prior: str) -> str:
    """Return `prior`, or raise ValueError naming the valid ones."""
    if prior not in PRIORS:
        raise ValueError(f"unknown prior {prior!r}; valid: {', '.join(PRIORS)}")
    return prior


def project(z: Tensor) -> Tensor:
    """Divide each row of z (B, M) by its Euclidean norm; float32 or wider out, whatever comes in.

    Raises ValueError for another shape: with (B, M, 1, 1) a norm over dim 1 broadcasts wrongly elsewhere.
    No epsilon, as in the released code: a zero row gives NaN, which the training loop reports.
    """
    if z.ndim != 2:
        raise ValueError(f"codes have shape (B, M), got {tuple(z.shape)}")
    z = z.float() if z.dtype in (torch.bfloat16, torch.float16) else z
    return z / z.norm(dim=1, keepdim=True)


def sample(n: int, M: int, prior: str = "sphere", *, device=None, generator: torch.Generator | None = None) -> Tensor:
    """Draw n codes of dimension M from the prior, float32 (n, M)."""
    check_prior(prior)
    z = torch.randn(n, M, device=device, generator=generator)
    return project(z) if prior == "sphere" else z


def slerp(z0: Tensor, z1: Tensor, t: Tensor | float) -> Tensor:
    """Points on the great circle from z0 to z1 (Shoemake 1985), all of shape (..., M) with unit rows.

    t: a number, or a tensor that broadcasts against z0[..., 0]; 0 gives z0 and 1 gives z1. Opposite rows raise ValueError,
    since no shortest path is defined.
    """
    if z0.shape != z1.shape:
        raise ValueError(f"slerp needs codes of one shape, got {tuple(z0.shape)} and {tuple(z1.shape)}")
    t = torch.as_tensor(t, dtype=z0.dtype, device=z0.device)[..., None]
    cos = (z0 * z1).sum(-1, keepdim=True)
    if bool((cos < -1 + 1e-6).any()):
        raise ValueError("slerp between opposite points: every great circle is as short")
    omega = torch.acos(cos.clamp(-1, 1))
    w0, w1 = (s * torch.sinc(s * omega / math.pi) for s in (1 - t, t))  # sin(s omega) / omega
    z = w0 * z0 + w1 * z1
    return z / z.norm(dim=-1, keepdim=True)


def from_angles(theta: Tensor, phi: Tensor) -> Tensor:
    """Points of the sphere in R^3, (..., 3): polar angle theta from the third axis, azimuth phi from the first, in
    radians."""
    return torch.stack(torch.broadcast_tensors(theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()), -1)


def to_angles(z: Tensor) -> tuple[Tensor, Tensor]:
    """(theta in 0..pi, phi in 0..2 pi) of z (..., 3), not zero, of any length; phi is 0 at the poles."""
    if z.shape[-1] != 3:
        raise ValueError(f"angles are those of points in R^3, got {tuple(z.shape)}")
    return torch.atan2(z[..., :2].norm(dim=-1), z[..., 2]), torch.atan2(z[..., 1], z[..., 0]) % (2 * math.pi)
