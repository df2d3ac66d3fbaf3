"""A small convolutional classifier, and what it says about samples and reconstructions of labelled images.

Do reconstructions keep the class (`agreement`)? Are samples recognisable (`confident_fraction`) and of all classes
(`class_spread`)? The classifier is a yardstick trained in seconds on the data at hand, not a published network: its
numbers compare runs on one data set with one seed, and nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Classifier(nn.Module):
    """Four convolutions (5x5 with stride 2 to `width` channels, then 3x3 to 2, 4 and 4 times as many; BatchNorm, ReLU),
    halving after the second and the third, mean over each quarter of the map, linear layer.

    forward: float (B, C, H, W) in [-1, 1], H and W >= 8, to logits (B, n_classes). Images above 32 px are first
    averaged down by the largest whole factor that leaves at least 28.
    """

    def __init__(self, channels: int, n_classes: int, width: int = 16):
        super().__init__()
        layers: list[nn.Module] = []
        widths = (channels, width, 2 * width, 4 * width, 4 * width)
        for i, (c_in, c_out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            kernel, stride = (5, 2) if i == 0 else (3, 1)
            layers += [nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if i in (1, 2) else []
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(4 * widths[-1], n_classes)

    def embed(self, x: Tensor) -> Tensor:
        """The input of the last layer, (B, 16 width)."""
        factor = min(x.shape[2:]) // 28
        if min(x.shape[2:]) > 32 and factor > 1:
            x = F.avg_pool2d(x, factor)
        return self.features(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x))


def train(
    images: Any,
    labels: Any,
    n_classes: int,
    *,
    n_steps: int = 600,
    batch_size: int = 64,
    width: int = 16,
    lr: float = 6e-3,
    shift: int = 2,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """A trained `Classifier` in eval mode, on `device`.

    images: uint8 (N, C, H, W), H and W >= 8; labels: (N,) whole numbers in 0..n_classes-1.
    Adam with a one-cycle learning rate of peak `lr`, cross-entropy, each batch moved by up to `shift` pixels in each
    direction (edge pixels repeated). The cost is n_steps * batch_size images whatever N is. A function of its arguments
    alone (bit for bit on one CPU and thread count); the global random state is as before afterwards.
    Raises ValueError for other shapes and dtypes, fewer than 2 images, or labels out of range.
    """
    x, y = np.asarray(images), np.asarray(labels)
    if x.ndim != 4 or x.dtype != np.uint8 or y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"need uint8 (N, C, H, W) and whole (N,), got {x.dtype} {x.shape} and {y.dtype} {y.shape}")
    if len(x) < 2 or y.min() < 0 or y.max() >= n_classes:
        raise ValueError(f"need >= 2 images with labels in 0..{n_classes - 1}, got {len(x)} images")
    device = torch.device(device)
    batch_size = min(batch_size, len(x))
    order = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):  # weights are drawn on the CPU: its generator alone is seeded, and put back
        torch.default_generator.manual_seed(seed)
        net = Classifier(x.shape[1], n_classes, width)
    net.to(device).train()
    optimizer = torch.optim.Adam(net.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=n_steps)
    permutation, at = torch.randperm(len(x), generator=order), 0
    for _ in range(n_steps):
        if at + batch_size > len(x):
            permutation, at = torch.randperm(len(x), generator=order), 0
        ids = permutation[at : at + batch_size].numpy()
        at += batch_size
        batch = _shifted(_float(x[ids], device), shift, order)
        loss = F.cross_entropy(net(batch), torch.from_numpy(y[ids].astype(np.int64)).to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def probs(module: nn.Module, images: Any, *, batch_size: int = 256) -> np.ndarray:
    """Class probabilities (N, K) float32, rows summing to 1, of images (N, C, H, W), uint8 or float in [-1, 1].

    module: logits from float images in [-1, 1], as `train` returns it; used in eval mode and left in its former mode.
    """
    device = next(module.parameters()).device
    was_training = module.training
    module.eval()
    try:
        parts = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
        return np.concatenate([module(_float(part, device)).float().softmax(1).cpu().numpy() for part in parts])
    finally:
        module.train(was_training)


@torch.no_grad()
def feature_distance(module: Classifier, x: Any, gex: Any, *, batch_size: int = 256) -> np.ndarray:
    """Distance of each pair of images in the classifier's last features, relative to the mean distance of different x.

    x, gex: (N, C, H, W), N >= 2, uint8 or float in [-1, 1]. Returns (N,) float64: |f(x) - f(gex)| over the mean of
    |f(x_i) - f(x_j)|, j the next image. 0 for equal images, about 1 for answers that have nothing to do with theirs.
    """
    if np.shape(x) != np.shape(gex) or np.ndim(x) != 4 or len(x) < 2:
        raise ValueError(f"need two equal shapes (N, C, H, W) with N >= 2, got {np.shape(x)} and {np.shape(gex)}")
    was_training = module.training
    module.eval()
    try:
        a, b = (_features(module, images, batch_size) for images in (x, gex))
    finally:
        module.train(was_training)
    return np.linalg.norm(a - b, axis=1) / np.linalg.norm(a - np.roll(a, 1, 0), axis=1).mean()


def _features(module: Classifier, images: Any, batch_size: int) -> np.ndarray:
    device = next(module.parameters()).device
    parts = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
    return np.concatenate([module.embed(_float(part, device)).cpu().numpy() for part in parts]).astype(np.float64)


def agreement(labels_a: Any, labels_b: Any) -> float:
    """Share of positions where two sequences of labels (N,) are equal, in 0..1."""
    a, b = np.asarray(labels_a), np.asarray(labels_b)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"need two sequences (N,) of equal length >= 1, got {a.shape} and {b.shape}")
    return float((a == b).mean())


def confident_fraction(probabilities: Any, threshold: float = 0.9) -> float:
    """Share of rows of (N, K) probabilities whose largest entry is above `threshold`, in 0..1."""
    return float((_checked(probabilities).max(1) > threshold).mean())


def class_spread(probabilities: Any) -> tuple[float, float]:
    """(entropy in nats of the histogram of most probable classes, share of the rarest class) of (N, K) probabilities.

    The entropy is log K, and the share 1/K, when all K classes come up equally often; both are 0 for a single class.
    """
    p = _checked(probabilities)
    shares = np.bincount(p.argmax(1), minlength=p.shape[1]) / len(p)
    present = shares[shares > 0]
    return float(-(present * np.log(present)).sum()) + 0.0, float(shares.min())


def _checked(probabilities: Any) -> np.ndarray:
    p = np.asarray(probabilities)
    if p.ndim != 2 or 0 in p.shape:
        raise ValueError(f"need probabilities (N, K), nothing empty; got {p.shape}")
    return p


def _float(images: Any, device: torch.device) -> Tensor:
    x = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
    x = x.detach().to(device)
    return x.float().div_(127.5).sub_(1) if x.dtype == torch.uint8 else x.float()


def _shifted(x: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """The batch moved by one random offset of at most `shift` pixels each way, edges repeated."""
    if not shift:
        return x
    dy, dx = torch.randint(0, 2 * shift + 1, (2,), generator=generator).tolist()
    padded = F.pad(x, (shift,) * 4, mode="replicate")
    return padded[:, :, dy : dy + x.shape[2], dx : dx + x.shape[3]]
