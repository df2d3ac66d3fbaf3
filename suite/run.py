"""One results folder: its settings, its models, its figures, its numbers, and where and with what they were made."""

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from IPython.display import HTML
from PIL import Image

import agelib
from agelib.training import checkpoint
from agelib.training.fit import Diverged, fingerprint, write_history
from suite import params as parameters
from suite import tables

PACKAGES = ("torch", "torchvision", "numpy", "scikit-image", "scikit-learn", "papermill")
REFERENCE = parameters.ROOT / "reference" / "paper_numbers.csv"
RESULTS = ("figures", "history.csv", "config.json", "metrics.json")  # what `finish` moves into place, in this order


class Run:
    """results/<profile>/<run>/ while its notebook runs: all is written to <run>/.new/ and moved into place by `finish`.

    out_dir: the folder; its name is the run's, its parent's the profile's. params: what `suite.params.read` gives, written
    to config.json; its seed seeds torch. notebook: its stem, "01_unconditional".
    """

    def __init__(self, out_dir: str | Path, params: Any, *, notebook: str):
        self.dir, self.notebook, self.started = Path(out_dir), notebook, time.monotonic()
        self.name, self.profile = self.dir.resolve().name, self.dir.resolve().parent.name
        self.config: dict = params.model_dump()
        self.seed = self.config.get("seed", 0)
        self.dataset: dict = {}
        self.models: dict[str, agelib.Model] = {}
        self.content: dict = {}
        self.new = self.dir / ".new"
        self.new.mkdir(parents=True, exist_ok=True)
        for left in self.new.iterdir():
            if left.name != "notebook.ipynb":  # which papermill writes
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        checkpoint.write_json(self.new / "config.json", self.config)
        torch.manual_seed(self.seed)

    def describe(self, train, test) -> None:
        """Record name, source, image count and checksum of the image sets (`agelib.data.ImageSet`) in the metrics."""
        keys = ("name", "source", "stand_in_for", "complete", "sha256")
        self.dataset = {k: getattr(train, k) for k in keys} | {"n_train": len(train.images)}
        self.dataset |= {"n_test": len(test.images), "test_source": test.source}

    def place(self, kind: str, label: str, *identity: Any) -> Path:
        """The folder for the models or checkpoints of `label`: <run>/models/<label> or <run>/checkpoints/<kind>/<label>.

        identity: plain values and arrays that decide what is in it. In the profile "interactive" the name ends in a short
        hash of them, so that a changed setting has a folder of its own.
        """
        folder = (self.dir / "models" if kind == "models" else self.dir / "checkpoints" / kind) / parameters.label(label)
        if self.profile != "interactive":
            return folder
        told = [fingerprint(each) if isinstance(each, np.ndarray | torch.Tensor) else each for each in identity]
        short = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:8]
        return folder.with_name(f"{label}-{short}")

    def train(
        self, label: str, images, settings: dict, *, method: str = "age", start=None, needed: bool = False
    ) -> agelib.Model:
        """`agelib.train` in this run's folder, with its device and seed, registered under `label`.

        images: uint8 (N, C, H, W) or an ImageSet. settings: of Config and Schedule; their `method` wins over the argument,
        their `seed` over the run's. start: the Model whose weights it begins from; its folder is "<label>, finetuned".
        needed: raises Diverged if the game was lost, after writing so to metrics.json.
        """
        settings = {"method": method, "seed": self.seed} | settings
        device = self.config.get("device", "auto")
        name, began = (f"{label}, finetuned", str(start.folder)) if start else (label, None)
        folder = self.place("models", name, settings, getattr(images, "images", images), device, began)
        method = settings.pop("method")
        return self.register(label, agelib.train(method, images, folder, device=device, start=start, **settings), needed)

    def register(self, label: str, model: agelib.Model, needed: bool = False) -> agelib.Model:
        """Make `model` one of those whose device, precision, seconds and stabilisers stand in this run's numbers."""
        self.models[parameters.label(label)] = model
        if needed and not model.ok:
            self._write([], "diverged", reason=f"{label}: {model.status}")
            raise Diverged(f"{label}: {model.status}")
        return model

    def save_figure(self, name: str, figure) -> Path:
        """Write a matplotlib Figure as figures/<name>.png at 110 dpi, with a palette of 256 colours: a third of the size.
        Returns the path, which holds until `finish`."""
        path = self.new / "figures" / f"{parameters.label(name)}.png"
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, dpi=110, bbox_inches="tight", facecolor="white")
        with Image.open(path) as picture:
            drawn = picture.convert("RGB")
        lines_and_text = drawn.getcolors(maxcolors=10_000)  # None: photographs
        dither = Image.Dither.NONE if lines_and_text else Image.Dither.FLOYDSTEINBERG
        drawn.quantize(256, dither=dither).save(path, optimize=True)
        return path

    def save_history(self, rows: list[dict]) -> None:
        """Write history.csv; its columns are all the keys of the rows."""
        write_history(self.new / "history.csv", rows)

    def save_metrics(self, rows: list[dict], **extra: Any) -> None:
        """Write metrics.json: every number with its protocol, and the circumstances; its status is ok after `finish` only.

        rows: {"experiment", "model", "dataset", "metric", "value", "std", "n", "protocol", "seed", "comparable", "note"};
        missing keys are filled with this run's or None. A row whose model, or the part of it before ", ", is a registered
        label says in its note what the training had that the paper has not, and that it was lost; a value or a std that is
        not finite becomes null, and the note says so. extra: more entries of the file.
        """
        self.content = extra | {"rows": [self._row(row) for row in rows]}
        self._write(self.content["rows"], "failed", reason="the notebook did not come to its end", **extra)

    def finish(self) -> None:
        """The end of the notebook: metrics.json gets the status ok, and the results take the place of the former ones."""
        if not self.content:
            raise RuntimeError(f"{self.dir}: finish comes after save_metrics")
        self._write(**self.content, status="ok")
        for name in RESULTS:
            old, new = self.dir / name, self.new / name
            if old.is_dir():
                shutil.rmtree(old)
            elif old.exists() and not new.exists():
                old.unlink()
            if new.exists():
                os.replace(new, old)
        with contextlib.suppress(OSError):  # the runner's notebook is still written there
            self.new.rmdir()

    def table(self, rows: list[dict]) -> HTML:
        """`rows` beside the paper's numbers."""
        return tables.to_html(tables.compare(map(self._row, rows), tables.read_paper_numbers(REFERENCE)))

    def _write(self, rows: list[dict], status: str, **extra: Any) -> None:
        facts = ("method", "status", "n_steps", "seconds", "trained_on", "precision", "stabilisers")
        good = [model for model in self.models.values() if model.ok]
        device, precision = ("; ".join(sorted({str(getattr(m, fact)) for m in good})) for fact in facts[4:6])
        content = {
            "run": self.name,
            "notebook": self.notebook,
            "profile": self.profile,
            "status": status,
            "dataset": self.dataset,
            "rows": rows,
            "config": self.config,
            "models": {label: {k: getattr(model, k) for k in facts} for label, model in self.models.items()},
            "environment": environment(device or "cpu", precision or "fp32"),
            "training_seconds": round(sum(model.seconds for model in self.models.values()), 1),
            "wall_time_s": round(time.monotonic() - self.started, 1),
            "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        } | extra
        checkpoint.write_json(self.new / "metrics.json", content)

    def _row(self, row: dict) -> dict:
        full = {"experiment": tables.experiment(self.notebook), "model": "", "dataset": self.dataset.get("name", "")}
        full |= {"metric": "", "value": None, "std": None, "n": None, "protocol": "", "seed": self.seed}
        full |= {"comparable": False, "note": ""} | row
        notes = [full["note"]]
        for key, odd in (("value", "not finite"), ("std", "std not finite")):
            number = None if full[key] is None else float(full[key])
            full[key] = number if number is None or math.isfinite(number) else None
            notes.append(odd if number != full[key] else "")
        of = [label for label in self.models if f"{full['model']}, ".startswith(f"{label}, ")]
        if of and (model := self.models[max(of, key=len)]):
            notes += [f"stabilisers: {model.stabilisers}" if model.stabilisers else "", "" if model.ok else model.status]
        return full | {"note": "; ".join(dict.fromkeys(filter(None, notes)))}


def environment(device: str = "cpu", precision: str = "fp32") -> dict:
    """Device, precision, threads, processor, package versions and git commit of this process."""
    about = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.*)", about.read_text()) if about.is_file() else []
    return {
        "device": device,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "torch": torch.__version__,  # with its build, +cpu or +cu130
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Commit of the source tree, with "+" when tracked files differ from it; None outside a checkout."""
    command = ["git", "-C", str(parameters.ROOT), "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
