"""The classifier that the suite trains on a data set's labels, and what it says about samples and reconstructions.

Where Inception's weights are not at hand, or ImageNet's classes do not fit the data (digits), its probabilities give the
*classifier score* (`agelib.metrics.inception.inception_score`) and its features the Frechet distance. The numbers compare
generators on one data set under one classifier; they are not the Inception Score and never stand beside a published one.

Layers in the manner of airbench (Jordan 2024, arXiv:2404.00498): whitened 2x2 patches, three blocks of two 3x3
convolutions, each block halving the map, a maximum over what is left, a linear layer. Here: no label smoothing, so that the
probabilities mean what they say, and SGD with a triangular learning rate.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agelib.images import evaluating, to_float
from agelib.training import checkpoint, hardware
from agelib.training.fit import MODEL, Schedule, fit
from agelib.training.step import Step, check_config, split

SCHEDULE = {"n_epochs": 8, "batch_size": 64}  # where `train` is not told


@dataclass(frozen=True)
class Config:
    """The network and its optimiser, by default for small sets. CIFAR-10: 90.3 % right after 10 epochs with width 32, lr
    0.2, batch_size 256 and flip."""

    width: int = 16  # channels of the first block; 4 times as many in the others
    lr: float = 0.1  # SGD's peak, on the mean loss of a batch
    momentum: float = 0.9  # Nesterov
    weight_decay: float = 5e-4  # on every weight
    shift: int = 2  # each training image is moved by up to so many pixels each way, edges mirrored
    precision: str = "auto"  # fp32 | bf16 | auto

    def __post_init__(self):
        least = {"width": 1, "weight_decay": 0, "shift": 0}
        check_config(self, least=least, above={"lr": 0, "momentum": 0}, shares=("momentum",))  # Nesterov's needs some


class Classifier(nn.Module):
    """Float images (B, C, H, W) in [-1, 1], H and W >= 16 -> logits (B, n_classes); `embed` gives the features (B, 4 width).
    Images of 56 px and more are first averaged down by the largest whole factor that leaves at least 28."""

    def __init__(self, channels: int, n_classes: int, width: int = 16, precision: str = "fp32"):
        super().__init__()
        self.precision = precision
        patch = 4 * channels
        self.whiten = nn.Conv2d(channels, 2 * patch, 2, bias=False)
        self.whiten.weight.requires_grad_(False)
        layers: list[nn.Module] = [nn.GELU()]
        for c_in, c_out in ((2 * patch, width), (width, 4 * width), (4 * width, 4 * width)):
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(c_out), nn.GELU()]
            layers += [nn.Conv2d(c_out, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.GELU()]
        self.blocks = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten())
        self.head = nn.Linear(4 * width, n_classes, bias=False)

    def embed(self, x: Tensor) -> Tensor:
        if (factor := min(x.shape[2:]) // 28) > 1:
            x = F.avg_pool2d(x, factor)
        return self.blocks(self.whiten(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x)).float()

    @torch.no_grad()
    def set_whitening(self, x: Tensor, eps: float = 5e-4) -> None:
        """Set the first layer from images x (B, C, H, W): the principal directions of their 2x2 patches, scaled to variance
        1 (up to `eps`), and their negatives."""
        patches = F.unfold(x.float().contiguous(), 2).transpose(1, 2).reshape(-1, 4 * x.shape[1])  # (n, 4 C)
        patches = patches - patches.mean(0)
        variances, directions = torch.linalg.eigh(patches.T.double() @ patches.double() / len(patches))
        filters = (directions / (variances.clamp_min(0) + eps).sqrt()).T.float().reshape(-1, x.shape[1], 2, 2)
        self.whiten.weight.copy_(torch.cat([filters, -filters]))


def train(
    images: np.ndarray, labels: np.ndarray, folder: str | Path, *, n_classes: int | None = None,
    device: str | torch.device = "auto", **settings: Any,
) -> Classifier:  # fmt: skip
    """A trained classifier in evaluation mode; `folder` keeps it as `agelib.training.fit` does, and gives it back at once.

    images: uint8 (N, C, H, W), H and W >= 16; labels: (N,) whole numbers in 0..n_classes-1; n_classes None: as many as the
    labels tell. settings: fields of Config or of `agelib.training.fit.Schedule`, whose defaults here are SCHEDULE's. Raises
    ValueError for anything else, and what `fit` raises.
    """
    cfg, schedule, n_classes = check(images, labels, n_classes, **settings)
    device = hardware.choose_device(device)
    precision = hardware.choose_precision(cfg.precision, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(schedule.seed)
        net = Classifier(images.shape[1], n_classes, cfg.width, precision)
    net.set_whitening(to_float(images[:1000]))
    net.to(device, memory_format=torch.channels_last)
    about = {"method": "classifier", "config": asdict(cfg), "shape": list(images.shape[1:]), "n_classes": n_classes}
    data = images, np.asarray(labels)
    fit(make_step(net, cfg), data, folder, schedule, about=about, stage="classifier")
    nn.ModuleDict({"net": net}).load_state_dict(checkpoint.load_model(Path(folder) / MODEL)[0])
    return net.eval().requires_grad_(False)


def check(images: np.ndarray, labels: np.ndarray, n_classes: int | None, **settings: Any) -> tuple[Config, Schedule, int]:
    """(Config, Schedule, number of classes) of the arguments of `train`, which raises the same ValueError."""
    own, of_fit = split("the classifier", settings, Config, Schedule)
    cfg, schedule, y = Config(**own), Schedule(**SCHEDULE | of_fit), np.asarray(labels)
    if images.ndim != 4 or images.dtype != np.uint8 or y.shape != (len(images),) or y.dtype.kind not in "iu":
        raise ValueError(f"need uint8 (N, C, H, W) and whole (N,), got {images.dtype} {images.shape}, {y.dtype} {y.shape}")
    n_classes = int(y.max(initial=0)) + 1 if n_classes is None else n_classes
    size, batch_size, low, high = min(images.shape[2:]), schedule.batch_size, y.min(initial=0), y.max(initial=0)
    if size < 16 or cfg.shift >= size or batch_size < 2 or low < 0 or high >= n_classes:
        wanted = f"images of >= 16 x 16 px and above shift, batch_size >= 2 and labels in 0..{n_classes - 1}"
        given = f"{images.shape}, shift {cfg.shift}, batch_size {batch_size}, labels {low} to {high}"
        raise ValueError(f"need {wanted}, got {given}")
    schedule.length(len(images))
    return cfg, schedule, n_classes


def make_step(net: Classifier, cfg: Config) -> Step:
    """One update on (images, labels): cross-entropy of images moved at random."""
    device = next(net.parameters()).device
    rule = {"momentum": cfg.momentum, "weight_decay": cfg.weight_decay, "nesterov": True, "fused": True}
    rule["lr"] = torch.tensor(cfg.lr, device=device) if hardware.lr_on_device(device) else cfg.lr
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], **rule)

    def update(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        with hardware.autocast(device, net.precision):
            logits = net(moved(x, cfg.shift))
        loss = F.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"cross-entropy": loss.detach(), "right": (logits.detach().argmax(1) == y).float().mean()}

    def lr_at(epoch: float, n_epochs: float) -> float:
        return cfg.lr * min(epoch / n_epochs / 0.25 + 0.02, (1 - epoch / n_epochs) / 0.75)  # up for a quarter, down to 0

    return Step(update, {"net": net.train()}, {"net": optimizer}, lr_at, net.precision)


def moved(x: Tensor, shift: int) -> Tensor:
    """Each image of x (B, C, H, W) moved by up to `shift` pixels each way, edges mirrored; torch's global random state."""
    if not shift:
        return x
    B, _, H, W = x.shape
    padded = F.pad(x, (shift,) * 4, mode="reflect").permute(0, 2, 3, 1)
    down, right = torch.randint(0, 2 * shift + 1, (2, B, 1), device=x.device)
    rows, columns = down + torch.arange(H, device=x.device), right + torch.arange(W, device=x.device)  # (B, H), (B, W)
    each = torch.arange(B, device=x.device)[:, None, None]
    return padded[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)  # channels_last


