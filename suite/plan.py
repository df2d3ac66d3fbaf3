"""Profiles: which notebooks run with which parameters, and what each run needs first; and the recipes they name.

A profile is one YAML file (config/*.yaml, or the user's own) with the keys of `Plan`, whose `runs` have those of `RunSpec`.
The run `summary` (99_summary) is not written down; it ends every profile. Everything is checked before the first run.
"""

import ast
import contextlib
import functools
import graphlib
import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from suite import params as parameters
from suite.params import GIVEN, ROOT

SUMMARY, SUMMARY_NOTEBOOK = "summary", "99_summary"
RECIPES = ROOT / "config" / "recipes.yaml"
_KINDS = {kind.__name__: kind for kind in (int, float, bool, str, list, dict)}
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$", max_length=80)]
Minutes = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class PlanError(ValueError):
    """A profile that cannot be run; the message names the file, the place and the valid choices."""


class _Timed(BaseModel):
    """What takes `time` minutes, on one GPU (`gpu`) or on 2 CPU cores."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    minutes: Minutes | None = None  # on 2 CPU cores
    gpu_minutes: Minutes | None = None  # instead: on one GPU
    gpu = property(lambda self: self.gpu_minutes is not None)
    time = property(lambda self: self.gpu_minutes or self.minutes)

    @model_validator(mode="after")
    def _one_kind_of_minutes(self) -> Any:
        if (self.minutes is None) == (self.gpu_minutes is None):
            raise ValueError("give minutes (on 2 CPU cores) or gpu_minutes (on one GPU), one of them")
        return self


class RunSpec(_Timed):
    notebook: Annotated[str, StringConstraints(pattern=r"^\w[\w-]*$")]  # its stem
    needs: list[str] = []  # runs of this profile that come first
    params: dict[str, Any] = {}


class Plan(_Timed):
    profile: Name  # also the folder under results/
    about: str  # one line
    runs: dict[Name, RunSpec] = Field(min_length=1)  # from `read`: each after what it needs
    threads: int | None = Field(default=None, ge=1)  # cores of one run, so that runs go side by side; None: all cores

    def minutes_of(self, names: Iterable[str]) -> float:
        """About how long the runs `names` take: two go side by side on 2 cores, where each takes one."""
        each = [self.runs[name].time for name in names]
        return max([sum(each) / (2 if self.threads == 1 and not self.gpu else 1), *each])

    def closure(self, names: Iterable[str]) -> list[str]:
        """`names` and everything they need, in the order of `runs`. PlanError on a name that is no run."""
        wanted = set(names)
        for name in wanted - self.runs.keys():
            known = ", ".join([*self.runs, SUMMARY])
            raise PlanError(f"profile {self.profile} has no run {name!r}; its runs are: {known}")
        for name in reversed(self.runs):
            wanted.update(self.runs[name].needs if name in wanted else ())
        return [name for name in self.runs if name in wanted]


class _Loader(yaml.SafeLoader):
    """YAML without its two traps: a doubled key is an error, and 2e-4 is a number."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise ValueError(f"line {key.start_mark.line + 1}: {key.value!r} is there twice")
            seen.add(key.value)
        return node


_2E_4 = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _2E_4, list("-+0123456789"))


def _load(path: Path) -> Any:
    try:
        if path.exists() and not path.is_file():
            raise OSError("not a plain file")  # opening a fifo would wait for ever
        with open(path, encoding="utf-8") as file:
            return yaml.load(file, _Loader)
    except (OSError, ValueError, yaml.YAMLError, TypeError, RecursionError) as error:
        raise PlanError(f"{path}: {' '.join(str(error).split())}") from error


def read(path: str | os.PathLike) -> Plan:
    """The profile in the YAML file `path`, its own structure checked (`check` does the notebooks). Raises PlanError."""
    path = Path(path)
    try:
        plan = Plan.model_validate(_load(path))
    except ValidationError as error:
        told = parameters.told(error, lambda place: (RunSpec if place.startswith("runs.") else Plan).model_fields)
        raise PlanError(f"{path}: {told}") from None
    for name, spec in plan.runs.items():
        where = f"{path}: run {name}"
        if name == SUMMARY:
            raise PlanError(f"{where}: every profile ends with it; take another name")
        if given := spec.params.keys() & GIVEN:
            raise PlanError(f"{where}: the runner sets {', '.join(given)}; a profile must not")
        if strange := [need for need in spec.needs if need not in plan.runs]:
            raise PlanError(f"{where}: needs {strange[0]!r}, which is none of: {', '.join(plan.runs)}")
    try:
        order = list(graphlib.TopologicalSorter({name: spec.needs for name, spec in plan.runs.items()}).static_order())
    except graphlib.CycleError as error:
        raise PlanError(f"{path}: runs need each other in a circle: {' -> '.join(reversed(error.args[1]))}") from None
    return plan.model_copy(update={"runs": {name: plan.runs[name] for name in order}})


def recipe(name: str) -> dict[str, Any]:
    """The settings that config/recipes.yaml has under `name`, those that it builds on included. Raises PlanError."""
    return resolve({"recipe": name})


def resolve(settings: dict[str, Any], trail: tuple[str, ...] = ()) -> dict[str, Any]:
    """`settings` with `recipe: NAME`, at any depth, replaced by that recipe's settings, over which the others count."""
    settings = {key: resolve(value, trail) if isinstance(value, dict) else value for key, value in settings.items()}
    if "recipe" not in settings:
        return settings
    name, known = settings.pop("recipe"), _recipes(RECIPES, RECIPES.stat().st_mtime_ns)
    if not isinstance(name, str) or name not in known:
        raise PlanError(f"{RECIPES.name} has no recipe {name!r}; it has: {', '.join(known)}")
    if name in trail:
        raise PlanError(f"{RECIPES.name}: recipes build on each other in a circle: {' -> '.join([*trail, name])}")
    return resolve(known[name], (*trail, name)) | settings


