"""The C library's memory allocator, set for large activations; imports nothing heavy."""

from __future__ import annotations

import ctypes
import platform
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>


def tune() -> bool:
    """Keep freed activations in the process (glibc's mallopt), instead of unmapping and faulting them in again.

    Activations here are tens of megabytes; by default each is mmapped and returned on every use. Returns False, and does
    nothing, where the C library is not glibc.
    """
    return _set(mmap_threshold=1 << 30, trim_threshold=(1 << 31) - 1)


def settle_default() -> bool:
    """The thresholds that glibc's default adapts itself to with large blocks, 32 and 64 MiB: for comparisons only."""
    return _set(mmap_threshold=32 << 20, trim_threshold=64 << 20)


def _set(mmap_threshold: int, trim_threshold: int) -> bool:
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, mmap_threshold) and mallopt(_M_TRIM_THRESHOLD, trim_threshold))
