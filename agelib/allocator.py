"""The C library's memory allocator, set for large activations; imports nothing heavy."""

from __future__ import annotations

import ctypes
import platform
import sys


def tune() -> bool:
    """Keep freed activations in the process (glibc's mallopt), instead of unmapping and faulting them in again.

    Activations here are tens of megabytes; by default each is mmapped and returned on every use. Returns False, and does
    nothing, where the C library is not glibc.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    m_trim_threshold, m_mmap_threshold = -1, -3  # <malloc.h>
    return bool(mallopt(m_mmap_threshold, 1 << 30) and mallopt(m_trim_threshold, (1 << 31) - 1))
