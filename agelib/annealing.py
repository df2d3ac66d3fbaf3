"""The chains of annealed importance sampling for one block of images: one tensor, HMC moves, weights, checkpoints.

See `agelib.metrics.ais` for the model, the protocol and the functions to call.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from agelib import checkpoint

Decode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AisConfig:
    """Settings of one estimate; the defaults are those of Wu et al.'s tables."""

    n_chains: int = 16  # independent chains for each image
    n_distributions: int = 10_000  # with the prior and the posterior; one HMC move between two of them
    n_leapfrog: int = 10  # steps of one HMC move, unit mass
    acceptance: float = 0.65  # the step size grows by 2 % while the running acceptance is above it, else shrinks by 2 %
    first_step: float = 0.01  # step size at the start
    step_range: tuple[float, float] = (1e-4, 0.5)
    step_per_image: bool = False  # one step size for each image; False: one for all chains of a block, as eval_gen
    block: int = 100  # images annealed together
    precision: str = "fp32"  # of the forces; bf16: the moves are proposed in bf16, and accepted and weighed in float32
    seed: int = 0

    def __post_init__(self):
        if self.n_chains < 1 or self.n_distributions < 2 or self.n_leapfrog < 1 or self.block < 1:
            raise ValueError("need n_chains, n_leapfrog and block >= 1 and n_distributions >= 2")
        if not 0 < self.acceptance < 1 or not 0 < self.step_range[0] <= self.first_step <= self.step_range[1]:
            raise ValueError("need 0 < acceptance < 1 and first_step within step_range")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"unknown precision {self.precision!r}; valid: fp32, bf16")


@dataclass
class Estimate:
    """The estimates for N images and what says whether to trust them.

    log_p: (N,) float64 nats; expected to be below log p(x) for a forward estimate and above it for a reversed one.
    ess: (N,) effective sample size of each image's chains, 1 to their number. acceptance: (N,) share of HMC moves taken.
    step_size: (N,) at the end. z: (n_chains, N, M) float32, the chains' last states, posterior draws after a forward run.
    """

    log_p: np.ndarray
    ess: np.ndarray
    acceptance: np.ndarray
    step_size: np.ndarray
    z: Tensor

    @property
    def mean(self) -> float:
        """Mean of log_p over the images, nats."""
        return float(self.log_p.mean())

    @property
    def interval(self) -> float:
        """Half the 95 % confidence interval of the mean over images: 1.96 std / sqrt(N); NaN for one image."""
        return float(1.96 * self.log_p.std(ddof=1) / math.sqrt(len(self.log_p))) if len(self.log_p) > 1 else math.nan

    def doubts(self) -> list[str]:
        """Reasons not to trust the estimate, in words; empty if there are none."""
        found = []
        if len(self.z) > 1 and (one := float((self.ess < 1.5).mean())) > 0.5:
            found.append(f"for {one:.0%} of the images a single chain carries the weight (effective sample size < 1.5)")
        if (rate := float(self.acceptance.mean())) < 0.4:
            found.append(f"HMC accepts only {rate:.0%} of its moves")
        return found


def betas(n: int) -> Tensor:
    """(n,) float64: the sigmoid schedule of Wu et al., logistic(linspace(-4, 4, n)) scaled to run from 0 to 1."""
    gamma = torch.sigmoid(torch.linspace(-4, 4, n, dtype=torch.float64))
    return (gamma - gamma[0]) / (gamma[-1] - gamma[0])


def bound(D: int, variance: float) -> float:
    """No density of the model exceeds -D/2 log(2 pi variance) nats."""
    return -D / 2 * math.log(2 * math.pi * variance)


