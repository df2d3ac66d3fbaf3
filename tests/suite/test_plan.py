"""Profiles: structure, order of runs, parameters against the notebooks' own declarations, fingerprints; recipes."""

import json
from pathlib import Path

import nbformat
import pytest

from suite import params, plan

HEAD = "profile: mine\nabout: mine\nminutes: 2\n"
CELL = (
    "out_dir: str = 'x'  # folder\nneeds: dict[str, str] = {}\nfrom_runs: dict[str, str] = {}\nlr: float = 2e-4\n"
    "seed: int = 0\nmodels: dict[str, dict | str] = {}\n"
)


def profile(tmp_path: Path, runs: str, head: str = HEAD) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(f"{head}runs:\n{runs}", encoding="utf-8")
    return path


def notebook(path: Path, cell: str, *others: str, tags: tuple[str, ...] = ("parameters",)) -> None:
    cells = [nbformat.v4.new_markdown_cell("# A"), nbformat.v4.new_code_cell(cell, metadata={"tags": list(tags)})]
    path.parent.mkdir(exist_ok=True)
    cells += [nbformat.v4.new_code_cell(other) for other in others]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


@pytest.fixture
def books(tmp_path, monkeypatch):
    """A folder with the notebooks n and 99_summary, and recipes of their own."""
    folder = tmp_path / "notebooks"
    notebook(folder / "n.ipynb", CELL, "print(lr)")
    notebook(folder / "99_summary.ipynb", "out_dir: str = 'x'\nresults_dir: str = 'results'")
    recipes = "small: {width: 4}\nother: {recipe: small, M: 3}\na: {recipe: b}\nb: {recipe: a}\n"
    (tmp_path / "recipes.yaml").write_text(recipes)
    monkeypatch.setattr(plan, "RECIPES", tmp_path / "recipes.yaml")
    return folder


def prints(tmp_path: Path, books: Path, runs: str) -> dict[str, str]:
    read = plan.read(profile(tmp_path, runs))
    return plan.check(read, plan.notebooks_of(read, books), tmp_path / "mine.yaml", settings=True)


def test_a_run_comes_after_what_it_needs(tmp_path):
    runs = "  c: {notebook: n, minutes: 3, needs: [b]}\n  b: {notebook: n, minutes: 2, needs: [a]}\n"
    runs += "  a: {notebook: n, gpu_minutes: 0.5, params: {lr: 2e-4, name: 1e, deep: [1, 2.5E3]}}\n"
    read = plan.read(profile(tmp_path, runs))
    assert list(read.runs) == ["a", "b", "c"]
    assert (read.profile, read.about, read.time, read.gpu) == ("mine", "mine", 2.0, False)
    assert (read.runs["a"].time, read.runs["a"].gpu, read.runs["a"].needs) == (0.5, True, [])
    assert read.runs["a"].params == {"lr": 0.0002, "name": "1e", "deep": [1, 2500.0]}
    assert read.closure(["b"]) == ["a", "b"] and read.closure(["c", "a"]) == ["a", "b", "c"]
    with pytest.raises(plan.PlanError, match="no run 'd'; its runs are: a, b, c, summary"):
        read.closure(["a", "d"])


