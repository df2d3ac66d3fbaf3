"""The generator g and encoder e of the released code, for 32 and 64 px; fully connected ones; initialisation; features.

Released: src/models/dcgan32px.py and dcgan64px.py (github.com/DmitryUlyanov/AGE). With width 64 and 3 channels the
parameter counts are theirs: 32 px 3 934 595 (g) and 1 183 616 (e) at M = 128; 64 px 3 281 792 and 3 281 728 at M = 64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agelib import images, sphere

SIZES = (32, 64)
MOMENTS = ("before", "after")
Mean = Callable[[int], Tensor]  # n -> the mean of the first n training images, (C, H, W) in [-1, 1]


class FromVector(nn.ConvTranspose2d):
    """Transposed convolution of a 1x1 map, (B, Cin) -> (B, Cout, k, k): computed as the matrix product that it is.

    Same parameters, names and shapes as `nn.ConvTranspose2d(Cin, Cout, k, 1, 0)`.
    """

    def __init__(self, c_in: int, c_out: int, k: int = 4):
        super().__init__(c_in, c_out, k, 1, 0, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        c_out, k = self.weight.shape[1], self.weight.shape[2]
        w = self.weight.permute(0, 2, 3, 1).reshape(z.shape[1], -1)  # (Cin, k k Cout)
        return (z @ w).view(-1, k, k, c_out).permute(0, 3, 1, 2)  # (B, Cout, k, k), channels last in memory


class ToVector(nn.Conv2d):
    """Convolution whose kernel covers its whole input, (B, Cin, k, k) -> (B, Cout): computed as a linear layer.

    Same parameters, names and shapes as `nn.Conv2d(Cin, Cout, k, 1, 0)`.
    """

    def __init__(self, c_in: int, c_out: int, k: int = 4):
        super().__init__(c_in, c_out, k, 1, 0, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight.permute(0, 2, 3, 1).reshape(self.weight.shape[0], -1)  # (Cout, k k Cin)
        return F.linear(x.permute(0, 2, 3, 1).reshape(len(x), -1), w, self.bias)  # (B, Cout)


class Generator(nn.Module):
    """g: codes (B, M) -> images (B, channels, size, size) in [-1, 1].

    Four or five transposed convolutions with BatchNorm and ReLU, tanh at the end. `out_bias` gives the last layer a bias
    at 64 px too (the released 64 px net has none there; its 32 px net has one).
    """

    def __init__(self, size: int, M: int, channels: int = 3, width: int = 64, out_bias: bool = False):
        super().__init__()
        _check(size, M, channels, width)
        widths = [8 * width, 4 * width, 2 * width, 2 * width if size == 32 else width]
        layers: list[nn.Module] = [FromVector(M, widths[0]), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)]
        for c_in, c_out in zip(widths, widths[1:], strict=False):  # 4x4 -> 8x8 -> 16x16 -> 32x32
            layers += [nn.ConvTranspose2d(c_in, c_out, 4, 2, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)]
        if size == 32:
            layers.append(nn.Conv2d(widths[-1], channels, 1, bias=True))
        else:
            layers.append(nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1, bias=out_bias))
        self.layers = nn.Sequential(*layers)
        self.M, self.size, self.channels = M, size, channels

    def forward(self, z: Tensor) -> Tensor:
        if z.ndim != 2 or z.shape[1] != self.M:
            raise ValueError(f"the generator takes codes (B, {self.M}), got {tuple(z.shape)}")
        return torch.tanh(self.layers(z).float())

    def set_mean(self, mean: Tensor) -> None:
        """Set the last bias so that tanh(bias) is the data's mean pixel; mean: (channels,), in (-1, 1)."""
        bias = self.layers[-1].bias
        with torch.no_grad():
            bias.copy_(torch.atanh(mean.clamp(-0.99, 0.99)))


