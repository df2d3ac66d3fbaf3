"""Adversarially learned inference (Dumoulin et al., ICLR 2017): generator, stochastic encoder, discriminator of pairs.

Symbols: x images (B, C, H, W) in [-1, 1]; z ~ N(0, I), (B, M); zh ~ q(z|x) = N(mean, diag sigma^2) the encoder's code;
xt = g(z); d the discriminator's logit of a pair, high for (x, zh).

    discriminator:        minimise  E softplus(-d(x, zh)) + E softplus(d(xt, z))
    generator, encoder:   minimise  E softplus(d(x, zh)) + E softplus(-d(xt, z))

Both losses come from one forward pass, in which the discriminator sees the 2B pairs as one batch (so its BatchNorm runs
over both halves), and all three networks are updated at the same time.

Networks, of the released code (github.com/IshmaelBelghazi/ALI, experiments/ali_*.py): convolutions without padding;
no bias where BatchNorm follows; the encoder's and the generator's last layers have a bias for each position (untied).
Where the paper's tables and the code differ the code is followed: CelebA's discriminator has no BatchNorm on its first layer
and dropout 0.2 on its convolutions' inputs (table: BatchNorm and none); CIFAR-10's maxout halves the listed widths (table:
they are its outputs) and only some layers' inputs are dropped out; 1000 epochs of Tiny ImageNet (table: 125).
Not copied: BatchNorm's epsilon, which is this framework's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agelib import networks
from agelib.training import hardware
from agelib.training.step import Averages, Step, check_config, stabiliser

LABEL = "ALI"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one ALI training; the defaults are the released ones. "beta2 = 1e-3" of ALI's tables is 1 - beta2."""

    nets: str = "released"  # released: SVHN's at 32 px, CelebA's at 64 px | a name of SPECS | decoder: fully connected
    width: float = 1.0  # factor on every hidden layer's channels
    M: int | None = None  # dimensions of z; None: ALI's own for these networks, 10 for the decoder
    lr: float = 1e-4  # Adam, all networks
    beta1: float = 0.5
    beta2: float = 0.999
    precision: str = "auto"  # fp32 | bf16 | auto
    d_lr: float | None = stabiliser(None, "discriminator's lr {:g}")
    noise: float = stabiliser(0.0, "noise {:g} on what the discriminator sees")  # deviation, pixels in [-1, 1]
    dropout: float | None = stabiliser(None, "dropout {:g}")  # of the discriminator; None: ALI's
    init: str = stabiliser("released", "{} initial weights")  # released | he, see `initialise`
    ema: float = stabiliser(0.0, "averaged networks {:g}")  # share of averages of g and e that a step keeps

    def __post_init__(self):
        choices = {"nets": ("released", *SPECS, "decoder"), "init": ("released", "he"), "precision": hardware.PRECISIONS}
        above, least = {"lr": 0, "width": 0, "d_lr": 0}, {"M": 1, "noise": 0}
        check_config(self, above=above, least=least, shares=("beta1", "beta2", "dropout", "ema"), choices=choices)


@dataclass(frozen=True)
class Spec:
    """The networks for one data set. Layers are (kernel, stride, channels); `e` and `x` end at a 1x1 map.

    e: encoder up to its head, which is a 1x1 convolution to 2 M. g: generator, all transposed, before the last 1x1
    convolution. x, z, joint: widths of the discriminator's three parts.
    """

    size: int
    M: int
    e: tuple[tuple[int, int, int], ...]
    g: tuple[tuple[int, int, int], ...]
    x: tuple[tuple[int, int, int], ...]
    z: tuple[int, ...]
    joint: tuple[int, ...]
    leak: float = 0.01
    z_bias: bool = False
    maxout: bool = False  # in the discriminator, two pieces, instead of LeakyReLU and BatchNorm

    def scaled(self, width: float) -> Spec:
        """The same with `width` times the channels in every hidden layer, to the nearest even number, at least 2."""

        def scale(channels: int) -> int:
            return max(2, 2 * round(channels * width / 2))

        convolutions = {name: tuple((*layer, scale(c)) for *layer, c in getattr(self, name)) for name in "egx"}
        return replace(self, **convolutions, z=tuple(map(scale, self.z)), joint=tuple(map(scale, self.joint)))


