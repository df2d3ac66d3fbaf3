"""The README says what the repository does: its table of notebooks, its profiles, its commands."""

import re
import subprocess
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_readme_has_every_notebook_and_profile_and_its_links_lead_somewhere():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        heading = nbformat.read(path, 4).cells[0].source.splitlines()[0]
        title = heading.removeprefix(f"# {path.stem[:2]} ")
        assert f"[{path.stem}](notebooks/{path.name}): {title} |" in README, path.stem
    for path in (ROOT / "config").glob("*.yaml"):
        assert f"| `{path.stem}` |" in README or path.stem == "recipes", path.stem
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    assert not re.findall(r"\b(?:[A-Z]+_TIME|TABLE|BENCH|LIMITS|RESULTS)\b", README)


@pytest.mark.parametrize("command", re.findall(r"^\./run_all\.sh( --(?:list|dry-run))? +#", README, re.M))
def test_commands_of_the_readme_start(command):
    arguments = [ROOT / "run_all.sh", "--profile", "smoke", *command.split(), "--list"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "profile  smoke" in done.stdout
