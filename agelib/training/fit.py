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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock
import numpy as np
import torch
from torch import Tensor

from agelib.training import checkpoint, graphs
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

    data: images (N, C, H, W) uint8, array or tensor, or (images, labels (N,) whole numbers); moved to `device` once.
    batch(step) -> (x,) or (x, labels): float32 (n B, C, H, W) in [-1, 1], channels_last. Each epoch visits floor(N/B) * B
    images in an order fixed by (seed, epoch); the rest is dropped, as the released loader does. n: batches at once, each
    from an order of its own.
    """

    def __init__(self, data, batch_size: int, *, seed: int, device="cpu", flip: bool = False, n: int = 1):
        images, *labels = data if isinstance(data, tuple) else (data,)
        images = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))  # maps are read-only
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"images must be uint8 (N, C, H, W), got {images.dtype} {tuple(images.shape)}")
        if not 1 <= batch_size <= len(images):
            raise ValueError(f"batch_size must be from 1 to the number of images, {len(images)}; got {batch_size}")
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
        x = self.images[ids].to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1.0)
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
        if flat.size <= _HASHED:
            digest.update(flat)
        else:
            piece = _HASHED // 1024
            for start in np.linspace(0, flat.size - piece, 1024, dtype=np.int64):
                digest.update(flat[start : start + piece])
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def held(folder: Path, doing: str) -> Iterator[Path]:
    """`folder`, made, held by this process alone while it is `doing` something, and free of what killed writers left there;
    Busy where another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise Busy(f"{folder}: another process is {doing} here; wait for it, or stop it") from None
    try:
        checkpoint.clean(folder)
        yield folder
    finally:
        lock.release()


def fit(
    step: Step, data, folder: str | Path, schedule: Schedule, *, about: dict, stage: str = "train",
    history: Sequence[dict] = (), defaults: dict | None = None,
) -> None:  # fmt: skip
    """Train in `folder` until `schedule` is done; go on where a killed training stopped, return at once where one is done.

    data: uint8 images (N, C, H, W) or (images, labels). about: what is trained, plain values; with the schedule and the
    data's fingerprint it says whether the folder holds this training; defaults: what counts where an older file's `about`
    has no such key. history: rows of earlier stages, put before this one's, whose steps, epochs and seconds count on from
    them. The folder holds in the end MODEL (all modules, see `checkpoint.save_model`), HISTORY (a row for `log_every`
    iterations: stage, step, epoch, seconds, the mean of each loss), and SNAPSHOTS/. The global random state is as before
    afterwards. Raises Busy, Diverged, ConfigMismatch, checkpoint.CheckpointError, or ValueError.
    """
    arrays = data if isinstance(data, tuple) else (data,)
    n_steps, n_epochs = schedule.length(len(arrays[0]))
    kept = ("batch_size", "flip", "seed")
    identity = about | {"n_steps": n_steps, "n_epochs": n_epochs} | {k: v for k, v in asdict(schedule).items() if k in kept}
    identity |= {"n_images": len(arrays[0]), "data": fingerprint(*arrays), "precision": step.precision}
    with held(Path(folder), "training") as folder:
        checkpoint.clean(folder / SNAPSHOTS)
        if (folder / MODEL).exists():
            _compare(folder / MODEL, checkpoint.model_about(folder / MODEL)[0], identity, defaults)
            return
        states = _random_states()
        try:
            device = next(next(iter(step.modules.values())).parameters()).device
            drawn = {"seed": schedule.seed, "flip": schedule.flip, "n": step.n_batches}
            batches = Batches(data, schedule.batch_size, device=device, **drawn)
            loop = _Loop(step, batches, folder, schedule, n_steps, n_epochs, identity, list(history), stage)
            loop.restore(defaults)
            loop.run()
        finally:
            _set_random_states(states)


