"""A model that the loop has trained, or lost: what the experiments with several models hand from training to evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from agelib import fit
from agelib.step import Step


@dataclass
class Trained:
    """g and e (None without an encoder) in evaluation mode. status: "ok", or "diverged: " and why; then the networks are not
    to be used. history: the rows of history.csv."""

    method: str
    g: nn.Module
    e: nn.Module | None
    status: str = "ok"
    history: list[dict] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long the training took; 0 if it was lost."""
        return self.history[-1]["seconds"] if self.history else 0.0


def run_fit(step: Step, images, **settings) -> dict:
    """`fit.attempt` with its settings; the fields of a Trained but its method: g and e (their averages, where the step keeps
    them), status and history. Both networks no longer take gradients."""
    status, history = fit.attempt(step, images, **settings)
    found = {name: step.final(name) for name in "ge"}
    for net in found.values():
        if net is not None:
            net.eval().requires_grad_(False)
    return found | {"status": status, "history": history}
