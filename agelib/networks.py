"""The generator g and encoder e of the released code, for 32 and 64 px, from one builder; and fully connected ones.

Released: src/models/dcgan32px.py and dcgan64px.py (github.com/DmitryUlyanov/AGE). With width 64 and 3 channels the
parameter counts are theirs: 32 px 3 934 595 (g) and 1 183 616 (e) at M = 128; 64 px 3 281 792 and 3 281 728 at M = 64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from agelib import fast, sphere

SIZES = (32, 64)


class Generator(nn.Module):
    """g: codes (B, M) -> images (B, channels, size, size) in [-1, 1].

    Four or five transposed convolutions with BatchNorm and ReLU, tanh at the end. `out_bias` gives the last layer a bias
    at 64 px too (the released 64 px net has none there; its 32 px net has one).
    """

    def __init__(self, size: int, M: int, channels: int = 3, width: int = 64, out_bias: bool = False):
        super().__init__()
        _check(size, M, channels, width)
        widths = [8 * width, 4 * width, 2 * width, 2 * width if size == 32 else width]
        layers: list[nn.Module] = [fast.FromVector(M, widths[0]), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)]
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
        if bias is None:
            raise ValueError("this generator's last layer has no bias: build it with out_bias=True")
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
            layers.append(fast.ToVector(widths[-1], M))
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


def build(
    size: int,
    M: int,
    *,
    channels: int = 3,
    width: int = 64,
    e_width: int | None = None,
    prior: str = "sphere",
    in_bias: bool = False,
    out_bias: bool = False,
    spectral_norm: bool = False,
    device: torch.device | str = "cpu",
) -> dict[str, nn.Module]:
    """The pair {"g": Generator, "e": Encoder} on `device`, channels_last, initialised from torch's global RNG.

    width: channels of the narrowest layer. e_width: of the encoder's, if it shall differ. in_bias, out_bias and
    spectral_norm are not in the released networks; see Encoder and Generator.
    """
    g = Generator(size, M, channels, width, out_bias)
    initialise(g)
    e = Encoder(size, M, channels, e_width or width, prior, in_bias, spectral_norm)
    return {name: net.to(device, memory_format=torch.channels_last) for name, net in (("g", g), ("e", e))}


def n_parameters(net: nn.Module) -> int:
    """Number of trained scalars."""
    return sum(p.numel() for p in net.parameters())
