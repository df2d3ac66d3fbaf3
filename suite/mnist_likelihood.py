"""The numbers of the likelihood experiment for one decoder, as rows for metrics.json, with the protocol spelt out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import agelib
from agelib import networks, sphere
from agelib.data import read_image
from agelib.metrics import ais, density
from agelib.plot.figure import SERIES
from agelib.training import hardware
from agelib.training.step import check_config, split
from suite.rows import Rows, differences, make, of, told, values

LIMIT, ABOVE = "bound by the least squared error", "share of images with AIS above that bound"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much to spend; 0 leaves that number out. The defaults are those of Wu et al.'s table: what a number must have to
    stand beside theirs without a remark."""

    n_test: int = 1000  # test images
    n_train: int = 100  # training images
    n_bdmc: int = 1000  # simulated images for the two-sided check
    kde_samples: int = 1_000_000  # of the kernel density estimate
    iwae_samples: int = 200_000  # draws of the importance-weighted bound

    def __post_init__(self):
        check_config(self, least={"n_test": 2, "n_train": 0, "n_bdmc": 0, "kde_samples": 0, "iwae_samples": 0})


def settings_of(given: dict[str, Any], seed: int, device: torch.device | str) -> tuple[Plan, ais.AisConfig]:
    """(Plan, AisConfig) of a dict with fields of both; forces in bf16 where `device` multiplies it natively."""
    plan, chains = split("AIS", given, Plan, ais.AisConfig)
    precision = hardware.choose_precision(chains.get("precision", "auto"), hardware.choose_device(device))
    return Plan(**plan), ais.AisConfig(**{"seed": seed} | chains | {"precision": precision})


def checked(p: Any) -> tuple[Plan, ais.AisConfig]:
    """`settings_of` the notebook's `ais`; ValueError, or DataError of a file, also for what is used after the training."""
    ais.check_variance(p.smallest_variance)
    numbers, n = p.convergence.get("distributions"), p.convergence.get("images")
    if len(p.convergence) != 2 or not isinstance(numbers, list) or not numbers or type(n) is not int or n < 1:
        raise ValueError(f"convergence needs distributions, a list, and images, at least 1; is {p.convergence}")
    if p.n_validation < 1 or not 1 <= len(p.models) <= len(SERIES):
        given = f"{p.n_validation} and {', '.join(p.models) or 'none'}"
        raise ValueError(f"n_validation must be at least 1, models 1 to {len(SERIES)}; they are {given}")
    if p.question is not None and len(p.question) != 2:
        raise ValueError(f"question needs two image files, is {p.question}")
    for path in p.question or ():
        read_image(path, p.size, 1)
    for name, changed in [("ais", {}), ("search", p.search), *(("convergence", {"n_distributions": n}) for n in numbers)]:
        try:
            settings_of(p.ais | changed, p.seed, p.device)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return settings_of(p.ais, p.seed, p.device)


def decoder(model: agelib.Model) -> ais.Decode:
    """h (B, M), standard normal under the model's prior -> (B, D) in [0, 1]; on the sphere g(h/|h|), exactly the uniform
    prior."""
    g, on_sphere = model.g, model.prior == "sphere"
    return lambda h: (g(sphere.project(h) if on_sphere else h) + 1).flatten(1) / 2


def least_error(model: agelib.Model, x: Tensor, found: ais.Estimate) -> np.ndarray:
    """(N,) the least squared error a pixel of x (N, D) that a search finds, from the chains' last states and from e(x)."""
    codes = found.z.to(x.device)
    if model.e is not None:
        with torch.no_grad():
            codes = torch.cat([codes, model.e(2 * x.view(-1, *model.shape) - 1)[None]])
    return ais.least_error(decoder(model), x, codes)


def remarks(
    complete: bool, *sizes: tuple[int, int, str], cfg: ais.AisConfig | None = None, other: str = ""
) -> dict[str, Any]:  # fmt: skip
    """`comparable` and `note` of a row: what it has less of than the published protocol. sizes: as in `rows.differences`;
    cfg: of its chains, if it has any; other: what else differs."""
    if cfg:
        full = ais.AisConfig()
        sizes += (cfg.n_chains, full.n_chains, "chains"), (cfg.n_distributions, full.n_distributions, "distributions")
    note = differences(complete, *((min(ours, theirs), theirs, what) for ours, theirs, what in sizes))
    note = "; ".join(filter(None, [other, note, "a step size for each image" if cfg and cfg.step_per_image else ""]))
    return {"comparable": not note, "note": note}


