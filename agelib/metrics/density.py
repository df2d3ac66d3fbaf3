"""Two cheap figures beside AIS for p(x) = integral of N(z; 0, I) N(x; decode(z), variance I) dz (Wu et al. 2017).

Nats, densities on the [0, 1] pixel scale. Both are, in expectation, lower bounds of their model's log-likelihood, with few
samples far below it. Published: AIS 705, IWAE 486, KDE 409 for the same VAE.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from agelib.metrics.ais import Decode, bound

KDE_STDS = tuple(round(0.10 + 0.01 * i, 2) for i in range(20))  # eval_gen's grid


@torch.no_grad()
def kde(samples: Tensor, x: Tensor, std: float, block: int = 10_000) -> Tensor:
    """Parzen estimate log 1/n sum_i N(x; samples_i, std^2 I), (N,) float64 nats.

    samples: (n, D), means without noise; x: (N, D); float in [0, 1]. ValueError for values that are not finite, std <= 0.
    """
    if not 0 < std < math.inf or samples.shape[1:] != x.shape[1:]:
        raise ValueError(f"need samples (n, D), x (N, D), 0 < std < inf; got {[*samples.shape]}, {[*x.shape]}, {std}")
    centre = x.mean(0)  # smaller numbers round less
    x, parts = x - centre, []
    for part in samples.split(block):
        y = part.to(x) - centre
        d2 = (x.square().sum(1, keepdim=True) + y.square().sum(1)).addmm_(x, y.T, alpha=-2).clamp_min(0)  # (N, n)
        parts.append((d2.double() / (-2 * std**2)).logsumexp(1))
    found = torch.stack(parts).logsumexp(0) - math.log(len(samples)) + bound(x.shape[1], std**2)
    if not torch.isfinite(found).all():
        raise ValueError("the samples or x have values that are not finite")
    return found


def choose_std(samples: Tensor, x: Tensor) -> tuple[float, list[float]]:
    """The std of KDE_STDS with the highest mean `kde` on validation images x, and the means for all of them."""
    means = [kde(samples, x, std).mean().item() for std in KDE_STDS]
    return KDE_STDS[means.index(max(means))], means


@torch.no_grad()
def iwae(
    decode: Decode, mean: Tensor, log_sigma: Tensor, x: Tensor, variance: float, n_samples: int, *,
    generator: torch.Generator | None = None, chunk: int = 5_000,
) -> Tensor:  # fmt: skip
    """log 1/K sum_k N(z_k; 0, I) N(x; decode(z_k), variance I) / q(z_k|x), z_k ~ q (Burda et al. 2016); (N,) float64.

    mean, log_sigma: (N, M) of q(z|x) = N(mean, diag sigma^2); x: (N, D) in [0, 1]; K = n_samples. `chunk`: codes decoded
    at once. Raises ValueError for unequal N, variance <= 0 or n_samples < 1.
    """
    if not 0 < variance < math.inf or n_samples < 1:
        raise ValueError(f"need variance > 0 and n_samples >= 1, got {variance} and {n_samples}")
    found = []
    for m, s, image in zip(mean.float(), log_sigma.float(), x, strict=True):
        terms = []
        for start in range(0, n_samples, chunk):
            eps = torch.randn(min(chunk, n_samples - start), len(m), generator=generator, device=m.device)
            z = m + s.exp() * eps
            log_lik = (decode(z).float().flatten(1) - image).square().sum(1).double() / (-2 * variance)
            log_prior_over_q = 0.5 * (eps.double().square() - z.double().square()).sum(1) + s.double().sum()
            terms.append(log_lik + log_prior_over_q)
        found.append(torch.cat(terms).logsumexp(0) - math.log(n_samples))
    return torch.stack(found).cpu() + bound(x.shape[1], variance)
