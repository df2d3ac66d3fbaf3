"""One results folder: its settings, its figures, its numbers, and where and with what they were made."""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import json
import math
import platform
import subprocess
import time
from pathlib import Path

import torch
from PIL import Image

from agelib import checkpoint

PACKAGES = ("torch", "torchvision", "numpy", "scikit-image", "scikit-learn", "papermill")


class Run:
    """results/<profile>/<run>/: config.json at once, figures/, checkpoints/, history.csv and metrics.json as they come.

    out_dir: the folder, made if missing. config: plain values, written to config.json. seed: seeds torch's global RNG
    here, so that networks built after it are reproducible.
    """

    def __init__(self, out_dir: str | Path, config: dict, *, seed: int, profile: str = "", notebook: str = ""):
        self.dir = Path(out_dir)
        self.figures, self.checkpoints = self.dir / "figures", self.dir / "checkpoints"
        self.figures.mkdir(parents=True, exist_ok=True)
        self.config, self.seed, self.profile, self.notebook = dict(config), seed, profile, notebook
        self.dataset: dict = {}
        self.device, self.precision = "cpu", "fp32"
        self.started = time.monotonic()
        torch.manual_seed(seed)
        checkpoint.write_json(self.dir / "config.json", self.config)

    def describe_dataset(self, train, test=None) -> None:
        """Record name, source line, image count and checksum of the image sets (`agelib.data.ImageSet`) in the metrics."""
        keys = ("name", "source", "stand_in_for", "complete", "sha256")
        self.dataset = {k: getattr(train, k) for k in keys} | {"n_train": len(train.images)}
        if test is not None:
            self.dataset |= {"n_test": len(test.images), "test_source": test.source}

    def save_figure(self, name: str, figure) -> Path:
        """Write a matplotlib Figure as figures/<name>.png at 110 dpi, with a palette of 256 colours: a third of the size.

        Photographs are dithered. Returns the path.
        """
        path = self.figures / f"{name}.png"
        figure.savefig(path, dpi=110, bbox_inches="tight", facecolor="white")
        with Image.open(path) as picture:
            drawn = picture.convert("RGB")
        photographs = drawn.getcolors(maxcolors=10_000) is None  # else lines and text
        dither = Image.Dither.FLOYDSTEINBERG if photographs else Image.Dither.NONE
        drawn.quantize(256, dither=dither).save(path, optimize=True)
        return path

    def save_history(self, rows: list[dict]) -> Path:
        """Write history.csv; columns are the union of the rows' keys, in order of first appearance."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        path = self.dir / "history.csv"
        lines = [columns, *([row.get(c, "") for c in columns] for row in rows)]
        aside = path.with_suffix(".csv.part")
        with open(aside, "w", newline="") as f:
            csv.writer(f).writerows(lines)
        aside.replace(path)
        return path

    def save_metrics(self, rows: list[dict], status: str = "ok", **extra) -> Path:
        """Write metrics.json: every number with its protocol, and the circumstances.

        rows: {"experiment", "model", "dataset", "metric", "value", "std", "n", "protocol", "seed", "comparable",
        "note"}; missing keys are filled with this run's or None. status: ok | diverged | failed.
        """
        if status not in ("ok", "diverged", "failed"):
            raise ValueError(f"status is ok, diverged or failed, not {status!r}")
        content = {
            "run": self.dir.name,
            "notebook": self.notebook,
            "profile": self.profile,
            "status": status,
            "dataset": self.dataset,
            "rows": [self._row(row) for row in rows],
            "config": self.config,
            "environment": environment(self.device, self.precision),
            "wall_time_s": round(time.monotonic() - self.started + self.training_seconds(), 1),
            "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        } | extra
        path = self.dir / "metrics.json"
        checkpoint.write_json(path, content)
        return path

    def training_seconds(self) -> float:
        """Seconds of training in earlier sessions of this run, as the training loop recorded them."""
        return sum(json.loads(p.read_text()).get("earlier_seconds", 0.0) for p in self.checkpoints.glob("*/state.json"))

    def _row(self, row: dict) -> dict:
        full = {"experiment": Path(self.notebook).stem, "model": "", "dataset": self.dataset.get("name", ""), "std": None}
        full |= {"n": None, "protocol": "", "seed": self.seed, "comparable": False, "note": ""} | row
        for key in ("value", "std"):
            value = None if full[key] is None else float(full[key])
            full[key] = value if value is None or math.isfinite(value) else None
        return full


def environment(device: str = "cpu", precision: str = "fp32") -> dict:
    """Device, precision, threads, processor, package versions and git commit of this process."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "device": device_name(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        **versions,
        "torch": torch.__version__,  # with its build, +cpu or +cu130
        "git_commit": _git_commit(),
    }


def device_name(device: str | torch.device) -> str:
    """"cpu", or "cuda: <the card's name>"."""
    device = torch.device(device)
    return f"cuda: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _git_commit() -> str | None:
    """Commit of the source tree, with "+" when tracked files differ from it; None outside a checkout."""
    here = Path(__file__).resolve().parent.parent

    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", str(here), *args], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
