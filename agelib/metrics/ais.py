"""Annealed importance sampling of log p(x) for a decoder, with HMC moves, and the two-sided check of it (BDMC).

The model is p(x) = integral of N(z; 0, I) N(x; decode(z), variance I) over z in R^M, as in Wu et al. (2017, "On the
quantitative analysis of decoder-based generative models") and its released code eval_gen. `decode` is any callable
z (B, M) float32 -> (B, ...) of D values; a prior on the sphere enters as decode(h / |h|) with h normal. x has values in
[0, 1]; densities are in nats on that scale. `variance` is a variance, as eval_gen's "sigma" is.

A forward chain goes from z ~ N(0, I) through p_t ~ N(z; 0, I) N(x; decode(z), variance I)^beta_t, beta from 0 to 1. The mean
of its weights is an unbiased estimate of p(x), its logarithm in expectation a lower bound of log p(x). A reversed chain from
an exact posterior draw, which exists for x simulated from the model, gives an upper bound (Grosse et al. 2015).

One forward run holds every larger variance too: at temperature beta it is at the model of variance / beta, so the path of
its weights is a curve of log p over the variance (as used by Huang et al. 2020, arXiv 2008.06653).

Forces in bf16 leave the result right: under any force that depends on the position alone a leapfrog trajectory preserves
volume and can be reversed, and float32 likelihoods decide whether its end is accepted and what it weighs.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from agelib.training import checkpoint
from agelib.training.fit import held
from agelib.training.progress import Progress
from agelib.training.step import check_config

Decode = Callable[[Tensor], Tensor]
ADVICE = "; more distributions would help"


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
        least = {"n_chains": 1, "n_distributions": 2, "n_leapfrog": 1, "block": 1, "seed": 0}
        precisions = {"precision": ("fp32", "bf16")}
        check_config(self, least=least, above={"acceptance": 0}, shares=("acceptance",), choices=precisions)
        low, high = self.step_range if np.shape(self.step_range) == (2,) else (0, 0)
        if not 0 < low <= self.first_step <= high < math.inf:
            raise ValueError(f"AisConfig: step_range {self.step_range} is not above 0 around first_step {self.first_step}")


@dataclass(frozen=True)
class Estimate:
    """The estimates for N images and what says whether to trust them; arrays (N,) float64."""

    log_p: np.ndarray  # nats; in expectation below log p(x) for a forward estimate, above it for a reversed one
    ess: np.ndarray  # effective sample size of an image's chains, 1 to their number
    acceptance: np.ndarray  # share of HMC moves taken
    step_size: np.ndarray  # at the end
    z: Tensor  # (n_chains, N, M) float32, the chains' last states: posterior draws after a forward run
    variances: np.ndarray  # (n_distributions - 1,) falling to the run's own: variance / beta
    path: np.ndarray  # (n_distributions - 1, N) log_p under each of them, after a forward run; the last is log_p

    @property
    def mean(self) -> float:
        """Mean of log_p over the images, nats."""
        return float(self.log_p.mean())

    @property
    def interval(self) -> float:
        """Half the 95 % confidence interval of the mean over images: 1.96 std / sqrt(N), nats; NaN for one image."""
        return _interval(self.log_p)

    def doubts(self) -> list[str]:
        """Reasons not to trust the estimate, in words; empty if there are none."""
        found = []
        if lost := int((~np.isfinite(self.log_p)).sum()):
            found.append(f"no finite estimate for {lost} of {len(self.log_p)} images; does the decoder overflow?")
        if len(self.z) > 1 and (one := float((self.ess < 1.5).mean())) > 0.5:
            found.append(f"for {one:.0%} of the images a single chain carries the weight{ADVICE}")
        if (rate := float(self.acceptance.mean())) < 0.4:
            found.append(f"HMC accepts only {rate:.0%} of its moves{ADVICE}")
        return found


def betas(n: int) -> Tensor:
    """(n,) float64: the sigmoid schedule of Wu et al., logistic(linspace(-4, 4, n)) scaled to run from 0 to 1."""
    gamma = torch.sigmoid(torch.linspace(-4, 4, n, dtype=torch.float64))
    return (gamma - gamma[0]) / (gamma[-1] - gamma[0])


def bound(D: int, variance: float | np.ndarray, error: float | np.ndarray = 0.0) -> float | np.ndarray:
    """No density of the model exceeds -D/2 log(2 pi variance) - D error / (2 variance) nats; error: the least squared
    error a value, in units of x squared, that any code leaves (0 where that isn't known)."""
    return -D / 2 * np.log(2 * np.pi * variance) - D * error / (2 * variance)


def least_error(decode: Decode, x: Tensor, z: Tensor, n_steps: int = 50, lr: float = 0.02) -> np.ndarray:
    """The least squared error a value, (N,) float64, that Adam finds for x (N, D) from the codes z (S, N, M), their own
    included: an upper bound of what the best code leaves."""
    z = z.detach().float().clone().requires_grad_()
    optimizer, least = torch.optim.Adam([z], lr), torch.full((len(x),), math.inf, device=x.device)
    for _ in range(n_steps + 1):
        error = (decode(z.flatten(0, 1)).float().view(*z.shape[:2], -1) - x).square().mean(2)
        least = torch.minimum(least, error.detach().amin(0))
        (z.grad,) = torch.autograd.grad(error.sum(), z)
        optimizer.step()
    return least.double().cpu().numpy()


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

    folder: keeps checkpoints, from which a killed estimate goes on bit for bit (same number of threads); Busy where another
    process works in it. Raises ValueError for a folder of another estimate, and before any chain starts for values outside
    [0, 1], a variance not in (0, inf), and a decoder of other size or values not finite. Warns of `Estimate.doubts`.
    """
    if x.ndim < 2 or not len(x) or not x.is_floating_point() or not (x.min() >= 0 and x.max() <= 1):  # NaN too
        values = f" with values from {x.min():.3g} to {x.max():.3g}" if len(x) else ""
        raise ValueError(f"x must be float images (N, ...) in [0, 1], N >= 1; got {x.dtype} {tuple(x.shape)}{values}")
    return _anneal(decode, x.float().flatten(1), None, M, variance, cfg, folder, label, checkpoint_every_s)


def select_variance(
    decode: Decode, x: Tensor, M: int, smallest: float, cfg: AisConfig, *, folder: str | Path | None = None
) -> tuple[float, Estimate]:
    """The variance, to three digits, under which validation images x are likeliest on the path of one `forward` run at the
    `smallest`, and that run. Warns where the smallest is the likeliest; ValueError where no estimate is finite."""
    found = forward(decode, x, M, smallest, cfg, folder=folder, label=f"variances from {smallest:g}")
    nats = found.path.mean(1)
    if not np.isfinite(nats).any():
        raise ValueError(f"no finite estimate under any variance from {smallest:g} on")
    best = int(np.where(np.isfinite(nats), nats, -math.inf).argmax())
    if best == len(nats) - 1:
        warnings.warn(f"the smallest variance, {smallest:g}, is the likeliest: a smaller one may be likelier", stacklevel=2)
    return float(f"{found.variances[best]:.3g}"), found


def check_variance(variance: float) -> None:
    """ValueError unless it is above 0 and finite."""
    if not 0 < variance < math.inf:
        raise ValueError(f"the variance must be > 0 and finite, got {variance}")


@torch.no_grad()
def simulate(decode: Decode, n: int, M: int, variance: float, *, seed: int = 0, device="cpu") -> tuple[Tensor, Tensor]:
    """n draws of the model: z (n, M) ~ N(0, I) and x (n, D) = decode(z) + sqrt(variance) noise. z is a draw of p(z|x)."""
    check_variance(variance)
    generator = torch.Generator(device).manual_seed(seed)
    z = torch.randn(n, M, generator=generator, device=device)
    mean = decode(z).float().flatten(1)
    return z, mean + math.sqrt(variance) * torch.randn(mean.shape, generator=generator, device=device)


def bdmc(
    decode: Decode, M: int, variance: float, n: int, cfg: AisConfig, *, device="cpu", folder: str | Path | None = None
) -> dict[str, float]:
    """The gap between the bounds on n simulated images, nats: {"lower", "upper", "gap", "interval"}.

    lower: by chains from the prior; upper: by chains from the images' own codes back to it; in expectation the true mean
    log p lies between. interval: half the 95 % confidence interval of the gap over images. Otherwise as `forward`.
    """
    z, x = simulate(decode, n, M, variance, seed=cfg.seed + 1, device=device)
    forth, back = ((folder and Path(folder) / name) for name in ("forward", "backward"))
    lower = _anneal(decode, x, None, M, variance, cfg, forth, "BDMC, lower bound")
    upper = _anneal(decode, x, z, M, variance, cfg, back, "BDMC, upper bound")
    gap = upper.log_p - lower.log_p
    return {"lower": lower.mean, "upper": upper.mean, "gap": float(gap.mean()), "interval": _interval(gap)}


def _interval(values: np.ndarray) -> float:
    return float(1.96 * values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def _anneal(decode, x, z, M, variance, cfg, folder, label, every_s=60.0) -> Estimate:
    """All blocks of x (N, D) in turn. z None: forward from the prior; else backward from z (N, M)."""
    check_variance(variance)
    with torch.no_grad():
        trial = decode(torch.randn(3, M, generator=torch.Generator().manual_seed(0)).to(x.device))
    if len(trial) != 3 or trial[0].numel() != x.shape[1] or not torch.isfinite(trial).all():
        wanted = f"finite values, {x.shape[1]} a code as the images have"
        raise ValueError(f"the decoder must give {wanted}; it gives {trial.dtype} {tuple(trial.shape)} for 3 codes")
    blocks, parts, codes, paths, progress, started = x.split(cfg.block), [], [], [], Progress(), time.monotonic()
    for k, images in enumerate(blocks):
        own = Path(folder) / f"block-{k:04d}" if folder else None
        with held(own, "annealing") if own else contextlib.nullcontext():
            chains = Chains(decode, images, None if z is None else z.split(cfg.block)[k], M, variance, cfg, k, own)
            saved = time.monotonic()
            while not chains.finished:
                chains.advance()
                if own and (chains.finished or time.monotonic() - saved >= every_s):
                    chains.save()
                    saved = time.monotonic()
                share = (k + chains.t / (cfg.n_distributions - 1)) / len(blocks)
                left = (time.monotonic() - started) * (1 / share - 1)
                progress.show(f"{label}: {share:.0%}, about {left / 60:.0f} min left if not resumed")
        parts.append(chains.result())
        codes.append(chains.z.cpu())
        paths.append(chains.path[1:].cpu())
    variances = variance / betas(cfg.n_distributions)[1:].numpy()
    path = torch.cat(paths, 1).numpy() + bound(x.shape[1], variances)[:, None]
    found = Estimate(*(torch.cat(each).numpy() for each in zip(*parts, strict=True)), torch.cat(codes, 1), variances, path)
    for doubt in found.doubts():
        warnings.warn(f"{label}: {doubt}", stacklevel=3)
    progress.done(f"{label}: {found.mean:.2f} nats, {len(x)} images, {time.monotonic() - started:.0f} s")
    return found


class Chains:
    """The chains of one block of images x (N, D), (C, N) of them, and everything the next move depends on.

    z: None for chains from the prior, or (N, M), where reversed ones start. block: its number, part of the random state.
    folder: of checkpoints; it is the caller's to hold.
    """

    _TENSORS = ("z", "step", "running", "accepted", "log_w", "path", "log_lik", "force")

    def __init__(self, decode, x, z, M, variance, cfg: AisConfig, block: int = 0, folder: Path | None = None):
        self.decode, self.x, self.variance, self.cfg, self.folder = decode, x, variance, cfg, folder
        self.reverse = z is not None
        schedule = betas(cfg.n_distributions)
        self.beta = (schedule.flip(0) if self.reverse else schedule).tolist()
        (own_seed,) = np.random.SeedSequence([cfg.seed, block]).generate_state(1).tolist()
        self.generator = torch.Generator(x.device).manual_seed(own_seed)
        C, N = cfg.n_chains, len(x)
        self.t = 0  # distributions passed
        self.random = {"generator": self.generator, "device": x.device}  # for torch.randn and torch.rand
        self.z = torch.randn(C, N, M, **self.random) if z is None else z.float().expand(C, N, M).clone()
        self.step = torch.full((N if cfg.step_per_image else 1,), cfg.first_step, dtype=torch.float64, device=x.device)
        self.running = torch.full_like(self.step, cfg.acceptance)
        self.accepted = torch.zeros(N, dtype=torch.float64, device=x.device)
        self.log_w = torch.zeros(C, N, dtype=torch.float64, device=x.device)
        self.path = torch.zeros(len(self.beta), N, dtype=torch.float64, device=x.device)  # log of their mean at each t
        if not self.restore():
            self.force, log_lik = self.forces(self.z)
            self.log_lik = self.counted(self.z, log_lik)

    @property
    def finished(self) -> bool:
        return self.t == len(self.beta) - 1

    def log_likelihood(self, z: Tensor) -> Tensor:
        """log N(x; decode(z), variance I), no constant, of z (C, N, M); (C, N)."""
        y = self.decode(z.flatten(0, 1)).float().view(*z.shape[:2], -1)
        return (y - self.x).square().sum(2) * (-0.5 / self.variance)

    def log_joint(self, z: Tensor, v: Tensor, log_lik: Tensor) -> Tensor:
        """log of the density of position and momentum at this temperature, without constants; (C, N)."""
        return self.beta[self.t] * log_lik - 0.5 * (z.square().sum(2) + v.square().sum(2))

    def forces(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of `log_likelihood` in z (C, N, M), and its value (C, N), both in the precision of the forces."""
        with torch.enable_grad(), torch.autocast(z.device.type, torch.bfloat16, enabled=self.cfg.precision == "bf16"):
            z = z.detach().requires_grad_()
            log_lik = self.log_likelihood(z)
            (force,) = torch.autograd.grad(log_lik.sum(), z)
        return force, log_lik.detach()

    @torch.no_grad()
    def counted(self, z: Tensor, log_lik: Tensor) -> Tensor:
        """The likelihood that counts, in float32, given the one that came with the force at z."""
        return log_lik if self.cfg.precision == "fp32" else self.log_likelihood(z)

    @torch.no_grad()
    def advance(self) -> None:
        """Add the weight of the step to the next distribution, and make one HMC move there."""
        self.t += 1
        beta = self.beta[self.t]
        # The likelihood and its gradient do not depend on beta: those of the last accepted state are still right.
        self.log_w += (beta - self.beta[self.t - 1]) * self.log_lik.double()
        self.path[self.t] = self.log_w.logsumexp(0) - math.log(len(self.log_w))
        if self.reverse and self.finished:
            return  # a move under the prior would change nothing that is used
        eps = self.step.float().view(1, -1, 1)  # (1, N or 1, 1)
        z, force = self.z, self.force
        v = torch.randn(z.shape, **self.random)
        before = self.log_joint(z, v, self.log_lik)
        v = v + 0.5 * eps * (beta * force - z)
        for i in range(self.cfg.n_leapfrog):
            z = z + eps * v
            force, log_lik = self.forces(z)
            v = v + (eps if i < self.cfg.n_leapfrog - 1 else 0.5 * eps) * (beta * force - z)
        log_lik = self.counted(z, log_lik)
        odds = (self.log_joint(z, v, log_lik) - before).nan_to_num(nan=-math.inf)  # a trajectory that blew up is refused
        taken = torch.rand(odds.shape, **self.random).log() < odds  # (C, N)
        self.z = torch.where(taken[..., None], z, self.z)
        self.force = torch.where(taken[..., None], force, self.force)
        self.log_lik = torch.where(taken, log_lik, self.log_lik)
        rate = taken.double().mean(0)  # (N,)
        self.accepted += rate
        self.running = 0.9 * self.running + 0.1 * (rate if self.cfg.step_per_image else rate.mean(0, keepdim=True))
        factor = torch.where(self.running > self.cfg.acceptance, 1.02, 0.98)
        self.step = (self.step * factor).clamp(*self.cfg.step_range)

    def result(self) -> list[Tensor]:
        """`Estimate.log_p`, `ess`, `acceptance` and `step_size` of the images, (N,) on the CPU."""
        log_mean = self.path[-1]
        log_p = (-log_mean if self.reverse else log_mean) + bound(self.x.shape[1], self.variance)
        ess = (2 * self.log_w.logsumexp(0) - (2 * self.log_w).logsumexp(0)).exp()
        found = log_p, ess, self.accepted / max(1, self.t - self.reverse), self.step.expand(len(log_p))
        return [each.cpu() for each in found]

    def identity(self) -> dict:
        """What a checkpoint must agree with: settings, the images, and what the decoder gives for fixed codes."""
        digest = hashlib.sha256(self.x.cpu().numpy().tobytes())
        probe = torch.randn(4, self.z.shape[2], generator=torch.Generator().manual_seed(1)).to(self.x.device)
        with torch.no_grad():
            digest.update(self.decode(probe).float().cpu().numpy().tobytes())
        settings = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.cfg).items()}
        return settings | {"variance": self.variance, "reverse": self.reverse, "images and decoder": digest.hexdigest()}

    def save(self) -> None:
        state = {name: getattr(self, name).cpu() for name in self._TENSORS}
        state |= {"t": self.t, "random": self.generator.get_state(), "threads": torch.get_num_threads()}
        checkpoint.save(self.folder, self.t, state | {"identity": self.identity()}, keep=1 if self.finished else 2)

    def restore(self) -> bool:
        if self.folder is None or not (found := checkpoint.read_latest(self.folder)):
            return False
        (state, path), mine = found, self.identity()
        try:
            theirs, threads = dict(state["identity"]), state["threads"]
            for name in self._TENSORS:
                setattr(self, name, state[name].to(self.x.device))
            self.t = range(len(self.beta))[state["t"]]
            self.generator.set_state(state["random"])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            raise checkpoint.CheckpointError(f"{path}: not a checkpoint of this form: {checkpoint.short(error)}") from error
        if differing := [name for name, value in mine.items() if theirs.get(name) != value]:
            raise ValueError(f"{path}: made with other {', '.join(differing)}; remove the folder or choose another")
        if threads != (now := torch.get_num_threads()) and not self.finished:
            warnings.warn(f"{path}: made with {threads} threads, goes on with {now}: not bit for bit", stacklevel=6)
        return True
