"""Speed of one training iteration, the released way against this library's, measured in turn in one process.

    python -m agelib.bench [--repeats N]          this
    python -m agelib.bench ais [--repeats N]      annealed importance sampling (agelib/bench_ais.py)
    python -m agelib.bench scores [--repeats N]   the SVM protocol and the classifier (agelib/bench_scores.py)

One iteration is 1 encoder and 2 generator updates at batch 64. "Released way": fp32, NCHW, convolutions throughout,
nothing frozen, Adam tensor by tensor, the C library's default allocator thresholds. "Ours": `age.make_step` as `fit`
runs it, on a GPU as a replayed CUDA graph. The rivals' plain way is their own update in fp32 and NCHW with that Adam and
allocator. Times are medians; the arithmetic is counted from the layers, and its share of the machine's own matrix-product
speed, measured here in the same precision, says how much is left.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from agelib import (
    age,
    allocator,
    bench_ais,
    bench_scores,
    color,
    conditional,
    fast,
    fit,
    graphs,
    losses,
    networks,
    rival,
    sphere,
)
from agelib.baselines import ali, gan, vae
from agelib.run import Run, environment
from agelib.step import Step

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


def released_step(
    nets: dict[str, nn.Module], M: int, lam: float = 1000.0, mu: float = 10.0, n_g_steps: int = 2,
    given: Callable[[Tensor], tuple[Tensor, ...]] = lambda x: (x,),
) -> Callable:
    """The released iteration without any of this library's savings: x -> None. given: as in `age.make_step`."""
    g, e = nets["g"], nets["e"]
    device = next(g.parameters()).device
    opt_g, opt_e = (torch.optim.Adam(n.parameters(), 2e-4, (0.5, 0.999), foreach=False, fused=False) for n in (g, e))

    def update(batch: Tensor) -> None:
        x, *c = given(batch)
        e.zero_grad()
        ex = e(x, *c)
        loss = losses.kl_released(ex) + mu * losses.recon_x_l1(g(ex, *c), x)
        z = sphere.sample(len(x), M, device=device)
        (loss - losses.kl_released(e(g(z, *c).detach(), *c))).backward()
        opt_e.step()
        for _ in range(n_g_steps):
            g.zero_grad()
            z = sphere.sample(len(x), M, device=device)
            egz = e(g(z, *c), *c)
            (losses.kl_released(egz) + lam * losses.recon_z_cos(egz, z)).backward()
            opt_g.step()

    return update


def multiplications(net: nn.Module, *examples: Tensor) -> int:
    """Multiply-adds of the convolutions and linear maps in one forward pass of `net` on `examples`."""
    total = 0

    def count(module, inputs, output):
        nonlocal total
        spatial = inputs[0] if isinstance(module, nn.ConvTranspose2d) and inputs[0].ndim == 4 else output
        dense = isinstance(module, fast.FromVector | fast.ToVector | nn.Linear)
        total += len(inputs[0]) * module.weight.numel() * (1 if dense else spatial.shape[2] * spatial.shape[3])

    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    hooks = [m.register_forward_hook(count) for m in layers]
    with torch.no_grad():
        net(*examples)
    for hook in hooks:
        hook.remove()
    return total


def iteration_flop(size: int, M: int, n_g_steps: int = 2) -> float:
    """Floating-point operations that an iteration needs when each net is differentiated only where its gradient is used.

    Encoder update: both encoder passes forward and backward (6 E), g(z) forward, g(e(x)) forward and back to its input
    (3 G). Each generator update: g forward and backward (3 G), e forward and back to its input (2 E).
    """
    nets = networks.build(size, M)
    return _flop(nets, (sphere.sample(1, M),), (torch.zeros(1, 3, size, size),), n_g_steps)


def conditional_flop(size: int) -> float:
    """The same of a conditional iteration at the published sizes."""
    L = torch.zeros(1, 1, size, size)
    return _flop(conditional.build(size), (sphere.sample(1, 3), L), (torch.zeros(1, 2, size, size), L), 2)


def _flop(nets: dict[str, nn.Module], to_g: tuple[Tensor, ...], to_e: tuple[Tensor, ...], n_g_steps: int) -> float:
    G, E = multiplications(nets["g"], *to_g), multiplications(nets["e"], *to_e)
    return 2.0 * BATCH * (6 * E + 3 * G + n_g_steps * (3 * G + 2 * E))


