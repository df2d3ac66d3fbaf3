"""Tables: joining, averaging over seeds, marking what is not comparable, keeping what went wrong."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from suite import tables

REFERENCE = Path(__file__).resolve().parents[2] / "reference" / "paper_numbers.csv"
HEADER = "experiment,model,dataset,metric,protocol,value,std,source\n"


@pytest.fixture
def paper(tmp_path):
    path = tmp_path / "paper.csv"
    path.write_text(
        HEADER
        + "inception_score,AGE,cifar10,inception_score,50k,5.90,0.04,AGE paper\n"
        + "mnist_likelihood,AGE-10,mnist,log_likelihood_ais_test,AIS,746,,AGE paper\n"
    )
    return tables.read_paper_numbers(path)


def row(value=5.5, **changes) -> dict:
    base = {"experiment": "inception_score", "model": "AGE", "dataset": "cifar10", "metric": "inception_score"}
    base |= {"std": None, "n": 50_000, "protocol": "50k", "seed": 0, "comparable": True, "note": ""}
    return base | {"value": value} | changes


def metrics(run="cifar10", rows=(), status="ok", **extra) -> dict:
    config = {"lam": 1000, "seed": 0, "out_dir": f"results/quick/{run}", "run_name": run}
    base = {"run": run, "notebook": "03_inception_score", "status": status, "rows": list(rows), "config": config}
    return base | {"dataset": {"name": "cifar10"}} | extra


def seed(k: int, value: float, run: str, **config) -> dict:
    given = {"lam": 1000, "seed": k, "run_name": run} | config
    return metrics(run, [row(value, seed=k)], config=given)


# ---- published numbers


def test_the_reference_holds_the_papers_own_numbers():
    table = tables.read_paper_numbers(REFERENCE)
    found = {(r.model, r.dataset, r.metric): (r.value, r.std) for r in table.itertuples()}
    assert found["AGE", "cifar10", "inception_score"] == (5.90, 0.04)
    assert found["ALI", "cifar10", "inception_score"] == (5.34, 0.05)
    assert found["AGE-10", "mnist", "log_likelihood_ais_test"][0] == 746
    assert found["VAE-10", "mnist", "log_likelihood_ais_test"] == (705.375, 7.411)
    assert found["AGE", "svhn", "test_error_percent"][0] == 23.7
    assert found["ALI", "svhn", "test_error_percent"] == (19.14, 0.50)
    assert math.isnan(found["AGE", "svhn", "test_error_percent"][1])
    assert table["source"].str.strip().all() and list(table.columns) == tables.PAPER_COLUMNS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("experiment,model\nx,y\n", "need the columns"),
        (HEADER + "e,m,d,k,p,abc,,s\n", "value is no finite number: 'abc'"),
        (HEADER + "e,m,d,k,p,nan,,s\n", "no finite number"),
        (HEADER + "e,m,d,k,p,1,oops,s\n", "std is no finite number"),
        (HEADER + "e,,d,k,p,1,,\n", "empty model, source"),
        (HEADER + "e,m,d,k,p,1,,s\ne,m,d,k,q,2,,s\n", "there twice: e, m, d, k"),
    ],
)
def test_a_damaged_reference_is_refused(tmp_path, text, message):
    path = tmp_path / "numbers.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        tables.read_paper_numbers(path)


# ---- compare


def test_a_number_stands_beside_the_papers(paper):
    (line,) = tables.compare([row(5.5, std=0.1)], paper).to_dict("records")
    assert (line["paper"], line["paper_std"], line["ours"], line["std"]) == (5.9, 0.04, 5.5, 0.1)
    assert line["gap"] == pytest.approx(-0.4)
    assert line["comparable"] and line["seeds"] == 1 and line["n"] == 50_000 and line["spread"] == "within the run"


def test_columns_and_their_order(paper):
    wanted = "experiment model dataset metric protocol paper ours std n seeds gap comparable notebook".split()
    assert list(tables.compare([row()], paper).columns)[: len(wanted)] == wanted
    assert list(tables.compare([], paper).columns)[: len(wanted)] == wanted


def test_seeds_become_mean_and_standard_deviation(paper):
    runs = [seed(0, 5.0, "a"), seed(1, 6.0, "b"), seed(2, 7.0, "c")]
    (line,) = tables.compare(tables.rows_of(runs), paper).to_dict("records")
    # mean 6; deviations -1, 0, 1; 1/(3-1) * 2 = 1
    assert (line["ours"], line["std"], line["seeds"], line["spread"]) == (6.0, 1.0, 3, "over 3 seeds")
    assert line["gap"] == pytest.approx(0.1) and line["runs"] == "a, b, c"


def test_other_settings_are_not_another_seed(paper):
    runs = [seed(0, 5.0, "a"), seed(1, 6.0, "b", lam=2000)]
    assert list(tables.compare(tables.rows_of(runs), paper)["ours"]) == [5.0, 6.0]


def test_a_seed_that_occurs_twice_is_not_averaged(paper):
    runs = [seed(0, 5.0, "a"), seed(0, 6.0, "b")]
    table = tables.compare(tables.rows_of(runs), paper)
    assert list(table["ours"]) == [5.0, 6.0] and list(table["seeds"]) == [1, 1]


def test_one_incomparable_seed_makes_the_mean_incomparable(paper):
    (line,) = tables.compare([row(5, seed=0), row(6, seed=1, comparable=False)], paper).to_dict("records")
    assert line["comparable"] is False and math.isnan(line["gap"])


def test_a_stand_in_shows_the_papers_number_but_never_a_gap(paper):
    ours = row(500.0, experiment="mnist_likelihood", model="AGE-10", dataset="digits", metric="log_likelihood_ais_test")
    (line,) = tables.compare([ours], paper).to_dict("records")
    assert line["paper"] == 746 and line["comparable"] is False and math.isnan(line["gap"])
    assert line["note"] == "stand-in; paper: mnist"


def test_a_notebooks_leading_number_is_no_part_of_the_experiment(paper):
    (line,) = tables.compare([row(experiment="03_inception_score")], paper).to_dict("records")
    assert line["paper"] == 5.9


def test_what_nobody_published_stays_without_a_verdict(paper):
    (line,) = tables.compare([row(0.2, metric="l1")], paper).to_dict("records")
    assert math.isnan(line["paper"]) and line["comparable"] is None and line["ours"] == 0.2


def test_a_lost_seed_is_named_and_counted(paper):
    lost = metrics("c", [], "diverged", reason="l_x is not finite at step 70", config={"lam": 1000, "seed": 2})
    table = tables.compare(tables.rows_of([seed(0, 5.0, "a"), seed(1, 6.0, "b"), lost]), paper)
    mean, row_of_lost = table.to_dict("records")
    assert mean["seeds"] == 2 and mean["note"] == "1 more seed lost"
    assert row_of_lost["experiment"] == "inception_score"
    assert row_of_lost["metric"] == "run diverged" and row_of_lost["runs"] == "c" and row_of_lost["seeds"] == 0
    assert row_of_lost["note"] == "l_x is not finite at step 70" and math.isnan(row_of_lost["ours"])


def test_numbers_of_a_diverged_run_are_kept_apart_from_the_good_ones(paper):
    bad = seed(2, 1.0, "c") | {"status": "diverged"}
    table = tables.compare(tables.rows_of([seed(0, 5.0, "a"), seed(1, 6.0, "b"), bad]), paper)
    assert list(table["ours"].dropna()) == [5.5, 1.0]
    assert table["note"].iloc[1] == "run diverged"


def test_not_measured_lists_the_rest(paper):
    assert list(tables.not_measured([row()], paper)["model"]) == ["AGE-10"]
    assert list(tables.not_measured([row(None)], paper)["model"]) == ["AGE", "AGE-10"]


# ---- collect


def test_collect_reads_every_run_and_names_the_broken_ones(tmp_path):
    for name in ("b", "a", "stopped", "damaged", "summary", "nothing"):
        (tmp_path / name).mkdir()
    for name in ("a", "b", "summary"):
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics("copied from elsewhere", [row()])))
    (tmp_path / "stopped" / "notebook.ipynb").write_text("{}")
    (tmp_path / "damaged" / "metrics.json").write_text('{"rows": [')
    (tmp_path / "index.html").write_text("")
    found = {m["run"]: m for m in tables.collect(tmp_path)}
    assert list(found) == ["a", "b", "damaged", "stopped"]
    assert found["stopped"]["status"] == found["damaged"]["status"] == "failed"
    assert "damaged" in found["damaged"]["reason"] and found["stopped"]["rows"] == []
    assert len(tables.rows_of(found.values())) == 4  # two numbers, two runs that say they failed
    with pytest.raises(FileNotFoundError):
        tables.collect(tmp_path / "nowhere")


def test_what_a_later_attempt_left_is_told(tmp_path):
    """Beside results of before it is a remark; without any, its own metrics.json, diverged or not ended, are the run's."""
    lost = metrics("x", [], "diverged", reason="AGE: l_x is not finite")
    for name, files in {"before": ["metrics.json", ".new/notebook.ipynb"], "lost": [".new/metrics.json"]}.items():
        for file in files:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(json.dumps(lost if name == "lost" else metrics("x", [row()])))
    (tmp_path / "killed" / ".new").mkdir(parents=True)
    found = {m["run"]: m for m in tables.collect(tmp_path)}
    assert {run: m["status"] for run, m in found.items()} == {"before": "ok", "killed": "failed", "lost": "diverged"}
    assert found["before"]["rows"] == [row()] and "a later attempt did not come to its end" in found["before"]["later"]
    assert found["lost"]["reason"] == "AGE: l_x is not finite" and "stopped before" in found["killed"]["reason"]


