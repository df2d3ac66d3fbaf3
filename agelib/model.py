"""One trained model: `train` makes it, `load` finds it, and every notebook, rival, table and widget uses it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agelib import age, conditional, images, sphere
from agelib.rivals import ali, gan, pix2pix, regression, vae
from agelib.training import checkpoint, fit, hardware
from agelib.training.fit import MODEL, SNAPSHOTS, Diverged, Schedule
from agelib.training.step import split, stabilisers

METHODS = {
    "age": age, "conditional": conditional, "ali": ali, "vae": vae, "gan": gan, "pix2pix": pix2pix, "regression": regression,
}  # fmt: skip


@dataclass
class Model:
    """A trained model. Images are uint8 (N, C, H, W), codes float32 (N, M); networks are asked in evaluation mode.

    nets: the networks as trained, by name (g, e, d), with their averages ("g_ema", "e_ema") where they are kept; g and e
    are what evaluations take: the average where there is one, None where the method has none. config: the method's, whole.
    status: "ok", or "diverged: " and why: then all use raises Diverged. seconds: of training, over all calls and stages.
    n_steps, n_epochs: iterations and passes over the data so far. device: where it is; trained_on: where it was trained.
    label: the method's name. prior: the law of the codes, sphere or gaussian. stabilisers: what its Config switches on that
    the method's paper does not have, in words; "" for nothing.
    """

    method: str
    config: Any
    shape: tuple[int, int, int]
    nets: dict[str, nn.Module]
    folder: Path | None = None
    status: str = "ok"
    n_steps: int = 0
    n_epochs: float = 0.0
    seconds: float = 0.0
    precision: str = "fp32"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    trained_on: str = "cpu"
    about: dict = field(default_factory=dict)

    def __post_init__(self):
        module = METHODS[self.method]
        self.ok, self.label, self.stabilisers = self.status == "ok", module.LABEL, stabilisers(self.config)
        self.prior = getattr(self.config, "prior", getattr(module, "PRIOR", "gaussian"))
        self._conditional = hasattr(module, "given")

    def _net(self, name: str) -> nn.Module | None:
        if not self.ok:
            raise Diverged(f"{self.folder or self.label}: this model was lost in training: {self.status}")
        return self.nets.get(f"{name}_ema", self.nets.get(name))

    @property
    def g(self) -> nn.Module:
        return self._net("g")

    @property
    def e(self) -> nn.Module | None:
        return self._net("e")

    @property
    def M(self) -> int:
        return self.g.M

    @property
    def history(self) -> list[dict]:
        """The rows of history.csv: stage, step, epoch, seconds, and the mean of each loss; empty without a folder."""
        return fit.read_history(self.folder / fit.HISTORY) if self.folder else []

    @property
    def steps(self) -> list[int]:
        """The iterations of the kept snapshots, which `at` takes."""
        kept = (self.folder / SNAPSHOTS).glob("*.safetensors") if self.folder else ()
        return sorted(int(path.stem) for path in kept if path.stem.isdecimal())

    def at(self, step: int) -> Model:
        """The model as it was after `step` iterations of its last stage, one of `steps`."""
        if step not in self.steps:
            raise ValueError(f"{self.folder}: no snapshot after {step} iterations; there are {self.steps or 'none'}")
        return load(self.folder / SNAPSHOTS / f"{step:09d}.safetensors", self.device)

    def codes(self, n: int, seed: int | torch.Generator = 0) -> Tensor:
        """n codes drawn from the prior, (n, M) on the CPU; seed: a number, or the generator to draw from."""
        generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        return sphere.sample(n, self.M, self.prior, generator=generator)

    def generate(self, n: int, seed: int | torch.Generator = 0, *, batch_statistics: bool = False) -> np.ndarray:
        """n samples. batch_statistics: BatchNorm with those of each batch of 100 codes instead of the running ones."""
        if not batch_statistics:
            return self.decode(self.codes(n, seed))
        g = torch.func.replace_all_batch_norm_modules_(copy.deepcopy(self.g))
        return dataclasses.replace(self, nets={"g": g}).decode(self.codes(n, seed), batch_size=100)

    def decode(self, z: Tensor, given: np.ndarray | None = None, batch_size: int = 256) -> np.ndarray:
        """g(z) as images. given: for colour methods the images whose lightness g is told, one for each code."""
        if (given is not None) != self._conditional:
            raise ValueError(f"{self.label} takes {'codes and images' if self._conditional else 'codes alone'}")
        if given is not None:
            return conditional.pictures(given, conditional.paint(self, given, z[:, None]))[0][:, 0]
        g = self.g
        with images.evaluating(g):
            return np.concatenate([images.to_uint8(g(part.to(self.device))) for part in z.split(batch_size)])

    def encode(self, batch: np.ndarray) -> Tensor:
        """e(x), codes (N, M) on the CPU. Raises ValueError without an encoder."""
        e = self.e
        if e is None:
            raise ValueError(f"{self.label} has no encoder")
        given = getattr(METHODS[self.method], "given", lambda x: (x,))
        with images.evaluating(e):
            parts = (images.to_float(batch[i : i + 256], self.device) for i in range(0, len(batch), 256))
            return torch.cat([e(*given(x)).cpu() for x in parts])

    def reconstruct(self, batch: np.ndarray) -> np.ndarray | None:
        """g(e(x)); None without an encoder."""
        if self.e is None:
            return None
        return self.decode(self.encode(batch), batch if self._conditional else None)

    def features(self, **options: Any) -> Callable[[np.ndarray], np.ndarray]:
        """The method's features of images: uint8 (n, C, H, W) -> float32 (n, D); options: those of its `features`."""
        module = METHODS[self.method]
        if not hasattr(module, "features"):
            raise ValueError(f"{self.label} has no features")
        return module.features({name: net for name in "ged" if (net := self._net(name)) is not None}, **options)

    def save(self, path: str | Path) -> None:
        """Write the networks in half precision as one file, which `load` takes: half as large, to be passed on. Raises
        ValueError naming the weights that half precision can't hold."""
        tensors = nn.ModuleDict(self.nets).state_dict()
        tensors = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
        if bad := checkpoint.not_finite(tensors):
            raise ValueError(f"{path}: half precision can't hold {', '.join(bad[:2])}")
        facts = {"step": self.n_steps, "epoch": self.n_epochs, "seconds": self.seconds, "device": self.trained_on}
        checkpoint.save_model(Path(path), tensors, self.about, facts)


