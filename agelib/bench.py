"""Speed of one training iteration, the released way against this library's, measured in turn in one process.

    python -m agelib.bench [--repeats N]

One iteration is 1 encoder and 2 generator updates at batch 64. "Released way": fp32, NCHW, convolutions throughout,
nothing frozen, Adam tensor by tensor, the C library's default allocator thresholds. "Ours": `age.make_step` as `fit`
runs it. Times are medians; the arithmetic is counted from the layers, and its share of the machine's own matrix-product
speed, measured here in the same precision, says how much is left.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from agelib import age, allocator, fast, fit, losses, networks, sphere
from agelib.run import Run, environment

BATCH = 64
CASES = ((32, 128), (64, 64))  # size in pixels, M


class _FromMap(nn.Module):
    """(B, M) -> (B, M, 1, 1), for a plain transposed convolution."""

    def forward(self, z: Tensor) -> Tensor:
        return z[:, :, None, None]


def plain_networks(size: int, M: int) -> dict[str, nn.Module]:
    """The networks of `networks.build` with ordinary convolutions at both ends, NCHW."""
    nets = {k: net.to(memory_format=torch.contiguous_format) for k, net in networks.build(size, M).items()}
    first = nets["g"].layers[0]
    plain = nn.ConvTranspose2d(M, first.weight.shape[1], 4, 1, 0, bias=False)
    nets["g"].layers[0] = nn.Sequential(_FromMap(), plain)
    if size == 64:
        last = nets["e"].layers[-1]
        nets["e"].layers[-1] = nn.Sequential(nn.Conv2d(last.weight.shape[1], M, 4, 1, 0), nn.Flatten())
    return nets


def released_step(nets: dict[str, nn.Module], M: int, lam: float = 1000.0, mu: float = 10.0, n_g_steps: int = 2) -> Callable:
    """The released iteration without any of this library's savings: x -> None."""
    g, e = nets["g"], nets["e"]
    device = next(g.parameters()).device
    opt_g, opt_e = (torch.optim.Adam(n.parameters(), 2e-4, (0.5, 0.999), foreach=False, fused=False) for n in (g, e))

    def update(x: Tensor) -> None:
        e.zero_grad()
        ex = e(x)
        loss = losses.kl_released(ex) + mu * losses.recon_x_l1(g(ex), x)
        z = sphere.sample(len(x), M, device=device)
        (loss - losses.kl_released(e(g(z).detach()))).backward()
        opt_e.step()
        for _ in range(n_g_steps):
            g.zero_grad()
            z = sphere.sample(len(x), M, device=device)
            egz = e(g(z))
            (losses.kl_released(egz) + lam * losses.recon_z_cos(egz, z)).backward()
            opt_g.step()

    return update


def multiplications(net: nn.Module, example: Tensor) -> int:
    """Multiply-adds of the convolutions and linear maps in one forward pass of `net` on `example`."""
    total = 0

    def count(module, inputs, output):
        nonlocal total
        spatial = inputs[0] if isinstance(module, nn.ConvTranspose2d) and inputs[0].ndim == 4 else output
        positions = spatial.shape[2] * spatial.shape[3] if not isinstance(module, fast.FromVector | fast.ToVector) else 1
        total += len(example) * positions * module.weight.numel()

    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    hooks = [m.register_forward_hook(count) for m in layers]
    with torch.no_grad():
        net(example)
    for hook in hooks:
        hook.remove()
    return total


def iteration_flop(size: int, M: int, n_g_steps: int = 2) -> float:
    """Floating-point operations that an iteration needs when each net is differentiated only where its gradient is used.

    Encoder update: both encoder passes forward and backward (6 E), g(z) forward, g(e(x)) forward and back to its input
    (3 G). Each generator update: g forward and backward (3 G), e forward and back to its input (2 E).
    """
    nets = networks.build(size, M)
    G = multiplications(nets["g"], sphere.sample(1, M))
    E = multiplications(nets["e"], torch.zeros(1, 3, size, size))
    return 2.0 * BATCH * (6 * E + 3 * G + n_g_steps * (3 * G + 2 * E))


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def matrix_peak(dtype: torch.dtype, device: torch.device, n: int = 2048) -> float:
    """The best of ten n x n matrix products, in TFLOP/s."""
    n = 8192 if device.type == "cuda" else n
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        start = _clock(device)
        a @ b
        best = min(best, _clock(device) - start)
    return 2 * n**3 / best / 1e12


