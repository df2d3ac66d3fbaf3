"""Tables: our numbers beside the published ones, with the protocol, the spread and the number of seeds.

A *row* is a dict as in metrics.json: experiment, model, dataset, metric, value, std, n, protocol, seed, comparable,
note. Rules of every table made here: a miss stays in the table; a number measured on other data or by another protocol
than the published one is marked not comparable and gets no gap; a run that diverged or failed has a row that says so;
equal settings with several seeds become one row, mean and standard deviation over seeds.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

PAPER_COLUMNS = ["experiment", "model", "dataset", "metric", "protocol", "value", "std", "source"]
KEY = ["experiment", "model", "dataset", "metric"]
COLUMNS = [*KEY, "protocol", "paper", "ours", "std", "n", "seeds", "gap", "comparable", "notebook"]
EXTRA_COLUMNS = ["paper_std", "spread", "status", "runs", "note", "source"]

# Embedded set -> the published sets whose numbers are printed beside it (marked: not comparable).
STAND_INS = {
    "digits": ("mnist",),
    "house_numbers": ("svhn",),
    "patches": ("cifar10", "tiny_imagenet"),
    "faces": ("celeba",),
    "cars": ("stanford_cars",),
}
# Settings in which runs of one experiment may differ and still be repetitions of each other.
_PER_RUN = {"seed", "out_dir", "run_name", "profile", "needs", "results_dir", "reference"}


class Html(str):
    """A piece of HTML that notebooks render."""

    def _repr_html_(self) -> str:
        return str(self)


def read_paper_numbers(path: str | Path) -> pd.DataFrame:
    """The published numbers in a CSV file with the columns of PAPER_COLUMNS.

    value: float, required; std: float or empty (the number printed after +-; `protocol` says what it is); all others
    text, `protocol` may be empty. Raises ValueError, naming file and line, for other columns, an empty field, a value
    that is no finite number, or two lines with the same experiment, model, dataset and metric.
    """
    paper = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    if list(paper.columns) != PAPER_COLUMNS:
        raise ValueError(f"{path}: need the columns {', '.join(PAPER_COLUMNS)}, got {', '.join(paper.columns)}")
    for i, row in paper.iterrows():
        where = f"{path}, number {i + 1} ({row['model']}, {row['metric']})"
        empty = [c for c in (*KEY, "value", "source") if not row[c].strip()]
        if empty:
            raise ValueError(f"{where}: empty {', '.join(empty)}")
        for column in ("value", "std"):
            if row[column] and not _is_number(row[column]):
                raise ValueError(f"{where}: {column} is no finite number: {row[column]!r}")
    twice = paper[paper.duplicated(KEY)]
    if len(twice):
        raise ValueError(f"{path}: there twice: {', '.join(twice[KEY].iloc[0])}")
    numbers = {c: [float(text) if text else math.nan for text in paper[c]] for c in ("value", "std")}
    return paper.assign(**numbers)


def collect(results_dir: str | Path, skip: Sequence[str] = ("summary",)) -> list[dict]:
    """The metrics.json of every run folder in `results_dir`, by folder name; `skip` names folders to leave out.

    A run folder without a readable metrics.json yields {"run", "status": "failed", "rows": [], "reason"}, so that it
    does not vanish from the tables. Folders that hold neither a notebook nor a config.json are not runs. Raises
    FileNotFoundError when `results_dir` is no folder.
    """
    root = Path(results_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"no results folder {root}")
    found = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and p.name not in skip):
        metrics = folder / "metrics.json"
        if not metrics.exists():
            if any((folder / name).exists() for name in ("notebook.ipynb", "config.json")):
                found.append(_failed(folder.name, "stopped before it wrote any numbers"))
            continue
        try:
            content = json.loads(metrics.read_text(encoding="utf-8"))
            if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
                raise ValueError("not an object with a list of rows")
        except ValueError as error:
            found.append(_failed(folder.name, f"metrics.json is damaged: {error}"))
            continue
        found.append({"status": "ok", **content, "run": folder.name})
    return found


def rows_of(collected: Iterable[Mapping[str, Any]]) -> list[dict]:
    """All rows of `collect`'s answer for `compare`: each with its run, notebook, status and settings; a run that is not
    "ok" adds a row without a value that says so."""
    rows = []
    for metrics in collected:
        config = metrics.get("config") or {}
        dataset = metrics.get("dataset") or {}
        shared = {
            "run": metrics["run"],
            "notebook": metrics.get("notebook") or config.get("notebook") or "",
            "status": metrics.get("status", "ok"),
            "settings": json.dumps(_settings(config), sort_keys=True, default=str),
        }
        rows += [{**row, **shared} for row in metrics["rows"]]
        if shared["status"] != "ok":
            name = dataset.get("name", "") if isinstance(dataset, Mapping) else str(dataset)
            reason = metrics.get("reason") or metrics.get("error") or metrics.get("note") or ""
            rows.append({
                **shared, "experiment": _experiment(Path(shared["notebook"]).stem), "model": "", "dataset": name,
                "metric": f"run {shared['status']}", "value": None, "std": None, "n": None, "protocol": "",
                "seed": config.get("seed"), "comparable": False, "note": str(reason),
            })  # fmt: skip
    return rows


def compare(rows: Iterable[Mapping[str, Any]], paper: pd.DataFrame) -> pd.DataFrame:
    """One line for each measured quantity, ours beside the published number (columns COLUMNS, then EXTRA_COLUMNS).

    rows: of one run as given to Run.save_metrics, or of many through `rows_of`. paper: from `read_paper_numbers`.
    Lines are joined on experiment (with or without a notebook's leading number: "03_inception_score" and
    "inception_score" are one), model, dataset and metric; a stand-in data set is joined with the set it stands in
    for, never as comparable.
    ours, std: for several seeds, mean and sample standard deviation (1/(k-1)) over them; for one, the row's own; the
        column `spread` says which. Only rows with equal settings and status are averaged, and only if no seed occurs
        twice among them. n: images (or whatever the protocol counts) of one run, the least of them if they differ.
    seeds: number of runs behind `ours`. gap: ours - paper where comparable, else NaN. comparable: True, False, or None
        where nothing is published. note: the rows' notes, and how many more seeds of the same settings were lost.
    """
    groups: dict[tuple, list[dict]] = {}
    lost: dict[tuple, int] = {}
    for row in map(dict, rows):
        settings = (row.get("notebook"), row.get("settings"), row.get("status", "ok"))
        if row.get("value") is None and row.get("status", "ok") != "ok":
            lost[settings[:2]] = lost.get(settings[:2], 0) + 1
            settings = (*settings, row.get("run"))  # a lost run is never merged with another
        groups.setdefault((*(row[k] for k in KEY), row.get("protocol", ""), *settings), []).append(row)
    lines = []
    for group in groups.values():
        seeds = [row.get("seed") for row in group]
        repeated = len(set(map(str, seeds))) < len(seeds)
        for part in ([[row] for row in group] if repeated else [group]):
            lines.append(_line(part, paper, lost))
    table = pd.DataFrame(lines, columns=[*COLUMNS, *EXTRA_COLUMNS])
    return table.astype({"paper": float, "ours": float, "std": float, "gap": float, "paper_std": float})


def not_measured(rows: Iterable[Mapping[str, Any]], paper: pd.DataFrame) -> pd.DataFrame:
    """The published numbers beside which `compare(rows, paper)` has nothing, with the columns of `paper`."""
    measured = {id_ for row in rows if row.get("value") is not None for id_ in _keys(row)}
    keep = [tuple(line) not in measured for line in paper[KEY].itertuples(index=False)]
    return paper[keep].reset_index(drop=True)


def published(paper: pd.DataFrame) -> pd.DataFrame:
    """Published numbers as text for readers: value and printed spread in one cell, then protocol and source."""
    return pd.DataFrame({
        "experiment": paper["experiment"],
        "model": paper["model"],
        "data set": paper["dataset"],
        "metric": paper["metric"].str.replace("_", " "),
        "paper": [_printed(v, s) for v, s in zip(paper["value"], paper["std"], strict=True)],
        "protocol": paper["protocol"],
        "source": paper["source"],
    })  # fmt: skip


def pretty(table: pd.DataFrame) -> pd.DataFrame:
    """A `compare` table as text for readers: value and spread in one cell, a dash where there is nothing."""
    return pd.DataFrame({
        "experiment": table["experiment"],
        "model": table["model"],
        "data set": table["dataset"],
        "metric": table["metric"].str.replace("_", " "),
        "protocol (n)": [_joined(p, _count(n)) for p, n in zip(table["protocol"], table["n"], strict=True)],
        "paper": [_printed(v, s) for v, s in zip(table["paper"], table["paper_std"], strict=True)],
        "ours": [_ours(line) for line in table.to_dict("records")],
        "gap": [_gap(g) for g in table["gap"]],
        "comparable": ["–" if pd.isna(c) else "yes" if c else "no" for c in table["comparable"]],
        "notebook: runs": [": ".join(filter(None, pair)) for pair in zip(table["notebook"], table["runs"], strict=True)],
        "note": table["note"],
    })  # fmt: skip


def to_html(table: pd.DataFrame) -> Html:
    """A `compare` table (or any table of text) as an HTML <table>; rows carry the class miss, other or lost.

    miss: comparable, and |gap| larger than the two spreads together. other: not comparable. lost: a run that did not
        end well.
    """
    compared = _is_comparison(table)
    text = pretty(table) if compared else table.astype(str)
    kinds = [_kind(line) for line in table.to_dict("records")] if compared else []
    # Inline, because notebooks align table cells to the right.
    left = 'style="text-align: left"'
    head = "".join(f"<th {left}>{html.escape(str(c))}</th>" for c in text.columns)
    body = []
    for i, line in enumerate(text.itertuples(index=False)):
        cells = "".join(f"<td {left}>{html.escape(str(cell))}</td>" for cell in line)
        css = f' class="{kinds[i]}"' if kinds and kinds[i] else ""
        body.append(f"<tr{css}>{cells}</tr>")
    css = "numbers compared" if compared else "numbers"
    return Html(f'<table class="{css}"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>')


def to_markdown(table: pd.DataFrame) -> str:
    """A `compare` table (or any table of text) as a Markdown table, one line a row."""
    text = pretty(table) if _is_comparison(table) else table.astype(str)
    lines = [list(map(str, text.columns)), ["---"] * len(text.columns)]
    lines += [[str(c).replace("|", "\\|").replace("\n", " ") for c in line] for line in text.itertuples(index=False)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


# ------------------------------------------------------------------------------------------------------ parts


def _line(group: list[dict], paper: pd.DataFrame, lost: Mapping[tuple, int]) -> dict:
    first, k = group[0], len(group)
    values = [float(row["value"]) for row in group if row.get("value") is not None]
    ours = sum(values) / len(values) if values else math.nan
    if len(values) > 1:
        std, spread = math.sqrt(sum((v - ours) ** 2 for v in values) / (len(values) - 1)), f"over {len(values)} seeds"
    else:
        std = math.nan if first.get("std") is None else float(first["std"])
        spread = "within the run" if math.isfinite(std) else ""
    published, same_data = _published(first, paper)
    comparable = None
    if published is not None:
        comparable = same_data and bool(values) and all(bool(row.get("comparable")) for row in group)
    status = first.get("status", "ok")
    counts = [int(row["n"]) for row in group if row.get("n") is not None]
    notes = list(dict.fromkeys(str(row["note"]) for row in group if row.get("note")))
    if published is not None and not same_data:
        notes.insert(0, f"stand-in; paper: {published['dataset']}")
    if values and status != "ok":
        notes.insert(0, f"run {status}")
    more = lost.get((first.get("notebook"), first.get("settings")), 0) if values and first.get("settings") else 0
    lost_here = status != "ok"  # a lost run's own numbers: it is not one *more*
    if more and not lost_here:
        notes.append(f"{more} more {'seed' if more == 1 else 'seeds'} lost")
    value = math.nan if published is None else float(published["value"])
    return {
        **{key: first[key] for key in KEY},
        "protocol": first.get("protocol", ""),
        "paper": value,
        "ours": ours,
        "std": std,
        "n": min(counts) if counts else None,
        "seeds": k if values else 0,
        "gap": ours - value if comparable else math.nan,
        "comparable": comparable,
        "notebook": first.get("notebook", ""),
        "paper_std": math.nan if published is None else float(published["std"]),
        "spread": spread,
        "status": status,
        "runs": ", ".join(dict.fromkeys(str(row["run"]) for row in group if row.get("run"))),
        "note": "; ".join(notes),
        "source": "" if published is None else published["source"],
    }


def _keys(row: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """The keys under which a row's published number may stand: its own data set, then those it stands in for."""
    sets = (row["dataset"], *STAND_INS.get(row["dataset"], ()))
    return [(_experiment(row["experiment"]), row["model"], name, row["metric"]) for name in sets]


