"""Files that survive a crash: written aside, flushed, renamed; named by step and checksum; read without pickled code."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_NAME = re.compile(r"step-(\d{9})-([0-9a-f]{16})\.pt")


class CheckpointError(RuntimeError):
    """A checkpoint that can't be used; the message names the file and the reason."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that after a crash the file is whole or the old one: temporary name, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(aside, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):
        with contextlib.suppress(OSError):
            fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def write_json(path: Path, content) -> None:
    """`write_bytes` of indented JSON; not-a-number values are refused, since JSON has none."""
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def save(folder: Path, step: int, state: dict, keep: int = 2) -> Path:
    """Write `state` (tensors and plain Python values) as the checkpoint of `step`, and keep the newest `keep` files."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    path = folder / f"step-{step:09d}-{hashlib.sha256(data).hexdigest()[:16]}.pt"
    write_bytes(path, data)
    for old in list_files(folder)[:-keep]:
        if old != path:
            old.unlink(missing_ok=True)
    return path


def list_files(folder: Path) -> list[Path]:
    """Checkpoints in `folder`, oldest step first; half-written temporaries are not among them."""
    return sorted(p for p in folder.glob("step-*.pt") if _NAME.fullmatch(p.name)) if folder.is_dir() else []


def read(path: Path) -> dict:
    """The state in one checkpoint, on the CPU. Raises CheckpointError if bytes and name disagree or it does not load."""
    data = path.read_bytes()
    match = _NAME.fullmatch(path.name)
    if match and hashlib.sha256(data).hexdigest()[:16] != match.group(2):
        raise CheckpointError(f"{path}: damaged, its content does not have the checksum in its name")
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: {error}") from error


def read_latest(folder: Path) -> tuple[dict, Path] | None:
    """The newest usable checkpoint and its path; None if there is none. Each damaged file is named in a warning; if
    files exist and none is usable, CheckpointError."""
    files = list_files(folder)
    for path in reversed(files):
        try:
            return read(path), path
        except CheckpointError as error:
            warnings.warn(f"{error}; using the checkpoint before it", RuntimeWarning, stacklevel=2)
    if files:
        raise CheckpointError(f"{folder}: none of its {len(files)} checkpoints is usable; remove them to start again")
    return None


def save_weights(path: Path, tensors: dict[str, Tensor], config: dict) -> None:
    """Write finished weights as safetensors with `config` (JSON) in the metadata, crash-safe like `write_bytes`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, aside, {"config": json.dumps(config)})
    with open(aside, "rb+") as f:
        os.fsync(f.fileno())
    os.replace(aside, path)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, on the CPU. Raises CheckpointError naming the file if it can't be read."""
    try:
        return load_file(path)
    except Exception as error:
        raise CheckpointError(f"{path}: {error}") from error
