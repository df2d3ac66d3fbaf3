"""What folder: and npz: share: the hold-out where the user gave no split, and the key of the prepared cache."""

from __future__ import annotations

import hashlib

import numpy as np

SEED = 0  # of the hold-out


def hold_out(n: int, split: str) -> np.ndarray:
    """Indices of a split of n images: a fixed random order, its first tenth (at least one image) is `test`."""
    order = np.random.default_rng(SEED).permutation(n)
    n_test = max(1, round(n / 10)) if n > 1 else 0
    return order[:n_test] if split == "test" else order[n_test:]


def own_line(what: str, n: int, total: int, split: str, held_out: bool) -> str:
    """'folder /photos, 90 of its 100 images; no split there, so a seeded tenth is held out as test'."""
    line = f"{what}, {n:,} of its {total:,} images ({split})"
    return f"{line}; no split given, so a fixed tenth (seed {SEED}) is held out as test" if held_out else line


def short_hash(*parts: object) -> str:
    """16 hex digits of the parts."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