def compare_ways(size: int, M: int, device: torch.device, repeats: int) -> dict[str, float]:
    """Median seconds of an iteration, the released way and ours in turn, with the allocator that each is meant for."""
    torch.manual_seed(0)
    plain = {k: net.to(device) for k, net in plain_networks(size, M).items()}
    ours = networks.build(size, M, device=device)
    x = torch.rand(BATCH, 3, size, size, device=device) * 2 - 1
    ways = {
        "released": (released_step(plain, M), x, allocator.settle_default),
        "ours": (age.make_step(ours, age.AgeConfig(M=M)), x.to(memory_format=torch.channels_last), allocator.tune),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(repeats + 2):
        for name, (step, batch, set_allocator) in ways.items():
            set_allocator()
            step(batch)  # once more after the switch, so that the allocator has settled
            start = _clock(device)
            step(batch)
            if i >= 2:
                times[name].append(_clock(device) - start)
    allocator.tune()
    return {name: statistics.median(values) for name, values in times.items()}


def loop_overhead(device: torch.device, n_steps: int = 12) -> tuple[float, float]:
    """Shares of `fit`'s time outside the updates and in fetching batches: CIFAR-10's size, 32 px, M = 128."""
    images = np.random.default_rng(0).integers(0, 256, (50_000, 3, 32, 32), dtype=np.uint8)
    step = age.make_step(networks.build(32, 128, device=device), age.AgeConfig())
    update, inside = step.update, []

    def timed(x: Tensor):
        start = _clock(device)
        logs = update(x)
        inside.append(_clock(device) - start)
        return logs

    step.update = timed
    with tempfile.TemporaryDirectory() as folder:
        rows = fit.fit(
            step, images, run=Run(folder, {}, seed=0), n_epochs=1, max_steps=n_steps, batch_size=BATCH, seed=0,
            checkpoint_every_s=float("inf"),
        )  # fmt: skip
    data = fit.Batches(images, BATCH, seed=0, device=device)
    data.batch(0)
    start = _clock(device)
    for i in range(20):
        data.batch(i)
    fetch = (_clock(device) - start) / 20
    total = rows[-1]["seconds"]
    return 1 - sum(inside) / total, fetch / (total / n_steps)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m agelib.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7, help="timed iterations of each way (default 7)")
    repeats = parser.parse_args().repeats
    device = fast.choose_device()
    precision = fast.choose_precision("auto", device)
    facts = environment(str(device), precision)
    print("machine:", ", ".join(f"{k} {facts[k]}" for k in ("device", "cpu", "cpu_capability", "threads", "torch")))
    peaks = {name: matrix_peak(dtype, device) for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    print(f"matrix product: fp32 {peaks['fp32']:.2f} TFLOP/s, bf16 {peaks['bf16']:.2f} TFLOP/s; ours runs in {precision}")
    print(f"{'iteration (B=64, 1 e + 2 g)':<30}{'released way':>14}{'ours':>10}{'ratio':>8}{'GFLOP':>8}{'of peak':>9}")
    for size, M in CASES:
        t = compare_ways(size, M, device, repeats)
        flop = iteration_flop(size, M)
        share = flop / t["ours"] / 1e12 / peaks[precision]
        print(
            f"{f'{size} px, M={M}':<30}{t['released'] * 1e3:>11.0f} ms{t['ours'] * 1e3:>7.0f} ms"
            f"{t['released'] / t['ours']:>8.2f}{flop / 1e9:>8.0f}{share:>9.0%}"
        )
    outside, fetch = loop_overhead(device)
    print(f"training loop: {outside:.1%} of the time outside the updates, fetching batches {fetch:.1%}")


if __name__ == "__main__":
    main()