def matrix_peak(dtype: torch.dtype, device: torch.device, n: int = 2048) -> float:
    """The best of ten n x n matrix products, in TFLOP/s."""
    n = 8192 if device.type == "cuda" else n
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        start = fast.clock(device)
        a @ b
        best = min(best, fast.clock(device) - start)
    return 2 * n**3 / best / 1e12


def in_turn(
    ways: dict[str, tuple[Callable, Tensor, Callable]], device: torch.device, repeats: int
) -> dict[str, list[float]]:
    """Seconds of `repeats` iterations of each way, one after the other in turn, after two rounds to warm up.

    ways: name -> (step, batch, what sets the allocator that the way is meant for).
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(repeats + 2):
        for name, (step, batch, set_allocator) in ways.items():
            set_allocator()
            step(batch)  # once more after the switch, so that the allocator has settled
            start = fast.clock(device)
            step(batch)
            if i >= 2:
                times[name].append(fast.clock(device) - start)
    allocator.tune()
    return times


def as_in_fit(step: Step, x: Tensor) -> Callable[[Tensor], dict[str, Tensor]]:
    """`step` as `fit` calls it on the device of x: as it is, or replayed, and then past its recording."""
    iterate = graphs.replayed(step, x.device)
    if iterate is not step:
        for _ in range(graphs.WARM_UP + graphs.TRIALS):
            iterate(x)
    return iterate


def compare_ways(size: int, M: int, device: torch.device, repeats: int) -> dict[str, float]:
    """Median seconds of an AGE iteration, the released way and ours in turn."""
    torch.manual_seed(0)
    plain = {k: net.to(device) for k, net in plain_networks(size, M).items()}
    ours = networks.build(size, M, device=device)
    x = torch.rand(BATCH, 3, size, size, device=device) * 2 - 1
    step = as_in_fit(age.make_step(ours, age.AgeConfig(M=M)), _last(x))
    ways = {"released": (released_step(plain, M), x, allocator.settle_default), "ours": (step, _last(x), allocator.tune)}
    return {name: statistics.median(values) for name, values in in_turn(ways, device, repeats).items()}


def plain_conditional(size: int) -> dict[str, nn.Module]:
    """The networks of `conditional.build`, everything in NCHW."""
    nets = {k: net.to(memory_format=torch.contiguous_format) for k, net in conditional.build(size).items()}
    g = nets["g"]
    g.forward = lambda z, L: torch.tanh(g.layers(torch.cat([L, z[:, :, None, None].expand(-1, -1, size, size)], 1)))
    return nets


def compare_conditional(size: int, device: torch.device, repeats: int) -> dict[str, float]:
    """Median seconds of a conditional AGE iteration at the published sizes, the plain way and ours in turn."""
    torch.manual_seed(0)
    plain = {k: net.to(device) for k, net in plain_conditional(size).items()}
    x = torch.rand(BATCH, 3, size, size, device=device) * 2 - 1
    ours = as_in_fit(
        conditional.make_step(conditional.build(size, device=device), conditional.ConditionalConfig()), _last(x)
    )
    released = released_step(plain, 3, 50.0, given=lambda images: color.split(images)[::-1])
    ways = {"plain": (released, x, allocator.settle_default), "ours": (ours, _last(x), allocator.tune)}
    return {name: statistics.median(values) for name, values in in_turn(ways, device, repeats).items()}


def rival_networks(method: str, size: int, device: torch.device | str = "cpu") -> dict[str, nn.Module]:
    """The networks of a rival at their published sizes: ALI's for SVHN or CelebA, a VAE with M 64, a GAN with M 100."""
    if method == "ali":
        return ali.build(ali.SIZES[size], size, device=device)
    return vae.build(size, 64, device=device) if method == "vae" else gan.build(size, device=device)