@functools.lru_cache(maxsize=1)
def _recipes(path: Path, changed: int) -> dict[str, dict[str, Any]]:
    known = _load(path)
    if not isinstance(known, dict) or not all(isinstance(settings, dict) for settings in known.values()):
        raise PlanError(f"{path}: must map names to mappings of settings")
    return known


class Notebook(NamedTuple):
    """What the runner knows of a notebook."""

    path: Path
    code: list[str]  # of its cells
    kinds: dict[str, Any]  # name -> type, and name -> value, as its parameter cell declares them
    defaults: dict[str, Any]


def notebook(path: Path) -> Notebook:
    """The notebook at `path`, read without running it. PlanError unless it has one parameter cell of typed literals."""
    if not path.is_file():
        others = sorted(other.stem for other in path.parent.glob("*.ipynb"))
        raise PlanError(f"there is no notebook {path}; in that folder: {', '.join(others) or 'none'}")
    try:
        cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
        code = ["".join(cell["source"]) for cell in cells]
        tagged = [text for text, cell in zip(code, cells, strict=True) if "parameters" in cell["metadata"].get("tags", ())]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(f"{path} is no notebook: {type(error).__name__}: {error}") from None
    if len(tagged) != 1:
        raise PlanError(f"{path} has {len(tagged)} cells with the tag `parameters`; it needs one")
    kinds, defaults = {}, {}
    try:
        for node in ast.parse(tagged[0]).body:
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                raise ValueError("is not `name: type = literal`")
            name = node.target.id
            kinds[name] = eval(ast.unparse(node.annotation), {"__builtins__": {}}, _KINDS)
            defaults[name] = ast.literal_eval(node.value)
    except (SyntaxError, ValueError, NameError, TypeError) as error:
        line = getattr(error, "lineno", None) or node.lineno
        raise PlanError(f"{path}, parameter cell, line {line}: {error}") from None
    return Notebook(path, code, kinds, defaults)


def notebooks_of(plan: Plan, folder: Path) -> dict[str, Notebook]:
    """run -> its notebook in `folder`, for every run of `plan` and the summary."""
    stems = {name: spec.notebook for name, spec in plan.runs.items()} | {SUMMARY: SUMMARY_NOTEBOOK}
    read = {stem: notebook(folder / f"{stem}.ipynb") for stem in sorted(set(stems.values()))}
    for book in read.values():
        if "out_dir" not in book.kinds:
            raise PlanError(f"{book.path} does not declare out_dir, which the runner sets")
    return {name: read[stem] for name, stem in stems.items()}


def check(plan: Plan, notebooks: dict[str, Notebook], path: Path, *, settings: bool) -> dict[str, str]:
    """run -> fingerprint: 16 hex digits of its parameters, recipes resolved, the state of one's own images where it reads
    such, its notebook's code, and the fingerprints of what it needs. ParameterError or PlanError, naming `path` (the
    profile's file) and the run, where a parameter does not fit its notebook, or a model is asked of a run that is not
    needed. settings: see `suite.params.check`."""
    prints: dict[str, str] = {}
    for name, spec in plan.runs.items():
        where, book = f"{path}: run {name}", notebooks[name]
        checked = parameters.check(book.kinds, book.defaults | spec.params, where, settings=settings).model_dump()
        for label, source in (checked.get("from_runs") or {}).items():
            if source.partition(":")[0] not in spec.needs:
                needs = ", ".join(spec.needs) or "it has none"
                raise PlanError(f"{where}: from_runs.{label}: {source!r} is none of the run's needs: {needs}")
        values = {key: value for key, value in checked.items() if key not in GIVEN}
        needs, images = [prints[need] for need in spec.needs], _own(values.get("dataset"))
        prints[name] = _digest(values, book.code, needs, *images)
    return prints


def summary_print(folder: Path, book: Notebook, runs: Iterable[str]) -> str:
    """The summary's fingerprint: what is in the results of `runs` below the profile's `folder`, and its notebook's code."""
    files = [folder / run / name for run in runs for name in ("metrics.json", ".new/metrics.json", ".new/notebook.ipynb")]
    return _digest([hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "" for file in files], book.code)


def given(plan: Plan, name: str, results: str, book: Notebook) -> dict[str, Any]:
    """What run `name` of `plan` (or the summary) gives its notebook: the profile's parameters, and GIVEN where `book`
    declares them. results: the folder of all results as the notebook shall see it."""
    folder, spec = f"{results}/{plan.profile}", plan.runs.get(name)
    own = {"out_dir": f"{folder}/{name}", "results_dir": folder}
    own["needs"] = {need: f"{folder}/{need}" for need in (spec.needs if spec else ())}
    return (spec.params if spec else {}) | {key: value for key, value in own.items() if key in book.kinds}


def _own(dataset: Any) -> list[str]:
    """The key of one's own images, another one where a file of them has changed; nothing for a named set or without any."""
    from agelib.data import DataError, own

    kind, _, path = str(dataset).partition(":")
    with contextlib.suppress(DataError):  # which the notebook will say
        return [own.key(kind, ROOT / os.path.expanduser(path))] if kind in own.OPEN else []
    return []


def _digest(*content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def duration(minutes: float) -> str:
    """`minutes` for readers."""
    if minutes < 1:
        return f"{round(minutes * 60)} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
