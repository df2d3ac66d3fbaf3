"""Where and how the arithmetic runs: device, precision, optimiser, clock, and the C library's memory allocator."""

from __future__ import annotations

import ctypes
import platform
import time

import torch
from torch import nn

PRECISIONS = ("auto", "fp32", "bf16")


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """"auto" is the first CUDA device, else the CPU. ValueError for a name that is no device, or of none that is here."""
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"unknown device {device!r}; valid: auto, cpu, cuda, cuda:1, ...") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {device!r}: PyTorch finds {torch.cuda.device_count()} CUDA devices here; take auto or cpu")
    return chosen


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
    return precision if precision != "auto" else "bf16" if bf16_in_hardware(device) else "fp32"


def autocast(device: torch.device | str, precision: str) -> torch.autocast:
    """The context for a network's forward pass; weights stay fp32, and losses belong outside it."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


def adam(net: nn.Module, lr: float, betas: tuple[float, float]) -> torch.optim.Adam:
    """Adam over all parameters of `net` in one fused pass; eps is the framework's default, as released.

    On a CUDA device its learning rate is a tensor there, so that a recorded update (`graphs`) reads the present one.
    """
    device = next(net.parameters()).device
    on_device = lr_on_device(device)
    rate = torch.tensor(lr, device=device) if on_device else lr
    return torch.optim.Adam(net.parameters(), lr=rate, betas=betas, fused=True, capturable=on_device)


def lr_on_device(device: torch.device) -> bool:
    """Whether learning rates are tensors on `device`."""
    return device.type == "cuda"


def device_name(device: torch.device) -> str:
    """"cpu", or "cuda: <the card's name>"."""
    return f"cuda: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def clock(device: torch.device) -> float:
    """Seconds of a monotonic clock, read when `device` has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def keep_activations(keep: bool = True) -> bool:
    """Keep freed activations, tens of megabytes each, in the process (glibc's mallopt), instead of mapping memory anew on
    every use. keep False: the thresholds that glibc's default adapts itself to with large blocks, for comparisons only.
    Returns False, and does nothing, where the C library is not glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mmap_threshold, trim_threshold = (1 << 30, (1 << 31) - 1) if keep else (32 << 20, 64 << 20)  # bytes
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    return bool(mallopt(-3, mmap_threshold) and mallopt(-1, trim_threshold))  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD


keep_activations()  # once a process, before the first large tensor
