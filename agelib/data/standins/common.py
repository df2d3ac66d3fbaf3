"""What the stand-ins share: checked arguments, and a random stream of its own for every block of every split."""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

SPLITS = ("train", "test")
Made = tuple[np.ndarray, np.ndarray | None, tuple[str, ...] | None]  # images, labels, class names


def asked(
    name: str, split: str, size: int | None, n: int | None, sizes: tuple[int, ...], totals: dict[str, int]
) -> tuple[int, int]:
    """(n, size): how many images to make, all of the split for None, and the side in pixels, the first of `sizes` for None.

    Raises ValueError naming the valid values.
    """
    if split not in SPLITS:
        raise ValueError(f"{name} has no split {split!r}: expected one of {', '.join(SPLITS)}")
    n, size = totals[split] if n is None else n, sizes[0] if size is None else size
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or not 1 <= n <= totals[split]:
        raise ValueError(f"{name} {split}: n must be an integer from 1 to {totals[split]}, got {n!r}")
    if isinstance(size, bool) or size not in sizes:
        raise ValueError(f"{name} has no size {size!r}: expected one of {', '.join(map(str, sorted(sizes)))}")
    return int(n), int(size)


def stream(name: str, split: str, seed: int, block: int = 0) -> np.random.Generator:
    """The random numbers of one block of one split: equal arguments give equal streams, others independent ones."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"{name}: seed must be an integer >= 0, got {seed!r}")
    return np.random.default_rng([zlib.crc32(name.encode()), SPLITS.index(split), int(seed), block])


def blocks(n: int, length: int) -> Iterable[tuple[int, slice]]:
    """(block number, its images) for n images in blocks of `length`; the last may be shorter."""
    return ((i // length, slice(i, min(i + length, n))) for i in range(0, n, length))


def package_file(package: str, path: str) -> Path:
    """A file that an installed package ships, without importing the package. Raises FileNotFoundError naming it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the package {package} is not installed; it ships {path}")
    file = Path(spec.origin).parent / path
    if not file.is_file():
        raise FileNotFoundError(f"this version of {package} does not ship {path} (looked for {file})")
    return file