def evaluate(
    label: str, model: agelib.Model, variance: float, x: Mapping[str, Tensor], plan: Plan, cfg: ais.AisConfig, *,
    complete: bool = False, folder: Path | None = None,
) -> tuple[Rows, dict[str, ais.Estimate]]:  # fmt: skip
    """AIS on the "test" and "train" images of x, (N, D) in [0, 1], the BDMC gap, KDE and IWAE of "test".

    x["validation"] chooses the KDE's width. complete: whether the data are the whole published set. Returns rows (also
    the least error that a search found, and the bound it sets) and the AIS estimates. A number whose protocol is not the
    published one has `comparable` False and a note that says why.
    """
    decode, M, device, full = decoder(model), model.M, x["test"].device, Plan()
    # What is chosen for a model (variance, width) stands in rows of its own, so that the seeds' protocols are equal.
    recipe = f"{cfg.n_chains} chains, {cfg.n_distributions:,} intermediate distributions, chosen variance, nats"
    recipe += f", forces in {cfg.precision}"
    spread, chosen = "+-: 95 % confidence interval over images", "chosen on validation images"
    rows, estimates, D = [], {}, x["test"].shape[1]
    at = "" if D == 784 else f" of {D:,} pixels"
    other = "32x32, the released code's MNIST" if D == 1024 and complete else ""
    for name, published in (("test", full.n_test), ("train", full.n_train)):
        if name in x:
            found = ais.forward(decode, x[name], M, variance, cfg, folder=folder and folder / name, label=f"AIS {name}")
            estimates[name], n = found, len(x[name])
            note = remarks(complete, (n, published, "images"), cfg=cfg, other=other)
            value = {f"log_likelihood_ais_{name}": (found.mean, found.interval)}
            rows += make(label, value, f"AIS, {n:,} {name} images{at}, {recipe}; {spread}", n, **note)
            chains = {"effective sample size": found.ess.mean(), "HMC acceptance": found.acceptance.mean()}
            rows += make(label, {f"AIS {name}: {k}": v for k, v in chains.items()}, f"AIS {name}, mean over images", n)
    rows += make(label, {"variance of the observation model": variance}, chosen)
    m, test = least_error(model, x["test"], estimates["test"]), estimates["test"].log_p
    most = ais.bound(D, variance, m)
    least = {"least squared error": m.mean(), LIMIT: most.mean(), ABOVE: float((test > most).mean())}
    searched = f"Adam from the chains' last states and e(x), {len(m):,} test images{at}, pixels in [0, 1]"
    rows += make(label, least, f"{searched}; for an image -D/2 log(2 pi variance) - D m/(2 variance) nats", len(m))
    if n := plan.n_bdmc:
        gap = ais.bdmc(decode, M, variance, n, cfg, device=device, folder=folder and folder / "bdmc")
        note = remarks(complete, (n, full.n_bdmc, "images"), cfg=cfg, other=other)
        protocol = f"BDMC, upper minus lower bound, {n:,} simulated images{at}, {recipe}"
        rows += make(label, {"bdmc_gap": (gap["gap"], gap["interval"])}, protocol, n, **note)

    def cheap(kind: str, nats: Tensor, drawn: tuple[int, int, str], protocol: str) -> Rows:
        n = len(nats)
        note = remarks(complete, drawn, (n, full.n_test, "images"), other=other)
        protocol += f", {drawn[0]:,} {drawn[2]}, {n:,} test images{at}, nats; {spread}"
        interval = 1.96 * nats.std().item() / n**0.5 if n > 1 else None
        return make(label, {f"log_likelihood_{kind}_test": (nats.mean().item(), interval)}, protocol, n, **note)

    generator = torch.Generator(device).manual_seed(cfg.seed)
    if plan.kde_samples:
        with torch.no_grad():
            codes = torch.randn(plan.kde_samples, M, generator=generator, device=device)
            made = torch.cat([decode(part).flatten(1).float() for part in codes.split(10_000)])
        std, _ = density.choose_std(made, x["validation"])
        drawn = (plan.kde_samples, full.kde_samples, "samples")
        rows += cheap("kde", density.kde(made, x["test"], std), drawn, "kernel density estimate, chosen std")
        rows += make(label, {"std of the kernel density estimate": std}, chosen)
    if plan.iwae_samples and isinstance(model.e, networks.GaussianCode):  # else q(z|x) has no density
        with torch.no_grad():
            q = model.e.moments(2 * x["test"].view(-1, *model.shape) - 1)
        drawn = (plan.iwae_samples, full.iwae_samples, "draws")
        nats = density.iwae(decode, *q, x["test"], variance, plan.iwae_samples, generator=generator)
        rows += cheap("iwae", nats, drawn, "importance-weighted bound, chosen variance")
    return rows, estimates


def posterior_images(model: agelib.Model, h: Tensor) -> np.ndarray:
    """The decoder's images for one chain's last states h (N, M), draws of p(z|x), as uint8 (N, C, H, W)."""
    return model.decode(sphere.project(h) if model.prior == "sphere" else h)


def verdict(rows: Rows) -> str:
    """What the numbers of one run say of the paper's order, in sentences."""
    nats, gaps = of(rows, "log_likelihood_ais_test"), values(rows, "bdmc_gap")
    order = sorted(nats, key=lambda model: -nats[model]["value"])
    said = [f"Test log-likelihood, nats: {', '.join(f'{model} {told(nats[model], 0)}' for model in order)}."]
    own = [model for model in order if model.startswith("AGE") and "L_X in g" not in model]
    if own and len(order) > len(own):
        first = "comes out first, as in the paper" if order[0] == own[0] else f"does not come out first: {order[0]} does"
        said.append(f"AGE by the paper's rule {first}.")
    if gaps:
        worst = max(gaps, key=gaps.__getitem__)
        said.append(f"The two bounds are at most {gaps[worst]:.1f} nats apart ({worst}).")
    above = values(rows, ABOVE)
    if short := [f"{model} on {share:.0%} of the images" for model, share in above.items() if share]:
        said.append(f"AIS finds more than the least known error allows ({', '.join(short)}): there the search was short.")
    elif above:
        said.append("No estimate exceeds what the least error of its decoder allows.")
    if min(values(rows, "AIS test: effective sample size").values(), default=2) < 1.5:
        said.append("A single chain carries the weight for some model: read its number as too low.")
    return "\n".join(said)
