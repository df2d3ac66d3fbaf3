"""The generator g and encoder e of the released code, for 32 and 64 px; fully connected ones; initialisation; features.

Released: src/models/dcgan32px.py and dcgan64px.py (github.com/DmitryUlyanov/AGE). With width 64 and 3 channels the
parameter counts are theirs: 32 px 3 934 595 (g) and 1 183 616 (e) at M = 128; 64 px 3 281 792 and 3 281 728 at M = 64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agelib import images, sphere

SIZES = (32, 64)
Mean = Callable[[int], Tensor]  # n -> the mean of the first n training images, (C, H, W) in [-1, 1]


class FromVector(nn.ConvTranspose2d):
    """Transposed convolution of a 1x1 map, (B, Cin) -> (B, Cout, k, k), no bias: computed as the matrix product it is."""

    def forward(self, z: Tensor) -> Tensor:
        c_out, k = self.weight.shape[1:3]
        w = self.weight.permute(0, 2, 3, 1).reshape(z.shape[1], -1)  # (Cin, k k Cout)
        return (z @ w).view(-1, k, k, c_out).permute(0, 3, 1, 2)  # (B, Cout, k, k), channels last in memory


class ToVector(nn.Conv2d):
    """Convolution whose kernel covers its whole input, (B, Cin, k, k) -> (B, Cout): computed as a linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight.permute(0, 2, 3, 1).reshape(self.weight.shape[0], -1)  # (Cout, k k Cin)
        return F.linear(x.permute(0, 2, 3, 1).reshape(len(x), -1), w, self.bias)  # (B, Cout)


class Float32Linear(nn.Linear):
    """A linear layer that autocast leaves in float32."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


def normed(layer: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    """`layer`, BatchNorm and ReLU."""
    return [layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU(inplace=True)]


def down(widths: Sequence[int], kernel: int = 4, in_bias: bool = False) -> list[nn.Module]:
    """Convolutions of stride 2 from each of `widths` to the next, BatchNorm on all but the first, LeakyReLU(0.2)."""
    layers: list[nn.Module] = []
    for i, (c_in, c_out) in enumerate(pairwise(widths)):
        layers.append(nn.Conv2d(c_in, c_out, kernel, 2, (kernel - 1) // 2, bias=in_bias and i == 0))
        layers += [nn.BatchNorm2d(c_out)] if i else []
        layers.append(nn.LeakyReLU(0.2, inplace=True))
    return layers


def mlp(dims: Sequence[int], hidden: Callable[[], nn.Module], dropout: float | None = None) -> nn.Sequential:
    """Linear layers of widths `dims`, `hidden()` between them, dropout on the input of each where a rate is given."""
    layers: list[nn.Module] = []
    for c_in, c_out in pairwise(dims):
        layers += [] if dropout is None else [nn.Dropout(dropout)]
        layers += [nn.Linear(c_in, c_out), hidden()]
    return nn.Sequential(*layers[:-1])


class Generator(nn.Module):
    """g: codes (B, M) -> images (B, channels, size, size) in [-1, 1].

    Four or five transposed convolutions with BatchNorm and ReLU, tanh at the end. `out_bias` gives the last layer a bias
    at 64 px too (the released 64 px net has none there; its 32 px net has one).
    """

    def __init__(self, size: int, M: int, channels: int = 3, width: int = 64, out_bias: bool = False):
        super().__init__()
        check_size(size)
        widths = [8 * width, 4 * width, 2 * width, 2 * width if size == 32 else width]
        layers = normed(FromVector(M, widths[0], 4, bias=False))
        for c_in, c_out in pairwise(widths):  # 4x4 -> 8x8 -> 16x16 -> 32x32
            layers += normed(nn.ConvTranspose2d(c_in, c_out, 4, 2, 1, bias=False))
        if size == 32:
            layers.append(nn.Conv2d(widths[-1], channels, 1))
        else:
            layers.append(nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1, bias=out_bias))
        self.layers, self.M = nn.Sequential(*layers), M

    def forward(self, z: Tensor) -> Tensor:
        check_input("the generator takes codes", z, self.M)
        return torch.tanh(self.layers(z).float())

    @torch.no_grad()
    def set_mean(self, mean: Tensor) -> None:
        """Set the last bias so that tanh(bias) is the data's mean pixel; mean: (channels,), in (-1, 1)."""
        self.layers[-1].bias.copy_(torch.atanh(mean.clamp(-0.99, 0.99)))


class MlpGenerator(nn.Module):
    """g: codes (B, dims[0]) -> (B, *shape), fully connected, `hidden` between the layers.

    dims: widths from the code to the output, whose product of `shape` ends it. out: "sigmoid" scales to images in [-1, 1],
    "linear" is unbounded (points of a plane).
    """

    def __init__(self, dims: Sequence[int], shape: Sequence[int], hidden: type[nn.Module] = nn.Tanh, out: str = "sigmoid"):
        super().__init__()
        if dims[-1] != math.prod(shape) or out not in ("sigmoid", "linear"):
            raise ValueError(f"dims must end in {math.prod(shape)} and out be sigmoid or linear, got {dims} and {out!r}")
        self.layers = mlp(dims, hidden)
        self.M, self.shape, self.out = dims[0], tuple(shape), out

    def forward(self, z: Tensor) -> Tensor:
        y = self.layers(z).float().view(-1, *self.shape)
        return 2 * torch.sigmoid(y) - 1 if self.out == "sigmoid" else y