class Encoder(nn.Module):
    """e: images (B, channels, size, size) in [-1, 1] -> codes (B, M), float32; unit rows for the sphere prior.

    Strided convolutions, BatchNorm (not on the first) and LeakyReLU(0.2), then a linear convolution; at 32 px its 2x2
    outputs are averaged. prior="gaussian" leaves the codes unnormalised. `in_bias` gives the first convolution a bias (the
    released one has none): without it the encoder is blind to brightness and contrast in training, since scaling x scales
    every layer before the first BatchNorm, and the batch statistics undo it.
    """

    def __init__(
        self, size: int, M: int, channels: int = 3, width: int = 64, prior: str = "sphere", in_bias: bool = False,
        spectral_norm: bool = False,
    ):  # fmt: skip
        super().__init__()
        _check(size, M, channels, width)
        widths = [width * 2**i for i in range(3 if size == 32 else 4)]
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1, bias=in_bias), nn.LeakyReLU(0.2, inplace=True)]
        for c_in, c_out in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(c_in, c_out, 4, 2, 1, bias=False), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2, inplace=True)]
        if size == 32:
            layers += [nn.Conv2d(widths[-1], M, 4, 2, 1, bias=True), nn.AvgPool2d(2), nn.Flatten()]
        else:
            layers.append(ToVector(widths[-1], M))
        self.layers = nn.Sequential(*layers)
        self.M, self.size, self.channels, self.prior = M, size, channels, sphere.check_prior(prior)
        initialise(self)
        if spectral_norm:
            for layer in self.layers:
                if isinstance(layer, nn.Conv2d):
                    nn.utils.parametrizations.spectral_norm(layer)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1:] != (self.channels, self.size, self.size):
            want = f"(B, {self.channels}, {self.size}, {self.size})"
            raise ValueError(f"the encoder takes images {want}, got {tuple(x.shape)}")
        e = self.layers(x).float()  # (B, M)
        return sphere.project(e) if self.prior == "sphere" else e


class MlpGenerator(nn.Module):
    """g: codes (B, dims[0]) -> (B, *shape), fully connected, `hidden` between the layers.

    dims: widths from the code to the output, whose product of `shape` ends it. out: "sigmoid" scales to images in [-1, 1],
    "linear" is unbounded (points of a plane).
    """

    def __init__(
        self, dims: tuple[int, ...], shape: tuple[int, ...], hidden: type[nn.Module] = nn.Tanh, out: str = "sigmoid"
    ):
        super().__init__()
        if len(dims) < 2 or dims[-1] != math.prod(shape) or out not in ("sigmoid", "linear"):
            raise ValueError(f"dims must end in {math.prod(shape)} and out be sigmoid or linear, got {dims} and {out!r}")
        self.layers = mlp(dims, hidden)
        self.M, self.shape, self.out = dims[0], tuple(shape), out

    def forward(self, z: Tensor) -> Tensor:
        y = self.layers(z).float().view(-1, *self.shape)
        return 2 * torch.sigmoid(y) - 1 if self.out == "sigmoid" else y


def published_decoder(shape: tuple[int, ...], M: int = 10) -> MlpGenerator:
    """The 10-d decoder of Wu et al. (2017), M-64-256-256-1024-D, tanh and a sigmoid, for images of `shape` with D values."""
    return MlpGenerator((M, 64, 256, 256, 1024, math.prod(shape)), shape)


class MlpEncoder(nn.Module):
    """e: images or points (B, ...), flattened -> codes (B, dims[-1]) float32; unit rows for the sphere prior."""

    def __init__(self, dims: tuple[int, ...], prior: str = "sphere", hidden: type[nn.Module] = nn.Tanh):
        super().__init__()
        self.layers = mlp(dims, hidden)
        self.M, self.prior = dims[-1], sphere.check_prior(prior)

    def forward(self, x: Tensor) -> Tensor:
        e = self.layers(x.reshape(len(x), -1)).float()
        return sphere.project(e) if self.prior == "sphere" else e


