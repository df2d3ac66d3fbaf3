"""Profiles: structure, order of runs, parameters against the notebooks' own declarations, fingerprints; recipes."""

import json
import os
import re
from pathlib import Path

import nbformat
import pytest

from agelib import model
from suite import params, plan

HEAD = "profile: mine\nabout: mine\nminutes: 2\n"
CELL = (
    "out_dir: str = 'x'  # folder\nneeds: dict[str, str] = {}\nfrom_runs: dict[str, str] = {}\nlr: float = 2e-4\n"
    "seed: int = 0\nmodels: dict[str, dict | str] = {}\n"
)
ONE = "  a: {notebook: n, minutes: 1}\n"
PROFILES = sorted(path for path in (params.ROOT / "config").glob("*.yaml") if path != plan.RECIPES)


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
    (tmp_path / "recipes.yaml").write_text("small: {width: 4}\nother: {recipe: small, M: 3}\n")
    monkeypatch.setattr(plan, "RECIPES", tmp_path / "recipes.yaml")
    return folder


def prints(tmp_path: Path, books: Path, runs: str = ONE) -> dict[str, str]:
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
    assert read.closure(["b"]) == ["a", "b"] and read.closure(["c"]) == read.closure(["c", "a"]) == ["a", "b", "c"]
    with pytest.raises(plan.PlanError, match="no run 'd'; its runs are: a, b, c, summary"):
        read.closure(["a", "d"])


@pytest.mark.parametrize(("head", "all_three", "two"), [("", 9, 3), ("threads: 4\n", 9, 3), ("threads: 1\n", 6, 2)])
def test_time_of_runs_side_by_side(tmp_path, head, all_three, two):
    """Three runs of 1, 2 and 6 minutes: 9 in turn; on two cores side by side never less than the longest."""
    runs = "".join(f"  {name}: {{notebook: n, minutes: {time}}}\n" for name, time in {"a": 1, "b": 2, "c": 6}.items())
    read = plan.read(profile(tmp_path, runs, HEAD + head))
    assert (read.minutes_of("abc"), read.minutes_of("ab")) == (all_three, two)


def run(settings: str) -> str:
    """A profile's text, its only run `a` with further settings."""
    return f"{HEAD}runs:\n  a: {{notebook: n, minutes: 1, {settings}}}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (run("needs: [a]"), "circle: a -> a"), (run("needs: [z]"), "run a: needs 'z', which is none of: a"),
        (run("needs: [b]") + "  b: {notebook: n, minutes: 1, needs: [a]}\n", "circle: "),
        (run("needs: b"), "runs.a.needs: "), (run("needs: [1]"), "runs.a.needs.0: "),
        (run("need: []"), "runs.a.need: there is no such name; valid: minutes, gpu_minutes, "),
        (run("params: {lr: 1, lr: 2}"), "line 5: 'lr' is there twice"), (run("") + ONE, "line 6: 'a' is there twice"),
        (run("params: {out_dir: x}"), "run a: the runner sets out_dir"), (run("params: [1]"), r"runs.a.params: .*\[1\]"),
        (run("params: {1: 2}"), "runs.a.params.1"), (run("params: {[1]: 2}"), "unhashable"),
        (run("gpu_minutes: 1"), "runs.a: give minutes"), (f"{HEAD}runs: {{a: {{notebook: n}}}}", "runs.a: give minutes"),
        (f"{HEAD}runs: {{a: {{minutes: 1}}}}", "runs.a.notebook: Field required"),
        *((run("").replace(": n,", f": {bad},"), "runs.a.notebook: ") for bad in ("3", "/n", "../n", "n.ipynb", "''")),
        *((run("").replace(": 1,", f": {bad},"), "runs.a.minutes: ") for bad in ("0", ".nan", ".inf", "true")),
        *((f"{HEAD}runs: {{{bad}: {{notebook: n, minutes: 1}}}}", f"runs.{bad}: ") for bad in ("../a", "A")),
        (f"{HEAD}runs: {{summary: {{notebook: n, minutes: 1}}}}", "run summary: every profile ends with it"),
        (f"{HEAD}runs: {{a: text}}", "runs.a: .*'text'"), (f"{HEAD}runs: {{}}", "runs: .*at least 1"),
        *((f"{HEAD}runs: {{a: {bad}", "") for bad in ("{", "!!python/object:os.system {}}")),
        (f"{HEAD}runs: {{a: *base}}", "undefined alias"),
        (f"{run('')}title: x\n", "title: there is no such name; valid: minutes, "),
        (run("").replace(": mine", ": ../p", 1), r"profile: .*\.\./p"), ("- profile\n", ""),
        (run("").replace("about: mine", "about: [x]"), "about: "), (run("").replace("minutes: 2\n", ""), "give minutes"),
        *((f"{run('')}threads: {bad}\n", "threads: ") for bad in ("0", "true", "1.5", "two")),
    ],
)  # fmt: skip
def test_a_wrong_profile_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(plan.PlanError, match=f"mine.yaml: .*{message}") as error:
        plan.read(tmp_path / "mine.yaml")
    assert "\n" not in str(error.value)


def test_files_that_are_no_profiles_are_refused(tmp_path):
    for name, content in (("text", b"words"), ("empty", b""), ("binary", b"\xff\xfe\x00")):
        (tmp_path / name).write_bytes(content)
    for name in ("absent", "text", "empty", "binary", "."):
        with pytest.raises(plan.PlanError, match=str(tmp_path / name)):
            plan.read(tmp_path / name)