class _Loop:
    def __init__(self, step, data, folder: Path, schedule: Schedule, n_steps, n_epochs, identity, rows, stage):
        self.step, self.data, self.folder, self.schedule, self.stage = step, data, folder, schedule, stage
        self.n_steps, self.n_epochs, self.identity, self.rows = n_steps, n_epochs, identity, rows
        self.first_row = len(rows)
        self.before = {k: rows[-1][k] if rows else 0 for k in ("step", "epoch", "seconds")}
        self.done, self.seconds, self.sums, self.count = 0, 0.0, None, 0
        self.names: list[str] = []
        self.last_good: Path | None = None
        every = n_steps // schedule.snapshots if schedule.snapshots else 0
        self.snapshot_every = max(1, every) if schedule.snapshots else 0

    # ---- state ----
    def restore(self, defaults: dict | None) -> None:
        found = checkpoint.read_latest(self.folder)
        if found is None:
            torch.manual_seed(self.schedule.seed)
            np.random.seed(self.schedule.seed)
            random.seed(self.schedule.seed)
            return
        state, path = found
        try:
            _compare(path, state["config"], self.identity, defaults)
            if state["threads"] != torch.get_num_threads() and self.data.images.device.type == "cpu":
                was, now = state["threads"], torch.get_num_threads()
                warnings.warn(f"{path}: made with {was} threads, now {now}: last bits may differ", stacklevel=4)
            for name, module in self.step.modules.items():
                module.load_state_dict(state["modules"][name])
            for name in self.step.optimizers:
                self.step.load_optimizer(name, state["optimizers"][name])
            kinds = {"step": int, "seconds": int | float, "names": list, "rows": list, "count": int}
            if odd := [f"{key} is {state[key]!r}" for key, kind in kinds.items() if not isinstance(state[key], kind)]:
                raise TypeError(odd[0])
            if not 0 <= state["step"] <= self.n_steps:
                raise ValueError(f"step is {state['step']} of {self.n_steps}")
            self.done, self.seconds, self.names = state["step"], state["seconds"], state["names"]
            self.rows[self.first_row :] = state["rows"]
            self.count, self.sums = state["count"], state["sums"]
            if self.sums is not None:
                self.sums = self.sums.to(self.data.images.device)
            _set_random_states(state["random"])
        except ConfigMismatch:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            raise checkpoint.CheckpointError(f"{path}: not a checkpoint of this form: {checkpoint.short(error)}") from error
        self.last_good = path

    def save(self) -> None:
        self.check_finite()
        self.check_weights()
        state = {
            "config": self.identity,
            "modules": self.states(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.step.optimizers.items()},
            "step": self.done,
            "seconds": self.seconds,
            "names": self.names,
            "rows": self.rows[self.first_row :],
            "count": self.count,
            "sums": self.sums,
            "threads": torch.get_num_threads(),
            "random": _random_states(),
        }
        self.last_good = checkpoint.save(self.folder, self.done, state)
        write_history(self.folder / HISTORY, self.rows)

    def states(self) -> dict[str, dict[str, Tensor]]:
        return {name: module.state_dict() for name, module in self.step.modules.items()}

    def write(self, path: Path) -> None:
        """The weights as they are, with what is known of them."""
        facts = {"step": self.before["step"] + self.done, "epoch": self.before["epoch"] + self.done / self.data.per_epoch}
        facts |= {"seconds": round(self.before["seconds"] + self.seconds, 2), "device": device_name(self.data.images.device)}
        facts |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
        checkpoint.save_model(path, self.states(), self.identity, facts)

    # ---- the loop ----
    def run(self) -> None:
        progress = Progress()
        started, saved_at = time.monotonic() - self.seconds, time.monotonic()
        iterate = graphs.replayed(self.step, self.data.images.device)
        while self.done < self.n_steps:
            self.step.set_lr(self.done / self.data.per_epoch, self.n_epochs)
            logs = iterate(*self.data.batch(self.done))
            self.done += 1
            self.accumulate(logs)
            self.seconds = time.monotonic() - started
            if self.count == self.schedule.log_every or self.done == self.n_steps:
                self.log()
            if self.snapshot_every and self.done % self.snapshot_every == 0:
                self.check_weights()
                self.write(self.folder / SNAPSHOTS / f"{self.done:09d}.safetensors")
            progress.show(self.line)
            if time.monotonic() - saved_at >= self.schedule.checkpoint_every_s and self.done < self.n_steps:
                self.save()
                saved_at = time.monotonic()
        self.save()
        self.write(self.folder / MODEL)
        progress.done(self.line())

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
        self.lost(f"step {self.done}" if first == self.done else f"steps {first} to {self.done}", bad)

    def check_weights(self) -> None:
        """The last update may have spoilt weights whose loss nobody computes any more."""
        tensors = [(f"{m}.{k}", v) for m, state in self.states().items() for k, v in state.items() if v.is_floating_point()]
        finite = torch.stack([v.isfinite().all() for _, v in tensors])
        if not bool(finite.all()):
            bad = [name for (name, _), ok in zip(tensors, finite.tolist(), strict=True) if not ok]
            shown = bad[:2] + ([f"{len(bad) - 2} more"] if len(bad) > 2 else [])
            self.lost(f"step {self.done}", [f"weights {', '.join(shown)}"])

    def lost(self, where: str, what: list[str]) -> None:
        kept = f"last good checkpoint: {self.last_good.name}" if self.last_good else "no checkpoint yet"
        raise Diverged(f"{self.stage}: not finite at {where}: {', '.join(what)}; {kept}")

    def log(self) -> None:
        self.check_finite()
        means = (self.sums / self.count).tolist()
        row = {"stage": self.stage, "step": self.before["step"] + self.done}
        row |= {"epoch": round(self.before["epoch"] + self.done / self.data.per_epoch, 4)}
        row |= {"seconds": round(self.before["seconds"] + self.seconds, 2)}
        self.rows.append(row | {k: float(f"{v:.6g}") for k, v in zip(self.names, means, strict=True)})
        self.sums, self.count = None, 0

    def line(self) -> str:
        left = (self.n_steps - self.done) * self.seconds / max(self.done, 1)
        eta = f", {left / 60:.0f} min left" if self.done < self.n_steps else ""
        last = self.rows[-1] if len(self.rows) > self.first_row else {}
        shown = "  ".join(f"{k} {last[k]:.3f}" for k in self.names if isinstance(last.get(k), float))
        epochs, at = math.ceil(self.n_steps / self.data.per_epoch), self.done / self.data.per_epoch
        return f"{self.folder.name}: step {self.done}/{self.n_steps} (epoch {at:.2f}/{epochs}){eta}  {shown}"