def rival_step(method: str, nets: dict[str, nn.Module], *, plain: bool) -> Step:
    """The rival's update: ours, or in fp32 with Adam tensor by tensor, for networks in NCHW."""
    module, config = rival.MODULES[method]
    if not plain:
        return module.make_step(nets, config())
    fused = fast.adam
    fast.adam = lambda net, lr, betas: torch.optim.Adam(net.parameters(), lr, betas, foreach=False, fused=False)
    try:
        return module.make_step(nets, config(precision="fp32"))
    finally:
        fast.adam = fused


def compare_rival(method: str, size: int, device: torch.device, repeats: int) -> dict[str, float]:
    """Median seconds of a rival's iteration at batch 64, the plain way and ours in turn."""
    torch.manual_seed(0)
    plain = {k: net.to(memory_format=torch.contiguous_format) for k, net in rival_networks(method, size, device).items()}
    x = torch.rand(BATCH, 3, size, size, device=device) * 2 - 1
    ours = as_in_fit(rival_step(method, rival_networks(method, size, device), plain=False), _last(x))
    ways = {"plain": (rival_step(method, plain, plain=True), x, allocator.settle_default)}
    ways["ours"] = (ours, _last(x), allocator.tune)
    return {name: statistics.median(values) for name, values in in_turn(ways, device, repeats).items()}


def rival_flop(method: str, size: int) -> float:
    """Floating-point operations an image of a rival's iteration, as `iteration_flop` counts them.

    ALI: generator and encoder forward and backward (3 each), the discriminator on both pairs forward, backward for its own
    loss (2) and back to its inputs for the other's (1). GAN: the discriminator forward and backward on real and generated
    images, and once more there and back to the input. VAE: 3 each.
    """
    nets = rival_networks(method, size)
    x, z = torch.zeros(1, 3, size, size), torch.zeros(1, nets["g"].M)
    for net in nets.values():
        net.eval()
    G = multiplications(nets["g"], z)
    E = multiplications(nets["e"], x) if "e" in nets else 0
    D = 0 if method == "vae" else multiplications(nets["d"], *((x, z) if method == "ali" else (x,)))
    return 2.0 * (3 * G + 3 * E + 8 * D)


def epoch_times(
    size: int, n_images: int, *, n_g_steps: int = 2, repeats: int = 3, device: torch.device | str = "cpu"
) -> list[dict]:
    """Rows for metrics.json: seconds per epoch of n_images for AGE and for ALI, and their ratio, which is 3 in the paper.

    Iterations in turn, on random images, each at its published size and batch (AGE: width 64, M 128 at 32 px and 64 at
    64 px, B 64; ALI: its SVHN or CelebA networks, B 100), same device and precision; operations and parameters beside.
    """
    device, M = torch.device(device), dict(CASES)[size]
    nets = {"AGE": networks.build(size, M, device=device), "ALI": rival_networks("ali", size, device)}
    steps = {"AGE": age.make_step(nets["AGE"], age.AgeConfig(M=M, n_g_steps=n_g_steps))}
    steps["ALI"] = rival_step("ali", nets["ALI"], plain=False)
    batch = {"AGE": BATCH, "ALI": 100}
    x = {name: _last(torch.rand(B, 3, size, size, device=device) * 2 - 1) for name, B in batch.items()}
    times = in_turn({name: (as_in_fit(steps[name], x[name]), x[name], allocator.tune) for name in steps}, device, repeats)
    flop = {"AGE": iteration_flop(size, M, n_g_steps) / BATCH, "ALI": rival_flop("ali", size)}
    rows, epoch = [], {}
    for name, B in batch.items():
        each = [n_images // B * seconds for seconds in times[name]]
        epoch[name] = statistics.median(each)
        updates = f"1 e + {n_g_steps} g updates" if name == "AGE" else "simultaneous updates"
        about = {"model": name, "protocol": f"{size} px, B {B}, {updates}, published width; {n_images} images"}
        about |= {"note": "no stabilisers" if name == "AGE" else ""}
        spread = {"std": statistics.pstdev(each), "n": repeats}
        rows.append(about | spread | {"metric": "seconds per epoch", "value": epoch[name]})
        rows.append(about | {"metric": "GFLOP per image", "value": flop[name] / 1e9})
        rows.append(about | {"metric": "parameters", "value": sum(map(networks.n_parameters, nets[name].values()))})
    precision = steps["AGE"].config["precision"]
    about = {"protocol": f"median of {repeats} iterations each, in turn, {size} px, both in {precision}", "n": repeats}
    return [*rows, about | {"model": "ALI / AGE", "metric": "time_ratio", "value": epoch["ALI"] / epoch["AGE"]}]


def _last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last)


