"""Trained networks put to use: uint8 images in and out, evaluation mode, in batches, without gradients."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


def to_float(images: np.ndarray | Tensor, device="cpu") -> Tensor:
    """uint8 images (N, C, H, W) as float32 in [-1, 1], channels_last, on `device`."""
    x = torch.as_tensor(np.array(images) if not isinstance(images, Tensor) else images).to(device)
    if x.dtype != torch.uint8 or x.ndim != 4:
        raise ValueError(f"images must be uint8 (N, C, H, W), got {x.dtype} {tuple(x.shape)}")
    return x.to(torch.float32).div(127.5).sub(1).contiguous(memory_format=torch.channels_last)


def to_uint8(x: Tensor) -> np.ndarray:
    """Float images in [-1, 1] as uint8 (N, C, H, W): (x + 1) 127.5, rounded and clipped."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).contiguous().cpu().numpy()


@torch.no_grad()
def generate(g: nn.Module, z: Tensor, batch_size: int = 256) -> np.ndarray:
    """g(z) for codes (N, M) as uint8 images; g in evaluation mode (running BatchNorm statistics), restored after."""
    device = next(g.parameters()).device
    with _evaluating(g):
        return np.concatenate([to_uint8(g(part.to(device))) for part in z.split(batch_size)])


@torch.no_grad()
def encode(e: nn.Module, images: np.ndarray, batch_size: int = 256) -> Tensor:
    """e(x) for uint8 images (N, C, H, W): codes (N, M) on the CPU; e in evaluation mode, restored after."""
    device = next(e.parameters()).device
    parts = range(0, len(images), batch_size)
    with _evaluating(e):
        return torch.cat([e(to_float(images[i : i + batch_size], device)).cpu() for i in parts])


def reconstruct(g: nn.Module, e: nn.Module, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """g(e(x)) for uint8 images (N, C, H, W), as uint8; both networks in evaluation mode."""
    return generate(g, encode(e, images, batch_size), batch_size)


class _evaluating:
    """Evaluation mode inside, the former mode after."""

    def __init__(self, net: nn.Module):
        self.net, self.was = net, net.training

    def __enter__(self):
        self.net.eval()

    def __exit__(self, *exc):
        self.net.train(self.was)
