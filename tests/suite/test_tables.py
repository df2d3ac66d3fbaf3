"""Tables: joining, averaging over seeds, marking what is not comparable, keeping what went wrong."""

import json
import math

import pandas as pd
import pytest

from suite import tables
from suite.run import REFERENCE

HEADER = "experiment,model,dataset,metric,protocol,value,std,source\n"
NAN = pytest.approx(math.nan, nan_ok=True)


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "paper.csv"
    numbers = "inception_score,AGE,cifar10,inception_score,50k,5.90,0.04,AGE paper\n"
    path.write_text(HEADER + numbers + "mnist_likelihood,AGE-10,mnist,log_likelihood_ais_test,AIS,746,,AGE paper\n")
    return tables.read_paper_numbers(path)


def row(value=5.5, **changes) -> dict:
    base = {"experiment": "inception_score", "model": "AGE", "dataset": "cifar10", "metric": "inception_score"}
    base |= {"std": None, "n": 50_000, "protocol": "50k", "seed": 0, "comparable": True, "note": ""}
    return base | {"value": value} | changes


def metrics(run="cifar10", rows=(), status="ok", **extra) -> dict:
    config = {"lam": 1000, "seed": 0, "out_dir": f"results/quick/{run}", "run_name": run}
    base = {"run": run, "notebook": "03_inception_score", "status": status, "rows": list(rows), "config": config}
    return base | {"dataset": {"name": "cifar10"}} | extra


def seeds(*values: float, **last: dict) -> list[dict]:
    """Runs "a", "b", ... with seeds 0, 1, ..., one number each; last: what is other in the last one's config."""
    configs = [{"lam": 1000, "seed": k, "run_name": "abc"[k]} for k in range(len(values))]
    configs[-1] |= last
    given = zip("abc", values, configs, strict=False)
    return [metrics(run, [row(value, seed=config["seed"])], config=config) for run, value, config in given]


LOST = metrics("c", [], "diverged", reason="l_x is not finite at step 70", config={"lam": 1000, "seed": 2})
LIKELIHOOD = {"experiment": "mnist_likelihood", "model": "AGE-10", "metric": "log_likelihood_ais_test"}


def test_the_reference_holds_the_papers_own_numbers():
    table = tables.read_paper_numbers(REFERENCE)
    found = {(r.model, r.dataset, r.metric): (r.value, r.std) for r in table.itertuples()}
    printed = {
        ("AGE", "cifar10", "inception_score"): (5.90, 0.04),
        ("ALI", "cifar10", "inception_score"): (5.34, 0.05),
        ("AGE-10", "mnist", "log_likelihood_ais_test"): (746, NAN),
        ("VAE-10", "mnist", "log_likelihood_ais_test"): (705.375, 7.411),
        ("AGE", "svhn", "test_error_percent"): (23.7, NAN),
        ("ALI", "svhn", "test_error_percent"): (19.14, 0.50),
    }
    assert {key: found[key] for key in printed} == printed
    assert table["source"].str.strip().all() and list(table.columns) == tables.PAPER_COLUMNS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("experiment,model\nx,y\n", "need the columns"),
        (HEADER + "e,m,d,k,p,abc,,s\n", "value is no finite number: 'abc'"),
        (HEADER + "e,m,d,k,p,nan,,s\n", "no finite number"),
        (HEADER + "e,m,d,k,p,1,oops,s\n", "std is no finite number"),
        (HEADER + "e,,d,k,p,1,,\n", "model is empty, source is empty"),
        (HEADER + "e,m,d,k,p,1,,s\ne,m,d,k,q,2,,s\n", "there twice: e, m, d, k"),
    ],
)
def test_a_damaged_reference_is_refused(tmp_path, text, message):
    path = tmp_path / "numbers.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        tables.read_paper_numbers(path)


# What is compared: rows, or runs; and for each line of the table what must stand in it.
COMPARED = {
    "one number": ([row(5.5, std=0.1)], [{"paper": 5.9, "paper_std": 0.04, "ours": 5.5, "std": 0.1, "comparable": True,
        "gap": pytest.approx(-0.4), "seeds": 1, "n": 50_000, "spread": "within the run"}]),
    "mean and deviation over seeds": (seeds(5.0, 6.0, 7.0), [{"ours": 6.0, "std": 1.0, "seeds": 3, "runs": "a, b, c",
        "spread": "over 3 seeds", "gap": pytest.approx(0.1)}]),  # deviations -1, 0, 1; 1/(3-1) * 2 = 1
    "other settings are no other seed": (seeds(5.0, 6.0, lam=2000), [{"ours": 5.0}, {"ours": 6.0}]),
    "a seed twice is not averaged": (seeds(5.0, 6.0, seed=0), [{"ours": 5.0, "seeds": 1}, {"ours": 6.0, "seeds": 1}]),
    "one of two not comparable": ([row(5, seed=0), row(6, seed=1, comparable=False)], [{"comparable": False, "gap": NAN}]),
    "a stand-in has no gap": ([row(500.0, dataset="digits", **LIKELIHOOD)], [{"paper": 746, "comparable": False, "gap": NAN,
        "note": "stand-in; paper: mnist"}]),
    "a notebook's leading number": ([row(experiment="03_inception_score")], [{"paper": 5.9}]),
    "not published": ([row(0.2, metric="l1")], [{"paper": NAN, "comparable": None, "ours": 0.2}]),
    "a lost seed": ([*seeds(5.0, 6.0), LOST], [{"seeds": 2, "note": "1 more seed lost"}, {"metric": "run diverged",
        "experiment": "inception_score", "runs": "c", "seeds": 0, "ours": NAN, "note": "l_x is not finite at step 70"}]),
    "numbers of a diverged run": ([*seeds(5.0, 6.0), LOST | {"rows": [row(1.0)]}],
        [{"ours": 5.5}, {"ours": 1.0, "note": "run diverged"}, {"ours": NAN}]),
}  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), COMPARED.values(), ids=COMPARED)
def test_compare(paper, given, expected):
    table = tables.compare(tables.rows_of(given) if "rows" in given[0] else given, paper)
    wanted = "experiment model dataset metric protocol paper ours std n seeds gap comparable notebook".split()
    assert list(table.columns)[: len(wanted)] == list(tables.compare([], paper).columns)[: len(wanted)] == wanted
    for line, values in zip(table.to_dict("records"), expected, strict=True):
        assert {key: line[key] for key in values} == values