def test_time_of_runs_side_by_side(tmp_path):
    """Three runs of 1, 2 and 6 minutes: 9 in turn; on two cores side by side never less than the longest."""
    runs = "  a: {notebook: n, minutes: 1}\n  b: {notebook: n, minutes: 2}\n  c: {notebook: n, minutes: 6}\n"
    in_turn, side = plan.read(profile(tmp_path, runs)), plan.read(profile(tmp_path, runs, HEAD + "threads: 1\n"))
    assert (in_turn.threads, in_turn.minutes_of("abc"), in_turn.minutes_of("ab")) == (None, 9, 3)
    assert (side.threads, side.minutes_of("abc"), side.minutes_of("ab")) == (1, 6, 2)
    assert plan.read(profile(tmp_path, runs, HEAD + "threads: 4\n")).minutes_of("abc") == 9


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ("  a: {notebook: n, minutes: 1, needs: [b]}\n  b: {notebook: n, minutes: 1, needs: [a]}\n", "circle: "),
        ("  a: {notebook: n, minutes: 1, needs: [a]}\n", "circle: a -> a"),
        ("  a: {notebook: n, minutes: 1, needs: [z]}\n", "run a: needs 'z', which is none of: a"),
        ("  a: {notebook: n, minutes: 1, needs: b}\n", "runs.a.needs: "),
        ("  a: {notebook: n, minutes: 1, needs: [1]}\n", "runs.a.needs.0: "),
        ("  a: {notebook: n, minutes: 1, need: []}\n", "runs.a.need: there is no such name; valid: minutes, gpu_minutes, "),
        ("  a: {notebook: n, minutes: 1}\n  a: {notebook: n, minutes: 1}\n", "line 6: 'a' is there twice"),
        ("  a: {notebook: n, minutes: 1, params: {lr: 1, lr: 2}}\n", "'lr' is there twice"),
        ("  a: {notebook: n, minutes: 1, params: {out_dir: x}}\n", "run a: the runner sets out_dir"),
        ("  a: {minutes: 1}\n", "runs.a.notebook: Field required"),
        ("  a: {notebook: 3, minutes: 1}\n", "runs.a.notebook: .*3"),
        ("  a: {notebook: /n, minutes: 1}\n", "runs.a.notebook: .*/n"),
        ("  a: {notebook: ../n, minutes: 1}\n", r"runs.a.notebook: .*\.\./n"),
        ("  a: {notebook: n.ipynb, minutes: 1}\n", "runs.a.notebook: .*n.ipynb"),
        ("  a: {notebook: '', minutes: 1}\n", "runs.a.notebook: "),
        ("  a: {notebook: n, minutes: 1, params: [1]}\n", r"runs.a.params: .*\[1\]"),
        ("  a: {notebook: n, minutes: 1, params: {1: 2}}\n", "runs.a.params.1"),
        ("  a: {notebook: n, minutes: 1, params: {[1]: 2}}\n", "mine.yaml: .*unhashable"),
        ("  a: {notebook: n}\n", "runs.a: give minutes"),
        ("  a: {notebook: n, minutes: 1, gpu_minutes: 1}\n", "runs.a: give minutes"),
        ("  a: {notebook: n, minutes: 0}\n", "runs.a.minutes: .*0"),
        ("  a: {notebook: n, minutes: .nan}\n", "runs.a.minutes: "),
        ("  a: {notebook: n, minutes: .inf}\n", "runs.a.minutes: "),
        ("  a: {notebook: n, minutes: true}\n", "runs.a.minutes: .*True"),
        ("  summary: {notebook: n, minutes: 1}\n", "run summary: every profile ends with it"),
        ("  ../a: {notebook: n, minutes: 1}\n", r"runs.\.\./a: "),
        ("  A: {notebook: n, minutes: 1}\n", "runs.A: "),
        ("  a: text\n", "runs.a: .*'text'"),
        ("  {}\n", "runs: .*at least 1"),
        ("  a: {\n", "mine.yaml: "),
        ("  a: !!python/object:os.system {}\n", "mine.yaml: "),
        ("  a: *base\n", "mine.yaml: .*undefined alias"),
    ],
)
def test_a_wrong_profile_is_refused_in_one_line(tmp_path, runs, message):
    with pytest.raises(plan.PlanError, match=message) as error:
        plan.read(profile(tmp_path, runs))
    assert "mine.yaml" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("profile: p\nabout: x\nminutes: 1\ntitle: x\n", "title: there is no such name; valid: minutes, "),
        ("profile: ../p\nabout: x\nminutes: 1\n", r"profile: .*\.\./p"),
        ("profile: p\nabout: [x]\nminutes: 1\n", "about: "),
        ("profile: p\nabout: x\n", "give minutes"),
        *((f"{HEAD}threads: {bad}\n", "threads: ") for bad in ("0", "true", "1.5", "two")),
        ("- profile\n", "mine.yaml: "),
    ],
)
def test_a_wrong_head_is_refused(tmp_path, head, message):
    with pytest.raises(plan.PlanError, match=message):
        plan.read(profile(tmp_path, "  a: {notebook: n, minutes: 1}\n", head))


def test_files_that_are_no_profiles_are_refused(tmp_path):
    for name, content in (("text", b"words"), ("empty", b""), ("binary", b"\xff\xfe\x00")):
        (tmp_path / name).write_bytes(content)
    for name in ("absent", "text", "empty", "binary", "."):
        with pytest.raises(plan.PlanError, match=str(tmp_path / name)):
            plan.read(tmp_path / name)


