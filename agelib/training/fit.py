"""The one training loop. It knows no method: it feeds batches to a Step, keeps checkpoints, and stops when told.

A training that is killed at any moment and started again ends with the weights of one that was never killed, bit for bit
(CPU, same thread count): the state that an iteration depends on is the models, the optimizers, torch's, numpy's and
Python's random states, and the step number; the order of the data is a function of (seed, epoch) alone.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import math
import random
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import filelock
import numpy as np
import torch
from torch import Tensor, nn

from agelib.images import to_float
from agelib.training import checkpoint, graphs
from agelib.training.hardware import device_name
from agelib.training.progress import Progress
from agelib.training.step import Step, check_config

MODEL = "model.safetensors"  # the finished weights of a folder
SNAPSHOTS = "snapshots"  # its folder with weights on the way, <iteration>.safetensors
HISTORY = "history.csv"
_HASHED = 1 << 30  # bytes of an array that a fingerprint reads whole


class Busy(RuntimeError):
    """Another process works in the same folder."""


class Diverged(RuntimeError):
    """A loss or a weight is not finite; the message names it and the step."""


class ConfigMismatch(RuntimeError):
    """The folder holds another training; the message names what differs, and what to do."""


@dataclass(frozen=True)
class Schedule:
    """How long to train, on what batches, and what to keep on the way."""

    n_epochs: int | None = 1  # passes over the data; None: max_steps decides
    max_steps: int | None = None  # at most so many iterations
    batch_size: int = 64  # images an iteration
    flip: bool = False  # mirror each image left-right with probability 1/2
    seed: int = 0  # initial weights, order of the data, all that is drawn; 0 to 2**32 - 1
    snapshots: int = 0  # keep the weights so many times, at equal intervals, the last at the end
    log_every: int = 50  # iterations a row of the history averages over
    checkpoint_every_s: float = 60.0  # seconds between checkpoints

    def __post_init__(self):
        least = {"n_epochs": 1, "max_steps": 1, "batch_size": 1, "seed": 0, "snapshots": 0, "log_every": 1}
        check_config(self, least=least | {"checkpoint_every_s": 0})
        if self.n_epochs is None and self.max_steps is None:
            raise ValueError("Schedule: n_epochs and max_steps are both None: nothing says how long to train")

    def length(self, n_images: int) -> tuple[int, float]:
        """(iterations, the epochs that the learning rate's schedule counts on) for so many images."""
        if self.batch_size > n_images:
            raise ValueError(f"Schedule: batch_size {self.batch_size} is more than the {n_images} images there are")
        per_epoch = n_images // self.batch_size
        n_epochs = self.n_epochs or math.ceil(self.max_steps / per_epoch)
        n_steps = n_epochs * per_epoch
        return n_steps if self.max_steps is None else min(n_steps, self.max_steps), n_epochs


class Batches:
    """A set of uint8 images on the device, and shuffled float batches of it; no worker processes.

    data: images (N, C, H, W) uint8, or (images, labels (N,) whole numbers); moved to `device` once.
    batch(step) -> (x,) or (x, labels): float32 (n B, C, H, W) in [-1, 1], channels_last. Each epoch visits floor(N/B) * B
    images in an order fixed by (seed, epoch); the rest is dropped, as the released loader does. n: batches at once, each
    from an order of its own.
    """

    def __init__(self, data, batch_size: int, *, seed: int, device="cpu", flip: bool = False, n: int = 1):
        images, *labels = data if isinstance(data, tuple) else (data,)
        images = torch.from_numpy(np.array(images))  # maps are read-only
        self.images = images.to(device).contiguous(memory_format=torch.channels_last)
        self.labels = [torch.from_numpy(np.asarray(y).astype(np.int64)).to(device) for y in labels]
        if any(y.shape != images.shape[:1] for y in self.labels):
            raise ValueError(f"need one label for each of {len(images)} images, got {[tuple(y.shape) for y in self.labels]}")
        self.batch_size, self.seed, self.flip, self.n = batch_size, seed, flip, n
        self.per_epoch = len(images) // batch_size
        self._epoch, self._order = -1, None

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """The batch of 0-based iteration `step`."""
        epoch, i = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            draw = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            orders = torch.stack([torch.randperm(len(self.images), generator=draw) for _ in range(self.n)])
            self._epoch, self._order = epoch, orders.to(self.images.device)
        ids = self._order[:, i * self.batch_size : (i + 1) * self.batch_size].flatten()
        x = to_float(self.images[ids], self.images.device)
        if self.flip:
            mirrored = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
            x = torch.where(mirrored, x.flip(3), x)
        return x, *(y[ids] for y in self.labels)


def fingerprint(*arrays) -> str:
    """16 hex digits that stand for the shapes, dtypes and contents of arrays. Of an array above 1 GiB, 1,024 pieces of
    1 MiB at equal distances are read."""
    digest = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array.cpu().numpy() if isinstance(array, Tensor) else array)
        digest.update(f"{array.shape} {array.dtype.str};".encode())
        flat = array.reshape(-1).view(np.uint8)
        size = min(flat.size, _HASHED // 1024)
        starts = np.linspace(0, flat.size - size, 1024, dtype=np.int64)
        for piece in [flat] if flat.size <= _HASHED else (flat[start : start + size] for start in starts):
            digest.update(piece)
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def held(folder: Path, doing: str) -> Iterator[Path]:
    """`folder`, made, held by this process alone while it is `doing` something, and free of what killed writers left there;
    Busy where another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = filelock.FileLock(folder / ".lock", timeout=0).acquire()
    except filelock.Timeout:
        raise Busy(f"{folder}: another process is {doing} here; wait for it, or stop it") from None
    with lock:
        for left in [*folder.glob(".*.part"), *(folder / SNAPSHOTS).glob(".*.part")]:
            left.unlink(missing_ok=True)
        yield folder


def fit(
    step: Step, data, folder: str | Path, schedule: Schedule, *, about: dict, stage: str = "train",
    history: Sequence[dict] = (), defaults: dict | None = None,
) -> None:  # fmt: skip
    """Train in `folder` until `schedule` is done; go on where a killed training stopped, return at once where one is done.

    data: uint8 images (N, C, H, W) or (images, labels). about: what is trained, plain values; with the schedule and the
    data's fingerprint it says whether the folder holds this training; defaults: what counts where an older file's `about`
    has no such key. history: rows of earlier stages, put before this one's, which count on from them. The folder holds in
    the end MODEL (all modules, see `checkpoint.save_model`), HISTORY (a row for `log_every` iterations: stage, step, epoch,
    seconds, the mean of each loss), and SNAPSHOTS/. The global random state is as before afterwards. Raises Busy, Diverged,
    ConfigMismatch, checkpoint.CheckpointError, or ValueError.
    """
    arrays = data if isinstance(data, tuple) else (data,)
    n_steps, n_epochs = schedule.length(len(arrays[0]))
    identity = about | {"n_steps": n_steps, "n_epochs": n_epochs}
    identity |= {key: getattr(schedule, key) for key in ("batch_size", "flip", "seed")}
    identity |= {"n_images": len(arrays[0]), "data": fingerprint(*arrays), "precision": step.precision}
    with held(Path(folder), "training") as folder:
        if (folder / MODEL).exists():
            _compare(folder / MODEL, checkpoint.load_model(folder / MODEL)[1], identity, defaults)
            return
        states = _random_states()
        try:
            device = next(next(iter(step.modules.values())).parameters()).device
            drawn = {"seed": schedule.seed, "flip": schedule.flip, "n": step.n_batches}
            batches = Batches(data, schedule.batch_size, device=device, **drawn)
            loop = _Loop(step, batches, folder, schedule, identity, list(history), stage)
            loop.restore(defaults)
            loop.run()
        finally:
            _set_random_states(states)


class _Loop:
    """A training on its way. `now`: what a checkpoint keeps of it beside weights and random states; sums: of the losses
    `names` over the `count` iterations since the last row."""

    def __init__(self, step: Step, data: Batches, folder: Path, schedule: Schedule, identity, history, stage):
        self.step, self.data, self.folder, self.schedule, self.stage = step, data, folder, schedule, stage
        self.identity, self.history, self.n_steps = identity, history, identity["n_steps"]
        self.modules, self.device = nn.ModuleDict(step.modules), data.images.device
        self.before = history[-1] if history else {"step": 0, "epoch": 0, "seconds": 0}
        self.now = SimpleNamespace(step=0, seconds=0.0, names=[], rows=[], count=0, sums=None)
        self.kept = "no checkpoint yet"

    def restore(self, defaults: dict | None) -> None:
        found = checkpoint.read_latest(self.folder)
        if found is None:
            for seed in (torch.manual_seed, np.random.seed, random.seed):
                seed(self.schedule.seed)
            return
        state, path = found
        try:
            _compare(path, state["config"], self.identity, defaults)
            checkpoint.check_kinds(state, step=int, seconds=int | float, names=list, rows=list, count=int)
            if not 0 <= state["step"] <= self.n_steps:
                raise ValueError(f"step is {state['step']} of {self.n_steps}")
            was, threads = state["threads"], torch.get_num_threads()
            if was != threads and self.device.type == "cpu":
                warnings.warn(f"{path}: made with {was} threads, now {threads}: last bits may differ", stacklevel=4)
            for name, module in self.modules.items():
                module.load_state_dict(state["modules"][name])
            for name in self.step.optimizers:
                self.step.load_optimizer(name, state["optimizers"][name])
            self.now = SimpleNamespace(**{key: state[key] for key in vars(self.now)})
            self.now.sums = None if state["sums"] is None else state["sums"].to(self.device)
            _set_random_states(state["random"])
        except ConfigMismatch:
            raise
        except Exception as error:
            raise checkpoint.CheckpointError(f"{path}: not a checkpoint of this form: {checkpoint.short(error)}") from error
        self.kept = f"last good checkpoint: {path.name}"

    def save(self) -> None:
        self.check_losses()
        self.check_weights()
        state = {
            "config": self.identity,
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.step.optimizers.items()},
            **vars(self.now),
            "threads": torch.get_num_threads(),
            "random": _random_states(),
        }
        self.kept = f"last good checkpoint: {checkpoint.save(self.folder, self.now.step, state).name}"
        write_history(self.folder / HISTORY, self.history + self.now.rows)

    def write(self, path: Path) -> None:
        """The weights as they are, with what is known of them."""
        how = {"device": device_name(self.device), "threads": torch.get_num_threads(), "torch": torch.__version__}
        checkpoint.save_model(path, self.modules.state_dict(), self.identity, self.position() | how)

    def position(self) -> dict:
        """Where it is, earlier stages counted."""
        at = {"step": self.now.step, "epoch": self.now.step / self.data.per_epoch, "seconds": self.now.seconds}
        at = {key: self.before[key] + value for key, value in at.items()}
        return at | {"seconds": round(at["seconds"], 2)}

    def run(self) -> None:
        progress, now, snapshots = Progress(), self.now, self.schedule.snapshots
        started, saved_at = time.monotonic() - now.seconds, time.monotonic()
        iterate = graphs.replayed(self.step, self.device)
        while now.step < self.n_steps:
            self.step.set_lr(now.step / self.data.per_epoch, self.identity["n_epochs"])
            self.take(iterate(*self.data.batch(now.step)))
            now.seconds = time.monotonic() - started
            if now.count == self.schedule.log_every or now.step == self.n_steps:
                self.log()
            if snapshots and now.step % max(1, self.n_steps // snapshots) == 0:
                self.check_weights()
                self.write(self.folder / SNAPSHOTS / f"{now.step:09d}.safetensors")
            progress.show(self.line())
            if time.monotonic() - saved_at >= self.schedule.checkpoint_every_s and now.step < self.n_steps:
                self.save()
                saved_at = time.monotonic()
        self.save()
        self.write(self.folder / MODEL)
        progress.done(self.line())

    def take(self, losses: dict[str, Tensor]) -> None:
        """Count an iteration with its losses."""
        values = torch.stack([value.detach().float() for value in losses.values()])
        self.now.names, self.now.sums = list(losses), values + (0 if self.now.sums is None else self.now.sums)
        self.now.step, self.now.count = self.now.step + 1, self.now.count + 1
        if self.device.type == "cpu":
            self.check_losses()

    def check_losses(self) -> None:
        """Asked of the sums, which stay not finite once a loss was: on a GPU, which would wait, only once a row."""
        sums = [] if self.now.sums is None else self.now.sums.tolist()
        if bad := [name for name, value in zip(self.now.names, sums, strict=False) if not math.isfinite(value)]:
            first, last = self.now.step - self.now.count + 1, self.now.step
            self.lost(f"step {last}" if self.device.type == "cpu" else f"steps {first} to {last}", bad)

    def check_weights(self) -> None:
        """The last update may have spoilt weights whose loss nobody computes any more."""
        if bad := checkpoint.not_finite(self.modules.state_dict()):
            more = [f"{len(bad) - 2} more"] if len(bad) > 2 else []
            self.lost(f"step {self.now.step}", [f"weights {', '.join(bad[:2] + more)}"])

    def lost(self, where: str, what: list[str]) -> None:
        raise Diverged(f"{self.stage}: not finite at {where}: {', '.join(what)}; {self.kept}")

    def log(self) -> None:
        self.check_losses()
        at, means = self.position(), (self.now.sums / self.now.count).tolist()
        row = {"stage": self.stage} | at | {"epoch": round(at["epoch"], 4)}
        self.now.rows.append(row | {k: float(f"{v:.6g}") for k, v in zip(self.now.names, means, strict=True)})
        self.now.sums, self.now.count = None, 0

    def line(self) -> str:
        done, epochs = self.now.step, math.ceil(self.n_steps / self.data.per_epoch)
        left = (self.n_steps - done) * self.now.seconds / max(done, 1)
        eta = f", {left / 60:.0f} min left" if done < self.n_steps else ""
        last = self.now.rows[-1] if self.now.rows else {}
        shown = "  ".join(f"{name} {last[name]:.3f}" for name in self.now.names if name in last)
        at = f"step {done}/{self.n_steps} (epoch {done / self.data.per_epoch:.2f}/{epochs})"
        return f"{self.folder.name}: {at}{eta}  {shown}"


def write_history(path: Path, rows: list[dict]) -> None:
    """Rows as CSV; columns are the union of their keys, in order of first appearance."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), restval="")
    writer.writeheader()
    writer.writerows(rows)
    checkpoint.write_bytes(path, text.getvalue().encode())


def read_history(path: Path) -> list[dict]:
    """The rows of a history.csv, numbers as numbers; none where there is no such file. Raises checkpoint.CheckpointError."""
    if not path.is_file():
        return []
    kinds = {"stage": str, "step": int}  # all others are floats
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [{key: text for key, text in row.items() if text not in ("", None)} for row in csv.DictReader(file)]
        rows = [{key: kinds.get(key, float)(text) for key, text in row.items()} for row in rows]
        if rows and not {"step", "epoch", "seconds"} <= rows[-1].keys():
            raise ValueError("its last row has no step, epoch or seconds")
        return rows
    except (ValueError, TypeError, csv.Error) as error:
        raise checkpoint.CheckpointError(f"{path}: damaged: {checkpoint.short(error)}") from error


def _compare(path: Path, old: dict, new: dict, defaults: dict | None) -> None:
    old, new = _flat(defaults or {}) | _flat(old), _flat(new)
    if keys := [k for k in dict.fromkeys([*old, *new]) if old.get(k) != new.get(k)]:
        what = "; ".join(f"{k} was {old.get(k)!r}, is {new.get(k)!r}" for k in keys)
        remedy = "take another folder for it, or remove this one to train anew"
        raise ConfigMismatch(f"{path}: made with other settings: {what}; {remedy}")


def _flat(about: dict) -> dict:
    """{"seed": 0, "config": {"M": 3}} -> {"seed": 0, "config.M": 3}; tuples are lists, as JSON gives them back."""
    flat = {key: value for key, value in about.items() if key != "config"}
    return flat | {f"config.{k}": list(v) if isinstance(v, tuple) else v for k, v in about.get("config", {}).items()}


def _random_states() -> dict:
    algorithm, keys, *rest = np.random.get_state()
    version, state, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),  # [] without one
        "numpy": [algorithm, torch.from_numpy(keys.astype(np.int64)), *rest],
        "python": [version, list(state), gauss_next],
    }


def _set_random_states(states: dict) -> None:
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
    algorithm, keys, *rest = states["numpy"]
    np.random.set_state((algorithm, keys.numpy().astype(np.uint32), *rest))
    version, state, gauss_next = states["python"]
    random.setstate((version, tuple(state), gauss_next))
