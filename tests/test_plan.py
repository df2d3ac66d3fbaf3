"""Profiles: structure, order of runs, parameters against the notebooks' parameters cells."""

import os
from pathlib import Path

import nbformat
import pytest

from agelib import plan

GIVEN = 'out_dir = "x"  # folder\nprofile = "none"  # name\nrun_name = "x"  # name'


def profile(tmp_path: Path, runs: str, head: str = "profile: mine\nabout: mine\nminutes: 2\n") -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(f"{head}runs:\n{runs}", encoding="utf-8")
    return path


def notebook(path: Path, cell: str, tags: list[str]) -> None:
    cells = [nbformat.v4.new_markdown_cell("# A"), nbformat.v4.new_code_cell(cell, metadata={"tags": tags})]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.parent.mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)


def test_a_run_comes_after_what_it_needs(tmp_path):
    runs = "  c: {notebook: n, minutes: 3, needs: [b]}\n  b: {notebook: n, minutes: 2, needs: [a]}\n"
    runs += "  a: {notebook: n, gpu_minutes: 0.5, params: {lr: 2e-4, name: 1e, deep: [1, 2.5E3]}}\n"
    read = plan.read(profile(tmp_path, runs))
    assert list(read.runs) == ["a", "b", "c"]
    assert (read.name, read.about, read.minutes, read.gpu) == ("mine", "mine", 2.0, False)
    assert read.runs["a"] == plan.RunSpec("a", "n", 0.5, True, (), {"lr": 0.0002, "name": "1e", "deep": [1, 2500.0]})
    assert read.closure(["b"]) == ["a", "b"]
    assert read.closure(["c", "a"]) == ["a", "b", "c"]
    with pytest.raises(plan.PlanError, match="no run 'd'; its runs are: a, b, c, summary"):
        read.closure(["a", "d"])


def test_time_of_runs_side_by_side(tmp_path):
    """Three runs of 1, 2 and 6 minutes: 9 in turn; on two cores side by side never less than the longest."""
    runs = "  a: {notebook: n, minutes: 1}\n  b: {notebook: n, minutes: 2}\n  c: {notebook: n, minutes: 6}\n"
    head = "profile: mine\nabout: mine\nminutes: 2\n"
    in_turn, side = plan.read(profile(tmp_path, runs)), plan.read(profile(tmp_path, runs, head + "threads: 1\n"))
    assert (in_turn.threads, in_turn.minutes_of("abc"), in_turn.minutes_of("ab")) == (None, 9, 3)
    assert (side.threads, side.minutes_of("abc"), side.minutes_of("ab")) == (1, 6, 2)
    assert plan.read(profile(tmp_path, runs, head + "threads: 4\n")).minutes_of("abc") == 9
    for bad in ("0", "true", "1.5", "two"):
        with pytest.raises(plan.PlanError, match="threads must be"):
            plan.read(profile(tmp_path, runs, head + f"threads: {bad}\n"))


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (
            "  a: {notebook: n, minutes: 1, needs: [b]}\n  b: {notebook: n, minutes: 1, needs: [a]}\n",
            "circle: a -> b -> a",
        ),
        ("  a: {notebook: n, minutes: 1, needs: [a]}\n", "circle: a -> a"),
        ("  a: {notebook: n, minutes: 1, needs: [z]}\n", "run a: needs 'z', which is none of: a"),
        ("  a: {notebook: n, minutes: 1, need: []}\n", "run a: unknown key 'need'; valid: notebook, needs, params"),
        ("  a: {notebook: n, minutes: 1}\n  a: {notebook: n, minutes: 1}\n", "line 6: 'a' is there twice"),
        ("  a: {notebook: n, minutes: 1, params: {lr: 1, lr: 2}}\n", "'lr' is there twice"),
        ("  a: {notebook: n, minutes: 1, params: {out_dir: x}}\n", "run a: the runner sets out_dir"),
        ("  a: {minutes: 1}\n", "run a: notebook is missing"),
        ("  a: {notebook: 3, minutes: 1}\n", "notebook must be a str, is 3"),
        ("  a: {notebook: n, minutes: 1, params: [1]}\n", r"params must be a dict, is \[1\]"),
        ("  a: {notebook: n}\n", "run a: give minutes"),
        ("  a: {notebook: n, minutes: 1, gpu_minutes: 1}\n", "run a: give minutes"),
        ("  a: {notebook: n, minutes: 0}\n", "minutes must be a number above 0, is 0"),
        ("  a: {notebook: n, minutes: true}\n", "minutes must be a number above 0, is True"),
        ("  summary: {notebook: n, minutes: 1}\n", "is not 'summary'"),
        ("  ../a: {notebook: n, minutes: 1}\n", "a run's name fits"),
        ("  a: text\n", "run a: must be a mapping, is str"),
        ("  {}\n", "there is no run"),
        ("  a: {\n", "mine.yaml"),
    ],
)
def test_a_wrong_profile_is_refused_by_name(tmp_path, runs, message):
    with pytest.raises(plan.PlanError, match=message):
        plan.read(profile(tmp_path, runs))


