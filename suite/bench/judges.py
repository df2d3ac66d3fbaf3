"""Speed of what judges models: annealed importance sampling, the SVM protocol of notebook 05, the classifier of notebook 03.

AIS has the published decoder for 10 dimensions, 784 pixels, and the convolutional one for 28 px. Plain: one image at a time,
its chains as one batch, fp32, the gradient of the whole log density at each leapfrog step and both ends' densities anew;
ours: chains of all images as one tensor. Features are those of the published encoder (32 px, M = 128, 7,296 dimensions) at
its initial weights, BatchNorm statistics from the images, embedded `house_numbers`. Plain: scikit-learn's LinearSVC on the
features themselves.
"""

import math
import resource

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from agelib import age, data, networks
from agelib.metrics import ais, classifier, svm
from agelib.model import reestimate
from agelib.training import hardware
from suite.bench.training import in_turn, medians

M, D, VARIANCE = 10, 784, 0.01
N_FEATURES, N_READ, N_DRAWS, N_TEST = 100_000, 50_000, 100, 26_032  # what the numbers are scaled to; SVHN's test images
NEAR_BEST = svm.ALI_GRID[12:22]  # ten of the published fifty


def plain_move(decode: ais.Decode, x: Tensor, z: Tensor, beta: float, eps: float) -> Tensor:
    """One HMC move of the chains z (C, M) of one image x (D,), without any of this library's savings; the new states."""

    def log_density(z: Tensor) -> Tensor:
        log_lik = -(decode(z) - x).square().sum(1) / (2 * VARIANCE) - D / 2 * math.log(2 * math.pi * VARIANCE)
        return beta * log_lik - 0.5 * z.square().sum(1)

    def gradient(z: Tensor) -> Tensor:
        z = z.detach().requires_grad_()
        return torch.autograd.grad(log_density(z).sum(), z)[0]

    v, new = torch.randn_like(z), z
    before = log_density(z) - 0.5 * v.square().sum(1)
    for _ in range(10):
        v = v + 0.5 * eps * gradient(new)
        new = new + eps * v
        v = v + 0.5 * eps * gradient(new)
    after = log_density(new) - 0.5 * v.square().sum(1)
    taken = torch.rand(len(z), device=z.device).log() < after - before
    return torch.where(taken[:, None], new, z)


