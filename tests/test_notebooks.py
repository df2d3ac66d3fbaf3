"""The form of every notebook: stripped, small, one typed parameter cell; and profiles that say what they claim to be.
More of both: test_layers.py, suite/test_plan.py."""

import ast
import re

import nbformat
import pytest

from agelib.model import settings_of
from agelib.training.step import stabilisers
from suite import params, plan

NOTEBOOKS, CONFIG = params.ROOT / "notebooks", params.ROOT / "config"


def runs(profile: str) -> dict[str, dict]:
    """run -> its parameters, recipes resolved, those of its `age` too."""
    found = {name: plan.resolve(spec.params) for name, spec in plan.read(CONFIG / f"{profile}.yaml").runs.items()}
    return {
        name: values | {"age": plan.recipe(values["age"])} if isinstance(values.get("age"), str) else values
        for name, values in found.items()
    }


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_stripped_and_small_with_typed_explained_and_valid_parameters_first(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert "papermill" not in notebook.metadata and "widgets" not in notebook.metadata
    assert notebook.metadata.kernelspec.name == "python3"
    title, cells = notebook.cells[0], [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert title.cell_type == "markdown" and title.source.startswith(f"# {path.stem[:2]} ")
    assert len(cells) <= 15 and "finish()" in cells[-1].source
    for number, cell in enumerate(cells):
        assert cell.outputs == [] and cell.execution_count is None, "strip it: nbstripout notebooks/*.ipynb"
        lines = cell.source.splitlines()
        assert len(lines) <= (15 if number else 16), f"code cell {number} has {len(lines)} lines"
        assert not any(line.lstrip().startswith(("%", "!")) for line in lines), f"code cell {number} uses a magic"
    book = plan.notebook(path)  # exactly one cell with the tag, of `name: type = literal` lines
    assert book.code[0] == cells[0].source and "parameters" in cells[0].metadata.get("tags", [])
    for node in ast.parse(book.code[0]).body:
        assert "  # " in book.code[0].splitlines()[node.end_lineno - 1], f"line {node.lineno} has no comment"
    params.check(book.kinds, book.defaults, path.stem)
    assert set(book.defaults) - set(params.GIVEN) or path.stem == plan.SUMMARY_NOTEBOOK


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("0*.ipynb")), ids=lambda path: path.stem)
def test_parameters_are_checked_before_anything_is_trained(path):
    """What each check refuses: test_refused.py."""
    code = "\n".join(plan.notebook(path).code)
    checked = [match.start() for match in re.finditer(r"\.(check|checked|trainable|earlier)\(", code)]
    trains = re.search(r"\b(run\.train|unconditional\.classify|theory\.(train|reciprocity))\(", code).start()
    assert checked and max(checked) < trains


def test_the_digits_are_trained_with_the_same_settings_wherever_they_are_the_example():
    """In `quick`, for each seed of `digits`, and by the notebook when it is opened, which draws fewer samples."""
    quick = plan.read(CONFIG / "quick.yaml").runs["digits"].params
    seeds = plan.read(CONFIG / "digits.yaml").runs
    assert [spec.params for spec in seeds.values()] == [quick | {"seed": seed} for seed in range(3)]
    opened = plan.notebook(NOTEBOOKS / "01_unconditional.ipynb").defaults
    assert {k: opened[k] for k in quick if k != "n_samples"} == {k: v for k, v in quick.items() if k != "n_samples"}


def test_each_claims_run_differs_from_base_in_one_thing():
    base, changed = plan.recipe("claims"), {}
    for name, values in runs("claims").items():
        variant, seed = name.rsplit("-seed", 1)
        assert values["seed"] == int(seed)
        assert (values["dataset"], values["size"], values["channels"]) == ("digits", 32, 1)
        changed.setdefault(variant, []).append({k: v for k, v in values["age"].items() if base.get(k) != v})
    assert all(len(seeds) == 3 and seeds[0] == seeds[1] == seeds[2] for seeds in changed.values())
    assert changed.pop("gaussian_fair")[0] == {"prior": "gaussian", "lam": base["lam"] / base["M"]}
    assert all(len(seeds[0]) == (variant != "base") for variant, seeds in changed.items())


def test_faithful_runs_have_no_stabiliser():
    for profile, left_out in (("paper", ()), ("lambda_sweep", ()), ("preview", ("mnist",))):
        for name, values in runs(profile).items():
            if "age" in values and name not in left_out:
                assert stabilisers(settings_of("age", values["age"])[0]) == "", (profile, name)
