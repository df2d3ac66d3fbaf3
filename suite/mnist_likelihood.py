"""The numbers of the likelihood experiment for one decoder, as rows for metrics.json, with the protocol spelt out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import agelib
from agelib import networks, sphere
from agelib.metrics import ais, density
from agelib.training import hardware
from agelib.training.step import check_config

# Wu et al.'s table: what a number must have to stand beside theirs without a remark.
PUBLISHED = {"test": 1000, "train": 100, "bdmc": 1000, "kde": 1_000_000, "iwae": 200_000}
PUBLISHED_AIS = ais.AisConfig()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much to spend: images of each kind and draws of the cheap figures; 0 leaves that number out."""

    n_test: int = 1000  # test images
    n_train: int = 100  # training images
    n_bdmc: int = 1000  # simulated images for the two-sided check
    kde_samples: int = 1_000_000  # of the kernel density estimate
    iwae_samples: int = 200_000  # draws of the importance-weighted bound

    def __post_init__(self):
        check_config(self, least={"n_test": 2, "n_train": 0, "n_bdmc": 0, "kde_samples": 0, "iwae_samples": 0})


def settings_of(given: dict[str, Any], seed: int, device: torch.device | str) -> tuple[Plan, ais.AisConfig]:
    """(Plan, AisConfig) of a dict with fields of both; forces in bf16 where `device` multiplies it natively.

    Raises ValueError naming what is neither's.
    """
    names = [{f.name for f in dataclasses.fields(kind)} for kind in (Plan, ais.AisConfig)]
    if unknown := sorted(set(given) - names[0] - names[1]):
        raise ValueError(f"AIS has no setting {', '.join(unknown)}; valid: {', '.join(sorted(names[0] | names[1]))}")
    plan, chains = ({k: v for k, v in given.items() if k in of} for of in names)
    precision = hardware.choose_precision(chains.get("precision", "auto"), hardware.choose_device(device))
    return Plan(**plan), ais.AisConfig(**{"seed": seed} | chains | {"precision": precision})


def decoder(model: agelib.Model) -> ais.Decode:
    """h (B, M), standard normal under the model's prior -> (B, D) in [0, 1]; on the sphere g(h/|h|), exactly the uniform
    prior."""
    g, on_sphere = model.g, model.prior == "sphere"
    return lambda h: (g(sphere.project(h) if on_sphere else h) + 1).flatten(1) / 2


def moments(model: agelib.Model, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """Mean and log sigma of q(z|x), each (N, M), for x (N, D) in [0, 1]; None where the encoder has no density."""
    if not isinstance(model.e, networks.GaussianCode):
        return None
    with torch.no_grad():
        return model.e.moments(2 * x.view(-1, *model.shape) - 1)


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
    model: agelib.Model, variance: float, x: Mapping[str, Tensor], plan: Plan, cfg: ais.AisConfig, *, complete: bool = False,
    folder: str | Path | None = None,
) -> tuple[list[dict], dict[str, ais.Estimate]]:  # fmt: skip
    """AIS on the "test" and "train" images of x, (N, D) in [0, 1], the BDMC gap, KDE and IWAE of "test".

    x["validation"] chooses the KDE's width. complete: whether the data are the whole published set. Returns rows without the
    model's name, and the AIS estimates. A number whose protocol is not the published one has `comparable` False and a note
    that says why.
    """
    decode, M, device = decoder(model), model.M, x["test"].device
    place = None if folder is None else Path(folder)
    # What is chosen for a model (variance, width) stands in rows of its own, so that the seeds' protocols are equal.
    recipe = f"{cfg.n_chains} chains, {cfg.n_distributions:,} intermediate distributions, chosen variance, nats"
    recipe += f", forces in {cfg.precision}"
    rows, estimates = [], {}
    for name in [name for name in ("test", "train") if name in x]:
        found = ais.forward(decode, x[name], M, variance, cfg, folder=place and place / name, label=f"AIS {name}")
        estimates[name], n = found, len(x[name])
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
        std, _ = density.choose_std(made, x["validation"])
        values = density.kde(made, x["test"], std)
        rows.append(_cheap("kde", values, plan.kde_samples, "samples", "kernel density estimate, chosen std", complete))
        about = {"value": std, "protocol": "chosen on validation images"}
        rows.append({"metric": "std of the kernel density estimate"} | about)
    if plan.iwae_samples and (q := moments(model, x["test"])):
        counted = plan.iwae_samples
        values = density.iwae(decode, *q, x["test"], variance, counted, generator=generator)
        rows.append(_cheap("iwae", values, counted, "draws", "importance-weighted bound, chosen variance", complete))
    return rows, estimates


def _cheap(kind: str, values: Tensor, count: int, what: str, protocol: str, complete: bool) -> dict:
    n = len(values)
    note = "; ".join(_short(complete, [(count, PUBLISHED[kind], what), (n, PUBLISHED["test"], "images")]))
    interval = 1.96 * values.std().item() / n**0.5 if n > 1 else None
    protocol = f"{protocol}, {count:,} {what}, {n:,} test images, nats; +-: 95 % confidence interval over images"
    about = {"n": n, "protocol": protocol, "comparable": not note, "note": note}
    return {"metric": f"log_likelihood_{kind}_test", "value": values.mean().item(), "std": interval} | about


def convergence(model: agelib.Model, variance: float, x: Tensor, numbers: list[int], cfg: ais.AisConfig) -> list[float]:
    """The mean AIS estimate of log p(x) on images x (N, D) with each of these numbers of distributions."""
    runs = {n: replace(cfg, n_distributions=n) for n in numbers}
    return [ais.forward(decoder(model), x, model.M, variance, c, label=f"T = {n}").mean for n, c in runs.items()]


def posterior_images(model: agelib.Model, h: Tensor) -> np.ndarray:
    """The decoder's images for one chain's last states h (N, M), draws of p(z|x), as uint8 (N, C, H, W)."""
    with torch.no_grad():
        y = decoder(model)(h.to(model.device)).float().cpu().view(len(h), *model.shape)
    return (y * 255).round().clamp(0, 255).to(torch.uint8).numpy()


def verdict(rows: list[dict]) -> str:
    """What the numbers of one run say of the paper's order, in sentences."""
    found = {(row["model"], row["metric"]): row for row in rows if row["value"] is not None}
    nats = {model: row for (model, metric), row in found.items() if metric == "log_likelihood_ais_test"}
    order = sorted(nats, key=lambda model: -nats[model]["value"])
    told = ", ".join(f"{model} {nats[model]['value']:.0f} ± {nats[model]['std']:.0f}" for model in order)
    said = [f"Test log-likelihood, nats: {told}."]
    own = [model for model in order if model.startswith("AGE") and "L_X in g" not in model]
    if own and len(order) > len(own):
        first = "comes out first, as in the paper" if order[0] == own[0] else f"does not come out first: {order[0]} does"
        said.append(f"AGE by the paper's rule {first}.")
    gaps = {model: row["value"] for (model, metric), row in found.items() if metric == "bdmc_gap"}
    if gaps:
        worst = max(gaps, key=lambda model: gaps[model])
        said.append(f"The two bounds are at most {gaps[worst]:.1f} nats apart ({worst}).")
    ess = [row["value"] for (_, metric), row in found.items() if metric == "AIS test: effective sample size"]
    if ess and min(ess) < 1.5:
        said.append("A single chain carries the weight for some model: read its number as too low.")
    return "\n".join(said)