def write_history(path: Path, rows: Iterable[dict]) -> None:
    """Rows as CSV; columns are the union of their keys, in order of first appearance."""
    rows = list(rows)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), restval="")
    writer.writeheader()
    writer.writerows(rows)
    checkpoint.write_bytes(path, text.getvalue().encode())


def read_history(path: Path) -> list[dict]:
    """The rows of a history.csv, numbers as numbers; none where there is no such file. Raises checkpoint.CheckpointError."""
    if not path.is_file():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [{k: _number(k, v) for k, v in row.items() if v not in ("", None)} for row in csv.DictReader(file)]
        if rows and not {"step", "epoch", "seconds"} <= rows[-1].keys():
            raise ValueError("its last row has no step, epoch or seconds")
        return rows
    except (ValueError, TypeError, csv.Error) as error:
        raise checkpoint.CheckpointError(f"{path}: damaged: {checkpoint.short(error)}") from error


def device_name(device: str | torch.device) -> str:
    """"cpu", or "cuda: <the card's name>"."""
    device = torch.device(device)
    return f"cuda: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def _number(key: str, text: str) -> str | int | float:
    return text if key == "stage" else int(text) if key == "step" else float(text)


def _compare(path: Path, old: dict, new: dict, defaults: dict | None) -> None:
    old, new = _flat(defaults or {}) | _flat(old), _flat(new)
    keys = [k for k in dict.fromkeys([*old, *new]) if old.get(k) != new.get(k)]
    if keys:
        what = "; ".join(f"{k} was {old.get(k)!r}, is {new.get(k)!r}" for k in keys)
        remedy = "take another folder for it, or remove this one to train anew"
        raise ConfigMismatch(f"{path}: made with other settings: {what}; {remedy}")


def _flat(config: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


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
