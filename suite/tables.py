"""Tables: our numbers beside the published ones, with the protocol, the spread and the number of seeds.

A *row* is a dict as in metrics.json (`_Row`). A miss stays in the table; a number measured on other data or by another
protocol than the published one is marked not comparable and gets no gap; a run that diverged or failed has a row that says
so; equal settings with several seeds become one row.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import HTML
from pydantic import BaseModel, ValidationError

from suite import params

KEY = ["experiment", "model", "dataset", "metric"]
PAPER_COLUMNS = [*KEY, "protocol", "value", "std", "source"]
COLUMNS = [*KEY, "protocol", "paper", "ours", "std", "n", "seeds", "gap", "comparable", "notebook"]
COLUMNS += ["paper_std", "spread", "status", "runs", "note", "source"]
NUMBERS = ["paper", "ours", "std", "gap", "paper_std"]  # NaN where there is none
FIELDS = {"protocol": "", "notebook": "", "settings": "", "status": "ok", "run": "", "note": ""}  # what they are if absent
STAND_INS = {  # embedded set -> the published sets whose numbers are printed beside it, marked as not comparable
    "digits": ("mnist",), "house_numbers": ("svhn",), "patches": ("cifar10", "tiny_imagenet"), "faces": ("celeba",),
    "cars": ("stanford_cars",),
}  # fmt: skip
# Settings in which runs of one experiment may differ and still be repetitions of each other.
_PER_RUN = {"seed", "out_dir", "run_name", "profile", "needs", "results_dir", "reference"}


def read_paper_numbers(path: str | Path) -> pd.DataFrame:
    """The published numbers in a CSV file with the columns of PAPER_COLUMNS.

    value: float, required; std: float or empty (the number printed after +-; `protocol` says what it is); all others text,
    `protocol` may be empty. Raises ValueError, naming file and line, for other columns, an empty field, a value that is no
    finite number, or two lines with the same experiment, model, dataset and metric.
    """
    try:
        paper = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if list(paper.columns) != PAPER_COLUMNS:
        raise ValueError(f"{path}: need the columns {', '.join(PAPER_COLUMNS)}, got {', '.join(paper.columns)}")
    numbers = paper[["value", "std"]].apply(pd.to_numeric, errors="coerce")
    for i, row in paper.iterrows():
        wrong = [f"{c} is empty" for c in (*KEY, "value", "source") if not row[c].strip()]
        wrong += [f"{c} is no finite number: {row[c]!r}" for c in numbers if row[c] and not math.isfinite(numbers.loc[i, c])]
        if wrong:
            raise ValueError(f"{path}, number {i + 1} ({row['model']}, {row['metric']}): {', '.join(wrong)}")
    if len(twice := paper[paper.duplicated(KEY)]):
        raise ValueError(f"{path}: there twice: {', '.join(twice[KEY].iloc[0])}")
    return paper.assign(**numbers)


def collect(results_dir: str | Path, skip: Sequence[str] = ("summary",)) -> list[dict]:
    """The metrics.json of every run folder in `results_dir`, by folder name; `skip` names folders to leave out.

    Where a later attempt did not come to its end, `later` says so, or, without results of an earlier one, what the attempt
    left is the run's, "failed" or "diverged". Other folders are not runs. Raises FileNotFoundError without `results_dir`.
    """
    found = []
    for folder in sorted(p for p in Path(results_dir).iterdir() if p.is_dir() and p.name not in skip):
        metrics = _metrics(folder / "metrics.json")
        if metrics is None and any((folder / name).exists() for name in (".new", "notebook.ipynb", "config.json")):
            metrics = _metrics(folder / ".new" / "metrics.json") or _failed("stopped before it wrote any numbers")
        elif metrics is not None and (folder / ".new").exists():
            metrics["later"] = "these are the results of before: a later attempt did not come to its end"
        if metrics is not None:
            found.append({"status": "ok", **metrics, "run": folder.name})
    return found


def rows_of(collected: Iterable[Mapping[str, Any]]) -> list[dict]:
    """All rows of `collect`'s answer for `compare`: each with its run, notebook, status and settings; a run that is not
    "ok" adds a row without a value that says so."""
    rows = []
    for metrics in collected:
        config, shared = metrics.get("config") or {}, {"run": metrics["run"], "notebook": metrics.get("notebook") or ""}
        shared |= {"status": metrics["status"], "settings": json.dumps(_settings(config), sort_keys=True, default=str)}
        rows += [{**row, **shared} for row in metrics["rows"]]
        if shared["status"] != "ok":
            what = {"experiment": experiment(shared["notebook"]), "model": "", "value": None, "seed": config.get("seed")}
            what |= {"dataset": metrics.get("dataset", {}).get("name", ""), "metric": f"run {shared['status']}"}
            rows.append(shared | what | {"note": metrics.get("reason") or ""})
    return rows


def compare(rows: Iterable[Mapping[str, Any]], paper: pd.DataFrame) -> pd.DataFrame:
    """One line for each measured quantity, ours beside the published number (columns COLUMNS).

    rows: of one run as given to Run.save_metrics, or of many through `rows_of`. paper: from `read_paper_numbers`. They are
    joined on KEY, a stand-in with the set it stands in for, never as comparable.
    ours, std: for several seeds, mean and sample standard deviation (1/(k-1)) over them; for one, the row's own; `spread`
        says which. Only rows with equal settings and status are averaged, and only if no seed occurs twice among them.
    n: images (or whatever the protocol counts) of one run, the least of them if they differ. seeds: runs behind `ours`.
    gap: ours - paper where comparable, else NaN. comparable: True, False, or None where nothing is published. note: the
        rows' notes, and how many more seeds of the same settings were lost.
    """
    columns = [*KEY, *FIELDS, "value", "std", "n", "seed", "comparable"]
    frame = pd.DataFrame([FIELDS | dict(row) for row in rows], columns=columns)
    frame = frame.astype({"value": float, "std": float, "n": float}).fillna({"comparable": False} | FIELDS)
    lost = frame["value"].isna() & (frame["status"] != "ok")
    n_lost = frame[lost].groupby(["notebook", "settings"]).size()
    equal = [*KEY, "protocol", "notebook", "settings", "status"]
    # A lost run is never merged with another, nor are rows of which two have one seed.
    twice = frame.assign(seed=frame["seed"].astype(str)).duplicated([*equal, "seed"])
    twice = twice.groupby([frame[c] for c in equal]).transform("any")
    frame["apart"] = frame["run"].where(lost, "").where(~twice, frame.index.astype(str))
    published = paper.set_index(KEY)[["value", "std", "source"]].to_dict("index")
    lines = []
    for _, group in frame.groupby([*equal, "apart"], sort=False):
        line, values = group.iloc[0].to_dict(), group["value"].dropna()
        (own, *others), seeds, good = _keys(line), len(values), line["status"] == "ok"
        key = next((key for key in (own, *others) if key in published), None)
        there = published.get(key, {"value": math.nan, "std": math.nan, "source": ""})
        more = n_lost.get((line["notebook"], line["settings"]), 0) if seeds and good and line["settings"] else 0
        notes = [
            f"run {line['status']}" if seeds and not good else "",
            f"stand-in; paper: {key[2]}" if key not in (None, own) else "",
            *group["note"],
            f"{more} more {'seed' if more == 1 else 'seeds'} lost" if more else "",
        ]
        line |= {"paper": there["value"], "paper_std": there["std"], "source": there["source"], "ours": values.mean()}
        line |= {"seeds": seeds, "n": None if math.isnan(n := group["n"].min()) else n}
        line["std"] = values.std() if seeds > 1 else line["std"]
        line["spread"] = f"over {seeds} seeds" if seeds > 1 else "" if math.isnan(line["std"]) else "within the run"
        line["comparable"] = None if key is None else key == own and seeds > 0 and bool(group["comparable"].all())
        line["gap"] = line["ours"] - line["paper"] if line["comparable"] else math.nan
        lines.append(line | {"runs": _joined(group["run"], ", "), "note": _joined(notes, "; ")})
    return pd.DataFrame(lines, columns=COLUMNS, dtype=object).astype(dict.fromkeys(NUMBERS, float) | {"seeds": int})


def not_measured(rows: Iterable[Mapping[str, Any]], paper: pd.DataFrame) -> pd.DataFrame:
    """The published numbers beside which `compare(rows, paper)` has nothing, with the columns of `paper`."""
    measured = {key for row in rows if row.get("value") is not None for key in _keys(row)}
    return paper[[tuple(line) not in measured for line in paper[KEY].itertuples(index=False)]].reset_index(drop=True)


def published(paper: pd.DataFrame) -> pd.DataFrame:
    """Published numbers as text for readers: value and printed spread in one cell, then protocol and source."""
    text = paper.assign(metric=paper["metric"].str.replace("_", " "), paper=[*map(_printed, paper["value"], paper["std"])])
    return text[[*KEY, "paper", "protocol", "source"]].rename(columns={"dataset": "data set"})


def pretty(table: pd.DataFrame) -> pd.DataFrame:
    """A `compare` table as text for readers: value and spread in one cell, a dash where there is nothing."""
    lines = [line | _cells(line) for line in table.to_dict("records")]
    return pd.DataFrame(lines, columns=[*KEY, *_CELLS, "note"]).rename(columns={"dataset": "data set"})


def to_html(table: pd.DataFrame) -> HTML:
    """A `compare` table (or any table of text) as an HTML <table>; rows carry the class miss, other or lost.

    miss: comparable, and |gap| larger than the two spreads together. other: not comparable. lost: a run that did not
        end well.
    """
    compared = list(table.columns) == COLUMNS
    text = pretty(table) if compared else table.astype(str)
    kinds = iter([_kind(line) for line in table.to_dict("records")] if compared else [""] * len(table))
    with pd.option_context("display.max_colwidth", None):
        html = text.to_html(index=False, border=0, justify="left", classes="numbers compared" if compared else "numbers")
    # Text is escaped, so these tags are the table's own; notebooks would align its cells to the right.
    html = html.replace("<td>", '<td style="text-align: left">')
    return HTML(re.sub("<tr>", lambda _: f'<tr class="{kind}">' if (kind := next(kinds)) else "<tr>", html))


def experiment(name: str) -> str:
    """The name of a notebook, or of an experiment, without a leading number."""
    return re.sub(r"^\d+_", "", name)


class _Row(BaseModel):
    experiment: str
    model: str
    dataset: str
    metric: str
    value: float | None
    std: float | None = None
    n: float | None = None
    protocol: str = ""
    comparable: bool = False
    note: str | None = None


class _Metrics(BaseModel):
    rows: list[_Row]
    notebook: str | None = None
    status: str = "ok"
    reason: str | None = None
    config: dict[str, Any] = {}
    dataset: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    wall_time_s: float | None = None
    training_seconds: float | None = None


def _metrics(path: Path) -> dict | None:
    """What metrics.json at `path` holds, None if it is not there; a damaged one is a failed run."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("not a plain file")  # opening a fifo would wait for ever
        content = json.loads(path.read_text(encoding="utf-8"))
        _Metrics.model_validate(content, strict=True)
        return content
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        what = params.told(error, lambda _: ()) if isinstance(error, ValidationError) else error
        return _failed(f"metrics.json is damaged: {what}")


