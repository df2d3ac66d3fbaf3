"""The page of a profile: complete, escaped, relative, without a network."""

import re
from urllib.parse import unquote

import pytest

from suite import page


@pytest.fixture
def results(tmp_path):
    for run in ("digits-seed0", "lost"):
        (tmp_path / run / "figures").mkdir(parents=True)
        (tmp_path / run / "notebook.ipynb").write_text("{}")
    for name in ("zebra", "figure2", "learning_curves"):
        (tmp_path / "digits-seed0" / "figures" / f"{name}.png").write_bytes(b"")
    (tmp_path / "digits-seed0" / "notebook.html").write_text("<p>")
    (tmp_path / "digits-seed0" / "figures" / "a 100%.png").write_bytes(b"")
    return tmp_path


COLLECTED = [
    {"run": "digits-seed0", "status": "ok", "rows": [], "notebook": "01_unconditional", "wall_time_s": 150.0,
     "config": {"seed": 3}, "environment": {"device": "cpu", "cpu": "Some CPU", "threads": 2, "torch": "2.13.0"},
     "dataset": {"name": "digits", "source": "embedded <5,000> digits", "stand_in_for": "MNIST"}},
    {"run": "lost", "status": "diverged", "rows": [], "reason": "l_x is not finite at step 9 & more"},
    {"run": "old", "status": "ok", "rows": [], "later": "a later attempt failed", "wall_time_s": 5,
     "training_seconds": 7200},
]  # fmt: skip


def test_every_link_is_relative_and_leads_to_a_file(results):
    text = page.write(results, iter(COLLECTED), profile="quick").read_text()
    links = re.findall(r'(?:href|src)="([^"#]*)"', text)
    assert len(links) == 1 + 2 + 2 * 4 + 1  # summary; html and ipynb; four figures as link and image; ipynb
    for link in links:
        assert not re.match(r"[a-z]+:|/", link)
        if link != "summary/notebook.html":  # written after this page
            assert (results / unquote(link)).is_file(), link
    assert "digits-seed0/figures/a%20100%25.png" in links


def test_the_page_needs_no_network_and_no_script(results):
    text = page.write(results, COLLECTED, profile="quick").read_text()
    assert "http" not in text and "<script" not in text and "@import" not in text and "url(" not in text
    assert "prefers-color-scheme: dark" in text


def test_text_is_escaped_and_trouble_is_shown(results):
    text = page.write(results, COLLECTED, profile="<quick>").read_text()
    assert "<quick>" not in text and "&lt;quick&gt;" in text
    assert "embedded &lt;5,000&gt; digits" in text and "step 9 &amp; more" in text
    assert 'class="run bad" id="lost"' in text and ">diverged</span>" in text
    assert "3 runs, 1 of them diverged or failed" in text
    assert "a later attempt failed" in text and "2.0 h" in text
    assert "Stand-in for MNIST" in text
    assert "01_unconditional, 2 min, seed 3" in text
    assert "cpu (Some CPU, 2 threads), torch 2.13.0" in text


def test_the_papers_figure_comes_first(results):
    text = page.write(results, COLLECTED, profile="quick").read_text()
    shown = re.findall(r'src="digits-seed0/figures/([^"]*)\.png"', text)
    assert shown == ["figure2", "a%20100%25", "learning_curves", "zebra"]


def test_tables_go_in_as_given(results):
    tables = [("Numbers", "a < b", "<table><tr><td>7</td></tr></table>")]
    text = page.write(results, [], profile="quick", tables=tables).read_text()
    assert "<table><tr><td>7</td></tr></table>" in text and "a &lt; b" in text
    assert "No run has left results yet" in text


def test_a_missing_folder_is_an_error_and_nothing_is_left_aside(results, tmp_path):
    page.write(results, COLLECTED, profile="quick")
    assert not list(results.glob("*.part"))
    with pytest.raises(FileNotFoundError):
        page.write(tmp_path / "nowhere", [], profile="quick")
