"""Rows for metrics.json, made and looked up in one way by the modules of all notebooks."""

from collections.abc import Mapping
from typing import Any

import numpy as np

Rows = list[dict[str, Any]]


def make(model: str, found: Mapping[str, Any], protocol: str = "", n: int | None = None, **more: Any) -> Rows:
    """A row for each metric of `found`, whose value is a number, (value, std), an array of values, which stand in the row as
    their mean and deviation (1/N), or None for a model that was lost. more: further columns, the same in all."""
    rows = []
    for metric, value in found.items():
        value = (value.mean(), value.std()) if isinstance(value, np.ndarray) else value
        value, std = value if isinstance(value, tuple) else (value, None)
        rows.append({"model": model, "metric": metric, "value": value, "std": std, "n": n, "protocol": protocol} | more)
    return rows


def of(rows: Rows, metric: str) -> dict[str, dict]:
    """model -> its row of `metric`, where that has a value."""
    return {row["model"]: row for row in rows if row["metric"] == metric and row["value"] is not None}


def values(rows: Rows, metric: str) -> dict[str, float]:
    """model -> its value of `metric`, where it has one."""
    return {model: row["value"] for model, row in of(rows, metric).items()}


def told(row: Mapping[str, Any], digits: int = 2) -> str:
    """Value and deviation of a row."""
    return f"{row['value']:.{digits}f} ± {row['std']:.{digits}f}"


def differences(complete: bool, *sizes: tuple[int, int, str]) -> str:
    """What keeps a number from the published protocol, in words; empty if nothing does. complete: whether the data are those
    of the published numbers, whole; sizes: (ours, published, of what)."""
    found = [] if complete else ["other or incomplete data"]
    return "; ".join(found + [f"{ours:,} {what} instead of {theirs:,}" for ours, theirs, what in sizes if ours != theirs])
