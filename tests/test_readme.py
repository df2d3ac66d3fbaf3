"""The README says what the repository does: its table of notebooks, its profiles, its commands."""

import re
import subprocess
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_is_in_the_table_under_its_heading(path):
    heading = nbformat.read(path, 4).cells[0].source.splitlines()[0]
    number, title = re.fullmatch(r"# (\d\d) (.+)", heading).groups()
    assert path.name.startswith(number + "_")
    assert f"[{path.stem}](notebooks/{path.name}): {title} |" in README


def test_every_profile_is_described():
    for path in (ROOT / "config").glob("*.yaml"):
        if path.stem == "recipes":
            continue
        assert f"| `{path.stem}` |" in README, path.stem


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_no_placeholder_is_left():
    assert not re.findall(r"\b(?:[A-Z]+_TIME|TABLE|BENCH|LIMITS|RESULTS)\b", README)


@pytest.mark.parametrize("command", re.findall(r"^\./run_all\.sh( --(?:list|dry-run))? +#", README, re.M))
def test_commands_of_the_readme_start(command):
    arguments = [ROOT / "run_all.sh", "--profile", "smoke", *command.split(), "--list"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "profile  smoke" in done.stdout
