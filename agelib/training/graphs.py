"""Training iterations as CUDA graphs: the hundreds of small launches of an update become one.

A graph repeats what the device did while it was recorded, and nothing that Python did. So an update that shall be replayed
reads nothing back from the device, copies nothing to it, and keeps what changes from one iteration to the next in tensors
there: the batch, the learning rate, the random state.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from agelib.training.step import Step

WARM_UP = 3  # iterations before the recording: libraries choose their kernels in them
TRIALS = 2  # replays held against an iteration run as it is; the second sees a random state that was not recorded
TOLERANCE = 0.5  # of the distance that the weights move: kernels need not add in the same order twice

Losses = dict[str, Tensor]


class CudaGraphs:
    """Runs a function on a CUDA device, on a stream of its own, and records it."""

    def __init__(self, device: torch.device):
        self.stream = torch.cuda.Stream(device)

    def run(self, function: Callable[[], Losses]) -> Losses:
        """What it returns, run now, in a way that a later recording can follow."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            result = function()
        torch.cuda.current_stream().wait_stream(self.stream)
        return result

    def record(self, function: Callable[[], Losses]) -> tuple[Losses, Callable[[], None]]:
        """(what it returns, how to do it again): each replay writes into the tensors that were returned."""
        graph, present = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                result = function()
        finally:
            torch.cuda.set_stream(present)  # a recording that fails leaves its own
        return result, graph.replay


RECORDERS = {"cuda": CudaGraphs}  # of other devices there is nothing to gain


def replayed(step: Step, device: torch.device) -> Callable[..., Losses]:
    """What makes the iterations of `step` on `device`: itself, or a Replayed of it where there is a recorder."""
    return Replayed(step, RECORDERS[device.type](device)) if device.type in RECORDERS else step


class Replayed:
    """The iterations of `step`, called as it is: batch -> losses. The losses are overwritten by the next call.

    The first WARM_UP calls run the update as it is, then it is recorded. The next TRIALS calls compare: the iteration is
    replayed, undone, and run as it is. A recording that can't be made, or leaves the weights elsewhere, is given up with a
    warning that says why, and every later call runs the update as it is. All batches have the shape of the first.
    """

    def __init__(self, step: Step, recorder: CudaGraphs):
        self.step, self.recorder = step, recorder
        self.done, self.batch, self.losses, self.replay = 0, (), None, None

    def __call__(self, *batch: Tensor) -> Losses:
        self.done += 1
        if self.done == WARM_UP + 1:
            self._record(batch)
        if self.replay is None:
            return self.recorder.run(lambda: self.step.update(*batch))
        shapes, recorded = ([tuple(t.shape) for t in part] for part in (batch, self.batch))
        if shapes != recorded:
            raise ValueError(f"recorded for batches {recorded}, got {shapes}")
        for kept, new in zip(self.batch, batch, strict=True):
            kept.copy_(new)
        if self.done <= WARM_UP + TRIALS:
            return self._try(batch)
        self.replay()
        return self.losses

    def _record(self, batch: tuple[Tensor, ...]) -> None:
        self.batch = tuple(t.clone() for t in batch)
        try:
            with _random_state_kept(batch[0].device):
                self.losses, self.replay = self.recorder.record(lambda: self.step.update(*self.batch))
        except RuntimeError as error:
            self._give_up(f"it can't be recorded: {error}")

    def _try(self, batch: tuple[Tensor, ...]) -> Losses:
        """One iteration run as it is, after its replay was compared with it."""
        weights, state = _state(self.step)
        before = [t.clone() for t in state]
        with _random_state_kept(batch[0].device):
            self.replay()
        replayed = [t.clone() for t in weights]
        for t, value in zip(state, before, strict=True):
            t.copy_(value)
        losses = self.recorder.run(lambda: self.step.update(*batch))
        moved, apart = _distance(before, weights), _distance(replayed, weights)
        if not apart <= TOLERANCE * moved:
            self._give_up(f"its replay ends {apart:.3g} away from where the iteration does, which moves by {moved:.3g}")
        return losses

    def _give_up(self, why: str) -> None:
        self.replay = self.losses = None
        warnings.warn(f"training goes on without a CUDA graph of the iteration: {why}", stacklevel=5)


def _state(step: Step) -> tuple[list[Tensor], list[Tensor]]:
    """(the weights, all tensors that an iteration changes, the weights first)."""
    weights = [p.detach() for module in step.modules.values() for p in module.parameters()]
    buffers = [b for module in step.modules.values() for b in module.buffers()]
    of_adam = [state for optimizer in step.optimizers.values() for state in optimizer.state.values()]
    return weights, weights + buffers + [t for state in of_adam for t in state.values() if isinstance(t, Tensor)]


def _distance(a: list[Tensor], b: list[Tensor]) -> float:
    """Euclidean distance of the weights b and of as many of a, each taken as one vector."""
    return torch.stack([torch.dist(s.double(), t.double()) for s, t in zip(a, b, strict=False)]).norm().item()


def _random_state_kept(device: torch.device) -> contextlib.AbstractContextManager:
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
