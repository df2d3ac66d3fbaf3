"""The models of the likelihood experiment: six ways to train the same fully connected decoder, with the same loop.

The decoder is Wu et al.'s (2017) for 10 dimensions, M-64-256-256-1024-D, tanh and a sigmoid. AGE's encoder is not published;
here it is D-1024-256-256-64-M, tanh, or a small convolutional one. "age_lx" is AGE whose decoder L_X trains too, which the
paper's never does. ALI, VAE and GAN are the MLP forms of `agelib.baselines`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from agelib import age, apply, networks, rival, sphere
from agelib.run import Run
from agelib.step import Step, check_settings
from agelib.trained import Trained, run_fit

NAMES = {"age": "AGE-10", "age_gaussian": "AGE-10, Gaussian prior", "age_lx": "AGE-10, L_X in g"}
NAMES |= {"ali": "ALI-10", "vae": "VAE-10", "gan": "GAN-10"}


class Model(Trained):
    """A trained decoder and what came with it; method: of NAMES."""

    @property
    def label(self) -> str:
        """The name in tables and figures."""
        return NAMES[self.method]

    def decode(self, h: Tensor) -> Tensor:
        """h (B, M), standard normal under the model's prior -> (B, D) in [0, 1]; on the sphere g(h/|h|), exactly the
        uniform prior. What `agelib.metrics.ais` takes."""
        z = sphere.project(h) if prior_of(self.method) == "sphere" else h
        return (self.g(z) + 1).flatten(1) / 2

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Mean and log sigma of q(z|x), each (N, M), for x (N, D) in [0, 1]; None where the encoder has no density."""
        if not isinstance(self.e, networks.GaussianCode):
            return None
        with torch.no_grad():
            return self.e.eval().moments(2 * x - 1)

    def samples(self, n: int, generator: torch.Generator) -> np.ndarray:
        """n samples as uint8 images (n, C, H, W)."""
        return apply.generate(self.g, sphere.sample(n, self.g.M, prior_of(self.method), generator=generator))

    def reconstruct(self, images: np.ndarray) -> np.ndarray | None:
        """g(e(x)) as uint8 for uint8 images (N, C, H, W); None without an encoder."""
        return None if self.e is None else apply.reconstruct(self.g, self.e, images)


def prior_of(method: str) -> str:
    """The law of the codes of a method of NAMES."""
    return "sphere" if method in ("age", "age_lx") else "gaussian"


class ConvEncoder(nn.Module):
    """e: (B, C, H, W), H and W divisible by 4 -> codes (B, M): three convolutions of width, 2 width and 4 width channels,
    BatchNorm on all but the first, LeakyReLU(0.2), one linear layer. The decoder stays the fully connected one."""

    def __init__(self, shape: tuple[int, ...], M: int, prior: str, width: int = 16):
        super().__init__()
        C, H, W = shape
        if H % 4 or W % 4:
            raise ValueError(f"the convolutional encoder takes sizes that are multiples of 4, got {H}x{W}")
        layers: list[nn.Module] = [nn.Conv2d(C, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for c_in, kernel in ((width, 4), (2 * width, 3)):
            layers += [nn.Conv2d(c_in, 2 * c_in, kernel, 2, 1, bias=False), nn.BatchNorm2d(2 * c_in), nn.LeakyReLU(0.2)]
        side = [math.ceil(n / 4 / 2) for n in (H, W)]
        layers += [nn.Flatten(), nn.Linear(4 * width * side[0] * side[1], M)]
        self.layers = nn.Sequential(*layers)
        self.M, self.prior = M, sphere.check_prior(prior)

    def forward(self, x: Tensor) -> Tensor:
        e = self.layers(x).float()
        return sphere.project(e) if self.prior == "sphere" else e


def build(
    method: str, images: np.ndarray, M: int = 10, *, encoder: str = "mlp", device: torch.device | str = "cpu"
) -> dict[str, nn.Module]:
    """The networks of `method` for images (N, C, H, W): the decoder with Xavier's weights and its last bias at their mean.

    encoder: AGE's, "mlp" or "conv"; the others have their own. Raises ValueError for an unknown method or encoder.
    """
    if method not in NAMES or encoder not in ("mlp", "conv"):
        raise ValueError(f"method is one of {', '.join(NAMES)} and encoder mlp or conv; got {method!r} and {encoder!r}")
    shape = tuple(images.shape[1:])
    if method in rival.MODULES:
        nets = rival.MODULES[method][0].build_mlp(shape, M, device=device)
    else:
        prior, dims = prior_of(method), (math.prod(shape), 1024, 256, 256, 64, M)
        g = networks.published_decoder(shape, M)
        e = networks.MlpEncoder(dims, prior) if encoder == "mlp" else ConvEncoder(shape, M, prior)
        nets = {"g": g.to(device), "e": e.to(device)}
    linear = [layer for layer in nets["g"].layers if isinstance(layer, nn.Linear)]
    for layer in linear[:-1]:  # the framework's default lets the signal die in four layers of tanh
        nn.init.xavier_uniform_(layer.weight, gain=nn.init.calculate_gain("tanh"))
        nn.init.zeros_(layer.bias)
    nn.init.xavier_uniform_(linear[-1].weight)
    mean = torch.from_numpy(images[:5000].mean(0).ravel() / 255).float().clamp(0.01, 0.99)
    with torch.no_grad():
        linear[-1].bias.copy_(torch.logit(mean))
    return nets


def make_step(method: str, nets: dict[str, nn.Module], settings: Mapping, precision: str) -> Step:
    """The method's Step with `settings` of its config. Raises ValueError naming those that it does not have, and where
    recon_x_in_g does not fit the method: "age_lx" needs it, "age" and "age_gaussian" are the paper's and have none."""
    config = rival.MODULES[method][1] if method in rival.MODULES else age.AgeConfig
    check_settings(NAMES[method], config, settings)
    if config is age.AgeConfig and bool(settings.get("recon_x_in_g")) != (method == "age_lx"):
        raise ValueError(f"{NAMES[method]}: recon_x_in_g > 0 belongs to the model age_lx, and to no other")
    if method in rival.MODULES:
        return rival.make_step(method, nets, precision, **settings)
    return age.make_step(nets, age.AgeConfig(M=nets["g"].M, prior=prior_of(method), precision=precision, **settings))


def train(
    method: str,
    images: np.ndarray,
    folder: str | Path,
    *,
    n_epochs: int,
    batch_size: int = 64,
    max_steps: int | None = None,
    M: int = 10,
    encoder: str = "mlp",
    seed: int = 0,
    device: torch.device | str = "cpu",
    precision: str = "auto",
    checkpoint_every_s: float = 60.0,
    **settings,
) -> Model:
    """Train `method` on uint8 images in the run directory `folder`, or take from there what is trained.

    settings: of the method's config (lr, and for AGE lam, mu, margin, ...). A training that diverges gives a model whose
    status says so.
    """
    about = {"method": method, "n_epochs": n_epochs, "batch_size": batch_size, "encoder": encoder, "seed": seed}
    run = Run(folder, about | settings | {"max_steps": max_steps}, seed=seed)
    nets = build(method, images, M, encoder=encoder, device=device)
    step = make_step(method, nets, settings, precision)
    schedule = {"n_epochs": n_epochs, "batch_size": batch_size, "max_steps": max_steps, "seed": seed}
    fitted = run_fit(step, images, run=run, checkpoint_every_s=checkpoint_every_s, **schedule)
    return Model(method, **fitted)
