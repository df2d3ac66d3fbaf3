"""Convolutional models by name, trained side by side for one evaluation: AGE in its variants, ALI, GAN and VAE, by the same
loop.

`agelib.rival` gives pictures beside one AGE run; here every network of a method is kept, since features come from
discriminators too, and weights at intervals, since scores and errors are plotted against training.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agelib import age, apply, checkpoint, fit, networks, rival, sphere
from agelib.run import Run
from agelib.step import Step, check_settings

METHODS = ("age", *rival.METHODS)


@dataclass
class Model:
    """One training. nets: {"g", "e", "d"} as the method has them. snapshots: iteration -> weights file of one network.

    seconds: of training, on the machine as it was; status: "ok", or "diverged: " and why (then the nets are not to be used).
    """

    method: str
    prior: str
    nets: dict[str, nn.Module]
    n_steps: int = 0
    seconds: float = 0.0
    status: str = "ok"
    snapshots: dict[int, Path] = field(default_factory=dict)  # of the network that `train` was asked to keep

    def generate(self, n: int, seed: int, *, batch_statistics: bool = False, weights: Path | None = None) -> np.ndarray:
        """n samples, uint8 (n, C, H, W). batch_statistics: BatchNorm with those of each batch of 100 codes instead of the
        running ones. weights: a snapshot of the generator instead of its last state."""
        g = copy.deepcopy(self.nets["g"]) if weights is None else with_weights(self.nets["g"], weights)
        if batch_statistics:
            use_batch_statistics(g)
        z = sphere.sample(n, g.M, self.prior, generator=torch.Generator().manual_seed(seed))
        return apply.generate(g, z, batch_size=100)


class NoisyCode(nn.Module):
    """A stochastic encoder on the sphere: in training project(e(x) + sigma/sqrt(M) noise), noise ~ N(0, I); in evaluation
    e(x).

    sigma: length of the noise relative to the code, about; ALI's encoder draws its codes too.
    """

    def __init__(self, net: nn.Module, sigma: float):
        super().__init__()
        self.net, self.sigma, self.M = net, sigma, net.M

    @property
    def layers(self) -> nn.Sequential:
        """The layers of the encoder inside."""
        return self.net.layers

    def forward(self, x: Tensor) -> Tensor:
        e = self.net(x)
        return sphere.project(e + self.sigma / self.M**0.5 * torch.randn_like(e)) if self.training else e


class _Counter(nn.Module):
    """The number of iterations done, in a buffer, so that a checkpoint holds it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("n", torch.zeros((), dtype=torch.int64))


def build(
    method: str, dataset: str, images: np.ndarray, *, width: float | None = None, M: int | None = None,
    prior: str = "sphere", noisy_code: float = 0.0, in_bias: bool = False, mean_bias: bool = False,
    dropout: float | None = None, init: str | None = None, device: torch.device | str = "cpu",
) -> dict[str, nn.Module]:  # fmt: skip
    """The networks of `method` for images (N, C, H, W); width, M: as `rival.build`, for AGE default 64 and 128.

    noisy_code: sigma of `NoisyCode`, AGE alone, 0: none. in_bias, mean_bias: stabilisers of AGE, see notebook 01;
    dropout, init: of ALI.
    """
    if method != "age":
        return rival.build(method, dataset, images, width=width, M=M, dropout=dropout, init=init, device=device)
    look = {"channels": images.shape[1], "width": int(width or 64), "prior": prior, "in_bias": in_bias}
    nets = networks.build(images.shape[3], M or 128, out_bias=mean_bias, device=device, **look)
    if mean_bias:
        nets["g"].set_mean(torch.from_numpy(images[:5000].mean((0, 2, 3)) / 127.5 - 1).to(device))
    return nets | ({"e": NoisyCode(nets["e"], noisy_code)} if noisy_code else {})


