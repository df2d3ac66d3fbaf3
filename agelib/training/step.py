"""What a method hands to the training loop, its Step, and what its Config is made of."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

_KINDS = {"int": int, "float": int | float, "bool": bool, "str": str}


@dataclass
class Step:
    """One training iteration of some method, called once a batch.

    update: batch -> losses; the batch is x, float (B, C, H, W) in [-1, 1] on the nets' device, and labels (B,) where the
    data has them; losses are a dict of 0-dim tensors (detached, on the same device). modules, optimizers: everything with
    state, by name. lr_at: (epoch, n_epochs) -> learning rate, one or each optimizer's, set before an iteration; epoch counts
    from 0 in steps of one iteration. precision: of the forward passes, "fp32" or "bf16". n_batches: how many mini-batches of
    different images `update` takes at once, joined. `update` may be recorded and replayed (`graphs`): it does nothing but
    arithmetic on the device.
    """

    update: Callable[..., dict[str, Tensor]]
    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    lr_at: Callable[[float, float], float | dict[str, float]] | None = None
    precision: str = "fp32"
    n_batches: int = 1

    def __call__(self, *batch: Tensor) -> dict[str, Tensor]:
        return self.update(*batch)

    def set_lr(self, epoch: float, n_epochs: float) -> None:
        """Set the learning rate of this point of the training on every optimizer; a function of the point alone."""
        if self.lr_at is None:
            return
        lr = self.lr_at(epoch, n_epochs)
        for name, optimizer in self.optimizers.items():
            own = lr[name] if isinstance(lr, dict) else lr
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(own)
                else:
                    group["lr"] = own

    def load_optimizer(self, name: str, state: dict) -> None:
        """Take up the state of an optimizer, made on any device; its learning rate stays the tensor or number it is here."""
        optimizer = self.optimizers[name]
        here = [{key: group[key] for key in ("lr", "capturable") if key in group} for group in optimizer.param_groups]
        optimizer.load_state_dict(state)
        for group, kept in zip(optimizer.param_groups, here, strict=True):
            group |= kept


def dropped(lr: float, epoch: float, drop_lr: int, factor: float = 0.5) -> float:
    """lr times `factor` at the start of every 0-based epoch with epoch % drop_lr == drop_lr - 1; drop_lr 0: never."""
    return lr * factor ** ((int(epoch) + 1) // drop_lr if drop_lr else 0)


class Averages:
    """Running averages of networks, one for each that has a decay other than 0: `modules`, "<name>_ema" -> a copy that takes
    no gradients. decays: network -> the share of the average that a step keeps."""

    def __init__(self, nets: Mapping[str, nn.Module], decays: Mapping[str, float]):
        self.nets, self.decays = nets, {name: decay for name, decay in decays.items() if decay}
        self.modules = {f"{name}_ema": copy.deepcopy(nets[name]).requires_grad_(False) for name in self.decays}

    @torch.no_grad()
    def update(self) -> None:
        """average <- decay * average + (1 - decay) * net, for parameters and floating-point buffers; others are copied."""
        for name, decay in self.decays.items():
            average, net = (module.state_dict().values() for module in (self.modules[f"{name}_ema"], self.nets[name]))
            for a, b in zip(average, net, strict=True):
                a.lerp_(b, 1 - decay) if a.is_floating_point() else a.copy_(b)


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
    values, name = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}, type(config).__name__

    def must_be(words: str, field_name: str, holds: bool) -> None:
        if not holds:
            raise ValueError(f"{name}: {field_name} must be {words}, is {values[field_name]!r}")

    for f in dataclasses.fields(config):
        said = f.type if isinstance(f.type, str) else getattr(f.type, "__name__", str(f.type))  # "int", "int | None"
        value, kind = values[f.name], _KINDS.get(said.split(" | ")[0], object)
        must_be("finite", f.name, not isinstance(value, float) or math.isfinite(value))
        of_kind = isinstance(value, kind) and (not isinstance(value, bool) or kind is bool)
        must_be(said, f.name, "None" in said if value is None else of_kind)
        must_be("below 2**32", f.name, not isinstance(value, int) or value < 2**32)
    for key, bound in (above or {}).items():
        must_be(f"above {bound:g}", key, values[key] is None or values[key] > bound)
    for key, bound in (least or {}).items():
        must_be(f"at least {bound:g}", key, values[key] is None or values[key] >= bound)
    for key in shares:
        must_be("at least 0 and below 1", key, values[key] is None or 0 <= values[key] < 1)
    for key, valid in (choices or {}).items():
        if values[key] not in valid:
            raise ValueError(f"{name}: unknown {key} {values[key]!r}; valid: {', '.join(map(str, valid))}")
