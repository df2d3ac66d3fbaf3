"""What a method hands to the training loop: one update and the state that a checkpoint must hold; and what its Config is
made of."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Step:
    """One training iteration of some method, called once a batch.

    update: batch -> losses; the batch is x, float (B, C, H, W) in [-1, 1] on the nets' device, and labels (B,) where the
    data has them; losses are a dict of 0-dim tensors (detached, on the same device). modules, optimizers: everything with
    state, by name. lr_at: (epoch, n_epochs) -> learning rate, set on every optimizer before an iteration; epoch counts from
    0 in steps of one iteration. precision: of the forward passes, "fp32" or "bf16". n_batches: how many mini-batches of
    different images `update` takes at once, joined. `update` may be recorded and replayed (`graphs`): it does nothing but
    arithmetic on the device.
    """

    update: Callable[..., dict[str, Tensor]]
    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    lr_at: Callable[[float, float], float] | None = None
    precision: str = "fp32"
    n_batches: int = 1
    _lr: float | None = field(default=None, init=False)

    def __call__(self, *batch: Tensor) -> dict[str, Tensor]:
        return self.update(*batch)

    def set_lr(self, epoch: float, n_epochs: float) -> None:
        """Set the learning rate of this point of the training on every optimizer; a function of the point alone."""
        if self.lr_at is None:
            return
        lr = self.lr_at(epoch, n_epochs)
        if lr == self._lr:  # on a GPU even a comparison with what is set there would wait for it
            return
        self._lr = lr
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                set_lr(group, lr)

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


def dropped(lr: float, epoch: float, drop_lr: int, factor: float = 0.5) -> float:
    """lr times `factor` at the start of every 0-based epoch with epoch % drop_lr == drop_lr - 1; drop_lr 0: never."""
    return lr * factor ** ((int(epoch) + 1) // drop_lr if drop_lr else 0)


@torch.no_grad()
def average_into(average: nn.Module, net: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * net, for parameters and floating-point buffers alike; others are copied."""
    for a, b in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
        a.lerp_(b, 1 - decay) if a.is_floating_point() else a.copy_(b)


class Averages:
    """Running averages of networks, one for each that has a decay other than 0: `modules`, "<name>_ema" -> a copy that takes
    no gradients. decays: network -> the share of the average that a step keeps."""

    def __init__(self, nets: Mapping[str, nn.Module], decays: Mapping[str, float]):
        self.nets, self.decays = nets, {name: decay for name, decay in decays.items() if decay}
        self.modules = {f"{name}_ema": copy.deepcopy(nets[name]).requires_grad_(False) for name in self.decays}

    def update(self) -> None:
        """Take in the networks as they are now."""
        for name, decay in self.decays.items():
            average_into(self.modules[f"{name}_ema"], self.nets[name], decay)


def stabiliser(off: Any, says: str) -> Any:
    """A Config's field for what the method's paper does not have: `off` by default; `says` names it, {} is its value."""
    return field(default=off, metadata={"says": says})


def stabilisers(config: Any) -> str:
    """What a Config switches on that its paper does not have, "margin 0.5, averaged generator 0.99"; "" for nothing."""
    fields = [f for f in dataclasses.fields(config) if "says" in f.metadata]
    on = [f.metadata["says"].format(getattr(config, f.name)) for f in fields if getattr(config, f.name) != f.default]
    return ", ".join(on)


def check_names(what: str, given: Iterable[str], valid: Iterable[str]) -> None:
    """ValueError naming those of the settings `given` of `what` that are not `valid`, and what is."""
    if unknown := sorted(set(given) - set(valid)):
        raise ValueError(f"{what} has no setting {', '.join(unknown)}; valid: {', '.join(sorted(valid))}")


def split(what: str, settings: Mapping[str, Any], *kinds: type) -> tuple[dict[str, Any], ...]:
    """The settings of `what` that are fields of each of the Configs `kinds`. ValueError naming those that are of none."""
    names = [{f.name for f in dataclasses.fields(kind)} for kind in kinds]
    check_names(what, settings, set().union(*names))
    return tuple({name: value for name, value in settings.items() if name in own} for own in names)


def check_config(
    config: Any, *, above: Mapping[str, float] | None = None, least: Mapping[str, float] | None = None,
    shares: tuple[str, ...] = (), choices: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """ValueError naming field and value unless each value is of its field's kind, finite and, if whole, below 2**32, `above`
    and at `least` its bound, one of `shares` in [0, 1), one of `choices` of the valid ones. None passes where it may be."""
    name = type(config).__name__
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name}: {f.name} must be finite, is {value}")
        said = f.type if isinstance(f.type, str) else getattr(f.type, "__name__", str(f.type))
        wanted = said.split(" | ")[0]
        kinds = {"int": int, "float": int | float, "bool": bool, "str": str}
        if value is not None and wanted in kinds:
            if not isinstance(value, kinds[wanted]) or (isinstance(value, bool) and wanted != "bool"):
                raise ValueError(f"{name}: {f.name} must be {said}, is {value!r}")
        elif value is None and "None" not in said:
            raise ValueError(f"{name}: {f.name} must be {said}, is None")
        if isinstance(value, int) and value >= 2**32:
            raise ValueError(f"{name}: {f.name} must be below 2**32, is {value}")
    for names, holds, words in (
        (above or {}, lambda v, b: v > b, "above"),
        (least or {}, lambda v, b: v >= b, "at least"),
        ({n: 1 for n in shares}, lambda v, b: 0 <= v < b, "at least 0 and below"),
    ):
        for field_name, bound in names.items():
            value = getattr(config, field_name)
            if value is not None and not holds(value, bound):
                raise ValueError(f"{name}: {field_name} must be {words} {bound:g}, is {value}")
    for field_name, valid in (choices or {}).items():
        if getattr(config, field_name) not in valid:
            shown = ", ".join(str(v) for v in valid)
            raise ValueError(f"{name}: unknown {field_name} {getattr(config, field_name)!r}; valid: {shown}")