def _experiment(name: str) -> str:
    """A name without a notebook's leading number."""
    return re.sub(r"^\d+_", "", name)


def _published(row: Mapping[str, Any], paper: pd.DataFrame) -> tuple[dict | None, bool]:
    """(the published number for a row or None, whether it was measured on the row's own data set)."""
    for i, key in enumerate(_keys(row)):
        found = paper[(paper[KEY] == list(key)).all(axis=1)]
        if len(found):
            return found.iloc[0].to_dict(), i == 0
    return None, False


def _settings(config: Any) -> Any:
    """`config` without what differs between repetitions of one experiment."""
    if isinstance(config, Mapping):
        return {k: _settings(v) for k, v in config.items() if k not in _PER_RUN}
    return config


def _failed(run: str, reason: str) -> dict:
    return {"run": run, "notebook": "", "status": "failed", "rows": [], "config": {}, "dataset": {}, "reason": reason}


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _is_comparison(table: pd.DataFrame) -> bool:
    return list(table.columns) == [*COLUMNS, *EXTRA_COLUMNS]


def _kind(line: Mapping[str, Any]) -> str:
    if line["status"] != "ok":
        return "lost"
    if pd.isna(line["comparable"]):
        return ""
    if not line["comparable"]:
        return "other"
    spread = sum(s for s in (line["std"], line["paper_std"]) if math.isfinite(s))
    return "miss" if abs(line["gap"]) > spread else ""


