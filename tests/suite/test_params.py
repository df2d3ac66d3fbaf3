"""The check of a notebook's parameters against its own declarations."""

import math
import os
from types import SimpleNamespace

import pytest

from suite import params, plan

KINDS = {
    "out_dir": str, "seed": int, "lr": float, "limit": int | None, "on": bool, "sizes": list[int], "age": dict | str,
    "models": dict[str, dict | str], "finetune": dict | None,
}  # fmt: skip
GOOD = {"out_dir": "o", "seed": 0, "lr": 1, "limit": None, "on": True, "sizes": [1], "age": {}, "models": {}}
GOOD |= {"finetune": None}


@pytest.fixture(autouse=True)
def recipes(tmp_path, monkeypatch):
    path = tmp_path / "recipes.yaml"
    path.write_text("small: {M: 8}\nfitted: {recipe: small, lam: 5, M: 9}\na: {recipe: b}\nb: {recipe: a}\nbad: {mmu: 1}\n")
    monkeypatch.setattr(plan, "RECIPES", path)


def test_good_values_come_back_frozen_with_their_recipes_resolved():
    changed = {"age": "fitted", "models": {"AGE, 2": "small", "X": {"recipe": "fitted", "lam": 6}}}
    checked = params.check(KINDS, GOOD | changed)
    assert (checked.lr, checked.age) == (1.0, {"M": 9, "lam": 5})
    assert checked.models == {"AGE, 2": {"M": 8}, "X": {"M": 9, "lam": 6}}
    with pytest.raises(ValueError, match="frozen"):
        checked.seed = 3


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("lrr", [1], "lrr: there is no such name; valid: seed, lr, limit"),
        ("seed", [None], "seed: Input should be a valid integer (got None)"), ("seed", [1.0, True, "1", 2**80], "seed: "),
        ("seed", [-1], "seed: must be from 0 to 2**32 - 1, is -1"), ("seed", [2**32], "is 4294967296"),
        ("lr", ["2e-4"], "lr: "), ("lr", [math.nan, math.inf], "lr: must be finite"),
        ("limit", [1.5], "limit"), ("on", [1], "on: "), ("sizes", [[1, -2]], "sizes[1]: must be"),
        ("sizes", [[1.5], (1,)], "sizes"), ("age", [None], "age"), ("age", [{"mu": math.nan}], "age.mu: must be finite"),
        ("age", [{"seed": -3}], "age.seed: must be"),
        ("age", ["smal"], "recipes.yaml has no recipe 'smal'; it has: small, fitted"),
        ("age", ["a"], "recipes build on each other in a circle: a -> b -> a"),
        ("age", [{"lam": -1.0}, {"lam": "5"}, {"prior": "flat"}, {"batch_size": 0}, {"in_bias": 3}], "age: "),
        ("age", ["bad"], "age: age has no setting mmu; valid: "), ("age", [{"n_epoch": 3}], "age has no setting n_epoch"),
        ("models", [{"x": {"method": "aly"}}], "models.x: unknown method 'aly'; valid: age, conditional, ali"),
        ("models", [{"x": {"method": "ali", "in_bias": True}}], "models.x: ali has no setting in_bias"),
        ("models", [{x: {}} for x in ("../x", "a/b", "", ".", "/x", "a\x00", "a\\b", "x\n", "x" * 81)], "is no label"),
        ("models", [{3: {}}], "models.3"), ("models", [{"x": 3}], "models.x"), ("models", [["x"]], "models: "),
        ("finetune", [{"mu": -math.inf}], "finetune.mu: must be finite"), ("finetune", ["small"], "finetune: "),
        ("finetune", [{"recipe": "none"}], "no recipe 'none'"),
    ],
)  # fmt: skip
def test_a_bad_value_is_named_in_one_line(name, values, message):
    for value in values:
        with pytest.raises(params.ParameterError) as error:
            params.check(KINDS, GOOD | {name: value}, "mine.yaml: run a")
        assert str(error.value).startswith("mine.yaml: run a: ") and message in str(error.value)
        assert "\n" not in str(error.value)


def test_every_problem_is_listed():
    with pytest.raises(params.ParameterError, match="(?s)seed: .*; lrr: .*|lrr: .*; seed: .*"):
        params.check(KINDS, GOOD | {"seed": "x", "lrr": 1})
    with pytest.raises(params.ParameterError, match="seed: Field required"):
        params.check(KINDS, {k: v for k, v in GOOD.items() if k != "seed"})


def test_a_notebooks_globals_are_read():
    """As a kernel leaves them: its own names, imported modules, what papermill has injected."""
    cell = "out_dir: str = 'results/x'\nseed: int = 3  # of everything"
    namespace = {"In": [], "Out": {}, "exit": SimpleNamespace(), "_i1": cell, "os": os}
    exec(cell, namespace)
    assert params.read(namespace).seed == 3
    namespace["n"] = 5  # a later cell's variable, when the cell is run again
    assert params.read(namespace).seed == 3
    injected = {"__annotations__": {"seed": int}, "seed": 3, "sed": 4}
    with pytest.raises(params.ParameterError, match="sed: there is no such name; valid: seed"):
        params.read(injected)


def test_relative_paths_count_from_the_repository_root(monkeypatch):
    namespace = {"__annotations__": {"out_dir": str, "needs": dict[str, str], "picture": str | None}}
    namespace |= {"out_dir": "results/x", "needs": {"a": "results/a", "b": "/abs"}, "picture": None}
    for folder, up in ((params.ROOT, ""), (params.ROOT / "notebooks", "../")):
        monkeypatch.chdir(folder)
        read = params.read(dict(namespace))
        found = (read.out_dir, read.needs, read.picture)
        assert found == (f"{up}results/x", {"a": f"{up}results/a", "b": "/abs"}, None)