class Chains:
    """The chains of one block of images, (C, N) of them, and everything the next move depends on."""

    def __init__(self, decode, x, z, M, variance, cfg: AisConfig, block: int, folder: Path | None):
        self.decode, self.x, self.variance, self.cfg, self.folder = decode, x, variance, cfg, folder
        self.reverse = z is not None
        schedule = betas(cfg.n_distributions)
        self.beta = (schedule.flip(0) if self.reverse else schedule).tolist()
        (own_seed,) = np.random.SeedSequence([cfg.seed, block]).generate_state(1).tolist()
        self.generator = torch.Generator(x.device).manual_seed(own_seed)
        C, N = cfg.n_chains, len(x)
        self.t = 0  # distributions passed
        self.z = self.normal(C, N, M) if z is None else z.float().expand(C, N, M).clone()
        self.step = torch.full((N if cfg.step_per_image else 1,), cfg.first_step, dtype=torch.float64, device=x.device)
        self.running = torch.full_like(self.step, cfg.acceptance)
        self.accepted = torch.zeros(N, dtype=torch.float64, device=x.device)
        self.log_w = torch.zeros(C, N, dtype=torch.float64, device=x.device)
        self.log_lik = self.force = None
        self.constant = bound(x.shape[1], variance)
        if not self.restore():
            self.force, log_lik = self.forces(self.z)
            with torch.no_grad():
                self.log_lik = self.ends(self.z, log_lik)

    @property
    def finished(self) -> bool:
        return self.t == len(self.beta) - 1

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, device=self.x.device)

    def forces(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient in z of log N(x; decode(z), variance I), (C, N, M), and that logarithm, no constant, (C, N)."""
        C, N, M = z.shape
        with torch.enable_grad(), torch.autocast(z.device.type, torch.bfloat16, enabled=self.cfg.precision == "bf16"):
            flat = z.reshape(C * N, M).requires_grad_()
            log_lik = self.log_likelihood(flat, C, N)
            (force,) = torch.autograd.grad(log_lik.sum(), flat)
        return force.view(C, N, M), log_lik.detach()

    def log_likelihood(self, flat: Tensor, C: int, N: int) -> Tensor:
        y = self.decode(flat).float().view(C, N, -1)
        return (y - self.x).square().sum(2) * (-0.5 / self.variance)

    def ends(self, z: Tensor, log_lik: Tensor) -> Tensor:
        """The likelihood that counts, in float32, given the one that came with the force at z."""
        return log_lik if self.cfg.precision == "fp32" else self.log_likelihood(z.reshape(-1, z.shape[2]), *z.shape[:2])

    @torch.no_grad()
    def advance(self) -> None:
        """Add the weight of the step to the next distribution, and make one HMC move there."""
        self.t += 1
        beta = self.beta[self.t]
        # The likelihood and its gradient do not depend on beta: those of the last accepted state are still right.
        self.log_w += (beta - self.beta[self.t - 1]) * self.log_lik.double()
        if self.reverse and self.finished:
            return  # a move under the prior would change nothing that is used
        eps = self.step.float().view(1, -1, 1)  # (1, N or 1, 1)
        z, force = self.z, self.force
        v = self.normal(*z.shape)
        before = _log_joint(z, v, self.log_lik, beta)
        v = v + 0.5 * eps * (beta * force - z)
        for i in range(self.cfg.n_leapfrog):
            z = z + eps * v
            force, log_lik = self.forces(z)
            v = v + (eps if i < self.cfg.n_leapfrog - 1 else 0.5 * eps) * (beta * force - z)
        log_lik = self.ends(z, log_lik)
        odds = (_log_joint(z, v, log_lik, beta) - before).nan_to_num(nan=-math.inf)  # a trajectory that blew up is refused
        u = torch.rand(odds.shape, generator=self.generator, device=odds.device)
        taken = u.log() < odds  # (C, N)
        self.z = torch.where(taken[..., None], z, self.z)
        self.force = torch.where(taken[..., None], force, self.force)
        self.log_lik = torch.where(taken, log_lik, self.log_lik)
        self.adapt(taken.double().mean(0))

    def adapt(self, rate: Tensor) -> None:
        """rate (N,): share of an image's chains whose move was accepted."""
        self.accepted += rate
        now = rate if self.cfg.step_per_image else rate.mean(0, keepdim=True)
        self.running = 0.9 * self.running + 0.1 * now
        factor = torch.where(self.running > self.cfg.acceptance, 1.02, 0.98)
        self.step = (self.step * factor).clamp(*self.cfg.step_range)

    def result(self) -> Estimate:
        C, N = self.log_w.shape
        log_mean = self.log_w.logsumexp(0) - math.log(C)
        ess = (2 * self.log_w.logsumexp(0) - (2 * self.log_w).logsumexp(0)).exp()
        log_p = (-log_mean if self.reverse else log_mean) + self.constant
        moves = max(1, self.t - self.reverse)
        arrays = (log_p, ess, self.accepted / moves, self.step.expand(N))
        return Estimate(*(a.cpu().numpy().copy() for a in arrays), z=self.z.cpu())

    # ---- state ----
    def identity(self) -> dict:
        """What a checkpoint must agree with: settings, the images, and what the decoder gives for fixed codes."""
        digest = hashlib.sha256(self.x.cpu().numpy().tobytes())
        probe = torch.randn(4, self.z.shape[2], generator=torch.Generator().manual_seed(1)).to(self.x.device)
        with torch.no_grad():
            digest.update(self.decode(probe).float().cpu().numpy().tobytes())
        settings = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.cfg).items()}
        return settings | {"variance": self.variance, "reverse": self.reverse, "images and decoder": digest.hexdigest()}

    _TENSORS = ("z", "step", "running", "accepted", "log_w", "log_lik", "force")

    def save(self) -> None:
        if self.folder is None:
            return
        state = {name: getattr(self, name).cpu() for name in self._TENSORS}
        state |= {"t": self.t, "random": self.generator.get_state(), "identity": self.identity()}
        checkpoint.save(self.folder, self.t, state, keep=1 if self.finished else 2)

    def restore(self) -> bool:
        found = None if self.folder is None else checkpoint.read_latest(self.folder)
        if found is None:
            return False
        state, path = found
        mine = self.identity()
        differing = [name for name in mine if state["identity"].get(name) != mine[name]]
        if differing:
            raise ValueError(f"{path}: made with other {', '.join(differing)}; remove the folder or choose another")
        for name in self._TENSORS:
            setattr(self, name, state[name].to(self.x.device))
        self.t = state["t"]
        self.generator.set_state(state["random"])
        return True


def _log_joint(z: Tensor, v: Tensor, log_lik: Tensor, beta: float) -> Tensor:
    """log of the density of position and momentum at inverse temperature beta, without constants; (C, N)."""
    return beta * log_lik - 0.5 * (z.square().sum(2) + v.square().sum(2))