def train(
    method: str, data: Any, folder: str | Path, *, device: str | torch.device = "auto",
    start: Model | str | Path | None = None, **settings: Any,
) -> Model:  # fmt: skip
    """Train `method` on images in `folder`; go on where a killed training stopped, or take what is done there.

    data: uint8 (N, C, H, W), or an `agelib.data.ImageSet`. settings: fields of the method's Config and of
    `training.fit.Schedule`; what is not given is as published. start: a model, or its folder, whose weights this training
    begins from, Adam anew (fine-tuning); its history goes on. A game that is lost gives a Model whose status says so.
    Raises ValueError naming an unknown method or setting, or a bad value; fit.Busy; fit.ConfigMismatch where `folder` holds
    another training; checkpoint.CheckpointError for a damaged file.
    """
    batch = np.asarray(getattr(data, "images", data))
    if batch.dtype != np.uint8 or batch.ndim != 4 or not len(batch):
        raise ValueError(f"images must be uint8 (N, C, H, W), N >= 1; got {batch.dtype} {batch.shape}")
    config, schedule = settings_of(method, settings)
    device, folder, shape = hardware.choose_device(device), Path(folder), tuple(batch.shape[1:])
    before = load(start, device) if isinstance(start, str | Path) else start
    if before is not None and not before.ok:
        raise Diverged(f"start: {before.folder}: that model was lost in training: {before.status}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(schedule.seed)  # the CPU's alone
        nets = METHODS[method].build(config, shape, lambda n: torch.from_numpy(batch[:n].mean(0) / 127.5 - 1))
    every = nn.ModuleDict(nets).to(device, memory_format=_memory_format(config))
    about = {"method": method, "config": asdict(config), "shape": list(shape)}
    if before is not None:
        try:
            every.load_state_dict(nn.ModuleDict({name: before.nets[name] for name in nets}).state_dict())
        except (KeyError, RuntimeError) as error:
            what = f"{before.label} in {before.folder}: its networks are not those of {method} with these settings"
            raise ValueError(f"start: {what}: {checkpoint.short(error)}") from error
        about["start"] = checkpoint.checksum(every.state_dict())
    step = METHODS[method].make_step(nets, config)
    stages = {"stage": "train" if before is None else "finetune", "history": before.history if before else ()}
    try:
        fit.fit(step, batch, folder, schedule, about=about, defaults={"config": asdict(METHODS[method].Config())}, **stages)
    except Diverged as error:
        lost = {"precision": step.precision, "device": device, "trained_on": hardware.device_name(device), "about": about}
        return Model(method, config, shape, step.modules, folder, f"diverged: {error}", **lost)
    return load(folder, device)


def load(source: str | Path, device: str | torch.device = "auto") -> Model:
    """The trained model in a folder of `train`, or in one of its .safetensors files; nothing else is needed.

    Raises FileNotFoundError, or checkpoint.CheckpointError naming the file and what is wrong with it.
    """
    path = Path(source)
    path = path if path.suffix == ".safetensors" else path / MODEL
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no trained model; a training that was not finished has no such file yet")
    tensors, about, facts = checkpoint.load_model(path)
    device = hardware.choose_device(device)
    try:
        config, _ = settings_of(about["method"], about["config"])
        shape = tuple(about["shape"])
        if len(shape) != 3:
            raise ValueError(f"its shape is {shape}")
        with torch.random.fork_rng(devices=[]):
            nets = METHODS[about["method"]].build(config, shape)
        saved = {name.partition(".")[0] for name in tensors}
        nets |= {f"{name}_ema": copy.deepcopy(nets[name]) for name in [*nets] if f"{name}_ema" in saved}
        every = nn.ModuleDict(nets)
        every.load_state_dict(tensors)
        every.to(device, memory_format=_memory_format(config)).eval().requires_grad_(False)
        checkpoint.check_kinds(facts, step=int, epoch=int | float, seconds=int | float, device=str)
        checkpoint.check_kinds(about, precision=str)
    except Exception as error:
        raise checkpoint.CheckpointError(f"{path}: not a model of this version: {checkpoint.short(error)}") from error
    return Model(
        about["method"], config, shape, nets, path.parent if path.name == MODEL else None, n_steps=facts["step"],
        n_epochs=facts["epoch"], seconds=facts["seconds"], precision=about["precision"], device=device,
        trained_on=facts["device"], about=about,
    )  # fmt: skip


def _memory_format(config: Any) -> torch.memory_format:
    """Channels last, but around the fully connected decoder as built, in which its likelihoods were measured."""
    return torch.contiguous_format if getattr(config, "nets", "") == "decoder" else torch.channels_last


def settings_of(method: str, settings: dict[str, Any]) -> tuple[Any, Schedule]:
    """(the method's Config, Schedule) of `settings`. Raises ValueError naming what is unknown or bad and what is valid."""
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"unknown method {method!r}; valid: {', '.join(METHODS)}")
    Config = METHODS[method].Config
    own, of_schedule = split(method, settings, Config, Schedule)
    config, schedule = Config(**own), Schedule(**of_schedule)
    if getattr(config, "divergence", "") == "full" and schedule.batch_size <= config.M:
        raise ValueError(f"divergence full: batch_size {schedule.batch_size} is not above M, {config.M}")
    return config, schedule


def reestimate(net: nn.Module, batch: np.ndarray, batch_size: int = 250) -> nn.Module:
    """A copy of `net`, in evaluation mode, whose BatchNorm statistics are the mean over batches of real images, uint8
    (N, C, H, W). Training moves an encoder's running statistics by real and generated images alike."""
    net, device = copy.deepcopy(net), next(net.parameters()).device
    starts = range(0, len(batch) - batch_size + 1, batch_size)
    torch.optim.swa_utils.update_bn((images.to_float(batch[i : i + batch_size], device) for i in starts), net)
    return net.eval()