@pytest.mark.parametrize(
    ("params_", "message"),
    [  # more of them: test_params.py
        ("{lrr: 1}", "there is no such name; valid: from_runs, lr, seed, models"), ("{lr: .nan}", "lr: must be finite"),
        ("{models: {x: {n_epoch: 1}}}", "models.x: age has no setting n_epoch; valid: "),
        ("{models: {x: smal}}", "no recipe 'smal'"), ("{from_runs: {AGE: b}}", "AGE: 'b' is none of the run's needs"),
    ],
)  # fmt: skip
def test_parameters_must_fit_the_notebook(tmp_path, books, params_, message):
    with pytest.raises((plan.PlanError, params.ParameterError)) as error:
        prints(tmp_path, books, f"  b: {{notebook: n, minutes: 1}}\n  a: {{notebook: n, minutes: 1, params: {params_}}}\n")
    assert "mine.yaml: run a: " in str(error.value) and message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("lr: float = 1", "does not declare out_dir"), ("out_dir = 'x'", "line 1: is not `name: type = literal`"),
        ("out_dir: str = str(3)", "line 1: "), ("out_dir: Path = 'x'", "name 'Path'"), ("import os", "line 1: "),
        ("out_dir: str = ", "line 1: invalid syntax"),
    ],
)  # fmt: skip
def test_a_notebook_must_declare_its_parameters(tmp_path, books, cell, message):
    notebook(books / "n.ipynb", cell)
    with pytest.raises(plan.PlanError, match=f"n.ipynb.*{message}"):
        prints(tmp_path, books)
    notebook(books / "n.ipynb", CELL, tags=())
    with pytest.raises(plan.PlanError, match="n.ipynb has 0 cells with the tag"):
        prints(tmp_path, books)


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"cells": [{}]}', '{"cells": [{"cell_type": "code"}]}'])
def test_a_damaged_or_absent_notebook_is_named(tmp_path, books, content):
    (books / "n.ipynb").write_text(content)
    with pytest.raises(plan.PlanError, match="n.ipynb is no notebook"):
        prints(tmp_path, books)
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

    def changed(m=1, lr=0.1, x="other"):
        now = prints(tmp_path, books, runs.format(m=m, lr=lr, x=x))
        return {name for name in now if now[name] != before.setdefault(name, now[name])}

    before: dict[str, str] = {}
    assert changed() == set() and len(set(before.values())) == 3
    assert changed(m=2, lr="1e-1", x="{width: 4, M: 3}") == set()
    assert changed(lr=0.2) == changed(x="small") == {"a", "b"}
    (tmp_path / "recipes.yaml").write_text("small: {width: 5}\nother: {recipe: small, M: 3}\n")
    assert changed() == {"a", "b"}
    (tmp_path / "recipes.yaml").write_text("other: {M: 3, width: 4}\n")
    assert changed() == set()
    cells = json.loads((books / "n.ipynb").read_text())
    cells["cells"][0]["source"] = "# prose"
    (books / "n.ipynb").write_text(json.dumps(cells))
    assert changed() == set()
    notebook(books / "n.ipynb", CELL, "print(lr + 1)")
    assert changed() == {"a", "b", "c"}


def test_a_run_on_ones_own_images_is_another_when_a_file_of_them_changes(tmp_path, books):
    notebook(books / "n.ipynb", CELL + "dataset: str = 'digits'  # images\n")
    npz, folder = tmp_path / "x.npz", tmp_path / "pictures"
    runs = f"  a: {{notebook: n, minutes: 1, params: {{dataset: 'npz:{npz}'}}}}\n{ONE.replace('a', 'b', 1)}"
    runs += f"  c: {{notebook: n, minutes: 1, params: {{dataset: 'folder:{folder}'}}}}\n"
    absent = prints(tmp_path, books, runs)
    folder.mkdir()
    for path in (npz, folder / "1.png"):
        path.write_bytes(b"1")
    first = prints(tmp_path, books, runs)
    assert prints(tmp_path, books, runs) == first and first["b"] == absent["b"] and first["a"] != absent["a"]
    for path, run_ in ((npz, "a"), (folder / "1.png", "c")):
        stamp = path.stat()
        path.write_bytes(b"2")  # as many bytes, of the same time
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        now = prints(tmp_path, books, runs)
        assert {name for name in now if now[name] != first[name]} == {run_}
        first = now


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_the_profiles_of_the_repository_fit_their_notebooks(path):
    read, notebooks = plan.read(path), params.ROOT / "notebooks"
    assert read.profile == path.stem
    assert plan.check(read, plan.notebooks_of(read, notebooks), path, settings=True).keys() == read.runs.keys()
    assert {spec.gpu for spec in read.runs.values()} == {read.gpu}
    assert read.minutes_of(read.runs) == pytest.approx(read.time, rel=0.2)
    if path.stem == "smoke":
        used = {spec.notebook for spec in read.runs.values()} | {plan.SUMMARY_NOTEBOOK}
        assert used == {book.stem for book in notebooks.glob("*.ipynb")}


def test_every_recipe_is_used_and_can_be_built():
    text = "".join(path.read_text() for path in PROFILES)
    recipes = plan._recipes(plan.RECIPES, 0)
    for name in recipes:
        settings = {"max_steps": 1} | plan.recipe(name)
        model.settings_of(settings.pop("method", "age"), settings)
        built_on = any(settings.get("recipe") == name for settings in recipes.values())
        assert built_on or re.search(rf": {name}[,}}]", text), name
