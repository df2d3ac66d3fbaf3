"""The numbers of the likelihood experiment for one decoder, as rows for metrics.json, with the protocol spelt out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from agelib.metrics import ais, likelihood

# Wu et al.'s table: what a number must have to stand beside theirs without a remark.
PUBLISHED = {"test": 1000, "train": 100, "bdmc": 1000, "kde": 1_000_000, "iwae": 200_000}
PUBLISHED_AIS = ais.AisConfig()


@dataclass(frozen=True)
class Plan:
    """How much to spend. n_bdmc: simulated images; kde_samples, iwae_samples: draws; 0 leaves that number out."""

    cfg: ais.AisConfig
    n_bdmc: int
    kde_samples: int
    iwae_samples: int


def differences(cfg: ais.AisConfig, n: int, published_n: int, complete: bool) -> str:
    """What keeps an AIS number from the published protocol, in words; empty if nothing does."""
    sizes = [(n, published_n, "images"), (cfg.n_chains, PUBLISHED_AIS.n_chains, "chains")]
    sizes.append((cfg.n_distributions, PUBLISHED_AIS.n_distributions, "distributions"))
    return "; ".join(_short(complete, sizes) + ["a step size for each image"] * cfg.step_per_image)


def _short(complete: bool, sizes: list[tuple[int, int, str]]) -> list[str]:
    """sizes: (mine, published, of what)."""
    found = [f"{mine:,} {what} instead of {theirs:,}" for mine, theirs, what in sizes if mine < theirs]
    return ([] if complete else ["other or incomplete data"]) + found


def evaluate(
    decode: Callable[[Tensor], Tensor],
    M: int,
    variance: float,
    sets: dict[str, Tensor],
    plan: Plan,
    *,
    moments: tuple[Tensor, Tensor] | None = None,
    valid: Tensor | None = None,
    complete: bool = False,
    folder: str | Path | None = None,
) -> tuple[list[dict], dict[str, ais.Estimate]]:
    """AIS on each of `sets` ("test", "train"; images (N, D) in [0, 1]), the BDMC gap, KDE and IWAE for "test".

    moments: (mean, log sigma) of q(z|x) of the test images, without which there is no IWAE bound. valid: images that choose
    the KDE's width. complete: whether the data are the whole published set. Returns rows without the model's name, and the
    AIS estimates. A number whose protocol is not the published one has `comparable` False and a note that says why.
    """
    cfg, device = plan.cfg, next(iter(sets.values())).device
    place = None if folder is None else Path(folder)
    # What is chosen for a model (variance, width) stands in rows of its own, so that the seeds' protocols are equal.
    recipe = f"{cfg.n_chains} chains, {cfg.n_distributions:,} intermediate distributions, chosen variance, nats"
    recipe += f", forces in {cfg.precision}"
    rows, estimates = [], {}
    for name, x in sets.items():
        found = ais.forward(decode, x, M, variance, cfg, folder=place and place / name, label=f"AIS {name}")
        estimates[name], n = found, len(x)
        note = differences(cfg, n, PUBLISHED[name], complete)
        protocol = f"AIS, {n:,} {name} images, {recipe}; +-: 95 % confidence interval over images"
        about = {"n": n, "protocol": protocol, "comparable": not note, "note": note}
        rows.append({"metric": f"log_likelihood_ais_{name}", "value": found.mean, "std": found.interval} | about)
        about = {"n": n, "protocol": f"AIS {name}, mean over images"}
        rows.append(about | {"metric": f"AIS {name}: effective sample size", "value": found.ess.mean()})
        rows.append(about | {"metric": f"AIS {name}: HMC acceptance", "value": found.acceptance.mean()})
    about = {"value": variance, "protocol": "chosen on validation images"}
    rows.append({"metric": "variance of the observation model"} | about)
    if plan.n_bdmc:
        gap = ais.bdmc(decode, M, variance, plan.n_bdmc, cfg, device=device, folder=place and place / "bdmc")
        note = differences(cfg, plan.n_bdmc, PUBLISHED["bdmc"], complete)
        protocol = f"BDMC, upper minus lower bound, {plan.n_bdmc:,} simulated images, {recipe}"
        about = {"n": plan.n_bdmc, "protocol": protocol, "comparable": not note, "note": note}
        rows.append({"metric": "bdmc_gap", "value": gap["gap"], "std": gap["interval"]} | about)
    generator = torch.Generator(device).manual_seed(cfg.seed)
    if plan.kde_samples:
        with torch.no_grad():
            codes = torch.randn(plan.kde_samples, M, generator=generator, device=device)
            made = torch.cat([decode(part).flatten(1).float() for part in codes.split(10_000)])
        std, _ = likelihood.choose_std(made, sets["test"] if valid is None else valid)
        values = likelihood.kde(made, sets["test"], std)
        rows.append(_cheap("kde", values, plan.kde_samples, "samples", "kernel density estimate, chosen std", complete))
        about = {"value": std, "protocol": "chosen on validation images" if valid is not None else "chosen on test images"}
        rows.append({"metric": "std of the kernel density estimate"} | about)
    if plan.iwae_samples and moments is not None:
        counted = plan.iwae_samples
        values = likelihood.iwae(decode, *moments, sets["test"], variance, counted, generator=generator)
        rows.append(_cheap("iwae", values, counted, "draws", "importance-weighted bound, chosen variance", complete))
    return rows, estimates


def _cheap(kind: str, values: Tensor, count: int, what: str, protocol: str, complete: bool) -> dict:
    n = len(values)
    note = "; ".join(_short(complete, [(count, PUBLISHED[kind], what), (n, PUBLISHED["test"], "images")]))
    interval = 1.96 * values.std().item() / n**0.5 if n > 1 else None
    protocol = f"{protocol}, {count:,} {what}, {n:,} test images, nats; +-: 95 % confidence interval over images"
    about = {"n": n, "protocol": protocol, "comparable": not note, "note": note}
    return {"metric": f"log_likelihood_{kind}_test", "value": values.mean().item(), "std": interval} | about


def convergence(
    decode: Callable[[Tensor], Tensor], M: int, variance: float, x: Tensor, numbers: tuple[int, ...], cfg: ais.AisConfig
) -> list[float]:
    """The mean AIS estimate of log p(x) on images x (N, D) with each of these numbers of distributions."""
    return [ais.forward(decode, x, M, variance, replace(cfg, n_distributions=n), label=f"T = {n}").mean for n in numbers]


def posterior_images(decode: Callable[[Tensor], Tensor], z: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """decode of one chain's last states z (N, M), draws of p(z|x), as uint8 images (N, *shape)."""
    with torch.no_grad():
        y = decode(z).float().cpu().view(len(z), *shape)
    return (y * 255).round().clamp(0, 255).to(torch.uint8).numpy()