_SMALL = ((5, 1, 32), (4, 2, 64), (4, 1, 128), (4, 2, 256), (4, 1, 512))
_SMALL_G = ((4, 1, 256), (4, 2, 128), (4, 1, 64), (4, 2, 32), (5, 1, 32), (1, 1, 32))
_CELEBA = ((2, 1, 64), (7, 2, 128), (5, 2, 256), (7, 2, 256), (4, 1, 512))
_CELEBA_G = ((4, 1, 512), (7, 2, 256), (5, 2, 256), (7, 2, 128), (2, 1, 64))
_TINY = ((4, 2, 64), (4, 1, 64), (4, 2, 128), (4, 1, 128), (4, 2, 256), (4, 1, 256))
_TINY_E = (*_TINY, (1, 1, 2048), (1, 1, 2048))
_TINY_G = ((1, 1, 2048), (1, 1, 256), (4, 1, 256), (4, 2, 128), (4, 1, 128), (4, 2, 64), (4, 1, 64), (4, 2, 64))
_SVHN = Spec(32, 256, (*_SMALL, (1, 1, 512)), _SMALL_G, _SMALL, (512, 512), (1024, 1024))
SPECS = {
    "svhn": _SVHN,
    "cifar10": replace(_SVHN, M=64, leak=0.1, maxout=True),
    "celeba": Spec(64, 256, _CELEBA, _CELEBA_G, _CELEBA, (1024, 1024), (2048, 2048), leak=0.02),
    "tiny_imagenet": Spec(64, 256, _TINY_E, _TINY_G, _TINY, (2048, 2048), (4096, 4096), z_bias=True),
}


def spec_for(nets: str, size: int) -> Spec:
    """The networks named `nets`, "released": those of SVHN at 32 px and of CelebA at 64 px. ValueError for another size."""
    name = {32: "svhn", 64: "celeba"}.get(size) if nets == "released" else nets
    if name is None or SPECS[name].size != size:
        known = ", ".join(f"{name} ({spec.size} px)" for name, spec in SPECS.items())
        raise ValueError(f"ALI has no networks {nets!r} for {size} px; it has: {known}")
    return SPECS[name]


class UntiedBias(nn.Module):
    """A bias for each channel and position: (B, C, H, W) + (C, H, W)."""

    def __init__(self, channels: int, size: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels, size, size))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class Maxout(nn.Module):
    """The larger of each pair of neighbouring channels: (B, C, ...) -> (B, C/2, ...)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, 2)).amax(2)


def _hidden(conv: type[nn.Module], c_in: int, layers: tuple[tuple[int, int, int], ...], leak: float) -> list[nn.Module]:
    """`conv`, BatchNorm and LeakyReLU for each (kernel, stride, channels)."""
    made: list[nn.Module] = []
    for kernel, stride, c_out in layers:
        made += [conv(c_in, c_out, kernel, stride, bias=False), nn.BatchNorm2d(c_out, momentum=0.05)]
        made.append(nn.LeakyReLU(leak, inplace=True))
        c_in = c_out
    return made


class Generator(nn.Module):
    """g: codes (B, M) -> images (B, channels, size, size) in [-1, 1]; a sigmoid, scaled, with an untied bias before it."""

    def __init__(self, spec: Spec, M: int, channels: int):
        super().__init__()
        last = [nn.Conv2d(spec.g[-1][2], channels, 1, bias=False), UntiedBias(channels, spec.size)]
        self.layers, self.M = nn.Sequential(*_hidden(nn.ConvTranspose2d, M, spec.g, spec.leak), *last), M

    def forward(self, z: Tensor) -> Tensor:
        networks.check_input("the generator takes codes", z, self.M)
        return 2 * torch.sigmoid(self.layers(z[:, :, None, None]).float()) - 1

    @torch.no_grad()
    def set_mean(self, mean: Tensor) -> None:
        """Set the last bias so that the output is `mean` (C, H, W), in (-1, 1), where the layer's input is zero."""
        self.layers[-1].bias.copy_(torch.logit((mean + 1) / 2, eps=1e-3))