class ConvEncoder(nn.Module):
    """e: (B, C, H, W), H and W divisible by 4 -> codes (B, M): three convolutions of width, 2 width and 4 width channels,
    BatchNorm on all but the first, LeakyReLU(0.2), one linear layer. For fully connected decoders."""

    def __init__(self, shape: tuple[int, ...], M: int, prior: str, width: int = 16):
        super().__init__()
        C, H, W = shape
        if H % 4 or W % 4:
            raise ValueError(f"the convolutional encoder takes sizes that are multiples of 4, got {H}x{W}")
        layers: list[nn.Module] = [nn.Conv2d(C, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for c_in, kernel in ((width, 4), (2 * width, 3)):
            layers += [nn.Conv2d(c_in, 2 * c_in, kernel, 2, 1, bias=False), nn.BatchNorm2d(2 * c_in), nn.LeakyReLU(0.2)]
        side = [math.ceil(n / 4 / 2) for n in (H, W)]
        layers += [nn.Flatten(), nn.Linear(4 * width * side[0] * side[1], M)]
        self.layers = nn.Sequential(*layers)
        self.M, self.prior = M, sphere.check_prior(prior)

    def forward(self, x: Tensor) -> Tensor:
        e = self.layers(x).float()
        return sphere.project(e) if self.prior == "sphere" else e


class NoisyCode(nn.Module):
    """A stochastic encoder on the sphere: in training project(e(x) + sigma/sqrt(M) noise), noise ~ N(0, I); in evaluation
    e(x).

    sigma: length of the noise relative to the code, about; ALI's encoder draws its codes too.
    """

    def __init__(self, net: nn.Module, sigma: float):
        super().__init__()
        self.net, self.sigma, self.M, self.prior = net, sigma, net.M, net.prior

    @property
    def layers(self) -> nn.Sequential:
        """The layers of the encoder inside."""
        return self.net.layers

    def forward(self, x: Tensor) -> Tensor:
        e = self.net(x)
        return sphere.project(e + self.sigma / self.M**0.5 * torch.randn_like(e)) if self.training else e


def mlp(dims: tuple[int, ...], hidden: type[nn.Module]) -> nn.Sequential:
    """Linear layers of widths `dims`, `hidden()` between them; the framework's initialisation."""
    layers: list[nn.Module] = []
    for c_in, c_out in zip(dims, dims[1:], strict=False):
        layers += [nn.Linear(c_in, c_out), hidden()]
    return nn.Sequential(*layers[:-1])


class GaussianCode(nn.Module):
    """A stochastic encoder q(z|x) = N(mean, diag sigma^2) around a net x -> (B, 2 M).

    head: what the second half of the output is, "log_sigma" or "log_variance". sampled: forward draws a code (as ALI's
    encoder does), else it gives the mean (as a VAE's reconstructions take it).
    """

    def __init__(self, net: nn.Module, *, sampled: bool, head: str = "log_sigma"):
        super().__init__()
        if head not in ("log_sigma", "log_variance"):
            raise ValueError(f"unknown head {head!r}; valid: log_sigma, log_variance")
        self.net, self.sampled, self.head = net, sampled, head

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, log sigma), each (B, M) float32."""
        mean, spread = self.net(x).float().chunk(2, 1)
        return mean, spread / 2 if self.head == "log_variance" else spread

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.moments(x)
        return draw(mean, log_sigma) if self.sampled else mean


def draw(mean: Tensor, log_sigma: Tensor) -> Tensor:
    """mean + exp(log_sigma) eps, eps ~ N(0, I)."""
    return mean + log_sigma.exp() * torch.randn_like(mean)


def _check(size: int, M: int, channels: int, width: int) -> None:
    if size not in SIZES:
        raise ValueError(f"no network for {size}x{size} images; there are {', '.join(f'{s}x{s}' for s in SIZES)}")
    if channels not in (1, 3):
        raise ValueError(f"images have 1 or 3 channels, got {channels}")
    if M < 1 or width < 1:
        raise ValueError(f"need M >= 1 and width >= 1, got M={M}, width={width}")


def with_maps(z: Tensor, L: Tensor) -> Tensor:
    """L (B, 1, H, W) and the code's M coordinates as constant maps, (B, 1 + M, H, W), channels last."""
    maps = z.to(L.dtype)[:, :, None, None].expand(-1, -1, *L.shape[2:])
    return torch.cat([L, maps], 1).contiguous(memory_format=torch.channels_last)


def initialise(module: nn.Module) -> None:
    """Released initialisation: conv weights N(0, 0.02), BatchNorm weights N(1, 0.02), BatchNorm biases 0.

    Biases of convolutions keep the framework's default, uniform in +-1/sqrt(fan_in).
    """
    for m in module.modules():
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(m.weight, 0.0, 0.02)
        elif isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.weight, 1.0, 0.02)
            nn.init.zeros_(m.bias)


