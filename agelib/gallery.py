"""The page of a profile: every run with its pictures, status and numbers, readable from disk without a network."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined

# Figures shown first, where a run has them; the others follow by name.
FIRST = ("figure2", "samples", "reconstructions")
STATUS = {"ok": "done", "diverged": "diverged", "failed": "failed"}

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>AGE reproduction: {{ profile }}</title>
<style>
:root { --bg: #fbfbfa; --card: #fff; --ink: #1d1f21; --soft: #5f6468; --line: #dedfdd; --link: #0b62a3;
        --ok: #00704f; --bad: #a63d00; --bad-bg: #fff3ea; --soft-bg: #f3f3f1; }
@media (prefers-color-scheme: dark) {
  :root { --bg: #16181a; --card: #1f2225; --ink: #e6e6e3; --soft: #a2a7ab; --line: #373b3f; --link: #7cc0f5;
          --ok: #4fcfa4; --bad: #ff9a5c; --bad-bg: #33231a; --soft-bg: #272a2d; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 86rem; background: var(--bg); color: var(--ink);
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
a { color: var(--link); }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; }
p { margin: .3rem 0; max-width: 60rem; }
.soft { color: var(--soft); font-size: .92rem; }
.run { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 1rem 1.1rem 1.1rem;
       margin: 0 0 1rem; }
.run.bad { border-color: var(--bad); }
.run h3 { display: inline; font-size: 1.08rem; margin: 0; }
.head { display: flex; flex-wrap: wrap; align-items: baseline; gap: .2rem .8rem; }
.head .links { margin-left: auto; }
.nav a { margin-right: 1.2rem; white-space: nowrap; }
.links a { margin-left: .8rem; white-space: nowrap; }
.status { font-size: .82rem; border: 1px solid currentColor; border-radius: 99px; padding: 0 .6rem; color: var(--ok); }
.status.bad { color: var(--bad); }
.standin { font-weight: 600; }
.thumbs { display: flex; flex-wrap: wrap; gap: .9rem; margin-top: .8rem; }
.thumbs a { display: block; text-decoration: none; font-size: .85rem; color: var(--soft); }
.thumbs img { display: block; height: 190px; max-width: 100%; object-fit: contain; object-position: left;
              background: #fff; border: 1px solid var(--line); border-radius: 4px; margin-bottom: .2rem; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; font-size: .85rem; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .55rem; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
tr:last-child td { border-bottom: 0; }
tr.other td { color: var(--soft); }
tr.lost td { background: var(--bad-bg); }
tr.miss td:nth-child(8) { color: var(--bad); font-weight: 600; }
table.compared td:nth-child(5) { min-width: 11rem; }
table.compared td:nth-child(8) { white-space: nowrap; }
</style>
</head>
<body>
<h1>AGE reproduction: profile <em>{{ profile }}</em></h1>
<p class="soft">Experiments of &ldquo;It Takes (Only) Two: Adversarial Generator-Encoder Networks&rdquo; (AAAI 2018).
{{ count }}. Written {{ written }}{% if machine %} on {{ machine }}{% endif %}.</p>
<p class="nav"><a href="#runs">Runs</a>
{% for heading, note, table in tables %}<a href="#table-{{ loop.index }}">{{ heading }}</a>
{% endfor %}{% if summary %}<a href="{{ summary }}">Summary notebook</a>{% endif %}</p>

<h2 id="runs">Runs</h2>
{% for run in runs %}
<section class="run{% if run.bad %} bad{% endif %}" id="{{ run.name }}">
  <div class="head"><h3>{{ run.name }}</h3>
    <span class="status{% if run.bad %} bad{% endif %}">{{ run.status }}</span>
    <span class="soft">{{ run.facts }}</span>
    <span class="links">{% for text, href in run.links %}<a href="{{ href }}">{{ text }}</a>{% endfor %}</span>
  </div>
  {% if run.reason %}<p>{{ run.reason }}</p>{% endif %}
  {% if run.data %}<p class="soft">{% if run.stand_in %}<span class="standin">Stand-in for {{ run.stand_in }}:
  not comparable with published numbers.</span> {% endif %}{{ run.data }}</p>{% endif %}
  {% if run.figures %}<div class="thumbs">
  {% for text, href in run.figures %}<a href="{{ href }}">
  <img src="{{ href }}" alt="{{ run.name }}: {{ text }}" loading="lazy">{{ text }}</a>
  {% endfor %}</div>{% endif %}
</section>
{% else %}<p>No run has left results yet.</p>
{% endfor %}

{% for heading, note, table in tables %}
<h2 id="table-{{ loop.index }}">{{ heading }}</h2>
{% if note %}<p class="soft">{{ note }}</p>{% endif %}
<div class="scroll">{{ table|safe }}</div>
{% endfor %}
</body>
</html>
"""