def _failed(reason: str) -> dict:
    return {"notebook": "", "status": "failed", "rows": [], "config": {}, "dataset": {}, "reason": reason}


def _joined(texts: Iterable[str], by: str) -> str:
    return by.join(dict.fromkeys(filter(None, texts)))


def _keys(row: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """The keys under which a row's published number may stand: its own data set, then those it stands in for."""
    sets = (row["dataset"], *STAND_INS.get(row["dataset"], ()))
    return [(experiment(row["experiment"]), row["model"], name, row["metric"]) for name in sets]


def _settings(config: Any) -> Any:
    """`config` without what differs between repetitions of one experiment."""
    if not isinstance(config, Mapping):
        return config
    return {k: _settings(v) for k, v in config.items() if k not in _PER_RUN}


def _kind(line: Mapping[str, Any]) -> str:
    if line["status"] != "ok":
        return "lost"
    if not line["comparable"]:
        return "" if line["comparable"] is None else "other"
    return "miss" if abs(line["gap"]) > sum(s for s in (line["std"], line["paper_std"]) if math.isfinite(s)) else ""


_CELLS = ("protocol (n)", "paper", "ours", "gap", "comparable", "notebook: runs")


def _cells(line: Mapping[str, Any]) -> dict[str, str]:
    """A line's `_CELLS`, and its metric without underscores."""
    count = "" if line["n"] is None else f"n = {int(line['n']):,}"
    protocol = f"{line['protocol']} ({count})" if line["protocol"] and count else line["protocol"] or count or "–"
    value, std = line["ours"], line["std"]
    ours = line["status"] if line["status"] != "ok" else "–"
    if math.isfinite(value):
        ours = _number(value) + (f" ± {std:.0f}" if std >= 100 else f" ± {std:.2g}" if math.isfinite(std) else "")
        ours += f" ({line['seeds']} seeds)" if line["seeds"] > 1 else ""
    gap = ("+" if line["gap"] > 0 else "") + _number(line["gap"]).replace("-", "−")
    comparable = {None: "–", True: "yes", False: "no"}[line["comparable"]]
    origin = _joined((line["notebook"], line["runs"]), ": ")
    cells = (protocol, _printed(line["paper"], line["paper_std"]), ours, gap, comparable, origin)
    return {"metric": line["metric"].replace("_", " "), **dict(zip(_CELLS, cells, strict=True))}


def _number(value: float) -> str:
    """Four significant digits, or all digits before the point if there are more."""
    if not math.isfinite(value):
        return "–"
    digits = max(0, 3 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.3g}" if digits > 7 else f"{value:.{digits}f}"


def _printed(value: float, std: float) -> str:
    """A published value with all its digits."""
    return " ± ".join(f"{v:.10g}" for v in (value, std) if math.isfinite(v)) or "–"
