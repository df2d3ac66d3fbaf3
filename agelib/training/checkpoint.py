"""Files that survive a crash: written aside, flushed, renamed; named by step and checksum; read without pickled code."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import UnionType

import safetensors.torch
import torch
from torch import Tensor

_FILES = f"step-{'[0-9]' * 9}-{'[0-9a-f]' * 16}.pt"


class CheckpointError(RuntimeError):
    """A checkpoint that can't be used; the message names the file and the reason."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that after a crash the file is whole or the old one: temporary name, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(aside, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # where the system opens folders, the rename is flushed too
        fd = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def write_json(path: Path, content) -> None:
    """`write_bytes` of indented JSON; ValueError for a number that is not finite, since JSON has none."""
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def save(folder: Path, step: int, state: dict, keep: int = 2) -> Path:
    """Write `state` (tensors and plain Python values) as the checkpoint of `step`, and keep the newest `keep` files."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    path = folder / f"step-{step:09d}-{hashlib.sha256(data).hexdigest()[:16]}.pt"
    write_bytes(path, data)
    for old in {*list_files(folder)[:-keep]} - {path}:
        old.unlink(missing_ok=True)
    return path


def list_files(folder: Path) -> list[Path]:
    """Checkpoints in `folder`, oldest step first; half-written temporaries are not among them."""
    return sorted(path for path in folder.glob(_FILES) if path.is_file())


def read_latest(folder: Path) -> tuple[dict, Path] | None:
    """The state in the newest usable checkpoint, on the CPU, and its path; None if there is none. Each damaged file is named
    in a warning; where all are damaged, CheckpointError."""
    files = list_files(folder)
    for path in reversed(files):
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest()[:16] != path.stem[-16:]:
                raise ValueError("it does not have the checksum in its name")
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True), path
        except Exception as error:
            warnings.warn(f"{path}: damaged: {short(error)}; using the one before it", RuntimeWarning, stacklevel=2)
    if files:
        raise CheckpointError(f"{folder}: none of its {len(files)} checkpoints is usable; remove them to start again")
    return None


def save_model(path: Path, tensors: Mapping[str, Tensor], about: dict, facts: dict) -> None:
    """Write finished weights, {"network.parameter": tensor}, as safetensors, crash-safe like `write_bytes`.

    The metadata hold `about` (what was trained, plain values), `facts` (how it went) and a checksum of the tensors.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {"about": json.dumps(about), "facts": json.dumps(facts), "checksum": checksum(tensors)}
    write_bytes(path, safetensors.torch.save(tensors, metadata))


def load_model(path: Path) -> tuple[dict[str, Tensor], dict, dict]:
    """({"network.parameter": tensor} on the CPU, about, facts) of a file that `save_model` wrote.

    Raises CheckpointError naming the file if it can't be read, is no such file, does not have its own checksum, or holds
    values that are not finite.
    """
    if not path.is_file():  # opening a fifo would wait for ever
        raise CheckpointError(f"{path}: not a plain file")
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        plain = {key: json.loads(metadata[key]) for key in ("about", "facts")}
        check_kinds(plain, about=dict, facts=dict)
        expected = metadata["checksum"]
    except Exception as error:
        raise CheckpointError(f"{path}: not a trained model of this library: {short(error)}") from error
    if checksum(tensors) != expected:
        raise CheckpointError(f"{path}: damaged, its tensors do not have the checksum in its metadata")
    if bad := not_finite(tensors):
        raise CheckpointError(f"{path}: not finite: {bad[0]}")
    return tensors, plain["about"], plain["facts"]


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of those that hold a value that is not finite."""
    return [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """16 hex digits of the names, shapes, dtypes and values of `tensors`."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().cpu()
        digest.update(f"{name} {tuple(t.shape)} {t.dtype};".encode())
        digest.update(t.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def check_kinds(values: Mapping, **kinds: type | UnionType) -> None:
    """TypeError naming the first of `values` that is not of its kind; KeyError for one that is missing."""
    for name, kind in kinds.items():
        if not isinstance(values[name], kind):
            raise TypeError(f"{name} is {values[name]!r}")


def short(error: Exception) -> str:
    """An error's kind and the first two lines of what it says, as one line."""
    said = " ".join(line.strip() for line in str(error).splitlines()[:2])
    return f"{type(error).__name__}: {said[:300]}"
