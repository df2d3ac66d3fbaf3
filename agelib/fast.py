"""Where and how the arithmetic runs: device, precision, and layers with a quicker form."""

from __future__ import annotations

import contextlib
import copy
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PRECISIONS = ("auto", "fp32", "bf16")


def choose_device(device: str = "auto") -> torch.device:
    """"auto" is the first CUDA device, else the CPU; any other name is taken as it is."""
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def bf16_in_hardware(device: torch.device | str) -> bool:
    """Whether the device multiplies bfloat16 matrices natively (AMX or AVX512-BF16 on a CPU, Ampere or later on CUDA)."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def choose_precision(precision: str, device: torch.device | str) -> str:
    """"fp32" or "bf16"; "auto" takes bf16 where the hardware has it. Raises ValueError for any other word."""
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; valid: {', '.join(PRECISIONS)}")
    if precision == "auto":
        return "bf16" if bf16_in_hardware(device) else "fp32"
    return precision


def autocast(device: torch.device | str, precision: str) -> contextlib.AbstractContextManager:
    """The context for a network's forward pass; weights stay fp32, and losses belong outside it."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


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


def adam(net: nn.Module, lr: float, betas: tuple[float, float]) -> torch.optim.Adam:
    """Adam over all parameters of `net` in one fused pass; eps is the framework's default, as released.

    On a CUDA device its learning rate is a tensor there, so that a recorded update (`agelib.graphs`) reads the present one.
    """
    device = next(net.parameters()).device
    on_device = lr_on_device(device)
    rate = torch.tensor(lr, device=device) if on_device else lr
    return torch.optim.Adam(net.parameters(), lr=rate, betas=betas, fused=True, capturable=on_device)


def lr_on_device(device: torch.device) -> bool:
    """Whether learning rates are tensors on `device`."""
    return device.type == "cuda"


@torch.no_grad()
def average_into(average: nn.Module, net: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * net, for parameters and floating-point buffers alike; others are copied."""
    for a, b in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
        a.lerp_(b, 1 - decay) if a.is_floating_point() else a.copy_(b)


class Averages:
    """Running averages of networks, one for each that has a decay other than 0: `modules`, "<name>_ema" -> a copy that takes
    no gradients. decays: network -> the share of the average that a step keeps."""

    def __init__(self, nets: dict[str, nn.Module], decays: dict[str, float]):
        self.nets, self.decays = nets, {name: decay for name, decay in decays.items() if decay}
        self.modules = {f"{name}_ema": copy.deepcopy(nets[name]).requires_grad_(False) for name in self.decays}

    def update(self) -> None:
        """Take in the networks as they are now."""
        for name, decay in self.decays.items():
            average_into(self.modules[f"{name}_ema"], self.nets[name], decay)


def clock(device: torch.device) -> float:
    """Seconds of a monotonic clock, read when `device` has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