def published_decoder(shape: tuple[int, ...], M: int = 10) -> MlpGenerator:
    """The 10-d decoder of Wu et al. (2017), M-64-256-256-1024-D, tanh and a sigmoid, for images of `shape` with D values."""
    return MlpGenerator((M, 64, 256, 256, 1024, math.prod(shape)), shape)


class _Encoder(nn.Module):
    """e: `layers` and their output as codes (B, M), float32; unit rows for the sphere prior."""

    def __init__(self, layers: nn.Sequential, M: int, prior: str):
        super().__init__()
        self.layers, self.M, self.prior = layers, M, sphere.check_prior(prior)

    def forward(self, x: Tensor) -> Tensor:
        e = self.layers(x).float()
        return sphere.project(e) if self.prior == "sphere" else e


class Encoder(_Encoder):
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
        check_size(size)
        widths = [width * 2**i for i in range(3 if size == 32 else 4)]
        layers = down([channels, *widths], in_bias=in_bias)
        if size == 32:
            layers += [nn.Conv2d(widths[-1], M, 4, 2, 1), nn.AvgPool2d(2), nn.Flatten()]
        else:
            layers.append(ToVector(widths[-1], M, 4))
        super().__init__(nn.Sequential(*layers), M, prior)
        self.shape = channels, size, size
        initialise(self)
        if spectral_norm:
            for layer in self.layers:
                if isinstance(layer, nn.Conv2d):
                    nn.utils.parametrizations.spectral_norm(layer)

    def forward(self, x: Tensor) -> Tensor:
        check_input("the encoder takes images", x, *self.shape)
        return super().forward(x)


class MlpEncoder(_Encoder):
    """e: images or points (B, ...), flattened -> codes (B, dims[-1]) float32; unit rows for the sphere prior."""

    def __init__(self, dims: Sequence[int], prior: str = "sphere", hidden: type[nn.Module] = nn.Tanh):
        super().__init__(mlp(dims, hidden), dims[-1], prior)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


