"""What a method hands to the training loop: one update, and the state that a checkpoint must hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor, nn


def check_settings(label: str, config: type, settings: Iterable[str]) -> None:
    """Raise ValueError naming those of `settings` that are no field of the dataclass `config`; label: the method's name."""
    if unknown := sorted(set(settings) - {f.name for f in fields(config)}):
        raise ValueError(f"{label} has no setting {', '.join(unknown)}")


@dataclass
class Step:
    """One training iteration of some method, called once a batch.

    update: x -> losses; x is a float batch (B, C, H, W) in [-1, 1] on the nets' device, losses a dict of 0-dim tensors
    (detached, on the same device). modules, optimizers: everything with state, by name. lr_at: 0-based epoch -> learning
    rate, set on every optimizer when an epoch starts. config: the method's settings, compared on resume. after: called when
    an iteration is done, for what is no arithmetic on the device: `update` may be recorded and replayed (`agelib.graphs`).
    """

    update: Callable[[Tensor], dict[str, Tensor]]
    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    lr_at: Callable[[int], float] | None = None
    config: dict = field(default_factory=dict)
    after: Callable[[], None] | None = None

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        losses = self.update(x)
        self.finish()
        return losses

    def finish(self) -> None:
        """Call `after`, if there is one."""
        if self.after is not None:
            self.after()

    def final(self, name: str) -> nn.Module | None:
        """The network `name` as evaluations take it: its average "<name>_ema" where one is kept; None: no such network."""
        return self.modules.get(f"{name}_ema", self.modules.get(name))

    def start_epoch(self, epoch: int) -> None:
        """Set the learning rate of 0-based `epoch` on every optimizer; a function of the epoch alone."""
        if self.lr_at is None:
            return
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                set_lr(group, self.lr_at(epoch))

    def load_optimizer(self, name: str, state: dict) -> None:
        """Take up the state of an optimizer, made on any device; whether its lr is a tensor stays as it was made here."""
        optimizer = self.optimizers[name]
        made_here = [{k: group[k] for k in ("lr", "capturable") if k in group} for group in optimizer.param_groups]
        optimizer.load_state_dict(state)
        for group, made in zip(optimizer.param_groups, made_here, strict=True):
            lr = float(group["lr"])
            group |= made
            set_lr(group, lr)


def set_lr(group: dict, lr: float) -> None:
    """Set the learning rate of an optimizer's parameter group, in place where it is a tensor."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr
