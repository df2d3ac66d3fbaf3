"""Speed of one training iteration of every method, the plain way against this library's.

AGE's iteration is 1 encoder and 2 generator updates at batch 64. Its "plain way" is the released one: fp32, NCHW,
convolutions throughout, nothing frozen, Adam tensor by tensor, the C library's default allocator thresholds. Of the other
methods: their own update in fp32 and NCHW with that Adam and allocator. "Ours" is what `fit` runs, on a GPU a replayed CUDA
graph. Times are medians. The arithmetic is counted by torch's FlopCounterMode around one step of ours.
"""

import dataclasses
import functools
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from agelib import color, conditional, losses, networks, sphere
from agelib.model import METHODS
from agelib.training import fit, graphs, hardware
from agelib.training.step import Step
from suite.rows import Rows, make

BATCH = 64
AGE_M = {32: 128, 64: 64}  # the published M, by size in pixels
CASES = [(method, size) for method, module in METHODS.items() for size in AGE_M if not hasattr(module, "given")]
CASES.append(("conditional", 64))


def config(method: str, size: int, **settings):
    """The method's published settings for images of `size`."""
    return METHODS[method].Config(**({"M": AGE_M[size]} if method == "age" else {}) | settings)


def build(method: str, size: int, device: torch.device | str = "cpu", *, plain: bool = False) -> dict[str, nn.Module]:
    """The published networks, channels last; plain: NCHW, AGE's with ordinary convolutions at both ends."""
    nets = METHODS[method].build(config(method, size), (3, size, size))
    if plain and method == "age":
        first, last = nets["g"].layers[0], nets["e"].layers[-1]
        M, c_out = first.weight.shape[:2]
        nets["g"].layers[0] = nn.Sequential(nn.Unflatten(1, (M, 1, 1)), nn.ConvTranspose2d(M, c_out, 4, 1, 0, bias=False))
        if size == 64:
            nets["e"].layers[-1] = nn.Sequential(nn.Conv2d(last.weight.shape[1], M, 4, 1, 0), nn.Flatten())
    if plain and method == "conditional":
        g = nets["g"]
        maps = lambda z, L: torch.cat([color.L_SCALE * (L + 1), z[:, :, None, None].expand(-1, -1, size, size)], 1)  # noqa: E731
        g.forward = lambda z, L: g.layers(maps(z, L)) / color.AB_SCALE
    form = torch.contiguous_format if plain else torch.channels_last
    return {name: net.to(device, memory_format=form) for name, net in nets.items()}


def plain_step(method: str, size: int, nets: dict[str, nn.Module]) -> Callable[[Tensor], object]:
    """The plain way of `method` on the networks of `build(..., plain=True)`."""
    cfg = config(method, size, precision="fp32")

    def adam(net: nn.Module, lr: float, betas: tuple[float, float]) -> torch.optim.Adam:
        return torch.optim.Adam(net.parameters(), lr, betas, foreach=False, fused=False)

    if method not in ("age", "conditional"):
        with mock.patch.object(hardware, "adam", adam):
            return METHODS[method].make_step(nets, cfg)
    g, e, given, n = nets["g"], nets["e"], lambda x: (x,), 1
    if method == "conditional":
        given, n = conditional.given, 1 + cfg.n_g_steps  # a mini-batch for each update
    opt_g, opt_e = (adam(net, cfg.lr, (cfg.beta1, cfg.beta2)) for net in (g, e))

    def update(batch: Tensor) -> None:
        (x, *c), *others = (given(part) for part in batch.chunk(n))
        e.zero_grad()
        ex = e(x, *c)
        loss = losses.kl_released(ex)
        if cfg.mu:
            loss = loss + cfg.mu * losses.recon_x_l1(g(ex, *c), x)
        z = sphere.sample(len(x), cfg.M, device=x.device)
        (loss - cfg.kl_fake_weight * losses.kl_released(e(g(z, *c).detach(), *c))).backward()
        opt_e.step()
        for _, *given_to_g in others or [(x, *c)] * cfg.n_g_steps:
            g.zero_grad()
            z = sphere.sample(len(x), cfg.M, device=x.device)
            egz = e(g(z, *given_to_g), *given_to_g)
            (losses.kl_released(egz) + cfg.lam * losses.recon_z_cos(egz, z)).backward()
            opt_g.step()

    return update


def flop(method: str, size: int, B: int = BATCH, **settings) -> float:
    """Floating-point operations of one of our iterations of B images, counted around one of 4: convolutions and matrix
    products, each network differentiated only where its gradient is used."""
    step = METHODS[method].make_step(build(method, size), config(method, size, precision="fp32", **settings))
    with FlopCounterMode(display=False) as counter:
        step(torch.zeros(4 * step.n_batches, 3, size, size))
    return counter.get_total_flops() * B / 4