def test_a_wrong_head_is_refused(tmp_path):
    run = "  a: {notebook: n, minutes: 1}\n"
    with pytest.raises(plan.PlanError, match="unknown key 'title'"):
        plan.read(profile(tmp_path, run, "profile: p\nabout: x\nminutes: 1\ntitle: x\n"))
    with pytest.raises(plan.PlanError, match="'../p' does not fit"):
        plan.read(profile(tmp_path, run, "profile: ../p\nabout: x\nminutes: 1\n"))
    with pytest.raises(plan.PlanError, match="No such file"):
        plan.read(tmp_path / "absent.yaml")


def test_parameters_must_be_declared_by_the_notebook(tmp_path):
    folder = tmp_path / "notebooks"
    notebook(folder / "n.ipynb", f"{GIVEN}\nlr = 2e-4  # a step\nneeds = {{}}  # run -> folder", ["parameters"])
    notebook(folder / "99_summary.ipynb", f'{GIVEN}\nresults_dir = "results"', ["parameters"])
    assert plan.declared(folder / "n.ipynb") == {"out_dir", "profile", "run_name", "lr", "needs"}

    runs = "  a: {notebook: n, minutes: 1, params: {lr: 1}}\n  b: {notebook: n, minutes: 1, needs: [a]}\n"
    good = plan.read(profile(tmp_path, runs))
    plan.check(good, folder)
    given = plan.parameters(good, "b", "results", folder / "n.ipynb")
    assert given == {"out_dir": "results/mine/b", "profile": "mine", "run_name": "b", "needs": {"a": "results/mine/a"}}
    assert plan.parameters(good, "a", "results", folder / "n.ipynb")["lr"] == 1
    summary = plan.parameters(good, plan.SUMMARY, "results", folder / "99_summary.ipynb")
    expected = {
        "out_dir": "results/mine/summary",
        "profile": "mine",
        "run_name": "summary",
        "results_dir": "results/mine",
    }
    assert summary == expected

    with pytest.raises(plan.PlanError, match="run a: notebook n has no parameter 'lrr'; valid: lr$"):
        plan.check(plan.read(profile(tmp_path, "  a: {notebook: n, minutes: 1, params: {lrr: 1}}\n")), folder)
    with pytest.raises(plan.PlanError, match="there is no notebook .*m.ipynb; in that folder: 99_summary, n"):
        plan.check(plan.read(profile(tmp_path, "  a: {notebook: m, minutes: 1}\n")), folder)
    notebook(folder / "n.ipynb", "lr = 1", ["parameters"])
    with pytest.raises(plan.PlanError, match="n.ipynb does not declare out_dir, profile, run_name"):
        plan.check(plan.read(profile(tmp_path, "  a: {notebook: n, minutes: 1}\n")), folder)
    notebook(folder / "n.ipynb", GIVEN, [])
    with pytest.raises(plan.PlanError, match="n.ipynb has no cell with the tag `parameters`"):
        plan.check(plan.read(profile(tmp_path, "  a: {notebook: n, minutes: 1}\n")), folder)


ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_profiles_of_the_repository_fit_their_notebooks(path):
    read = plan.read(path)
    assert read.name == path.stem
    plan.check(read, ROOT / "notebooks")
    assert {spec.gpu for spec in read.runs.values()} == {read.gpu}
    assert read.minutes_of(read.runs) == pytest.approx(read.minutes, rel=0.2)


def test_every_notebook_is_in_the_smoke_profile():
    used = {spec.notebook for spec in plan.read(ROOT / "config" / "smoke.yaml").runs.values()} | {plan.SUMMARY_NOTEBOOK}
    assert used == {os.path.splitext(name)[0] for name in os.listdir(ROOT / "notebooks") if name.endswith(".ipynb")}