def loop_overhead(device: torch.device, n_steps: int = 500) -> tuple[float, float]:
    """Shares of an iteration of `fit` outside the updates and in fetching batches: CIFAR-10's size, 32 px, M = 128.

    What the loop costs is timed on n_steps iterations whose update does nothing, what an update costs on one batch.
    """
    images = np.random.default_rng(0).integers(0, 256, (50_000, 3, 32, 32), dtype=np.uint8)
    step = age.make_step(networks.build(32, 128, device=device), age.AgeConfig())
    data = fit.Batches(images, BATCH, seed=0, device=device)
    x = data.batch(0)
    update = as_in_fit(step, x)
    losses = update(x)
    updates = _seconds(lambda i: update(x), 12, device)
    idle = Step(lambda x: losses, step.modules, step.optimizers)
    with tempfile.TemporaryDirectory() as folder:
        rows = fit.fit(
            idle, images, run=Run(folder, {}, seed=0), n_epochs=1, max_steps=n_steps, batch_size=BATCH, seed=0,
            checkpoint_every_s=float("inf"),
        )  # fmt: skip
    outside = rows[-1]["seconds"] / n_steps
    return outside / (outside + updates), _seconds(data.batch, 20, device) / (outside + updates)


def _seconds(call: Callable[[int], object], n: int, device: torch.device) -> float:
    """Mean seconds of call(0), call(1), ... call(n - 1)."""
    start = fast.clock(device)
    for i in range(n):
        call(i)
    return (fast.clock(device) - start) / n


def _row(name: str, plain: float, ours: float, flop: float, peak: float) -> str:
    digits = 0 if ours > 0.01 else 2
    times = f"{plain * 1e3:>11.{digits}f} ms{ours * 1e3:>7.{digits}f} ms"
    return f"{name:<30}{times}{plain / ours:>8.2f}{flop / 1e9:>8.0f}{flop / ours / 1e12 / peak:>9.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m agelib.bench", description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("training", "ais", "scores"), default="training")
    parser.add_argument("--repeats", type=int, default=7, help="timed iterations of each way (default 7)")
    asked = parser.parse_args()
    repeats = asked.repeats
    device = fast.choose_device()
    precision = fast.choose_precision("auto", device)
    facts = environment(str(device), precision)
    print("machine:", ", ".join(f"{k} {facts[k]}" for k in ("device", "cpu", "cpu_capability", "threads", "torch")))
    peaks = {name: matrix_peak(dtype, device) for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    print(f"matrix product: fp32 {peaks['fp32']:.2f} TFLOP/s, bf16 {peaks['bf16']:.2f} TFLOP/s; ours runs in {precision}")
    if asked.what == "ais":
        bench_ais.report(device, peaks, repeats)
        return
    if asked.what == "scores":
        bench_scores.report(device, repeats)
        return
    print(f"{'iteration (B=64, 1 e + 2 g)':<30}{'released way':>14}{'ours':>10}{'ratio':>8}{'GFLOP':>8}{'of peak':>9}")
    for size, M in CASES:
        t = compare_ways(size, M, device, repeats)
        print(_row(f"{size} px, M={M}", t["released"], t["ours"], iteration_flop(size, M), peaks[precision]))
    print(f"{'others (B=64)':<30}{'plain way':>14}{'ours':>10}{'ratio':>8}{'GFLOP':>8}{'of peak':>9}")
    others = {"conditional AGE, 64 px": (compare_conditional, (64,), conditional_flop(64))}
    for size, _ in CASES:
        for method in rival.METHODS:
            others[f"{method}, {size} px"] = (compare_rival, (method, size), BATCH * rival_flop(method, size))
    for name, (compare, case, flop) in others.items():
        t = compare(*case, device, repeats)
        print(_row(name, t["plain"], t["ours"], flop, peaks[precision]))
    outside, fetch = loop_overhead(device)
    print(f"training loop: {outside:.1%} of the time outside the updates, fetching batches {fetch:.1%}")


if __name__ == "__main__":
    main()
