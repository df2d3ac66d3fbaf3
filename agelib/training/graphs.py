"""Training iterations as CUDA graphs: the hundreds of small launches of an update become one.

A graph repeats what the device did while it was recorded, and nothing that Python did. So an update that shall be replayed
reads nothing back from the device, copies nothing to it, and keeps what changes from one iteration to the next in tensors
there: the batch, the learning rate, the random state.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from agelib.training.step import Step

WARM_UP = 3  # iterations run as they are before the recording: libraries choose their kernels in them
TRIALS = 2  # replays held against an iteration run as it is; the second sees a random state that was not recorded
TOLERANCE = 0.5  # of the distance that the weights move: kernels need not add in the same order twice

Losses = dict[str, Tensor]


class Recorder(Protocol):
    """What can run a function on the device, and record it."""

    def run(self, function: Callable[[], Losses]) -> Losses:
        """Run it now, in a way that a later recording can follow."""

    def record(self, function: Callable[[], Losses]) -> tuple[Losses, Callable[[], None]]:
        """(what it returns, how to do it again): each replay writes into the tensors that were returned."""


class CudaGraphs:
    """The recorder of a CUDA device, with a stream of its own."""

    def __init__(self, device: torch.device):
        self.stream = torch.cuda.Stream(device)

    def run(self, function: Callable[[], Losses]) -> Losses:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            result = function()
        torch.cuda.current_stream().wait_stream(self.stream)
        return result

    def record(self, function: Callable[[], Losses]) -> tuple[Losses, Callable[[], None]]:
        graph, present = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                result = function()
        finally:
            torch.cuda.set_stream(present)  # a recording that fails leaves its own
        return result, graph.replay


def recorder(device: torch.device) -> Recorder | None:
    """The recorder of `device`; None where there is nothing to gain, as on a CPU."""
    return CudaGraphs(device) if device.type == "cuda" else None


def replayed(step: Step, device: torch.device) -> Callable[..., Losses]:
    """What makes the iterations of `step` on `device`: itself, or a Replayed of it where there is a recorder."""
    found = recorder(device)
    return step if found is None else Replayed(step, found)


class Replayed:
    """The iterations of `step`, called as it is: batch -> losses. The losses are overwritten by the next call.

    The first WARM_UP calls run the update as it is, then it is recorded. The next TRIALS calls compare: the iteration is
    replayed, undone, and run as it is. A recording that can't be made, or leaves the weights elsewhere, is given up with a
    warning that says why, and every later call runs the update as it is. All batches have the shape of the first.
    """

    def __init__(self, step: Step, recorder: Recorder):
        self.step, self.recorder = step, recorder
        self.done, self.batch, self.losses, self.replay = 0, (), None, None
        self.given_up = False

    def __call__(self, *batch: Tensor) -> Losses:
        self.done += 1
        if self.done > WARM_UP and self.replay is None and not self.given_up:
            self._record(batch)
        if self.replay is None:
            return self._run(batch)
        shapes, recorded = ([tuple(t.shape) for t in part] for part in (batch, self.batch))
        if shapes != recorded:
            raise ValueError(f"recorded for batches {recorded}, got {shapes}")
        for kept, new in zip(self.batch, batch, strict=True):
            kept.copy_(new)
        if self.done <= WARM_UP + TRIALS:
            return self._try(batch)
        self.replay()
        return self.losses

    def _run(self, batch: tuple[Tensor, ...]) -> Losses:
        return self.recorder.run(lambda: self.step.update(*batch))

    def _record(self, batch: tuple[Tensor, ...]) -> None:
        self.batch, device = tuple(t.clone() for t in batch), batch[0].device
        random = _random_state(device)
        try:
            self.losses, self.replay = self.recorder.record(lambda: self.step.update(*self.batch))
        except RuntimeError as error:
            _set_random_state(device, random)
            self._give_up(f"it can't be recorded: {error}")

    def _try(self, batch: tuple[Tensor, ...]) -> Losses:
        """One iteration run as it is, after its replay was compared with it."""
        device = batch[0].device
        state, random = _state(self.step), _random_state(device)
        before = [t.clone() for t in state]
        self.replay()
        replayed = [t.clone() for t in state]
        for t, value in zip(state, before, strict=True):
            t.copy_(value)
        _set_random_state(device, random)
        losses = self._run(batch)
        n = len(_weights(self.step))
        moved, apart = _distance(before[:n], state[:n]), _distance(replayed[:n], state[:n])
        if not apart <= TOLERANCE * moved:
            self._give_up(f"its replay ends {apart:.3g} away from where the iteration does, which moves by {moved:.3g}")
        return losses

    def _give_up(self, why: str) -> None:
        self.given_up, self.replay, self.losses = True, None, None
        warnings.warn(f"training goes on without a CUDA graph of the iteration: {why}", stacklevel=5)


def _weights(step: Step) -> list[Tensor]:
    return [p.detach() for module in step.modules.values() for p in module.parameters()]


def _state(step: Step) -> list[Tensor]:
    """All tensors that an iteration changes, the weights first."""
    buffers = [b for module in step.modules.values() for b in module.buffers()]
    states = [state for optimizer in step.optimizers.values() for state in optimizer.state.values()]
    return _weights(step) + buffers + [t for state in states for t in state.values() if isinstance(t, Tensor)]


def _distance(a: list[Tensor], b: list[Tensor]) -> float:
    """Euclidean distance of two lists of weights, taken as one vector."""
    return torch.stack([(s.double() - t.double()).square().sum() for s, t in zip(a, b, strict=True)]).sum().sqrt().item()


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(device: torch.device, state: Tensor) -> None:
    torch.cuda.set_rng_state(state, device) if device.type == "cuda" else torch.set_rng_state(state)
