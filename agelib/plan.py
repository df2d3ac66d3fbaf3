"""Profiles: which notebooks run with which parameters, and what each run needs first.

A profile is one YAML file (config/*.yaml, or the user's own):

    profile: quick            # also the folder under results/
    about: one line
    minutes: 30               # the whole profile on 2 CPU cores; gpu_minutes instead: on one GPU
    threads: 1                # processor cores for one run, so that runs go side by side; without it a run takes them all
    runs:
      digits:
        notebook: 01_unconditional
        minutes: 4            # this run; gpu_minutes instead: on one GPU
        needs: []             # runs of this profile that come first
        params: {dataset: digits, seed: 0}

Everything is checked before the first run starts: an unknown or doubled key, a parameter that the notebook does not
declare, a need that does not exist, a circle of needs. The run `summary` (99_summary) is not written down; it ends
every profile.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SUMMARY = "summary"
SUMMARY_NOTEBOOK = "99_summary"
GIVEN = ("out_dir", "profile", "run_name", "needs", "results_dir")  # parameters that the runner sets, never a profile
_NAME = re.compile(r"[a-z][a-z0-9_-]*")


class PlanError(ValueError):
    """A profile that cannot be run; the message names the file, the place and the valid choices."""


@dataclass(frozen=True)
class RunSpec:
    """One run: `notebook` (its stem) with `params`, after the runs named in `needs`.

    `minutes` are on 2 CPU cores, or on one GPU if `gpu`.
    """

    name: str
    notebook: str
    minutes: float
    gpu: bool
    needs: tuple[str, ...]
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """One profile. `runs` is in an order in which every run comes after what it needs, `summary` excluded.

    `threads`: processor cores of one run; None: all there are, one run after the other.
    """

    name: str
    about: str
    path: Path
    minutes: float
    gpu: bool
    runs: Mapping[str, RunSpec]
    threads: int | None = None

    def minutes_of(self, names: Iterable[str]) -> float:
        """About how long the runs `names` take, on 2 CPU cores or one GPU."""
        each = [self.runs[name].minutes for name in names]
        side_by_side = 2 if self.threads == 1 and not self.gpu else 1
        return max([sum(each) / side_by_side, *each])

    def closure(self, names: Iterable[str]) -> list[str]:
        """`names` and everything they need, in the order of `runs`. PlanError on a name that is no run."""
        wanted, left = set(), list(names)
        while left:
            name = left.pop()
            if name not in self.runs:
                known = ", ".join([*self.runs, SUMMARY])
                raise PlanError(f"profile {self.name} has no run {name!r}; its runs are: {known}")
            wanted.add(name)
            left += [need for need in self.runs[name].needs if need not in wanted]
        return [name for name in self.runs if name in wanted]


class _Loader(yaml.SafeLoader):
    """YAML without its two traps: a doubled key is an error, and 2e-4 is a number."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise PlanError(f"{self.name}, line {key.start_mark.line + 1}: {key.value!r} is there twice")
            seen.add(key.value)
        return node


_FLOAT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


def read(path: str | os.PathLike) -> Plan:
    """The profile in the YAML file `path`, its own structure checked (`check` does the notebooks). Raises PlanError."""
    path = Path(path)
    try:
        with open(path, encoding="utf-8") as file:
            loader = _Loader(file)
            try:
                raw = loader.get_single_data()
            finally:
                loader.dispose()
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PlanError(f"{path}: {error}") from error
    _keys(raw, {"profile": str, "about": str, "runs": dict}, {"threads": int}, str(path))
    if (threads := raw.get("threads")) is not None and (isinstance(threads, bool) or threads < 1):
        raise PlanError(f"{path}: threads must be at least 1, is {threads!r}")
    minutes, gpu = _duration(raw, str(path))
    if not _NAME.fullmatch(raw["profile"]):
        raise PlanError(f"{path}: profile: {raw['profile']!r} does not fit {_NAME.pattern}")
    if not raw["runs"]:
        raise PlanError(f"{path}: runs: there is no run")
    specs = {}
    for name, entry in raw["runs"].items():
        where = f"{path}: run {name}"
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name == SUMMARY:
            raise PlanError(f"{where}: a run's name fits {_NAME.pattern} and is not {SUMMARY!r}")
        _keys(entry, {"notebook": str}, {"needs": list, "params": dict}, where)
        params = entry.get("params", {})
        given = [str(key) for key in params if key in GIVEN]
        if given:
            raise PlanError(f"{where}: the runner sets {', '.join(given)}; a profile must not")
        specs[name] = RunSpec(name, entry["notebook"], *_duration(entry, where), tuple(entry.get("needs", ())), params)
    for spec in specs.values():
        for need in spec.needs:
            if need not in specs:
                raise PlanError(f"{path}: run {spec.name}: needs {need!r}, which is none of: {', '.join(specs)}")
    return Plan(raw["profile"], raw["about"], path, minutes, gpu, _sorted(specs, path), threads)


