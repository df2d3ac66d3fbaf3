"""The form of every notebook: stripped, small, one parameters cell that agrees with its model and with the profiles."""

import ast
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
import yaml

from agelib import fit, params, plan, rival

ROOT = Path(__file__).resolve().parents[1]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def parameters(path: Path) -> dict[str, object]:
    """name -> default of the parameters cell; fails unless there is one, first, of `name = literal` lines."""
    cells = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    assert len(cells) == 1, f"{len(cells)} cells have the tag `parameters`"
    assert code_cells(path)[0].source == cells[0].source, "it must be the first code cell"
    found = {}
    for node in ast.parse(cells[0].source).body:
        assert isinstance(node, ast.Assign | ast.AnnAssign), f"line {node.lineno} is no assignment"
        (target,) = node.targets if isinstance(node, ast.Assign) else (node.target,)
        assert isinstance(target, ast.Name), f"line {node.lineno} assigns to something else than a name"
        assert target.id not in found, f"{target.id} is there twice"
        found[target.id] = ast.literal_eval(node.value)
    return found


def test_there_are_notebooks():
    assert {"01_unconditional", "99_summary"} <= {path.stem for path in PATHS}


@each_notebook
def test_stored_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in code_cells(path):
        assert cell.outputs == [] and cell.execution_count is None, "strip it: nbstripout notebooks/*.ipynb"
    assert "papermill" not in notebook.metadata and "widgets" not in notebook.metadata
    assert notebook.metadata.kernelspec.name == "python3"


@each_notebook
def test_small_and_titled(path):
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith(f"# {path.stem[:2]} ")
    cells = code_cells(path)
    assert len(cells) <= 15
    for number, cell in enumerate(cells):
        parameter_cell = "parameters" in cell.metadata.get("tags", [])
        lines = cell.source.splitlines()
        assert parameter_cell or len(lines) <= 15, f"code cell {number} has {len(lines)} lines"
        assert not any(line.lstrip().startswith(("%", "!")) for line in lines), f"code cell {number} uses a magic"


@each_notebook
def test_parameters_cell_and_model_agree(path):
    defaults = parameters(path)
    model = params.MODELS[path.stem]
    assert set(defaults) == set(model.model_fields)
    assert model(**defaults).model_dump(exclude_unset=True) == defaults
    assert plan.declared(path) == set(defaults), "papermill reads other parameters than Python does"
    assert {"out_dir", "profile", "run_name"} <= set(defaults)


def test_every_model_has_its_notebook():
    assert set(params.MODELS) == {path.stem for path in PATHS}


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_profiles_hold_values_that_the_models_accept(path):
    profile = plan.read(path)
    for name in [*profile.runs, plan.SUMMARY]:
        stem = profile.runs[name].notebook if name in profile.runs else plan.SUMMARY_NOTEBOOK
        notebook = ROOT / "notebooks" / f"{stem}.ipynb"
        given = plan.parameters(profile, name, "results", notebook)
        assert yaml.safe_load(yaml.safe_dump(given)) == given, "a value changes on its way through the parameter file"
        unknown = set(given) - set(params.MODELS[stem].model_fields)
        assert not unknown, f"run {name}: {unknown}"
        params.MODELS[stem](**parameters(notebook) | given)


def test_the_digits_are_trained_with_the_same_settings_wherever_they_are_the_example():
    """In `quick`, for each seed of `digits`, and by the notebook when it is opened, which draws fewer samples."""
    quick = plan.read(ROOT / "config/quick.yaml").runs["digits"].params
    seeds = plan.read(ROOT / "config/digits.yaml").runs
    assert [spec.params for spec in seeds.values()] == [quick | {"seed": seed} for seed in range(3)]
    opened = parameters(ROOT / "notebooks" / "01_unconditional.ipynb")
    assert {k: opened[k] for k in quick if k != "n_samples"} == {k: v for k, v in quick.items() if k != "n_samples"}


def test_each_claims_run_differs_from_base_in_one_thing():
    runs = plan.read(ROOT / "config/claims.yaml").runs
    base = dict(runs["base-seed0"].params)
    changed = {}
    for name, spec in runs.items():
        variant, seed = name.rsplit("-seed", 1)
        assert spec.params["seed"] == int(seed)
        changed.setdefault(variant, []).append({k for k in base if k != "seed" and spec.params[k] != base[k]})
        assert spec.params.keys() == base.keys()
    assert all(len(seeds) == 3 for seeds in changed.values())
    fair = changed.pop("gaussian_fair")
    assert fair == [{"prior", "lam"}] * 3 and runs["gaussian_fair-seed0"].params["lam"] == base["lam"] / base["M"]
    assert all(len(keys) == (variant != "base") for variant, seeds in changed.items() for keys in seeds)


def test_faithful_runs_switch_every_stabiliser_off():
    """The notebook's defaults use stabilisers; a run that is to follow the released recipe has to say that it does not."""
    off = {"margin": None, "e_width": None, "in_bias": False, "mean_bias": False, "ema": 0, "ema_e": 0}
    for profile, left_out in (("paper", ()), ("lambda_sweep", ()), ("preview", ("mnist",))):
        for name, spec in plan.read(ROOT / "config" / f"{profile}.yaml").runs.items():
            if name not in left_out and spec.notebook == "01_unconditional":
                assert {key: spec.params.get(key, "missing") for key in off} == off, (profile, name)


def test_two_runs_share_the_rivals_of_one_folder(tmp_path, monkeypatch):
    (cell,) = [c.source for c in code_cells(ROOT / "notebooks" / "01_unconditional.ipynb") if "rival.train(" in c.source]
    images = np.random.default_rng(0).integers(0, 256, (16, 3, 32, 32), dtype=np.uint8)
    settings = params.RivalSettings(n_epochs=1, batch_size=8, width=4, M=6)

    def run(name, seed=0):
        p = SimpleNamespace(out_dir=f"{tmp_path}/{name}", rivals_dir=f"{tmp_path}/shared", rivals={"vae": settings})
        vars(p).update(seed=seed, precision="fp32", checkpoint_every_s=60.0)
        seen = {"p": p, "device": "cpu", "train": SimpleNamespace(name="faces", images=images), "rival": rival}
        exec(cell, seen)
        return seen["trained"][0].generate(4, torch.Generator().manual_seed(0))

    first = run("a")
    assert (tmp_path / "shared" / "vae" / "checkpoints").is_dir() and not (tmp_path / "a").exists()
    trained = fit._Loop.train
    monkeypatch.setattr(fit._Loop, "train", lambda loop, every: trained(loop, every) if loop.done >= loop.n_steps else 1 / 0)
    assert np.array_equal(run("b"), first)
    with pytest.raises(fit.ConfigMismatch, match="seed was 0, is 1"):
        run("c", seed=1)