def _number(value: float) -> str:
    """Four significant digits, or all digits before the point if there are more."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    if digits > 7:
        return f"{value:.3g}"
    return f"{value:.{digits}f}"


def _value(value: float, std: float) -> str:
    if not (math.isfinite(value) and math.isfinite(std)):
        return _number(value)
    return f"{_number(value)} ± " + (f"{std:.0f}" if std >= 100 else f"{std:.2g}")


def _printed(value: float, std: float) -> str:
    """A published value with all its digits."""
    return " ± ".join(f"{v:.10g}" for v in (value, std) if math.isfinite(v)) or "–"


def _ours(line: Mapping[str, Any]) -> str:
    if not math.isfinite(line["ours"]):
        return line["status"] if line["status"] != "ok" else "–"
    seeds = f" ({line['seeds']} seeds)" if line["seeds"] > 1 else ""
    return _value(line["ours"], line["std"]) + seeds


def _gap(gap: float) -> str:
    return "–" if not math.isfinite(gap) else ("+" if gap > 0 else "") + _number(gap).replace("-", "−")


def _count(n: Any) -> str:
    return "" if n is None or pd.isna(n) else f"n = {int(n):,}"


def _joined(protocol: str, count: str) -> str:
    return f"{protocol} ({count})" if protocol and count else protocol or count or "–"