class EncoderMapping(nn.Module):
    """Images (B, channels, size, size) in [-1, 1] -> (B, 2 M): mean and log sigma of the code."""

    def __init__(self, spec: Spec, M: int, channels: int):
        super().__init__()
        last = [nn.Conv2d(spec.e[-1][2], 2 * M, 1, bias=False), UntiedBias(2 * M, 1), nn.Flatten()]
        self.layers = nn.Sequential(*_hidden(nn.Conv2d, channels, spec.e, spec.leak), *last)
        self.shape = channels, spec.size, spec.size

    def forward(self, x: Tensor) -> Tensor:
        networks.check_input("the encoder takes images", x, *self.shape)
        return self.layers((x + 1) / 2)


class Discriminator(nn.Module):
    """d: images (B, channels, size, size) in [-1, 1] and codes (B, M) -> logits (B,), high for (x, e(x)).

    Dropout on inputs: with LeakyReLU 0.2 on every layer. With maxout (CIFAR-10) 0.2 on the two first layers, and 0.5 on
    the inputs that the code's index arithmetic reaches: the second and fifth convolution, the third maxout, D(z)'s
    second layer and the joint layers. dropout: this rate on every layer's input instead; None: those.
    """

    def __init__(self, spec: Spec, M: int, channels: int, dropout: float | None = None):
        super().__init__()
        pieces, later = (2, 0.5) if spec.maxout else (1, 0.2)
        of_x = (0.2, 0.5, 0.0, 0.0, 0.5) if spec.maxout else (0.2,) * len(spec.x)

        def drop(p: float) -> nn.Dropout:
            return nn.Dropout(p if dropout is None else dropout)

        def act() -> nn.Module:
            return Maxout() if spec.maxout else nn.LeakyReLU(spec.leak, inplace=True)

        def dense(c_in: int, widths: tuple[int, ...], rates: tuple[float, ...], bias: bool = True) -> list[nn.Module]:
            layers: list[nn.Module] = []
            for c_out, rate in zip(widths, rates, strict=True):
                layers += [drop(rate), nn.Linear(c_in, c_out, bias=bias), act()]
                c_in = c_out // pieces
            return layers

        layers: list[nn.Module] = []
        c_in = channels
        for i, (kernel, stride, c_out) in enumerate(spec.x):
            layers += [drop(of_x[i]), nn.Conv2d(c_in, c_out, kernel, stride, bias=i == 0)]
            if spec.maxout:
                layers.append(drop(0.5 * (i == 2)))
            elif i:
                layers.append(nn.BatchNorm2d(c_out, momentum=0.05))
            layers.append(act())
            c_in = c_out // pieces
        self.x_layers = nn.Sequential(*layers, nn.Flatten())
        self.z_layers = nn.Sequential(*dense(M, spec.z, (0.2, later), spec.z_bias))
        joint = dense(c_in + spec.z[-1] // pieces, spec.joint, (later, later))
        self.joint_layers = nn.Sequential(*joint, drop(later), nn.Linear(spec.joint[-1] // pieces, 1))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        both = torch.cat([self.x_layers((x + 1) / 2), self.z_layers(z)], 1)
        return self.joint_layers(both).float().squeeze(1)


def initialise(module: nn.Module, init: str = "released") -> None:
    """Weights N(0, 0.01), biases 0, BatchNorm 1 and 0, as released; init="he": weights of deviation sqrt(2/fan-in), but for
    an image's last layer.

    With 0.01 a layer without BatchNorm shrinks what passes it by 0.01 sqrt(fan-in), before LeakyReLU: the discriminator's
    two from the code by 0.16 and 0.23 at SVHN's published widths, by 0.028 and 0.11 at a quarter of them with a code of 8.
    """
    for m in module.modules():
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            if init == "he":
                nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
            else:
                nn.init.normal_(m.weight, 0.0, 0.01)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
    if init == "he" and isinstance(module, Generator):
        nn.init.normal_(module.layers[-2].weight, 0.0, 0.01)  # its images start at the mean


def build(cfg: Config, shape: tuple[int, int, int], mean: networks.Mean | None = None) -> dict[str, nn.Module]:
    """{"g", "e", "d"} for images of `shape` (C, H, W), initialised from torch's global RNG; mean: of the data, where the
    last bias starts, at that of 500 images as in ALI.

    The fully connected ones are the suite's, for the likelihood: the decoder of Wu et al. (2017), an encoder
    D-1024-256-256-64-2M with tanh, a discriminator (D + M)-1024-1024-1. Raises ValueError for a shape without networks.
    """
    C, D = shape[0], math.prod(shape)
    if cfg.nets == "decoder":
        M, dropout = cfg.M or 10, 0.2 if cfg.dropout is None else cfg.dropout
        g = networks.published_decoder(shape, M)
        e = networks.GaussianCode(networks.MlpEncoder((D, 1024, 256, 256, 64, 2 * M), "gaussian"), sampled=True)
        d = networks.MlpDiscriminator((D + M, 1024, 1024, 1), leak=0.01, dropout=dropout)
        if cfg.init == "he":
            initialise(d, "he"), initialise(e, "he")
        networks.start_decoder(g, mean and mean(5000))
        return {"g": g, "e": e, "d": d}
    spec = spec_for(cfg.nets, networks.square(shape)).scaled(cfg.width)
    M = cfg.M or spec.M
    e = networks.GaussianCode(EncoderMapping(spec, M, C), sampled=True)
    nets = {"g": Generator(spec, M, C), "e": e, "d": Discriminator(spec, M, C, cfg.dropout)}
    for net in nets.values():
        initialise(net, cfg.init)
    if mean is not None:
        nets["g"].set_mean(mean(500).float())
    return nets


def make_step(nets: dict[str, nn.Module], cfg: Config) -> Step:
    """One simultaneous update of generator, encoder and discriminator on the batch x.

    nets: {"g", "e", "d"}: g(z) -> x, e.moments(x) -> (mean, log sigma), d(x, z) -> logits. The step logs d_loss and g_loss
    (nats, mean over the batch), the mean probability that d gives to real and to generated pairs (p_real, p_fake), and
    the mean sigma of the codes.
    """
    g, e, d = nets["g"], nets["e"], nets["d"]
    device = next(g.parameters()).device
    precision = hardware.choose_precision(cfg.precision, device)
    of_d, of_ge = list(d.parameters()), [*g.parameters(), *e.parameters()]
    lrs = {"g": cfg.lr, "e": cfg.lr, "d": cfg.d_lr or cfg.lr}
    optimizers = {name: hardware.adam(net, lrs[name], (cfg.beta1, cfg.beta2)) for name, net in nets.items()}
    averages = Averages(nets, {"g": cfg.ema, "e": cfg.ema})

    def update(x: Tensor) -> dict[str, Tensor]:
        z = torch.randn(len(x), g.M, device=device)
        with hardware.autocast(device, precision):
            mean, log_sigma = e.moments(x)
            zh = networks.draw(mean, log_sigma)
            images = torch.cat([x, g(z)])
            if cfg.noise:
                images = images + cfg.noise * torch.randn_like(images)
            logits = d(images, torch.cat([zh, z]))
        real, fake = logits[: len(x)], logits[len(x) :]
        d_loss = (F.softplus(-real) + F.softplus(fake)).mean()
        g_loss = (F.softplus(real) + F.softplus(-fake)).mean()
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        torch.autograd.backward(d_loss, inputs=of_d, retain_graph=True)
        torch.autograd.backward(g_loss, inputs=of_ge)
        for optimizer in optimizers.values():
            optimizer.step()
        averages.update()
        logs = {"d_loss": d_loss, "g_loss": g_loss, "p_real": real.sigmoid().mean(), "p_fake": fake.sigmoid().mean()}
        logs["sigma"] = log_sigma.exp().mean()
        return {name: value.detach() for name, value in logs.items()}

    return Step(update, nets | averages.modules, optimizers, None, precision)


def features(nets: dict[str, nn.Module]) -> Callable[[np.ndarray], np.ndarray]:
    """BatchNorm outputs of the last three hidden layers of the encoder and the mean of its code, as the released
    preprocess_representations.py takes them: uint8 (n, C, H, W) -> (n, D), 5,376 for SVHN's networks."""
    e = nets["e"]
    at = networks.hidden_layers(e.net, "before")[-3:]
    return networks.layer_features(e.net, at, pool=None, code=lambda x: e.moments(x)[0], prepare=lambda x: (x + 1) / 2)