def train(
    method: str, dataset: str, images: np.ndarray, folder: str | Path, *, n_steps: int, batch_size: int = 64,
    snapshots: int = 0, snapshots_of: str = "g", seed: int = 0, device: torch.device | str = "cpu", precision: str = "auto",
    checkpoint_every_s: float = 60.0, **settings: Any,
) -> Model:  # fmt: skip
    """Train `method` for n_steps iterations on uint8 images in the run directory `folder`, or take from there what is
    trained.

    settings: arguments of `build` and fields of the method's config that are not None. snapshots: how many times, at equal
    intervals, the weights of one network (snapshots_of) are kept, the last at the end. Raises ValueError for a setting that
    the method lacks.
    """
    of_age, of_ali = {"prior", "noisy_code", "in_bias", "mean_bias"}, {"dropout", "init"}
    of_nets = {"width", "M"} | of_age | of_ali
    given = {k: v for k, v in settings.items() if v is not None}
    look = {k: given[k] for k in given if k in of_nets}
    rest = {k: given[k] for k in given if k not in of_nets}
    prior = look.get("prior", "sphere") if method == "age" else "gaussian"
    foreign = {"age": of_ali, "ali": of_age}.get(method, of_age | of_ali)
    if unknown := sorted(set(look) & foreign):
        raise ValueError(f"{method} has no setting {', '.join(unknown)}")
    run = Run(folder, {"method": method, "dataset": dataset, "n_steps": n_steps, "seed": seed} | given, seed=seed)
    nets = build(method, dataset, images, device=device, **look)
    step = _step(method, nets, prior, precision, rest)
    places = Path(folder) / "checkpoints" / "snapshots"
    every = max(1, n_steps // snapshots) if snapshots else 0
    step = _keeping(step, snapshots_of, every, places) if every else step
    n_epochs = -(-n_steps // (len(images) // batch_size))
    schedule = {"n_epochs": n_epochs, "max_steps": n_steps, "batch_size": batch_size, "seed": seed}
    status, history = fit.attempt(step, images, run=run, checkpoint_every_s=checkpoint_every_s, **schedule)
    if status != "ok":
        return Model(method, prior, nets, status=status)
    nets = {name: step.final(name) for name in nets}
    for net in nets.values():
        net.eval().requires_grad_(False)
    kept = {int(path.stem): path for path in sorted(places.glob("*.safetensors"))} if every else {}
    return Model(method, prior, nets, n_steps, history[-1]["seconds"], "ok", kept)


def from_run(folder: str | Path, images: np.ndarray, device: torch.device | str = "cpu") -> Model:
    """The AGE model that 01_unconditional has trained in `folder`, from its config.json and its finished weights.

    images: (N, C, H, W) of its data set. Raises FileNotFoundError naming what is missing.
    """
    folder = Path(folder)
    weights = folder / "checkpoints" / "train"
    for path in (folder / "config.json", weights / "g.safetensors", weights / "e.safetensors"):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not there; train it with 01_unconditional, or leave that model out")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    look = {"channels": images.shape[1], "in_bias": config["in_bias"], "out_bias": config["mean_bias"]}
    look |= {k: config[k] for k in ("width", "e_width", "prior", "spectral_norm")}
    nets = networks.build(config["size"], config["M"], device=device, **look)
    for name, net in nets.items():
        averaged = weights / f"{name}_ema.safetensors"
        path = averaged if averaged.is_file() else weights / f"{name}.safetensors"
        net.load_state_dict(checkpoint.load_weights(path))
        net.eval().requires_grad_(False)
    state, _ = checkpoint.read_latest(weights) or ({"step": 0, "seconds": 0.0}, None)
    return Model("age", config["prior"], nets, state["step"], state["seconds"])


def with_weights(net: nn.Module, path: str | Path) -> nn.Module:
    """A copy of `net` with the weights of a snapshot."""
    net = copy.deepcopy(net)
    net.load_state_dict(checkpoint.load_weights(Path(path)))
    return net


def use_batch_statistics(net: nn.Module) -> None:
    """Make every BatchNorm of `net` use the statistics of its batch in evaluation mode too; its running ones are dropped."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            m.track_running_stats = False
            m.running_mean = m.running_var = None


@torch.no_grad()
def reestimate(net: nn.Module, images: np.ndarray, batch_size: int = 250) -> nn.Module:
    """A copy of `net` whose BatchNorm statistics are the mean over batches of real images, uint8 (N, C, H, W); evaluation
    mode.

    Training moves an encoder's running statistics by real and generated images alike.
    """
    net = copy.deepcopy(net)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            m.reset_running_stats()
            m.momentum = None  # the plain mean of all batches
    device = next(net.parameters()).device
    net.train()
    for i in range(0, len(images) - batch_size + 1, batch_size):
        net(apply.to_float(images[i : i + batch_size], device))
    return net.eval()


def _step(method: str, nets: dict[str, nn.Module], prior: str, precision: str, settings: Mapping[str, Any]) -> Step:
    if method != "age":
        return rival.make_step(method, nets, precision, **settings)
    check_settings("age", age.AgeConfig, settings)
    return age.make_step(nets, age.AgeConfig(M=nets["g"].M, prior=prior, precision=precision, **settings))


def _keeping(step: Step, name: str, every: int, folder: Path) -> Step:
    """`step` that also writes a network's weights, folder/<iteration>.safetensors, every so many iterations."""
    counter = _Counter()
    net = step.final(name)

    def after() -> None:
        counter.n += 1
        if int(counter.n) % every == 0:
            checkpoint.save_weights(folder / f"{int(counter.n):09d}.safetensors", net.state_dict(), step.config)

    return dataclasses.replace(step, modules={**step.modules, "counter": counter}, after=after)