# ---- for readers


def test_cells_say_value_spread_seeds_and_gap(paper):
    table = tables.compare([row(5, seed=0), row(6, seed=1), row(0.12345, metric="l1", std=0.02)], paper)
    first, second = tables.pretty(table).to_dict("records")
    assert first["paper"] == "5.9 ± 0.04" and first["ours"] == "5.500 ± 0.71 (2 seeds)"
    assert first["gap"] == "−0.4000" and first["comparable"] == "yes" and first["protocol (n)"] == "50k (n = 50,000)"
    assert second["notebook: runs"] == ""
    assert second["paper"] == "–" and second["comparable"] == "–" and second["ours"] == "0.1235 ± 0.02"


@pytest.mark.parametrize(
    ("value", "text"), [(746.0, "746.0"), (0.0, "0"), (12345.6, "12346"), (1e-9, "1e-09"), (math.nan, "–")]
)
def test_four_significant_digits(value, text):
    assert tables._number(value) == text


def test_published_digits_and_large_spreads_are_written_out():
    assert tables._printed(1272.586, 6.759) == "1272.586 ± 6.759" and tables._printed(721.0, math.nan) == "721"
    line = {"ours": 1234.0, "std": 120.4, "seeds": 1, "status": "ok"}
    assert tables._ours(line) == "1234 ± 120" and tables._ours(line | {"ours": 746.0, "std": 7.41}) == "746.0 ± 7.4"


def test_html_is_escaped_and_marks_miss_other_and_lost(paper):
    rows = [row(5.5, note="<b>&"), row(5.85, model="AGE", seed=0, protocol="other", std=0.1)]
    rows += [row(1.0, comparable=False, protocol="fewer")]
    lost = tables.rows_of([metrics("c", [], "failed")])
    text = tables.to_html(tables.compare(rows + lost, paper))
    assert "&lt;b&gt;&amp;" in text and "<b>" not in text
    # 5.5: gap 0.4 > 0.04. 5.85: gap 0.05 <= 0.1 + 0.04. Then one not comparable, one failed.
    classes = [part.split(">")[0] for part in text.split("<tr")[2:]]
    assert classes == [' class="miss"', "", ' class="other"', ' class="lost"']
    assert text._repr_html_() == text


def test_other_tables_are_rendered_as_they_are(paper):
    assert ">5.9 ± 0.04</td>" in tables.to_html(tables.published(paper))
    long = "words " * 40 + "end"
    assert f">{long}</td>" in tables.to_html(pd.DataFrame({"a": [long]}))
