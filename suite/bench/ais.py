"""Speed of annealed importance sampling: chains of all images as one tensor, against a plain loop over images.

The decoder is the published one for 10 dimensions, 784 pixels. Plain: one image at a time, its chains as one batch, fp32,
the gradient of the whole log density at each leapfrog step and both ends' densities anew. One unit of work is an image, a
chain and an intermediate distribution (one HMC move of 10 leapfrog steps).
"""

import math
import statistics

import torch
from torch import Tensor

from agelib import networks
from agelib.metrics import ais
from suite.bench.training import in_turn

M, D, VARIANCE = 10, 784, 0.01


def plain_move(decode: ais.Decode, x: Tensor, z: Tensor, beta: float, eps: float) -> Tensor:
    """One HMC move of the chains z (C, M) of one image x (D,), without any of this library's savings; the new states."""

    def log_density(z: Tensor) -> Tensor:
        log_lik = -(decode(z) - x).square().sum(1) / (2 * VARIANCE) - D / 2 * math.log(2 * math.pi * VARIANCE)
        return beta * log_lik - 0.5 * z.square().sum(1)

    def gradient(z: Tensor) -> Tensor:
        z = z.detach().requires_grad_()
        return torch.autograd.grad(log_density(z).sum(), z)[0]

    v = torch.randn_like(z)
    before = log_density(z) - 0.5 * v.square().sum(1)
    new = z
    for _ in range(10):
        v = v + 0.5 * eps * gradient(new)
        new = new + eps * v
        v = v + 0.5 * eps * gradient(new)
    after = log_density(new) - 0.5 * v.square().sum(1)
    taken = torch.rand(len(z), device=z.device).log() < after - before
    return torch.where(taken[:, None], new, z)


def rates(g: torch.nn.Module, n_images: int, n_chains: int, device: torch.device, repeats: int) -> dict[str, float]:
    """Images x chains x distributions a second with the decoder g: "plain", "fp32" and "bf16" (medians, in turn)."""
    x, z = torch.rand(n_images, D, device=device), torch.randn(n_images, n_chains, M, device=device)
    few = max(1, n_images // 20)  # the loop costs the same for every image

    def decode(z: Tensor) -> Tensor:
        return torch.sigmoid(g.layers(z))

    calls = {"plain": lambda: [plain_move(decode, x[i], z[i], 0.5, 0.01) for i in range(few)]}
    for name in ("fp32", "bf16"):
        cfg = ais.AisConfig(n_chains=n_chains, precision=name)
        calls[name] = ais.Chains(decode, x, None, M, VARIANCE, cfg).advance
    n = {"plain": few * n_chains}
    times = in_turn(calls, device, repeats, warm_up=1)
    return {name: statistics.median(n.get(name, n_images * n_chains) / s for s in found) for name, found in times.items()}


def move_flop(g: torch.nn.Module) -> float:
    """Floating-point operations of one chain's move: 10 gradients, each forward and back to the input."""
    return 10 * 2 * 2.0 * sum(layer.weight.numel() for layer in g.layers if hasattr(layer, "weight"))


def report(device: torch.device, peaks: dict[str, float], precision: str, repeats: int) -> None:
    """Print the rates, their ratios to the plain loop, and the share of the matrix product's speed (TFLOP/s in `peaks`)."""
    torch.manual_seed(0)
    g = networks.published_decoder((1, 28, 28), M).to(device).requires_grad_(False)
    found = rates(g, 100, 16, device, repeats)
    print("AIS, 100 images x 16 chains: images x chains x distributions a second")
    for name, rate in found.items():
        peak = "bf16" if name == "bf16" else "fp32"
        share = rate * move_flop(g) / 1e12 / peaks[peak]
        print(f"{name:<8}{rate:>10.0f}  {rate / found['plain']:>6.2f} x plain  {share:>5.0%} of the {peak} peak")
