"""uint8 images <-> float images in [-1, 1]: the only conversions; and networks in evaluation mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn


def to_float(images: np.ndarray | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """uint8 images (N, C, H, W) as float32 in [-1, 1], channels_last, on `device`."""
    x = torch.as_tensor(np.array(images) if not isinstance(images, Tensor) else images).to(device)
    if x.dtype != torch.uint8 or x.ndim != 4:
        raise ValueError(f"images must be uint8 (N, C, H, W), got {x.dtype} {tuple(x.shape)}")
    return x.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)


def to_uint8(x: Tensor) -> np.ndarray:
    """Float images in [-1, 1] as uint8 (N, C, H, W): (x + 1) 127.5, rounded and clipped. ValueError where one is NaN."""
    if x.isnan().any():
        raise ValueError(f"{int(x.flatten(1).isnan().any(1).sum())} of {len(x)} images are not finite")
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).contiguous().cpu().numpy()


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside; the network's former mode after."""
    was = net.training
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        net.train(was)
