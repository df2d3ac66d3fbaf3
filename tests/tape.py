"""A recorder for the CPU that keeps to the rules of a CUDA graph: device work is repeated, Python is not."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from agelib.training import graphs

aten = torch.ops.aten
READS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default}
READS |= {aten.lift_fresh.default}  # torch.tensor(...): a copy from the host


class _Listen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in READS:
            raise RuntimeError(f"{function} can't be recorded")
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        return result


class Tape:
    """A recording is a list of calls; tensors that none of them made are those of the surroundings, by identity.

    Recording runs the calls, as a CUDA graph's does not, so the state of `step` and the random state are put back after it.
    """

    def __init__(self, step):
        self.step, self.n_run, self.n_replayed = step, 0, 0

    def state(self):
        return graphs._state(self.step)[1]

    def run(self, function):
        self.n_run += 1
        return function()

    def record(self, function):
        before = [t.detach().clone() for t in self.state()]
        with torch.random.fork_rng(devices=[]), _Listen() as tape:
            outputs = function()
        for t, value in zip(self.state(), before, strict=True):
            t.detach().copy_(value)

        @torch.no_grad()
        def replay():
            self.n_replayed += 1
            made = {}  # id of a recorded tensor -> today's; the tape keeps the recorded ones alive
            for call, args, kwargs, result in tape.calls:
                args, kwargs = tree_map_only(Tensor, lambda t: made.get(id(t), t), (args, kwargs))  # noqa: B023
                again = call(*args, **kwargs)  # a result that is an argument (in place) is itself
                pairs = zip(tree_leaves(result), tree_leaves(again), strict=True)
                made |= {id(recorded): new for recorded, new in pairs if isinstance(recorded, Tensor)}
            for output in outputs.values():
                output.copy_(made[id(output)])

        return outputs, replay