def _keys(entry: Any, required: dict[str, type], optional: dict[str, type], where: str) -> None:
    """PlanError unless `entry` is a mapping with these keys and types (and `minutes` or `gpu_minutes`)."""
    if not isinstance(entry, dict):
        raise PlanError(f"{where}: must be a mapping, is {type(entry).__name__}")
    known = required | optional | {"minutes": object, "gpu_minutes": object}
    for key in entry:
        if key not in known:
            raise PlanError(f"{where}: unknown key {key!r}; valid: {', '.join(known)}")
        if not isinstance(entry[key], known[key]):
            raise PlanError(f"{where}: {key} must be a {known[key].__name__}, is {entry[key]!r}")
    for key in required:
        if key not in entry:
            raise PlanError(f"{where}: {key} is missing")


def _duration(entry: dict, where: str) -> tuple[float, bool]:
    """(minutes, on a GPU?) of a profile or a run."""
    found = [key for key in ("minutes", "gpu_minutes") if key in entry]
    if len(found) != 1:
        raise PlanError(f"{where}: give minutes (on 2 CPU cores) or gpu_minutes (on one GPU), one of them")
    value = entry[found[0]]
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise PlanError(f"{where}: {found[0]} must be a number above 0, is {value!r}")
    return float(value), found[0] == "gpu_minutes"


def _sorted(specs: dict[str, RunSpec], path: Path) -> dict[str, RunSpec]:
    """`specs` with every run after its needs, otherwise in the order of the file. PlanError on a circle, naming it."""
    done: dict[str, RunSpec] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            circle = " -> ".join([*trail[trail.index(name) :], name])
            raise PlanError(f"{path}: runs need each other in a circle: {circle}")
        if name not in done:
            for need in specs[name].needs:
                visit(need, (*trail, name))
            done[name] = specs[name]

    for name in specs:
        visit(name, ())
    return done


def declared(notebook: Path) -> set[str]:
    """The names that the notebook's parameters cell declares. PlanError without such a notebook or such a cell."""
    import nbformat  # these take half a second to import: only where a notebook is read
    from papermill import inspect_notebook

    if not notebook.is_file():
        others = sorted(path.stem for path in notebook.parent.glob("*.ipynb"))
        raise PlanError(f"there is no notebook {notebook}; in that folder: {', '.join(others) or 'none'}")
    cells = nbformat.read(notebook, as_version=4).cells
    if not any("parameters" in cell.metadata.get("tags", []) for cell in cells):
        raise PlanError(f"{notebook} has no cell with the tag `parameters`")
    return set(inspect_notebook(str(notebook)))


def check(plan: Plan, notebooks: Path) -> None:
    """PlanError unless every run's notebook is in the folder `notebooks` and declares all that it will be given."""
    stems = {spec.notebook for spec in plan.runs.values()} | {SUMMARY_NOTEBOOK}
    known = {stem: declared(notebooks / f"{stem}.ipynb") for stem in sorted(stems)}
    for spec in plan.runs.values():
        for key in spec.params:
            if key not in known[spec.notebook]:
                valid = ", ".join(sorted(known[spec.notebook] - set(GIVEN)))
                where = f"{plan.path}: run {spec.name}"
                raise PlanError(f"{where}: notebook {spec.notebook} has no parameter {key!r}; valid: {valid}")
    for stem, names in known.items():
        lacking = {"out_dir", "profile", "run_name"} - names
        if lacking:
            raise PlanError(
                f"{notebooks / stem}.ipynb does not declare {', '.join(sorted(lacking))}, which the runner sets"
            )


def parameters(plan: Plan, name: str, results: str, notebook: Path) -> dict[str, Any]:
    """What run `name` of `plan` (or the summary) gives its notebook: the profile's parameters and the runner's own.

    `results` is the folder of all results as the notebook shall see it; `<results>/<profile>/<run>` is the run's own.
    """
    folder = f"{results}/{plan.name}"
    needs = plan.runs[name].needs if name in plan.runs else ()
    given = {"out_dir": f"{folder}/{name}", "profile": plan.name, "run_name": name, "results_dir": folder}
    given["needs"] = {need: f"{folder}/{need}" for need in needs}
    names = declared(notebook)
    params = dict(plan.runs[name].params) if name in plan.runs else {}
    return params | {key: value for key, value in given.items() if key in names}
