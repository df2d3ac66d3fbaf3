"""The page of a profile: every run with its pictures, status and numbers, readable from disk without a network."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from IPython.display import HTML
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from agelib.training import checkpoint
from suite.plan import duration

FIRST = ["figure2", "samples", "reconstructions"]  # figures shown first; the others follow by name
FILES = {
    "notebook": "notebook.html", "source": "notebook.ipynb", "numbers": "metrics.json", "settings": "config.json",
    "history": "history.csv", "last attempt": ".new/notebook.ipynb",
}  # fmt: skip


def write(
    results_dir: str | Path, collected: Iterable[Mapping[str, Any]], *, profile: str,
    tables: Sequence[tuple[str, str, HTML]] = (), summary_run: str = "summary",
) -> Path:  # fmt: skip
    """Write results_dir/index.html and return its path. Raises FileNotFoundError without `results_dir`.

    collected: one mapping a run with the keys of metrics.json (tables.collect). A run's pictures are the files
        <run>/figures/*.png; what does not exist is not linked. All links are relative.
    tables: heading, one line under it, and a table each. summary_run: folder of the summary's own notebook, linked although
        its HTML comes after this page.
    """
    root, collected = Path(results_dir), list(collected)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    runs = [_run(root, metrics) for metrics in collected]
    bad = sum(run["bad"] for run in runs)
    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    text = pages.get_template("page.html.jinja").render(
        profile=profile,
        runs=runs,
        tables=tables,
        count=f"{len(runs)} runs" + (f", {bad} of them diverged or failed" if bad else ""),
        written=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine="; ".join(dict.fromkeys(_machine(m["environment"]) for m in collected if m.get("environment"))),
        summary=quote(f"{summary_run}/notebook.html"),
    )
    for left in root.glob(".index.html.*.part"):  # by a killed writer
        left.unlink(missing_ok=True)
    checkpoint.write_bytes(root / "index.html", text.encode())
    return root / "index.html"


def _run(root: Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
    name, status = metrics["run"], metrics["status"]
    dataset, config = metrics.get("dataset") or {}, metrics.get("config") or {}
    figures = {path.stem: quote(f"{name}/figures/{path.name}") for path in sorted((root / name / "figures").glob("*.png"))}
    # What a training took in all, where an earlier call did a part of it.
    seconds = max(metrics.get("wall_time_s") or 0, metrics.get("training_seconds") or 0)
    facts = [metrics.get("notebook"), duration(seconds / 60) if seconds else ""]
    facts.append(f"seed {config['seed']}" if "seed" in config else "")
    return {
        "name": name,
        "status": "done" if status == "ok" else status,
        "bad": status != "ok",
        "facts": ", ".join(filter(None, facts)),
        "reason": metrics.get("later") or (metrics.get("reason") if status != "ok" else ""),
        "data": ": ".join(str(dataset[k]) for k in ("name", "source") if dataset.get(k)),
        "stand_in": dataset.get("stand_in_for"),
        "links": [(text, quote(f"{name}/{file}")) for text, file in FILES.items() if (root / name / file).exists()],
        "figures": [(n.replace("_", " "), figures[n]) for n in dict.fromkeys([*FIRST, *figures]) if n in figures],
    }


def _machine(environment: Mapping[str, Any]) -> str:
    """"cpu (Xeon, 2 threads), fp32, torch 2.13"."""
    device, cpu, threads, precision, torch = map(environment.get, ("device", "cpu", "threads", "precision", "torch"))
    if device == "cpu" and cpu:
        device = f"cpu ({cpu}, {threads} thread{'' if threads == 1 else 's'})"
    return ", ".join(filter(None, [device, precision, torch and f"torch {torch}"]))
