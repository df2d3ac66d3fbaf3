"""Divergences of a batch of codes to the prior, and the two reconstruction losses. Pure functions, float32 scalars out.

Two families of formulas are kept side by side, because they differ: those printed in the paper (eq. 3, 4 and 7) and
those of the released code (github.com/DmitryUlyanov/AGE, src/losses.py and src/utils.py). `age.py` says which one
trains. Codes e, z have shape (B, M), images x, gex have shape (B, C, H, W) with pixels in [-1, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

EULER_GAMMA = 0.5772156649015329


def _codes(e: Tensor, what: str = "e") -> Tensor:
    if e.ndim != 2:
        raise ValueError(f"{what} must have shape (B, M), got {tuple(e.shape)}")
    if e.shape[0] < 2:
        raise ValueError(f"a divergence needs B >= 2 codes, got {e.shape[0]}")
    return e if e.dtype == torch.float64 else e.float()


def _same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:  # (B, M) * (B, M, 1, 1) would broadcast to (B, M, B, M) without a word
        raise ValueError(f"shapes differ: {tuple(a.shape)} and {tuple(b.shape)}")


def moments(e: Tensor) -> tuple[Tensor, Tensor]:
    """Batch mean and *biased* variance (divided by B) of codes e (B, M); each of shape (M,)."""
    e = _codes(e)
    m = e.mean(0)
    return m, (e - m).square().mean(0)


def kl_eq7(e: Tensor, floor: float = 1e-12) -> Tensor:
    """KL(N(m, diag s^2) || N(0, I)) of the diagonal Gaussian fitted to a batch of codes (AGE paper, eq. 7).

    e: (B, M), B >= 2. m, s: batch mean and standard deviation (1/B). Scalar in nats, the *mean* over the M dimensions:
    -1/2 + mean_j[(s_j^2 + m_j^2)/2 - log s_j] >= 0. Variances are floored at `floor` inside the logarithm, so that a
    batch of coinciding codes gives a large finite number.
    """
    m, var = moments(e)
    return 0.5 * (var + m.square() - var.clamp_min(floor).log() - 1).mean()


def kl_released(e: Tensor, floor: float = 1e-12) -> Tensor:
    """The divergence of the released code (`KLN01Loss`, direction qp): eq. 7 with the variance v where s belongs.

    e: (B, M), B >= 2. Scalar, mean over the M dimensions of (v_j^2 + m_j^2)/2 - log v_j - 1/2. On the sphere its
    gradient is close to twice that of `kl_eq7`; lambda and mu count half as much beside it.
    """
    m, var = moments(e)
    return ((var.square() + m.square()) / 2 - var.clamp_min(floor).log() - 0.5).mean()


def kl_full(e: Tensor) -> Tensor:
    """KL(N(m, S) || N(0, I)) of the Gaussian fitted to a batch of codes with its whole covariance S (1/B); eq. 7 for a
    diagonal one, so it also sees whether coordinates depend on each other.

    e: (B, M). Scalar in nats divided by M: (tr S + m.m - log det S)/(2M) - 1/2. Raises ValueError where S has no inverse:
    for B <= M, and for codes that span fewer than M dimensions.
    """
    e = _codes(e)
    B, M = e.shape
    if B <= M:
        raise ValueError(f"the covariance of codes in {M} dimensions needs more than {M} of them, got {B}")
    m, var = moments(e)
    d = (e - m).double()
    try:
        half_log_det = torch.linalg.cholesky(d.T @ d / B).diagonal().log().sum()
    except torch.linalg.LinAlgError as error:
        raise ValueError(f"the covariance of {B} codes is singular: they span fewer than {M} dimensions") from error
    return 0.5 * (var + m.square() - 1).mean() - half_log_det.to(e.dtype) / M


def _log_ball(d: int) -> float:
    """log volume of the unit ball of R^d."""
    return 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d + 1)


def _nearest_log_distance(e: Tensor, floor: float) -> Tensor:
    """log of the Euclidean distance from each row of e (B, M) to its nearest other row, shape (B,).

    Which row is nearest is found by matrix products, how near from the difference: close pairs would cancel otherwise.
    """
    with torch.no_grad():
        square = e.double().square().sum(1)
        d2 = square[:, None] + square[None, :] - 2 * e.double() @ e.double().T
        nearest = d2.masked_fill(torch.eye(len(e), dtype=torch.bool, device=e.device), float("inf")).argmin(1)
    return 0.5 * (e - e[nearest]).square().sum(1).clamp_min(floor).log()


def entropy_kozachenko_leonenko(e: Tensor, d: int | None = None, floor: float = 1e-12) -> Tensor:
    """Nearest-neighbour estimate of differential entropy in nats (Kozachenko & Leonenko 1987).

    e: (B, M), B >= 2. d: intrinsic dimension, M by default, M - 1 for codes on the sphere (chords stand in for arcs).
    (d/B) sum_i log rho_i + log V_d + log(B - 1) + gamma, rho_i the distance to the nearest other code. Squared
    distances are floored at `floor`. Strongly biased in high dimension at small B: a training signal, not a measure.
    """
    e = _codes(e)
    d = e.shape[1] if d is None else d
    return d * _nearest_log_distance(e, floor).mean() + _log_ball(d) + math.log(len(e) - 1) + EULER_GAMMA


def kl_nearest(e: Tensor, prior: str = "gaussian") -> Tensor:
    """KL(Q || prior) with the entropy of Q by Kozachenko-Leonenko; scalar, total nats divided by M (eq. 7's units).

    e: (B, M), B >= 2. prior "gaussian": -H + (M/2) log 2 pi + mean |e|^2 / 2. prior "sphere": log area - H with H in
    dimension M - 1, for codes on the unit sphere. Can be negative: the estimate is biased down at small B.
    The released `nonparam` option could not run; the constants here follow the definition, not that code.
    """
    e = _codes(e)
    M = e.shape[1]
    if prior == "gaussian":
        cross = 0.5 * M * math.log(2 * math.pi) + 0.5 * e.square().sum(1).mean()
        return (cross - entropy_kozachenko_leonenko(e)) / M
    if prior == "sphere":
        if M < 2:
            raise ValueError("the sphere form needs M >= 2")
        log_area = math.log(2) + 0.5 * M * math.log(math.pi) - math.lgamma(0.5 * M)
        return (log_area - entropy_kozachenko_leonenko(e, M - 1)) / M
    raise ValueError(f"unknown prior {prior!r}; valid: sphere, gaussian")


def recon_x_l1(gex: Tensor, x: Tensor) -> Tensor:
    """mean |g(e(x)) - x| over batch, channels and pixels: the released reduction of L_X (eq. 3 divided by D = C H W).

    Both (B, C, H, W), pixels in [-1, 1]; result in [0, 2].
    """
    _same_shape(gex, x)
    return (gex.float() - x.float()).abs().mean()


def recon_x_l2(gex: Tensor, x: Tensor) -> Tensor:
    """mean (g(e(x)) - x)^2 over batch, channels and pixels in [-1, 1] units; result in [0, 4]."""
    _same_shape(gex, x)
    return (gex.float() - x.float()).square().mean()


def recon_z_l2(egz: Tensor, z: Tensor) -> Tensor:
    """L_Z of eq. 4: batch mean of the squared Euclidean distance |z - e(g(z))|^2, summed over the M coordinates."""
    _same_shape(egz, z)
    return (_codes(egz, "egz") - _codes(z, "z")).square().sum(1).mean()


def recon_z_cos(egz: Tensor, z: Tensor) -> Tensor:
    """The released L_Z (`match`, cos): 2 - mean over batch *and* M of the product of unit vectors = 2 - E[cos]/M.

    Both (B, M); rows are normalised here. For unit rows it equals 2 - 1/M + recon_z_l2/(2M): the released weight 1000
    at M = 128 is 3.9 on L_Z.
    """
    _same_shape(egz, z)
    egz, z = _codes(egz, "egz"), _codes(z, "z")
    cos = (egz * z).sum(1) / (egz.norm(dim=1) * z.norm(dim=1))
    return 2 - cos.mean() / z.shape[1]


def kl_eq7_minimum(M: int) -> float:
    """Population value of eq. 7 for the uniform sphere, -1/2 + 1/(2M) + (log M)/2 nats a dimension.

    The least value over all laws on the sphere: coordinate variances are 1/M and means 0.
    """
    return -0.5 + 0.5 / M + 0.5 * math.log(M)


def kl_released_minimum(M: int) -> float:
    """Population value of the released divergence for the uniform sphere, -1/2 + 1/(2M^2) + log M."""
    return -0.5 + 0.5 / M**2 + math.log(M)


def kl_batch_bias(B: int, released: bool = True) -> float:
    """First-order upward bias of the batch estimate: [log(B/(B-1)) + 1/(B-1)]/2 for eq. 7, twice that as released.

    The estimate on B codes of the uniform sphere sits near minimum + bias: 1.6028 (eq. 7) and 3.6902 (released) at
    M = 64, B = 64.
    """
    if B < 2:
        raise ValueError(f"a batch variance needs B >= 2 codes, got {B}")
    return (math.log(B / (B - 1)) + 1 / (B - 1)) * (1.0 if released else 0.5)


# name -> objective -> function of codes (B, M) and the prior, a scalar in the units of that objective: eq. 7's, or those of
# the released form, which are twice as steep.
DIVERGENCES = {
    "gaussian": {"paper": lambda e, prior: kl_eq7(e), "released": lambda e, prior: kl_released(e)},
    "full": {"paper": lambda e, prior: kl_full(e), "released": lambda e, prior: 2 * kl_full(e)},
    "nearest": {"paper": kl_nearest, "released": lambda e, prior: 2 * kl_nearest(e, prior)},
}
RECON_X = {"l1": recon_x_l1, "l2": recon_x_l2}