def start_decoder(g: MlpGenerator, mean: Tensor | None) -> None:
    """Start a fully connected sigmoid decoder: Xavier's weights (the framework's let the signal die in four layers of tanh),
    hidden biases 0, the last at the logit of `mean`, (C, H, W) in [-1, 1], where it is given."""
    linear = [layer for layer in g.layers if isinstance(layer, nn.Linear)]
    for layer in linear[:-1]:
        nn.init.xavier_uniform_(layer.weight, gain=nn.init.calculate_gain("tanh"))
        nn.init.zeros_(layer.bias)
    nn.init.xavier_uniform_(linear[-1].weight)
    if mean is not None:
        with torch.no_grad():
            linear[-1].bias.copy_(torch.logit(((mean.ravel() + 1) / 2).float().clamp(0.01, 0.99)))


def square(shape: tuple[int, ...]) -> int:
    """H of an image shape (C, H, W), which must be W: the convolutional networks take squares. Raises ValueError."""
    if shape[1] != shape[2]:
        raise ValueError(f"the networks take square images, got {shape[1]}x{shape[2]}")
    return shape[1]


def n_parameters(net: nn.Module) -> int:
    """Number of trained scalars."""
    return sum(p.numel() for p in net.parameters())


# ------------------------------------------------------------------------------------------------------- features


def hidden_layers(net: nn.Module, moment: str = "after") -> list[int]:
    """Positions in net.layers whose outputs are the hidden layers' values before or after the nonlinearity (LeakyReLU)."""
    if moment not in MOMENTS:
        raise ValueError(f"moment is {' or '.join(MOMENTS)} the nonlinearity, got {moment!r}")
    found = [i for i, layer in enumerate(net.layers) if isinstance(layer, nn.LeakyReLU)]
    return found if moment == "after" else [i - 1 for i in found]


def layer_features(
    net: nn.Module,
    at: Sequence[int],
    *,
    pool: int | None = 4,
    code: Callable[[Tensor], Tensor] | None = None,
    prepare: Callable[[Tensor], Tensor] = lambda x: x,
) -> Callable[[np.ndarray], np.ndarray]:
    """uint8 images (n, C, H, W) -> float32 (n, D): the outputs of net.layers at positions `at`, each reduced to at most
    pool x pool by maxima, flattened and joined. net in evaluation mode. pool None: no pooling. code: the last part, from the
    images (B, C, H, W) in [-1, 1]. prepare: what the network does with the images before its first layer."""
    device = next(net.parameters()).device

    def features(batch: np.ndarray) -> np.ndarray:
        with images.evaluating(net):
            x = images.to_float(batch, device)
            y, parts = prepare(x), []
            for i, layer in enumerate(net.layers[: max(at, default=-1) + 1]):
                y = layer(y)
                if i in at:
                    small = F.adaptive_max_pool2d(y, pool) if pool and y.shape[2] > pool else y
                    parts.append(small.flatten(1).clone())  # the next layer may work in place
            parts += [] if code is None else [code(x)]
            return torch.cat(parts, 1).float().cpu().numpy()

    return features