def in_turn(
    calls: Mapping[str, Callable], device: torch.device, repeats: int, *, warm_up: int = 0, settled: bool = False
) -> dict[str, list[float]]:
    """Seconds of `repeats` calls of each, one after the other in turn, after so many rounds to warm up. settled: the one
    called "plain" has the C library's own allocator thresholds, and each is called once more after that switch."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(warm_up + repeats):
        for name, call in calls.items():
            if settled:
                hardware.keep_activations(name != "plain")
                call()
            start = hardware.clock(device)
            call()
            times[name] += [hardware.clock(device) - start] * (i >= warm_up)
    if settled:
        hardware.keep_activations()
    return times


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def as_in_fit(step: Step, x: Tensor) -> Callable[[Tensor], dict[str, Tensor]]:
    """`step` as `fit` calls it on the device of x: as it is, or replayed, and then past its recording."""
    iterate = graphs.replayed(step, x.device)
    for _ in range(graphs.WARM_UP + graphs.TRIALS if iterate is not step else 0):
        iterate(x)
    return iterate


def ours(method: str, size: int, device: torch.device, B: int = BATCH, **settings) -> Callable[[], object]:
    """Our iteration of B random images."""
    step = METHODS[method].make_step(build(method, size, device), config(method, size, **settings))
    x = (torch.rand(B * step.n_batches, 3, size, size, device=device) * 2 - 1).to(memory_format=torch.channels_last)
    return functools.partial(as_in_fit(step, x), x)


def epoch_times(
    size: int, n_images: int, *, n_g_steps: int = 2, repeats: int = 3, device: torch.device | str = "cpu"
) -> Rows:
    """Seconds per epoch of n_images for AGE and for ALI, and their ratio, which is 3 in the paper; their operations and
    parameters. Iterations in turn, on random images, each at its published size and batch (AGE: width 64, M 128 at 32 px and
    64 at 64 px, B 64; ALI: its SVHN or CelebA networks, B 100), same device and precision."""
    device, rows, epoch = torch.device(device), [], {}
    batch, settings = {"AGE": BATCH, "ALI": 100}, {"AGE": {"n_g_steps": n_g_steps}, "ALI": {}}
    calls = {name: ours(name.lower(), size, device, B, **settings[name]) for name, B in batch.items()}
    times = in_turn(calls, device, repeats, warm_up=2, settled=True)
    for name, B in batch.items():
        each = [n_images // B * seconds for seconds in times[name]]
        epoch[name] = statistics.median(each)
        updates = f"1 e + {n_g_steps} g updates" if name == "AGE" else "simultaneous updates"
        model, protocol = f"{name} at its published size", f"{size} px, B {B}, {updates}; {n_images} images"
        rows += make(model, {"seconds per epoch": (epoch[name], statistics.pstdev(each))}, protocol, repeats)
        found = {"GFLOP per image": flop(name.lower(), size, 1, **settings[name]) / 1e9}
        found["parameters"] = sum(map(networks.n_parameters, build(name.lower(), size).values()))
        rows += make(model, found, protocol)
    precision = hardware.choose_precision("auto", device)
    protocol = f"median of {repeats} iterations each, in turn, {size} px, both in {precision}"
    return rows + make("ALI / AGE", {"time_ratio": epoch["ALI"] / epoch["AGE"]}, protocol, repeats)


def loop_overhead(device: torch.device, n_steps: int = 500) -> tuple[float, float]:
    """Shares of an iteration of `fit` outside the updates, timed on updates that do nothing, and in fetching batches:
    CIFAR-10's size, 32 px, M = 128."""
    images = np.random.default_rng(0).integers(0, 256, (50_000, 3, 32, 32), dtype=np.uint8)
    step = METHODS["age"].make_step(build("age", 32, device), config("age", 32))
    data = fit.Batches(images, BATCH, seed=0, device=device)
    batch = data.batch(0)
    update = as_in_fit(step, *batch)
    logs = update(*batch)
    calls = {"update": lambda: [update(*batch) for _ in range(12)], "fetch": lambda: [*map(data.batch, range(20))]}
    seconds = medians(in_turn(calls, device, 1))
    updates, fetch = seconds["update"] / 12, seconds["fetch"] / 20
    schedule = fit.Schedule(n_epochs=None, max_steps=n_steps, checkpoint_every_s=1e9)
    with tempfile.TemporaryDirectory() as folder:
        fit.fit(dataclasses.replace(step, update=lambda x: logs), images, Path(folder), schedule, about={})
        outside = fit.read_history(Path(folder, fit.HISTORY))[-1]["seconds"] / n_steps
    return outside / (outside + updates), fetch / (outside + updates)


def report(device: torch.device, peaks: dict[str, float], precision: str, repeats: int) -> None:
    """Print a row for each of CASES, and what the loop costs."""
    print(f"{'iteration, B=64':<30}{'plain way':>14}{'ours':>10}{'ratio':>8}{'GFLOP':>8}{'of peak':>9}")
    for method, size in CASES:
        torch.manual_seed(0)
        plain = plain_step(method, size, build(method, size, device, plain=True))
        calls = {"ours": ours(method, size, device)}
        calls["plain"] = functools.partial(plain, calls["ours"].args[0].contiguous())
        t = medians(in_turn(calls, device, repeats, warm_up=2, settled=True))
        work, name = flop(method, size), "conditional AGE" if method == "conditional" else METHODS[method].LABEL
        digits = 0 if t["ours"] > 0.01 else 2
        times = f"{t['plain'] * 1e3:>11.{digits}f} ms{t['ours'] * 1e3:>7.{digits}f} ms"
        share = work / t["ours"] / 1e12 / peaks[precision]
        print(f"{f'{name}, {size} px':<30}{times}{t['plain'] / t['ours']:>8.2f}{work / 1e9:>8.0f}{share:>9.0%}", flush=True)
    print("training loop: {:.1%} of the time outside the updates, fetching batches {:.1%}".format(*loop_overhead(device)))
