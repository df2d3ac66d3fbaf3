"""Adversarial Generator-Encoder Networks: the method, its rivals, and what measures them.

    model = agelib.train("age", images, "results/mine", M=24, lam=60)    trains, goes on, or finds it done
    model = agelib.load("results/mine")                                  needs nothing but the folder
    model.generate(64); model.reconstruct(images); model.encode(images)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agelib.model import Model, load, train

__all__ = ["Model", "load", "train"]


def __getattr__(name: str):
    if name in __all__:  # torch is imported where a model is asked for
        from agelib import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