def test_not_measured_lists_the_rest(paper):
    assert list(tables.not_measured([row()], paper)["model"]) == ["AGE-10"]
    assert list(tables.not_measured([row(None)], paper)["model"]) == ["AGE", "AGE-10"]


def test_collect_reads_every_run_and_says_what_a_later_or_broken_attempt_left(tmp_path):
    good, lost = (json.dumps(m) for m in (metrics("elsewhere", [row()]), metrics("x", [], "diverged", reason="no l_x")))
    for file, text in {
        "b/metrics.json": good, "a/metrics.json": good, "summary/metrics.json": good, "nothing/else": "", "index.html": "",
        "stopped/notebook.ipynb": "{}", "damaged/metrics.json": '{"rows": [', "odd/metrics.json": '{"rows": [{"model": 3}]}',
        "before/metrics.json": good, "before/.new/notebook.ipynb": "", "lost/.new/metrics.json": lost, "killed/.new/x": "",
    }.items():  # fmt: skip
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    found = {m["run"]: m for m in tables.collect(tmp_path)}
    status = dict.fromkeys(["a", "b", "before"], "ok") | dict.fromkeys(["damaged", "killed", "odd", "stopped"], "failed")
    assert {run: m["status"] for run, m in found.items()} == status | {"lost": "diverged"} and list(found) == sorted(found)
    assert "metrics.json is damaged" in found["damaged"]["reason"] and found["stopped"]["rows"] == []
    assert "rows.0.experiment: Field required; rows.0.model: " in found["odd"]["reason"]
    assert found["before"]["rows"] == [row()] and "a later attempt did not come to its end" in found["before"]["later"]
    assert found["lost"]["reason"] == "no l_x" and "stopped before" in found["killed"]["reason"]
    assert len(tables.rows_of(found.values())) == 8  # three numbers, five runs that say they failed
    with pytest.raises(FileNotFoundError):
        tables.collect(tmp_path / "nowhere")


def test_cells_say_value_spread_seeds_and_gap(paper):
    rows = [row(5, seed=0), row(6, seed=1), row(0.12345, metric="l1", std=0.02), row(1234, metric="l2", std=120.4)]
    first, second, third = tables.pretty(tables.compare(rows, paper)).to_dict("records")
    assert first["paper"] == "5.9 ± 0.04" and first["ours"] == "5.500 ± 0.71 (2 seeds)"
    assert first["gap"] == "−0.4000" and first["comparable"] == "yes" and first["protocol (n)"] == "50k (n = 50,000)"
    assert second["notebook: runs"] == "" and third["ours"] == "1234 ± 120"
    assert second["paper"] == "–" and second["comparable"] == "–" and second["ours"] == "0.1235 ± 0.02"
    assert tables._printed(1272.586, 6.759) == "1272.586 ± 6.759" and tables._printed(721.0, math.nan) == "721"
    for value, text in [(746.0, "746.0"), (0.0, "0"), (12345.6, "12346"), (1e-9, "1e-09"), (math.nan, "–")]:
        assert tables._number(value) == text


def test_html_is_escaped_and_marks_miss_other_and_lost(paper):
    rows = [row(5.5, note="<b>&"), row(5.85, model="AGE", seed=0, protocol="other", std=0.1)]
    rows += [row(1.0, comparable=False, protocol="fewer")]
    lost = tables.rows_of([metrics("c", [], "failed")])
    text = tables.to_html(tables.compare(rows + lost, paper))._repr_html_()
    assert "&lt;b&gt;&amp;" in text and "<b>" not in text
    # 5.5: gap 0.4 > 0.04. 5.85: gap 0.05 <= 0.1 + 0.04. Then one not comparable, one failed.
    classes = [part.split(">")[0] for part in text.split("<tr")[2:]]
    assert classes == [' class="miss"', "", ' class="other"', ' class="lost"']
    # Other tables are rendered as they are.
    assert ">5.9 ± 0.04</td>" in tables.to_html(tables.published(paper)).data
    long = "words " * 40 + "end"
    assert f">{long}</td>" in tables.to_html(pd.DataFrame({"a": [long]})).data