def rates(decode: ais.Decode, n_images: int, n_chains: int, device: torch.device, repeats: int) -> dict[str, float]:
    """Images x chains x distributions (moves of 10 leapfrog steps) a second: "plain", "fp32", "bf16"."""
    x, z = torch.rand(n_images, D, device=device), torch.randn(n_images, n_chains, M, device=device)
    few = max(1, n_images // 20)  # the loop costs the same for every image
    calls = {"plain": lambda: [plain_move(decode, x[i], z[i], 0.5, 0.01) for i in range(few)]}
    for name in ("fp32", "bf16"):
        cfg = ais.AisConfig(n_chains=n_chains, precision=name)
        calls[name] = ais.Chains(decode, x, None, M, VARIANCE, cfg).advance
    times = medians(in_turn(calls, device, repeats, warm_up=1))
    return {name: n_chains * (few if name == "plain" else n_images) / seconds for name, seconds in times.items()}


def move_flop(decode: ais.Decode) -> float:
    """Floating-point operations of one chain's move: 10 gradients, each forward and back to the input."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        decode(torch.zeros(1, M))
    return 10 * 2 * counter.get_total_flops()


def report_ais(device: torch.device, peaks: dict[str, float], precision: str, repeats: int) -> None:
    """Print the rates, their ratios to the plain loop, and the share of the matrix product's speed (TFLOP/s in `peaks`)."""
    torch.manual_seed(0)
    print("AIS, 100 images x 16 chains: images x chains x distributions a second")
    for kind, g in decoders().items():
        flop, g = move_flop(seen(g)), g.to(device, memory_format=torch.channels_last)
        found = rates(seen(g), 100, 16, device, repeats)
        for name, rate in found.items():
            peak = "bf16" if name == "bf16" else "fp32"
            share = rate * flop / 1e12 / peaks[peak]
            print(f"{kind:<8}{name:<8}{rate:>8.0f}  {rate / found['plain']:>6.2f} x plain  {share:>5.0%} of the {peak} peak")
    print(f"peak memory of all of it: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB")


def decoders() -> dict[str, torch.nn.Module]:
    """The two for 28 px, in evaluation mode: the published "mlp" and "conv" at the width that its recipe has."""
    shape = 1, 28, 28
    found = {"mlp": networks.published_decoder(shape, M), "conv": networks.ConvDecoder(shape, M, 32)}
    return {kind: g.eval().requires_grad_(False) for kind, g in found.items()}


def seen(g: torch.nn.Module) -> ais.Decode:
    """g as AIS sees it: codes (B, M) -> pixels (B, D) in [0, 1]."""
    return lambda z: (g(z) + 1).flatten(1) / 2


def measure(
    images: np.ndarray, labels: np.ndarray, cfg: svm.SvmConfig, repeats: int, device: torch.device
) -> dict[str, float]:
    """Seconds: "features" of N_FEATURES images, "read": the classifier's pass over N_READ, both scaled from the images
    given; "fit" and "plain fit": one SVM at the grid's 18th C; "protocol": the choice of C, cfg's draws scaled to
    N_DRAWS, and the features of N_TEST images."""
    e = age.build(age.Config(), images.shape[1:])["e"].to(device, memory_format=torch.channels_last)
    look = age.features({"e": reestimate(e, images[:1000])})
    net = classifier.Classifier(images.shape[1], 10, 32, hardware.choose_precision("auto", device)).to(device).eval()
    (labelled,) = svm.labelled_sets(labels[: -cfg.n_valid], cfg.per_class, 1, seed=cfg.seed)
    X, y, C, few = look(images[labelled]), labels[labelled], svm.ALI_GRID[17], slice(10)
    calls = {
        "features": lambda: [look(images[i : i + cfg.chunk]) for i in range(0, len(images), cfg.chunk)],
        "read": lambda: classifier.read(net, images),
        "fit": lambda: svm.train_svms(X, y, (C,)),
        "plain fit": lambda: svm.plain_svm(C).fit(X.astype(np.float64), y),
    }
    whole = {
        "choice": lambda: svm.choose_C(look, images, labels, labelled, cfg),
        "all": lambda: svm.evaluate(look, images, labels, images[few], labels[few], cfg),
    }
    found = medians(in_turn(calls, device, repeats) | in_turn(whole, device, 1))
    found["features"] *= N_FEATURES / len(images)
    found["read"] *= N_READ / len(images)
    draws = (found["all"] - found["choice"]) * N_DRAWS / cfg.n_draws
    return found | {"protocol": found["choice"] + draws + found["features"] * N_TEST / N_FEATURES}


def report_scores(device: torch.device, peaks: dict[str, float], precision: str, repeats: int) -> None:
    """Print the table."""
    train = data.load("house_numbers", "train", size=32, channels=3)
    cfg = svm.SvmConfig(n_draws=5, Cs=NEAR_BEST, n_jobs=torch.get_num_threads())
    found = measure(train.images, train.labels, cfg, repeats, device)
    faster = found["plain fit"] / found["fit"]
    print(f"features of {N_FEATURES:,} images, 7,296 dimensions   {found['features']:7.1f} s")
    print(f"one SVM, 1,000 labels, plain              {found['plain fit']:7.2f} s")
    print(f"one SVM, 1,000 labels, in its row space   {found['fit']:7.2f} s   {faster:.1f} x plain")
    print(f"{len(cfg.Cs)} values of C, {N_DRAWS} draws (from {cfg.n_draws})       {found['protocol'] / 60:7.1f} min")
    print(f"classifier's pass over {N_READ:,} images      {found['read']:7.1f} s")
    print(f"peak memory                               {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:7.1f} GB")
