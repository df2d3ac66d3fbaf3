import dataclasses
from pathlib import Path

import nbformat
import pytest

from agelib import params


@dataclasses.dataclass(frozen=True)
class Config:
    profile: str = "none"
    other: int = 3


GOOD = {"out_dir": "o", "profile": "p", "run_name": "r", "results_dir": "d", "reference": "f"}


def test_reads_the_declared_names():
    namespace = GOOD | {"_private": 1, "In": [], "Out": {}, "math": pytest}
    assert params.read(params.Summary, namespace).results_dir == "d"


def test_unknown_missing_and_wrong_kinds_are_all_named():
    with pytest.raises(params.ParameterError) as error:
        params.read(params.Summary, GOOD | {"resuls_dir": "typo", "profile": 3})
    assert "resuls_dir: Extra inputs" in str(error.value) and "profile: Input should be a valid string" in str(error.value)
    with pytest.raises(params.ParameterError, match="reference: Field required"):
        params.read(params.Summary, {k: v for k, v in GOOD.items() if k != "reference"})


def test_second_read_ignores_later_variables():
    namespace = dict(GOOD)
    params.read(params.Summary, namespace)
    namespace["n"] = 5
    assert params.read(params.Summary, namespace).profile == "p"


def test_settings_picks_the_fields_of_a_dataclass():
    p = params.read(params.Summary, dict(GOOD))
    assert params.settings(p, Config) == Config(profile="p", other=3)


def test_relative_paths_count_from_the_repository_root(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    assert params.read(params.Summary, dict(GOOD)).out_dir == "o"
    monkeypatch.chdir(tmp_path / "notebooks")
    assert params.read(params.Summary, dict(GOOD)).out_dir == "../o"
    assert params.read(params.Summary, GOOD | {"out_dir": "/abs"}).out_dir == "/abs"


def test_stabilisers_are_named_and_a_faithful_run_has_none():
    notebook = nbformat.read(Path(__file__).parent.parent / "notebooks" / "01_unconditional.ipynb", 4)
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    given = {}
    exec(cell.source, {}, given)
    off = {"margin": None, "e_width": None, "in_bias": False, "mean_bias": False, "ema": 0, "spectral_norm": False}
    off["ema_e"] = 0

    def named(**settings):
        return params.read(params.Unconditional, given | off | settings).stabilisers()

    assert named() == named(width=8, e_width=8) == ""
    three = "stabilisers: margin 0.5, extra KL real 0.3, encoder of width 16"
    assert named(margin=0.5, extra_kl_real=0.3, width=8, e_width=16) == three
    assert len(named(ema=0.99, ema_e=0.99, in_bias=True, mean_bias=True, spectral_norm=True).split(", ")) == 5
