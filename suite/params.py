"""The parameters of a notebook, checked against the types that its own parameter cell declares.

That cell holds lines `name: type = literal  # unit, meaning` and nothing else; papermill puts a profile's values into the
cell after it, and only warns about names that are not declared. Types are made of int, float, bool, str, list, dict, None.
A `dict | str` is a model's settings: a dict, in which `recipe: NAME` stands for what config/recipes.yaml has under that
name, or the name alone. The keys of a `dict[str, ...]` are labels: of models, of runs.
"""

import math
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

ROOT = Path(__file__).resolve().parents[1]
GIVEN = ("out_dir", "needs", "results_dir")  # parameters that the runner sets, never a profile
PATHS = ("out_dir", "results_dir", "needs", "picture", "target", "question")  # parameters that hold files and folders
_LITERALS = (bool, int, float, str, list, dict, tuple, type(None))
_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)
_LABEL = re.compile(r"(?![. ])[^/\\:\x00-\x1f]{1,80}(?<![. ])")


class ParameterError(ValueError):
    """Parameters are unknown, missing, or of the wrong kind; the message lists each."""


def read(namespace: dict[str, Any]) -> BaseModel:
    """The declared parameters of a notebook, frozen, recipes resolved; call it in the cell after the parameters.

    namespace: `globals()`. On the first call in a kernel every public name that holds a plain literal counts as a parameter,
    so that an injected name which the cell does not declare is an error; later only the declared ones do, since other cells'
    variables are there too. Relative paths count from the repository's root, also where the kernel starts in notebooks/, as
    JupyterLab's does. Raises ParameterError.
    """
    declared = namespace.get("__annotations__", {})
    first, of_jupyter = "_parameters_read" not in namespace, ("In", "Out")
    public = {name for name in namespace if first and name[0] != "_" and name not in of_jupyter}
    values = {k: v for k, v in namespace.items() if k in declared or (k in public and isinstance(v, _LITERALS))}
    checked = check(declared, values)
    namespace["_parameters_read"] = True
    return checked.model_copy(update={name: from_root(getattr(checked, name)) for name in PATHS if name in declared})


def check(
    declared: dict[str, Any], values: dict[str, Any], where: str = "parameters", *, settings: bool = True
) -> BaseModel:
    """`values` as a frozen object, if they are all those that `declared` (name -> type) has and of these types.

    Kinds are strict (true is no number, 1.0 no whole one; an int will do for a float); whole numbers are counts, sizes or
    seeds, from 0 to 2**32 - 1; no number is nan or infinite, at any depth. settings: models' settings must also be such as
    their method's Config and Schedule take, which loads torch. Raises ParameterError beginning with `where`.
    """
    models: dict[str, dict] = {}
    try:
        kinds = create_model("Parameters", __config__=_STRICT, **{name: (kind, ...) for name, kind in declared.items()})
        checked = kinds(**values)
        settled = {name: _settled(getattr(checked, name), kind, name, models) for name, kind in declared.items()}
        for at, each in models.items() if settings else ():
            _try(each, at)
        return checked.model_copy(update=settled)
    except ValidationError as error:
        problem = told(error, lambda _: [name for name in declared if name not in GIVEN])
    except (ValueError, TypeError) as error:
        problem = str(error)
    raise ParameterError(f"{where}: {problem}")


def told(error: ValidationError, valid: Callable[[str], Iterable[str]]) -> str:
    """pydantic's errors in a line: each place, what is wrong there, the value. valid: place -> the names that would do."""
    lines = []
    for each in error.errors():
        place = ".".join(str(part) for part in each["loc"] if part != "[key]")
        if each["type"] == "extra_forbidden":
            lines.append(f"{place}: there is no such name; valid: {', '.join(valid(place))}")
        else:
            got = "" if each["type"] == "missing" else f" (got {each['input']!r})"[:80]
            lines.append(f"{place}: {each['msg'].removeprefix('Value error, ')}{got}".removeprefix(": "))
    return "; ".join(lines)


def label(name: str, at: str = "") -> str:
    """`name`, if it can be the last part of a path on every system; else ValueError, which begins with `at`."""
    if not isinstance(name, str) or not _LABEL.fullmatch(name):
        raise ValueError(f"{at}{name!r} is no label: 1 to 80 characters, none of / \\ :, no dot or space at either end")
    return name


def from_root(path: Any) -> Any:
    """A path relative to the repository's root, as one from the working folder; also each in a list or the values of a dict.
    Absolute paths and None stay."""
    if isinstance(path, list):
        return [from_root(each) for each in path]
    if isinstance(path, dict):
        return {name: from_root(each) for name, each in path.items()}
    return path if path is None or os.path.isabs(path) else os.path.relpath(ROOT / path)


def trainable(models: dict[str, dict[str, Any]], images: Any, method: str = "age") -> dict[str, dict[str, Any]]:
    """The networks of each of `models`, name -> settings. ValueError beginning with its name unless uint8 `images`
    (N, C, H, W) can train it: they fill a batch, there are networks of their size, and it colours images if and only if
    `method` does, which those without one have."""
    import torch

    from agelib.model import METHODS, settings_of

    built, colours = {}, {name for name, module in METHODS.items() if hasattr(module, "given")}
    for name, settings in models.items():
        own = settings.get("method", method)
        try:
            config, schedule = settings_of(own, {key: value for key, value in settings.items() if key != "method"})
            schedule.length(len(images))
            if (own in colours) != (method in colours):
                does = "colours images, it makes none from codes alone" if own in colours else "colours no images"
                raise ValueError(f"method {own!r} {does}")
            with torch.random.fork_rng(devices=[]):
                built[name] = METHODS[own].build(config, tuple(images.shape[1:]))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return built


def _settled(value: Any, kind: Any, at: str, models: dict[str, dict]) -> Any:
    """`value`, which stands at `at`, its recipes resolved; models' settings are added to `models`, by their places."""
    from suite import plan  # which checks profiles by this module

    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{at}: must be finite, is {value}")
    if isinstance(value, int) and not 0 <= value < 2**32:
        raise ValueError(f"{at}: must be from 0 to 2**32 - 1, is {value}")
    kinds = {get_origin(k) or k: k for k in (get_args(kind) if isinstance(kind, UnionType) else (kind,))}
    if isinstance(value, list):
        return [_settled(each, object, f"{at}[{i}]", models) for i, each in enumerate(value)]
    if isinstance(value, str) and dict in kinds:
        value = plan.recipe(value)
    if not isinstance(value, dict):
        return value
    labelled = get_args(kinds.get(dict))  # the types of dict[str, ...]
    value = {label(name, f"{at}: "): each for name, each in value.items()} if labelled else plan.resolve(value)
    kind = labelled[1] if labelled else object
    settled = {name: _settled(each, kind, f"{at}.{name}", models) for name, each in value.items()}
    if str in kinds and not labelled:
        models[at] = settled
    return settled


def _try(settings: dict[str, Any], at: str) -> None:
    """ValueError beginning with `at` unless a method takes `settings`: theirs; without one AGE, or else conditional AGE."""
    from agelib.model import settings_of

    problems = []
    for method in [settings["method"]] if "method" in settings else ["age", "conditional"]:
        try:
            settings_of(method, {name: value for name, value in settings.items() if name != "method"})
            return
        except (ValueError, TypeError) as error:
            problems.append(str(error))
    raise ValueError(f"{at}: {'; '.join(dict.fromkeys(problems))}")