@pytest.mark.parametrize(
    ("params_", "message"),
    [
        ("{lrr: 1}", "there is no such name; valid: from_runs, lr, seed, models"), ("{lr: text}", "lr: "),
        ("{lr: .nan}", "lr: must be finite"), ("{seed: -1}", "seed: must be from 0"), ("{seed: 1.5}", "seed: "),
        ("{seed: 1208925819614629174706176}", "seed: "), ("{models: {../x: {}}}", "'../x' is no label"),
        ("{models: {x: {method: non}}}", "models.x: unknown method 'non'; valid: age, conditional"),
        ("{models: {x: {n_epoch: 1}}}", "models.x: age has no setting n_epoch; valid: "),
        ("{models: {x: smal}}", "no recipe 'smal'"), ("{models: {x: a}}", "circle: a -> b -> a"),
        ("{models: [small]}", "models: "), ("{from_runs: {AGE: b}}", "from_runs.AGE: 'b' is none of the run's needs"),
    ],
)  # fmt: skip
def test_parameters_must_fit_the_notebook(tmp_path, books, params_, message):
    with pytest.raises((plan.PlanError, params.ParameterError)) as error:
        prints(tmp_path, books, f"  b: {{notebook: n, minutes: 1}}\n  a: {{notebook: n, minutes: 1, params: {params_}}}\n")
    assert "mine.yaml: run a: " in str(error.value) and message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cell", "tags", "message"),
    [
        ("lr: float = 1", ("parameters",), "does not declare out_dir"), (CELL, (), "has 0 cells with the tag"),
        ("out_dir = 'x'", ("parameters",), "line 1: is not `name: type = literal`"),
        ("out_dir: str = str(3)", ("parameters",), "line 1: "), ("out_dir: Path = 'x'", ("parameters",), "name 'Path'"),
        ("out_dir: str = ", ("parameters",), "line 1: invalid syntax"), ("import os", ("parameters",), "line 1: "),
    ],
)  # fmt: skip
def test_a_notebook_must_declare_its_parameters(tmp_path, books, cell, tags, message):
    notebook(books / "n.ipynb", cell, tags=tags)
    with pytest.raises(plan.PlanError, match=f"n.ipynb.*{message}"):
        prints(tmp_path, books, "  a: {notebook: n, minutes: 1}\n")


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"cells": [{}]}', '{"cells": [{"cell_type": "code"}]}'])
def test_a_damaged_or_absent_notebook_is_named(tmp_path, books, content):
    (books / "n.ipynb").write_text(content)
    with pytest.raises(plan.PlanError, match="n.ipynb is no notebook|n.ipynb has 0 cells"):
        prints(tmp_path, books, "  a: {notebook: n, minutes: 1}\n")
    with pytest.raises(plan.PlanError, match="there is no notebook .*m.ipynb; in that folder: 99_summary, n"):
        prints(tmp_path, books, "  a: {notebook: m, minutes: 1}\n")


def test_a_run_is_given_what_it_declares(tmp_path, books):
    runs = "  a: {notebook: n, minutes: 1, params: {lr: 1}}\n  b: {notebook: n, minutes: 1, needs: [a]}\n"
    read = plan.read(profile(tmp_path, runs))
    found = plan.notebooks_of(read, books)
    assert plan.given(read, "b", "results", found["b"]) == {"out_dir": "results/mine/b", "needs": {"a": "results/mine/a"}}
    assert plan.given(read, "a", "results", found["a"])["lr"] == 1
    summary = plan.given(read, plan.SUMMARY, "results", found[plan.SUMMARY])
    assert summary == {"out_dir": "results/mine/summary", "results_dir": "results/mine"}


def test_a_fingerprint_changes_with_what_a_run_is_made_from_and_with_nothing_else(tmp_path, books):
    runs = "  a: {{notebook: n, minutes: {m}, params: {{lr: {lr}, models: {{x: {x}}}}}}}\n"
    runs += "  b: {{notebook: n, minutes: 1, needs: [a]}}\n  c: {{notebook: n, minutes: 1}}\n"

    def now(m=1, lr=0.1, x="other"):
        return prints(tmp_path, books, runs.format(m=m, lr=lr, x=x))

    def changed(other):
        return {name for name in before if before[name] != other[name]}

    before = now()
    assert changed(now(m=2, lr="1e-1", x="{width: 4, M: 3}")) == set()
    assert changed(now(lr=0.2)) == changed(now(x="small")) == {"a", "b"}
    (tmp_path / "recipes.yaml").write_text("small: {width: 5}\nother: {recipe: small, M: 3}\n")
    assert changed(now()) == {"a", "b"}
    (tmp_path / "recipes.yaml").write_text("other: {M: 3, width: 4}\n")
    assert changed(now()) == set()
    cells = json.loads((books / "n.ipynb").read_text())
    cells["cells"][0]["source"] = "# prose"
    (books / "n.ipynb").write_text(json.dumps(cells))
    assert changed(now()) == set()
    notebook(books / "n.ipynb", CELL, "print(lr + 1)")
    assert changed(now()) == {"a", "b", "c"}


ROOT = Path(__file__).resolve().parents[2]
PROFILES = sorted(path for path in (ROOT / "config").glob("*.yaml") if path != plan.RECIPES)


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_the_profiles_of_the_repository_fit_their_notebooks(path):
    read = plan.read(path)
    assert read.profile == path.stem
    assert plan.check(read, plan.notebooks_of(read, ROOT / "notebooks"), path, settings=True).keys() == read.runs.keys()
    assert {spec.gpu for spec in read.runs.values()} == {read.gpu}
    assert read.minutes_of(read.runs) == pytest.approx(read.time, rel=0.2)


def test_every_recipe_is_used_and_can_be_built():
    from agelib import model

    text = "".join(path.read_text() for path in PROFILES)
    recipes = plan._recipes(plan.RECIPES, 0)
    for name in recipes:
        settings = {"max_steps": 1} | plan.recipe(name)
        model.settings_of(settings.pop("method", "age"), settings)
        built_on = any(settings.get("recipe") == name for settings in recipes.values())
        assert built_on or f": {name}," in text or f": {name}}}" in text, name


def test_every_notebook_is_in_the_smoke_profile():
    used = {spec.notebook for spec in plan.read(ROOT / "config" / "smoke.yaml").runs.values()} | {plan.SUMMARY_NOTEBOOK}
    assert used == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