def read(net: Classifier, images: np.ndarray, batch_size: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """(class probabilities (N, K), features (N, 4 width)), both float32, of uint8 images (N, C, H, W), N >= 1. ValueError
    where they are not finite."""
    device, found = next(net.parameters()).device, []
    with evaluating(net):
        for i in range(0, len(images), batch_size):
            with hardware.autocast(device, net.precision):
                embedded = net.embed(to_float(images[i : i + batch_size], device)).float()
            found.append((net.head(embedded).softmax(1).cpu(), embedded.cpu()))
    probs, features = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    if not (np.isfinite(probs).all() and np.isfinite(features).all()):
        raise ValueError(f"the classifier's answers to {len(probs)} images are not all finite")
    return probs, features


def class_spread(probabilities: np.ndarray) -> tuple[float, float]:
    """(entropy in nats of the histogram of most probable classes, share of the rarest class) of (N, K) probabilities: log K
    and 1/K when all K classes come up equally often; both are 0 for a single class."""
    shares = np.bincount(probabilities.argmax(1), minlength=probabilities.shape[1]) / len(probabilities)
    return float(scipy.stats.entropy(shares)), float(shares.min())


def feature_distance(of_x: Any, of_gex: Any) -> np.ndarray:
    """Distance of each pair of images in the features that `read` gives, relative to the mean distance of different x.

    of_x, of_gex: (N, D), N >= 2. Returns (N,) float64: |f(x) - f(gex)| over the mean of |f(x_i) - f(x_j)|, j the image
    before. 0 for equal images, about 1 for answers that have nothing to do with theirs.
    """
    a, b = (np.asarray(features, np.float64) for features in (of_x, of_gex))
    return np.linalg.norm(a - b, axis=1) / np.linalg.norm(a - np.roll(a, 1, 0), axis=1).mean()
