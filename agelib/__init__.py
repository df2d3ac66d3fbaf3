"""Networks, losses, data and training loop of the AGE reproduction suite."""

from agelib import allocator

__version__ = "0.1.0"

allocator.tune()
