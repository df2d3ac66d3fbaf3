"""The paper's rivals beside an AGE run: built for its data, trained by the same loop, asked for the same pictures."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from agelib import apply, fit
from agelib.baselines import ali, gan, vae
from agelib.run import Run
from agelib.step import Step, check_settings

MODULES = {"ali": (ali, ali.AliConfig), "vae": (vae, vae.VaeConfig), "gan": (gan, gan.GanConfig)}
METHODS = tuple(MODULES)
LABELS = {"ali": "ALI", "vae": "VAE", "gan": "GAN"}


@dataclass
class Rival:
    """One trained rival of METHODS. g: codes -> images; e: images -> codes, None for a GAN; both None if training diverged.

    n_epochs, n_steps: how long it was trained, passes over the data to a tenth and iterations; seconds: how long that
    took; status: "ok", or "diverged: " and why.
    """

    name: str
    method: str
    g: nn.Module | None
    e: nn.Module | None
    n_epochs: float
    n_steps: int
    seconds: float
    status: str = "ok"
    history: list[dict] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The name with the time of training, or what became of it."""
        taken = f": {self.n_epochs:g} epochs, {self.n_steps} iterations, {self.seconds:.0f} s"
        return self.name + (taken if self.status == "ok" else f" {self.status}")

    def row(self) -> dict:
        """The row of metrics.json that says how long the training took, or that it diverged."""
        about = {"model": self.name, "metric": "training seconds", "protocol": f"{self.n_epochs:g} epochs, no evaluation"}
        ok = self.status == "ok"
        return about | {"value": self.seconds if ok else None, "note": "" if ok else self.status}

    def generate(self, n: int, generator: torch.Generator) -> np.ndarray | None:
        """n samples as uint8 (n, C, H, W), z ~ N(0, I) from `generator`; None if there is no trained network."""
        return None if self.g is None else apply.generate(self.g, torch.randn(n, self.g.M, generator=generator))

    def reconstruct(self, images: np.ndarray) -> np.ndarray | None:
        """g(e(x)) as uint8 for uint8 images (N, C, H, W); None for a GAN or without a trained network."""
        return None if self.e is None or self.g is None else apply.reconstruct(self.g, self.e, images)


def build(
    method: str,
    dataset: str,
    images: np.ndarray,
    *,
    width: float | None,
    M: int | None,
    dropout: float | None = None,
    init: str | None = None,
    device: torch.device | str,
) -> dict[str, nn.Module]:
    """The networks of `method` for images (N, C, H, W) of `dataset`, the last bias at the data's mean where ALI has it so.

    width: channels of the narrowest layer for vae and gan (default 64), a factor for ali (default 1). M: default the
    method's own (ali by data set, vae 64, gan 100). dropout, init: ALI's alone, see `ali.build`. Raises ValueError for what
    there are no networks for, naming what there is, and for a setting that the method does not have.
    """
    channels, size = images.shape[1], images.shape[3]
    alone = {name: value for name, value in {"dropout": dropout, "init": init}.items() if value is not None}
    if method == "ali":
        nets = ali.build(dataset, size, channels=channels, width=width or 1.0, M=M, device=device, **alone)
        mean = torch.from_numpy(images[:500].mean(0) / 127.5 - 1).float()
        nets["g"].set_mean(mean.to(device))
        return nets
    if alone and method in METHODS:
        raise ValueError(f"{LABELS[method]} has no setting {', '.join(alone)}")
    if method == "vae":
        return vae.build(size, M or 64, channels=channels, width=int(width or 64), device=device)
    if method == "gan":
        return gan.build(size, M or 100, channels=channels, width=int(width or 64), device=device)
    raise ValueError(f"unknown rival {method!r}; valid: {', '.join(METHODS)}")


def make_step(method: str, nets: dict[str, nn.Module], precision: str, **settings) -> Step:
    """The method's Step; `settings` of its config that are not None (lr, and for ali d_lr, noise and ema) replace its
    defaults.

    Raises ValueError for a setting that the method does not have.
    """
    module, config = MODULES[method]
    given = {name: value for name, value in settings.items() if value is not None}
    check_settings(LABELS[method], config, given)
    return module.make_step(nets, config(precision=precision, **given))


def train(
    method: str,
    train_set,
    folder: str | Path,
    *,
    n_epochs: int,
    more_epochs: int = 0,
    batch_size: int = 64,
    width: float | None = None,
    M: int | None = None,
    dropout: float | None = None,
    init: str | None = None,
    lr: float | None = None,
    d_lr: float | None = None,
    noise: float | None = None,
    ema: float | None = None,
    max_steps: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    precision: str = "auto",
    checkpoint_every_s: float = 60.0,
) -> list[Rival]:
    """Train `method` on `train_set` (an ImageSet) in the run directory `folder`, or take from there what is trained.

    Returns the rival after n_epochs and, if more_epochs > 0, the same training more_epochs later, which stands for the
    paper's "converged" if it is long enough. max_steps bounds each of the two. dropout, init, d_lr, noise and ema are
    ALI's stabilisers; with ema the averaged networks are the rival's. A training that diverges gives a rival without
    networks whose status says so.
    """
    look = {"width": width, "M": M, "dropout": dropout, "init": init}
    config = {"method": method, "dataset": train_set.name, "batch_size": batch_size} | look
    settings = {"lr": lr, "d_lr": d_lr, "noise": noise, "ema": ema}
    run = Run(folder, config | settings | {"n_epochs": n_epochs, "more_epochs": more_epochs, "seed": seed}, seed=seed)
    nets = build(method, train_set.name, train_set.images, device=device, **look)
    step = make_step(method, nets, precision, **settings)
    found, history, label = [], [], LABELS[method]
    stages = [("train", n_epochs, label), ("more", more_epochs, f"{label} longer")]
    for stage, epochs, name in stages[: 2 if more_epochs else 1]:
        status, rows = fit.attempt(
            step, train_set.images, run=run, n_epochs=epochs, batch_size=batch_size, stage=stage,
            seed=seed + (stage == "more"), max_steps=max_steps, history=history, checkpoint_every_s=checkpoint_every_s,
        )  # fmt: skip
        if status != "ok":
            found.append(Rival(name, method, None, None, epochs, 0, 0.0, status, history))
            break
        history = rows
        g, e = (copy.deepcopy(step.final(name)) for name in "ge")
        seconds = sum({row["stage"]: row["seconds"] for row in history}.values())
        passes = round(history[-1]["epoch"], 1)  # fewer than asked for where max_steps ends it
        found.append(Rival(name, method, g, e, passes, history[-1]["step"], seconds, "ok", history))
    return found