def write(
    results_dir: str | Path,
    collected: Iterable[Mapping[str, Any]],
    *,
    profile: str,
    tables: Sequence[tuple[str, str, str]] = (),
    summary_run: str | None = "summary",
) -> Path:
    """Write results_dir/index.html and return its path.

    collected: one mapping a run with the keys of metrics.json (tables.collect): run, status, and if known notebook,
        dataset, wall_time_s, environment, reason. A run's pictures are the files <run>/figures/*.png; what does not
        exist is not linked.
    tables: (heading, one line under it, HTML of a table) each. The HTML goes in as it is: pass only what this package
        made.
    summary_run: folder of the summary's own notebook, linked although its HTML comes after this page; None: no link.
    All links are relative, so the folder can be moved, zipped or served. Raises FileNotFoundError without
    `results_dir`.
    """
    root, collected = Path(results_dir), list(collected)
    if not root.is_dir():
        raise FileNotFoundError(f"no results folder {root}")
    runs = [_run(root, metrics) for metrics in collected]
    bad = sum(run["bad"] for run in runs)
    machines = dict.fromkeys(_machine(m.get("environment") or {}) for m in collected if m.get("environment"))
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(_PAGE)
    text = page.render(
        profile=profile,
        runs=runs,
        tables=list(tables),
        count=f"{len(runs)} runs" + (f", {bad} of them diverged or failed" if bad else ""),
        written=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine="; ".join(machines),
        summary=quote(f"{summary_run}/notebook.html") if summary_run else None,
    )
    path = root / "index.html"
    aside = path.with_suffix(".html.part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
    return path


def _run(root: Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
    name, status = str(metrics["run"]), str(metrics.get("status", "ok"))
    dataset = metrics.get("dataset") or {}
    dataset = dataset if isinstance(dataset, Mapping) else {"name": str(dataset)}
    files = [("notebook", "notebook.html"), ("source", "notebook.ipynb"), ("numbers", "metrics.json"),
             ("settings", "config.json"), ("history", "history.csv")]  # fmt: skip
    figures = sorted((root / name / "figures").glob("*.png"), key=_order)
    data = ": ".join(str(dataset[k]) for k in ("name", "source") if dataset.get(k))
    seconds, config = metrics.get("wall_time_s"), metrics.get("config") or {}
    facts = [str(metrics.get("notebook") or ""), _duration(seconds) if isinstance(seconds, int | float) else ""]
    facts.append(f"seed {config['seed']}" if "seed" in config else "")
    return {
        "name": name,
        "status": STATUS.get(status, status),
        "bad": status != "ok",
        "facts": ", ".join(fact for fact in facts if fact),
        "reason": str(metrics.get("reason") or metrics.get("error") or "") if status != "ok" else "",
        "data": data,
        "stand_in": dataset.get("stand_in_for"),
        "links": [(text, quote(f"{name}/{file}")) for text, file in files if (root / name / file).exists()],
        "figures": [(path.stem.replace("_", " "), quote(f"{name}/figures/{path.name}")) for path in figures],
    }


def _order(path: Path) -> tuple[int, str]:
    return (FIRST.index(path.stem) if path.stem in FIRST else len(FIRST), path.stem)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _machine(environment: Mapping[str, Any]) -> str:
    """"cpu (Xeon, 2 threads), torch 2.13"."""
    device = str(environment.get("device", ""))
    detail = [str(environment["cpu"])] if environment.get("cpu") else []
    threads = environment.get("threads")
    detail += [f"{threads} thread{'' if threads == 1 else 's'}"] if threads else []
    parts = [device + (f" ({', '.join(detail)})" if detail and device == "cpu" else "")]
    parts += [str(environment["precision"])] if environment.get("precision") else []
    parts += [f"torch {environment['torch']}"] if environment.get("torch") else []
    return ", ".join(part for part in parts if part)
