"""The one training loop. It knows no method: it feeds batches to a Step, keeps checkpoints, and stops when told.

A run that is killed at any moment and started again ends with the weights of a run that was never killed, bit for bit
(CPU, same thread count): the state that an iteration depends on is the models, the optimizers, torch's, numpy's and
Python's random states, and the step number; the order of the data is a function of (seed, epoch) alone.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import filelock
import numpy as np
import torch
from torch import Tensor

from agelib import checkpoint, graphs
from agelib.progress import Progress
from agelib.run import Run
from agelib.step import Step


class Busy(RuntimeError):
    """Another process is training in the same run directory."""


class Diverged(RuntimeError):
    """A loss is not finite; the message names the loss and the step."""


class ConfigMismatch(RuntimeError):
    """A checkpoint was made with other settings; the message names the fields."""


class Batches:
    """A set of uint8 images on the device, and shuffled float batches of it; no worker processes.

    images: (N, C, H, W) uint8, array or tensor; moved to `device` once. batch(step) -> float32 (B, C, H, W) in [-1, 1],
    channels_last. Each epoch visits floor(N/B) * B images in an order fixed by (seed, epoch); the rest is dropped, as
    the released loader does. flip: mirror each image left-right with probability 1/2.
    """

    def __init__(self, images, batch_size: int, *, seed: int, device="cpu", flip: bool = False):
        images = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))  # maps are read-only
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"images must be uint8 (N, C, H, W), got {images.dtype} {tuple(images.shape)}")
        if not 1 <= batch_size <= len(images):
            raise ValueError(f"batch_size must be from 1 to the number of images, {len(images)}; got {batch_size}")
        self.images = images.to(device).contiguous(memory_format=torch.channels_last)
        self.batch_size, self.seed, self.flip = batch_size, seed, flip
        self.per_epoch = len(images) // batch_size
        self._epoch, self._order = -1, None

    def batch(self, step: int) -> Tensor:
        """The batch of 0-based iteration `step`."""
        epoch, i = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            order = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._order = torch.randperm(len(self.images), generator=order).to(self.images.device)
            self._epoch = epoch
        x = self.images[self._order[i * self.batch_size : (i + 1) * self.batch_size]]
        x = x.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1.0)
        if self.flip:
            mirrored = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
            x = torch.where(mirrored, x.flip(3), x)
        return x


def fit(
    step: Step,
    images,
    *,
    run: Run,
    n_epochs: int,
    batch_size: int,
    seed: int,
    max_steps: int | None = None,
    flip: bool = False,
    stage: str = "train",
    log_every: int = 50,
    checkpoint_every_s: float = 60.0,
    history: list[dict] | None = None,
) -> list[dict]:
    """Train until n_epochs (or max_steps, if fewer) are done, resuming or returning at once where a run already is.

    images: uint8 (N, C, H, W). stage: a run may train more than once (fine-tuning); each stage has its checkpoints.
    history: rows of earlier stages, put before this stage's, whose steps and epochs count on from them. Returns the rows of
    history.csv: stage, step, epoch, seconds, and the mean of each loss over the last `log_every` steps. Raises Busy,
    Diverged, ConfigMismatch, or checkpoint.CheckpointError. Finished weights are written to
    checkpoints/<stage>/<module>.safetensors.
    """
    device = next(next(iter(step.modules.values())).parameters()).device
    data = Batches(images, batch_size, seed=seed, device=device, flip=flip)
    n_steps = n_epochs * data.per_epoch
    n_steps = n_steps if max_steps is None else min(n_steps, max_steps)
    run.device, run.precision = str(device), step.config.get("precision", "fp32")
    folder = run.checkpoints / stage
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise Busy(f"{run.dir}: another process is training here; wait for it, or stop it") from None
    try:
        loop = _Loop(step, data, run, folder, n_steps, log_every, list(history or []), stage)
        loop.config = step.config | {
            "n_steps": n_steps, "batch_size": batch_size, "seed": seed, "n_images": len(images), "flip": flip,
        }  # fmt: skip
        loop.restore(seed)
        checkpoint.write_json(folder / "state.json", {"earlier_seconds": loop.seconds})
        loop.train(checkpoint_every_s)
        return loop.rows
    finally:
        lock.release()


def attempt(step: Step, images, **settings) -> tuple[str, list[dict]]:
    """`fit`, for comparisons that go on without a model that is lost: ("ok", history), or ("diverged: why", [])."""
    try:
        return "ok", fit(step, images, **settings)
    except Diverged as error:
        return f"diverged: {error}", []


class _Loop:
    def __init__(self, step, data, run, folder: Path, n_steps, log_every, rows, stage):
        self.step, self.data, self.run, self.folder, self.stage = step, data, run, folder, stage
        self.n_steps, self.log_every, self.rows = n_steps, log_every, rows
        self.first_row = len(rows)
        self.before = (rows[-1]["step"], rows[-1]["epoch"]) if rows else (0, 0)
        self.done, self.seconds, self.sums, self.count = 0, 0.0, None, 0
        self.names: list[str] = []
        self.last_good: Path | None = None

    # ---- state ----
    def restore(self, seed: int) -> None:
        found = checkpoint.read_latest(self.folder)
        if found is None:
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            return
        state, self.last_good = found
        differing = _differences(state["config"], self.config)
        if differing:
            raise ConfigMismatch(f"{self.last_good}: made with other settings: {'; '.join(differing)}")
        for name, module in self.step.modules.items():
            module.load_state_dict(state["modules"][name])
        for name in self.step.optimizers:
            self.step.load_optimizer(name, state["optimizers"][name])
        self.done, self.seconds, self.names = state["step"], state["seconds"], state["names"]
        self.rows[self.first_row :] = state["rows"]
        self.count, self.sums = state["count"], state["sums"]
        if self.sums is not None:
            self.sums = self.sums.to(self.data.images.device)
        _set_random_states(state["random"])

    def save(self) -> None:
        self.check_finite()
        state = {
            "config": self.config,
            "modules": {name: module.state_dict() for name, module in self.step.modules.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.step.optimizers.items()},
            "step": self.done,
            "seconds": self.seconds,
            "names": self.names,
            "rows": self.rows[self.first_row :],
            "count": self.count,
            "sums": self.sums,
            "random": _random_states(),
        }
        self.last_good = checkpoint.save(self.folder, self.done, state)

    # ---- the loop ----
    def train(self, checkpoint_every_s: float) -> None:
        progress = Progress()
        if self.done < self.n_steps:
            started, saved_at = time.monotonic() - self.seconds, time.monotonic()
            iterate = graphs.replayed(self.step, self.data.images.device)
            for x in self.batches():
                logs = iterate(x)
                self.done += 1
                self.accumulate(logs)
                self.seconds = time.monotonic() - started
                if self.count == self.log_every or self.done == self.n_steps:
                    self.log()
                progress.show(self.line())
                if time.monotonic() - saved_at >= checkpoint_every_s:
                    self.save()
                    saved_at = time.monotonic()
            self.save()
        self.finish()
        progress.done(self.line())

    def batches(self) -> Iterator[Tensor]:
        epoch = -1
        while self.done < self.n_steps:
            now = self.done // self.data.per_epoch
            if now != epoch:
                epoch = now
                self.step.start_epoch(epoch)
            yield self.data.batch(self.done)

    def accumulate(self, logs: dict[str, Tensor]) -> None:
        values = torch.stack([value.detach().float() for value in logs.values()])
        if self.sums is None:
            self.names, self.sums = list(logs), torch.zeros_like(values)
            self.count = 0
        self.sums += values
        self.count += 1
        if values.device.type == "cpu":
            self.check_finite()

    def check_finite(self) -> None:
        """A sum stays non-finite once a loss was: on a GPU this looks back up to `log_every` steps."""
        if self.sums is None or bool(torch.isfinite(self.sums).all()):
            return
        bad = [name for name, ok in zip(self.names, torch.isfinite(self.sums).tolist(), strict=True) if not ok]
        first = self.done - self.count + 1 if self.data.images.device.type != "cpu" else self.done
        where = f"step {self.done}" if first == self.done else f"steps {first} to {self.done}"
        kept = f"last good checkpoint: {self.last_good.name}" if self.last_good else "no checkpoint yet"
        message = f"{self.stage}: not finite at {where}: {', '.join(bad)}; {kept}"
        self.run.save_metrics([], status="diverged", reason=message)
        raise Diverged(f"{self.run.dir}: {message}")

    def log(self) -> None:
        self.check_finite()
        means = (self.sums / self.count).tolist()
        step, epoch = self.before[0] + self.done, self.before[1] + self.done / self.data.per_epoch
        row = {"stage": self.stage, "step": step, "epoch": round(epoch, 4), "seconds": round(self.seconds, 2)}
        self.rows.append(row | {k: float(f"{v:.6g}") for k, v in zip(self.names, means, strict=True)})
        self.sums, self.count = None, 0

    def line(self) -> str:
        left = (self.n_steps - self.done) * self.seconds / max(self.done, 1)
        eta = f", {left / 60:.0f} min left" if self.done < self.n_steps else ""
        last = self.rows[-1] if len(self.rows) > self.first_row else {}
        shown = "  ".join(f"{k} {last[k]:.3f}" for k in self.names if isinstance(last.get(k), float))
        epochs = math.ceil(self.n_steps / self.data.per_epoch)
        at = self.done / self.data.per_epoch
        return f"{self.stage}: step {self.done}/{self.n_steps} (epoch {at:.2f}/{epochs}){eta}  {shown}"

    def finish(self) -> None:
        self.run.save_history(self.rows)
        for name, module in self.step.modules.items():
            path = self.folder / f"{name}.safetensors"
            if not path.exists():
                checkpoint.save_weights(path, module.state_dict(), self.config)


def _differences(old: dict, new: dict) -> list[str]:
    keys = [k for k in dict.fromkeys([*old, *new]) if old.get(k) != new.get(k)]
    return [f"{k} was {old.get(k)!r}, is {new.get(k)!r}" for k in keys]


def _random_states() -> dict:
    version, keys, position, has_gauss, cached = np.random.get_state()
    python_version, python_state, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [version, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "python": [python_version, list(python_state), gauss_next],
    }


def _set_random_states(states: dict) -> None:
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
    version, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((version, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    python_version, python_state, gauss_next = states["python"]
    random.setstate((python_version, tuple(python_state), gauss_next))
