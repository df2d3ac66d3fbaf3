"""The classifier behind the *classifier score*: a small convolutional network that the suite trains on a data set's labels.

Where Inception's weights are not at hand, or ImageNet's classes do not fit the data (digits), its class probabilities go
into `agelib.metrics.inception_score.inception_score` instead, and its features into the Frechet distance. The numbers
compare generators on one data set under one judge; they are not the Inception Score and never stand beside a published one.

Layers in the manner of airbench (Jordan 2024, arXiv:2404.00498): whitened 2x2 patches, three blocks of two 3x3
convolutions, each block halving the map, a maximum over what is left, a linear layer. Here: no label smoothing, so that the
probabilities mean what they say, and SGD with a triangular learning rate.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agelib import apply, checkpoint, fast
from agelib.progress import Progress


@dataclass(frozen=True)
class JudgeConfig:
    """Settings of one training; on CIFAR-10, 10 epochs at width 32 are 90.3 % right after 10 processor minutes."""

    n_epochs: int = 8
    width: int = 32  # channels of the first block; 4 times as many in the others
    batch_size: int = 256
    lr: float = 0.2  # SGD's peak, on the mean loss of a batch
    momentum: float = 0.9  # Nesterov
    weight_decay: float = 5e-4  # on every weight
    shift: int = 2  # each training image is moved by up to so many pixels each way, edges mirrored
    flip: bool = True  # mirror left-right with probability 1/2; not for digits
    seed: int = 0
    precision: str = "auto"  # fp32 | bf16 | auto

    def __post_init__(self):
        if min(self.n_epochs, self.width) < 1 or self.batch_size < 2 or self.shift < 0:
            raise ValueError("need n_epochs and width >= 1, batch_size >= 2, shift >= 0")


class Judge(nn.Module):
    """Float images (B, C, H, W) in [-1, 1], H and W >= 16 -> logits (B, n_classes); `embed` gives the features (B, 4 width).

    Images above 32 px are first averaged down by the largest whole factor that leaves at least 28.
    """

    def __init__(self, channels: int, n_classes: int, width: int = 32):
        super().__init__()
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
        """The input of the last layer, (B, 4 width)."""
        factor = min(x.shape[2:]) // 28
        if min(x.shape[2:]) > 32 and factor > 1:
            x = F.avg_pool2d(x, factor)
        return self.blocks(self.whiten(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x)).float()

    @torch.no_grad()
    def set_whitening(self, x: Tensor, eps: float = 5e-4) -> None:
        """Set the first layer from images x (B, C, H, W): the principal directions of their 2x2 patches, each scaled to
        variance 1 (up to `eps`, patches in [-1, 1]), and their negatives."""
        patches = F.unfold(x.float().contiguous(), 2).transpose(1, 2).reshape(-1, 4 * x.shape[1])  # (n, 4 C)
        patches = patches - patches.mean(0)
        variances, directions = torch.linalg.eigh(patches.T.double() @ patches.double() / len(patches))
        filters = (directions / (variances.clamp_min(0) + eps).sqrt()).T.float().reshape(-1, x.shape[1], 2, 2)
        self.whiten.weight.copy_(torch.cat([filters, -filters]))


def train(
    images: np.ndarray,
    labels: np.ndarray,
    n_classes: int,
    cfg: JudgeConfig,
    *,
    folder: str | Path,
    device: torch.device | str = "cpu",
) -> Judge:
    """A trained Judge in evaluation mode; `folder` keeps a checkpoint of each epoch and at last judge.safetensors.

    images: uint8 (N, C, H, W); labels: (N,) whole numbers in 0..n_classes-1. A folder with a finished judge of these images
    and settings gives that; a killed training goes on from its last epoch with the same result (same number of threads);
    a folder of another training is refused. Raises ValueError for other shapes, dtypes or labels.
    """
    y = np.asarray(labels)
    if images.ndim != 4 or images.dtype != np.uint8 or y.shape != (len(images),) or y.dtype.kind not in "iu":
        raise ValueError(f"need uint8 (N, C, H, W) and whole (N,), got {images.dtype} {images.shape}, {y.dtype} {y.shape}")
    if len(y) < cfg.batch_size or y.min() < 0 or y.max() >= n_classes:
        raise ValueError(f"need >= {cfg.batch_size} images with labels in 0..{n_classes - 1}, got {len(y)} images")
    precision = fast.choose_precision(cfg.precision, device)
    about = asdict(cfg) | {"precision": precision, "n": len(y), "n_classes": n_classes, "shape": list(images.shape[1:])}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):  # the global random state is as before afterwards
        torch.manual_seed(cfg.seed)
        net = Judge(images.shape[1], n_classes, cfg.width)
    net.to(device, memory_format=torch.channels_last)
    with filelock.FileLock(folder / ".lock", timeout=0):
        _train(
            net,
            torch.from_numpy(np.array(images)).to(device),
            torch.from_numpy(y.astype(np.int64)).to(device),
            cfg,
            about,
            folder,
        )
    return net.eval().requires_grad_(False)


def seconds(folder: str | Path) -> float:
    """Processor seconds that the training in `folder` took (all threads of the process together)."""
    found = checkpoint.read_latest(Path(folder))
    return 0.0 if found is None else found[0]["seconds"]


@torch.no_grad()
def read(net: Judge, images: np.ndarray, batch_size: int = 500, precision: str = "auto") -> tuple[np.ndarray, np.ndarray]:
    """(class probabilities (N, K), features (N, 4 width)), both float32, of uint8 images (N, C, H, W)."""
    device = next(net.parameters()).device
    precision = fast.choose_precision(precision, device)
    probs, features = [], []
    for i in range(0, len(images), batch_size):
        with fast.autocast(device, precision):
            embedded = net.embed(apply.to_float(images[i : i + batch_size], device))
        features.append(embedded.float().cpu())
        probs.append(net.head(embedded.float()).softmax(1).cpu())
    return torch.cat(probs).numpy(), torch.cat(features).numpy()


def _train(net: Judge, x: Tensor, y: Tensor, cfg: JudgeConfig, about: dict, folder: Path) -> None:
    """All epochs that `folder` does not hold yet. x: uint8 (N, C, H, W)."""
    per_epoch = len(x) // cfg.batch_size
    decayed = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(decayed, cfg.lr, cfg.momentum, weight_decay=cfg.weight_decay, nesterov=True)
    done, spent, found = 0, 0.0, checkpoint.read_latest(folder)
    if found is not None:
        state, path = found
        if state["config"] != about:
            keys = [k for k in {**state["config"], **about} if state["config"].get(k) != about.get(k)]
            raise ValueError(f"{path}: trained with other settings ({', '.join(sorted(keys))}); take another folder")
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        done, spent = state["epoch"], state["seconds"]
    else:
        net.set_whitening(apply.to_float(x[:1000], x.device))
    progress, last = Progress(), ""
    while done < cfg.n_epochs:
        started, right = time.process_time(), 0
        for i, (batch, target) in enumerate(_batches(x, y, cfg, done)):
            at = (done * per_epoch + i) / (cfg.n_epochs * per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = cfg.lr * min(at / 0.25 + 0.02, (1 - at) / 0.75)  # up in the first quarter, then down to 0
            with fast.autocast(x.device, about["precision"]):
                logits = net.train()(batch)
            loss = F.cross_entropy(logits, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            right += int((logits.argmax(1) == target).sum())
            progress.show(f"classifier: epoch {done + 1}/{cfg.n_epochs}, batch {i + 1}/{per_epoch}, loss {loss.item():.3f}")
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"{folder}: the classifier's loss is not finite in epoch {done + 1}; lower lr")
        done, spent = done + 1, spent + time.process_time() - started
        state = {"config": about, "net": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": done}
        checkpoint.save(folder, done, state | {"seconds": spent}, keep=1)
        last = f", {right / (per_epoch * cfg.batch_size):.1%} of the augmented training images right"
        progress.show(f"classifier: epoch {done}/{cfg.n_epochs}{last}, {spent / 60:.1f} processor minutes", force=True)
    if not (folder / "judge.safetensors").exists():
        checkpoint.save_weights(folder / "judge.safetensors", net.state_dict(), about)
    progress.done(f"classifier: {done} epochs{last}, {spent / 60:.1f} processor minutes")


def _batches(x: Tensor, y: Tensor, cfg: JudgeConfig, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The shuffled, moved and mirrored batches of one epoch; a function of (seed, epoch) alone."""
    generator = torch.Generator().manual_seed(cfg.seed * 1_000_003 + epoch)
    order = torch.randperm(len(x), generator=generator)
    size, s = cfg.batch_size, cfg.shift
    for start in range(0, len(x) - size + 1, size):
        ids = order[start : start + size]
        batch = apply.to_float(x[ids.to(x.device)], x.device)
        if s:
            padded = F.pad(batch, (s,) * 4, mode="reflect")
            moves = torch.randint(0, 2 * s + 1, (2, size), generator=generator)
            rows = (moves[0][:, None] + torch.arange(x.shape[2])).to(x.device)  # (B, H)
            columns = (moves[1][:, None] + torch.arange(x.shape[3])).to(x.device)
            each = torch.arange(size, device=x.device)[:, None, None]
            batch = padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        if cfg.flip:
            mirrored = torch.rand(size, 1, 1, 1, generator=generator).to(x.device) < 0.5
            batch = torch.where(mirrored, batch.flip(3), batch)
        yield batch.contiguous(memory_format=torch.channels_last), y[ids.to(y.device)]

