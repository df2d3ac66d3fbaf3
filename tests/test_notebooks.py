"""The form of every notebook: stripped, small, one typed parameter cell; and profiles that say what they claim to be."""

import ast
from pathlib import Path

import nbformat
import pytest

from agelib.model import settings_of
from agelib.training.step import stabilisers
from suite import params, plan

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS, CONFIG = ROOT / "notebooks", ROOT / "config"
each_notebook = pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
PROFILES = sorted(path for path in CONFIG.glob("*.yaml") if path != plan.RECIPES)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def runs(profile: str) -> dict[str, dict]:
    """run -> its parameters, recipes resolved."""
    return {name: plan.resolve(spec.params) for name, spec in plan.read(CONFIG / f"{profile}.yaml").runs.items()}


def test_there_are_notebooks():
    assert len(list(NOTEBOOKS.glob("*.ipynb"))) >= 7


@each_notebook
def test_stored_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in code_cells(path):
        assert cell.outputs == [] and cell.execution_count is None, "strip it: nbstripout notebooks/*.ipynb"
    assert "papermill" not in notebook.metadata and "widgets" not in notebook.metadata
    assert notebook.metadata.kernelspec.name == "python3"


@each_notebook
def test_small_titled_and_it_only_calls(path):
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith(f"# {path.stem[:2]} ")
    cells = code_cells(path)
    assert len(cells) <= 15 and "finish()" in cells[-1].source
    for number, cell in enumerate(cells):
        lines = cell.source.splitlines()
        limit = 16 if "parameters" in cell.metadata.get("tags", []) else 15
        assert len(lines) <= limit, f"code cell {number} has {len(lines)} lines"
        assert not any(line.lstrip().startswith(("%", "!")) for line in lines), f"code cell {number} uses a magic"
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.ClassDef), f"code cell {number} defines a class"
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 3, f"code cell {number} defines a function of more than 3 lines"


@each_notebook
def test_the_parameter_cell_is_first_typed_explained_and_its_defaults_are_valid(path):
    book = plan.notebook(path)  # exactly one cell with the tag, of `name: type = literal` lines
    first = code_cells(path)[0]
    assert "parameters" in first.metadata.get("tags", [])
    tree = ast.parse(first.source).body
    for node in tree:
        assert "  # " in first.source.splitlines()[node.end_lineno - 1], f"line {node.lineno} has no comment"
    params.check(book.kinds, book.defaults, path.stem)
    assert set(book.defaults) - {"out_dir", "results_dir", "needs"} or path.stem == plan.SUMMARY_NOTEBOOK


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_profiles_hold_what_the_notebooks_and_methods_accept(path):
    profile = plan.read(path)
    assert set(plan.check(profile, plan.notebooks_of(profile, NOTEBOOKS), path, settings=True)) == set(profile.runs)


def test_the_digits_are_trained_with_the_same_settings_wherever_they_are_the_example():
    """In `quick`, for each seed of `digits`, and by the notebook when it is opened, which draws fewer samples."""
    quick = plan.read(CONFIG / "quick.yaml").runs["digits"].params
    seeds = plan.read(CONFIG / "digits.yaml").runs
    assert [spec.params for spec in seeds.values()] == [quick | {"seed": seed} for seed in range(3)]
    opened = plan.notebook(NOTEBOOKS / "01_unconditional.ipynb").defaults
    assert {k: opened[k] for k in quick if k != "n_samples"} == {k: v for k, v in quick.items() if k != "n_samples"}


def test_each_claims_run_differs_from_base_in_one_thing():
    found = {name: params_ | {"age": params_["age"]} for name, params_ in runs("claims").items()}
    base, changed = plan.recipe("claims"), {}
    for name, values in found.items():
        variant, seed = name.rsplit("-seed", 1)
        age = plan.recipe(values["age"]) if isinstance(values["age"], str) else values["age"]
        assert values["seed"] == int(seed) and {k: values[k] for k in ("dataset", "size", "channels")} == {
            "dataset": "digits", "size": 32, "channels": 1,
        }  # fmt: skip
        changed.setdefault(variant, []).append({k: v for k, v in age.items() if base.get(k) != v})
    assert all(len(seeds) == 3 and seeds[0] == seeds[1] == seeds[2] for seeds in changed.values())
    fair = changed.pop("gaussian_fair")[0]
    assert fair == {"prior": "gaussian", "lam": base["lam"] / base["M"]}
    assert all(len(seeds[0]) == (variant != "base") for variant, seeds in changed.items())


def test_faithful_runs_have_no_stabiliser():
    for profile, left_out in (("paper", ()), ("lambda_sweep", ()), ("preview", ("mnist",))):
        for name, values in runs(profile).items():
            if "age" in values and name not in left_out:
                age = plan.recipe(values["age"]) if isinstance(values["age"], str) else values["age"]
                assert stabilisers(settings_of("age", age)[0]) == "", (profile, name)
