"""Features of images from trained networks, as callables uint8 (n, C, H, W) -> float32 (n, D) for
`agelib.metrics.svm_features`.

AGE (not published; these are ours, after ALI and DCGAN): the outputs of the encoder's hidden layers and the code; F1
flattens them, F2 takes the maximum over windows that leave 4x4 first. At 32 px and width 64, M 64: F1 has 28,736
dimensions, F2 7,232. ALI (preprocess_representations.py): BatchNorm outputs of the last three hidden layers and the mean of
the code, 5,376. DCGAN (its SVHN script): activations of the discriminator's three layers, maximum over windows that leave
4x4, 7,168.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agelib import apply

Features = Callable[[np.ndarray], np.ndarray]
MOMENTS = ("before", "after")


def hidden_layers(net: nn.Module, moment: str = "after") -> list[int]:
    """Positions in net.layers whose outputs are the hidden layers' values before or after the nonlinearity (LeakyReLU)."""
    if moment not in MOMENTS:
        raise ValueError(f"moment is {' or '.join(MOMENTS)} the nonlinearity, got {moment!r}")
    found = [i for i, layer in enumerate(net.layers) if isinstance(layer, nn.LeakyReLU)]
    return found if moment == "after" else [i - 1 for i in found]


def of_layers(
    net: nn.Module,
    at: Sequence[int],
    *,
    pool: int | None = 4,
    code: Callable[[Tensor], Tensor] | None = None,
    prepare: Callable[[Tensor], Tensor] = lambda x: x,
) -> Features:
    """The outputs of net.layers at positions `at`, each reduced to at most pool x pool by maxima, flattened and joined.

    net: with `layers`, in evaluation mode. pool None: no pooling. code: the last part, from the images (B, C, H, W) in [-1,
    1]. prepare: what the network does with the images before its first layer. """  # fmt: skip
    device = next(net.parameters()).device

    @torch.no_grad()
    def features(images: np.ndarray) -> np.ndarray:
        x = apply.to_float(images, device)
        y, parts = prepare(x), []
        for i, layer in enumerate(net.layers[: max(at, default=-1) + 1]):
            y = layer(y)
            if i in at:
                small = F.adaptive_max_pool2d(y, pool) if pool and y.shape[2] > pool else y
                parts.append(small.flatten(1).clone())  # the next layer may work in place
        parts += [] if code is None else [code(x)]
        return torch.cat(parts, 1).float().cpu().numpy()

    return features


def of_age(
    e: nn.Module, *, layers: Sequence[int] = (1, 2, 3), pool: int | None = 4, code: bool = True, moment: str = "after"
) -> Features:
    """F2 of AGE's encoder (F1 with pool=None). layers: which hidden layers, from 1; code: whether the code is the last
    part."""
    positions = hidden_layers(e, moment)
    if not set(layers) <= set(range(1, len(positions) + 1)) or not (layers or code):
        raise ValueError(f"layers are from 1 to {len(positions)}, got {list(layers)}; without any, code must be True")
    return of_layers(e, [positions[i - 1] for i in layers], pool=pool, code=e if code else None)


def of_ali(e: nn.Module) -> Features:
    """BatchNorm outputs of the last three hidden layers of ALI's encoder (a GaussianCode) and the mean of its code."""
    at = hidden_layers(e.net, "before")[-3:]
    return of_layers(e.net, at, pool=None, code=lambda x: e.moments(x)[0], prepare=lambda x: (x + 1) / 2)


def of_gan(d: nn.Module) -> Features:
    """Activations of all hidden layers of a GAN's discriminator, maxima over 4x4."""
    return of_layers(d, hidden_layers(d, "after"), pool=4)


def pixels(images: np.ndarray) -> np.ndarray:
    """The image itself, in [-1, 1], (n, C H W)."""
    return (images.reshape(len(images), -1) / 127.5 - 1).astype(np.float32)


def principal(images: np.ndarray, n: int) -> Features:
    """The first n principal components of pixels, from uint8 training images (N, C, H, W), N > n; no labels are used."""
    x = pixels(images)
    if not 1 <= n < min(x.shape):
        raise ValueError(f"need 1 <= n < {min(x.shape)} components, got {n}")
    mean = x.mean(0)
    centred = x - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)
    directions = np.ascontiguousarray(vectors[:, : -n - 1 : -1])
    return lambda images: (pixels(images) - mean) @ directions