class ConvEncoder(_Encoder):
    """e: (B, C, H, W) -> codes (B, M): three convolutions of width, 2 width and 4 width channels, BatchNorm on all but the
    first, LeakyReLU(0.2), one linear layer, always in float32: while e tells no two fakes apart their codes differ by less
    than bf16 rounds to, and g would learn nothing. For fully connected decoders and `ConvDecoder`."""

    def __init__(self, shape: tuple[int, int, int], M: int, prior: str, width: int = 16):
        C, H, W = shape
        layers = down([C, width, 2 * width], in_bias=True)
        layers += [nn.Conv2d(2 * width, 4 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(4 * width), nn.LeakyReLU(0.2)]
        layers += [nn.Flatten(), Float32Linear(4 * width * math.ceil(H // 4 / 2) * math.ceil(W // 4 / 2), M)]
        super().__init__(nn.Sequential(*layers), M, prior)


class ConvDecoder(nn.Module):
    """g: codes (B, M) -> images (B, C, 28, 28) in [-1, 1]: transposed convolutions to 4, 7, 14 and 28 px of 4, 2
    and 1 times `width` and C channels, BatchNorm and ReLU between, tanh at the end: `ConvEncoder` turned round. At width 32
    the layers of github.com/Victarry/Image-Generation-models (89795a9), an AGE for MNIST by the paper's rule."""

    def __init__(self, shape: tuple[int, int, int], M: int, width: int = 32):
        super().__init__()
        if tuple(shape[1:]) != (28, 28):
            raise ValueError(f"the convolutional decoder makes 28x28 images, not {shape[1]}x{shape[2]}")
        conv = nn.ConvTranspose2d
        layers = [*normed(FromVector(M, 4 * width, 4, bias=False)), *normed(conv(4 * width, 2 * width, 3, 2, 1, bias=False))]
        layers += [*normed(conv(2 * width, width, 4, 2, 1, bias=False)), conv(width, shape[0], 4, 2, 1)]
        self.layers, self.M = nn.Sequential(*layers), M

    def forward(self, z: Tensor) -> Tensor:
        check_input("the decoder takes codes", z, self.M)
        return torch.tanh(self.layers(z).float())


class NoisyCode(nn.Module):
    """A stochastic encoder on the sphere: in training project(e(x) + sigma/sqrt(M) noise), noise ~ N(0, I), which is about
    sigma times as long as the code; in evaluation e(x)."""

    def __init__(self, net: nn.Module, sigma: float):
        super().__init__()
        self.net, self.sigma, self.M, self.prior = net, sigma, net.M, net.prior

    @property
    def layers(self) -> nn.Sequential:
        return self.net.layers

    def forward(self, x: Tensor) -> Tensor:
        e = self.net(x)
        return sphere.project(e + self.sigma / self.M**0.5 * torch.randn_like(e)) if self.training else e


class GaussianCode(nn.Module):
    """A stochastic encoder q(z|x) = N(mean, diag sigma^2) around a net x -> (B, 2 M), mean and log sigma.

    sampled: forward draws a code (as ALI's encoder does), else it gives the mean (as a VAE's reconstructions take it).
    log_variance: the second half of the net's output is log sigma^2.
    """

    def __init__(self, net: nn.Module, *, sampled: bool, log_variance: bool = False):
        super().__init__()
        self.net, self.sampled, self.log_variance = net, sampled, log_variance

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, log sigma), each (B, M) float32."""
        mean, spread = self.net(x).float().chunk(2, 1)
        return mean, spread / 2 if self.log_variance else spread

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.moments(x)
        return draw(mean, log_sigma) if self.sampled else mean


def draw(mean: Tensor, log_sigma: Tensor) -> Tensor:
    """mean + exp(log_sigma) eps, eps ~ N(0, I)."""
    return mean + log_sigma.exp() * torch.randn_like(mean)


class MlpDiscriminator(nn.Module):
    """d: images or points (B, ...), flattened, joined with their codes (B, M) if there are any -> logits (B,); LeakyReLU."""

    def __init__(self, dims: tuple[int, ...], leak: float = 0.2, dropout: float | None = None):
        super().__init__()
        self.layers = mlp(dims, lambda: nn.LeakyReLU(leak), dropout)

    def forward(self, x: Tensor, *z: Tensor) -> Tensor:
        return self.layers(torch.cat([x.flatten(1), *z], 1)).float().squeeze(1)


def with_maps(z: Tensor, L: Tensor) -> Tensor:
    """L (B, 1, H, W) and the code's M coordinates as constant maps, (B, 1 + M, H, W), channels last."""
    maps = z.to(L.dtype)[:, :, None, None].expand(-1, -1, *L.shape[2:])
    return torch.cat([L, maps], 1).contiguous(memory_format=torch.channels_last)


def initialise(module: nn.Module) -> None:
    """Released initialisation: weights of convolutions N(0, 0.02), of BatchNorm N(1, 0.02). Biases keep the framework's:
    uniform in +-1/sqrt(fan_in), and 0."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(m.weight, 0.0, 0.02)
        elif isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.weight, 1.0, 0.02)


@torch.no_grad()
def start_decoder(g: MlpGenerator, mean: Tensor | None) -> None:
    """Start a fully connected sigmoid decoder: Xavier's weights (the framework's let the signal die in four layers of tanh),
    hidden biases 0, the last at the logit of `mean`, (C, H, W) in [-1, 1], where it is given."""
    *hidden, last = (layer for layer in g.layers if isinstance(layer, nn.Linear))
    for layer in hidden:
        nn.init.xavier_uniform_(layer.weight, gain=nn.init.calculate_gain("tanh"))
        nn.init.zeros_(layer.bias)
    nn.init.xavier_uniform_(last.weight)
    if mean is not None:
        last.bias.copy_(torch.logit(((mean.ravel() + 1) / 2).float().clamp(0.01, 0.99)))


def check_size(size: int) -> None:
    """Raise ValueError naming the sizes that there are convolutional networks for."""
    if size not in SIZES:
        raise ValueError(f"no network for {size}x{size} images; there are {', '.join(f'{s}x{s}' for s in SIZES)}")


def check_input(taker: str, x: Tensor, *shape: int) -> None:
    """Raise ValueError unless x is (B, *shape); taker: "the encoder takes images"."""
    if x.shape[1:] != shape:
        raise ValueError(f"{taker} (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}")


def square(shape: tuple[int, int, int]) -> int:
    """H of an image shape (C, H, W). Raises ValueError unless C is 1 or 3 and W is H: what convolutional networks take."""
    C, H, W = shape
    if H != W:
        raise ValueError(f"the networks take square images, got {H}x{W}")
    if C not in (1, 3):
        raise ValueError(f"the networks take images of 1 or 3 channels, got {C}")
    return H


def n_parameters(net: nn.Module) -> int:
    """Number of trained scalars."""
    return sum(p.numel() for p in net.parameters())


# ------------------------------------------------------------------------------------------------------- features


def hidden_layers(net: nn.Module, moment: str = "after") -> list[int]:
    """Positions in net.layers whose outputs are the hidden layers' values before or after the nonlinearity (LeakyReLU)."""
    if moment not in ("before", "after"):
        raise ValueError(f"moment is before or after the nonlinearity, got {moment!r}")
    found = [i for i, layer in enumerate(net.layers) if isinstance(layer, nn.LeakyReLU)]
    return found if moment == "after" else [i - 1 for i in found]


def layer_features(
    net: nn.Module, at: Sequence[int], *, pool: int | None = 4, code: Callable[[Tensor], Tensor] | None = None,
    prepare: Callable[[Tensor], Tensor] = lambda x: x,
) -> Callable[[np.ndarray], np.ndarray]:  # fmt: skip
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
