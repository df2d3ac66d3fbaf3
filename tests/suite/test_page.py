"""The page of a profile: complete, escaped, relative, without a network."""

import re
from urllib.parse import unquote

import pytest
from IPython.display import HTML

from suite import page

COLLECTED = [
    {"run": "digits-seed0", "status": "ok", "rows": [], "notebook": "01_unconditional", "wall_time_s": 150.0,
     "config": {"seed": 3}, "environment": {"device": "cpu", "cpu": "Some CPU", "threads": 2, "torch": "2.13.0"},
     "dataset": {"name": "digits", "source": "embedded <5,000> digits", "stand_in_for": "MNIST"}},
    {"run": "lost", "status": "diverged", "rows": [], "reason": "l_x is not finite at step 9 & more"},
    {"run": "old", "status": "ok", "rows": [], "later": "a later attempt failed", "wall_time_s": 5,
     "training_seconds": 7200},
]  # fmt: skip
FILES = [
    "digits-seed0/notebook.ipynb", "digits-seed0/notebook.html", "lost/notebook.ipynb",
    *(f"digits-seed0/figures/{name}.png" for name in ("zebra", "figure2", "learning_curves", "a 100%")),
]  # fmt: skip


def test_a_page_is_whole_relative_and_escaped(tmp_path):
    for file in FILES:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    tables = [("Numbers", "a < b", HTML("<table><tr><td>7</td></tr></table>"))]
    text = page.write(tmp_path, iter(COLLECTED), profile="<quick>", tables=tables).read_text()
    assert not list(tmp_path.glob("*.part"))
    links = re.findall(r'(?:href|src)="([^"#]*)"', text)
    assert sorted(map(unquote, links)) == sorted([*FILES, *FILES[3:], "summary/notebook.html"])  # figures: link and image
    assert re.findall(r'src="digits-seed0/figures/([^"]*)\.png"', text) == [
        "figure2", "a%20100%25", "learning_curves", "zebra",
    ]  # fmt: skip
    for outside in ("http", "<script", "@import", "url(", "<quick>"):
        assert outside not in text
    for shown in (
        "prefers-color-scheme: dark", "&lt;quick&gt;", "embedded &lt;5,000&gt; digits", "step 9 &amp; more",
        'class="run bad" id="lost"', ">diverged</span>", "3 runs, 1 of them diverged or failed", "a later attempt failed",
        "2.0 h", "Stand-in for MNIST", "01_unconditional, 2 min, seed 3", "cpu (Some CPU, 2 threads), torch 2.13.0",
        "<table><tr><td>7</td></tr></table>", "a &lt; b",
    ):  # fmt: skip
        assert shown in text, shown


def test_what_a_killed_writer_left_goes(tmp_path):
    (tmp_path / ".index.html.123.part").write_text("half")
    page.write(tmp_path, [], profile="smoke")
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_a_page_without_runs_and_one_without_a_folder(tmp_path):
    assert "No run has left results yet" in page.write(tmp_path, [], profile="quick").read_text()
    with pytest.raises(FileNotFoundError):
        page.write(tmp_path / "nowhere", [], profile="quick")
