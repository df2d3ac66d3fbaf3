import dataclasses

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
