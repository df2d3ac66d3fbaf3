"""pyproject.toml, requirements.lock and environment.yml agree; the set-up script makes and reuses environments."""

import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from suite.params import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
LOCK = [line for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines() if line and line[0] != "#"]
PYTHONS = ("3.11", "3.12", "3.13")


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_pins_every_dependency_once_inside_its_range(python, system):
    place = default_environment() | {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": system}
    place["os_name"] = "nt" if system == "win32" else "posix"
    pinned: dict[str, str] = {}
    for requirement in map(Requirement, LOCK):
        (specifier,) = requirement.specifier
        assert specifier.operator == "==" and "*" not in specifier.version and "+" not in specifier.version, requirement
        if requirement.marker is None or requirement.marker.evaluate(place):
            name = canonicalize_name(requirement.name)
            assert name not in pinned, f"{name} is pinned twice on Python {python}"
            pinned[name] = specifier.version
    for requirement in map(Requirement, PROJECT["dependencies"]):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_lock_pythons_conda_and_packages_agree():
    assert LOCK[:2] == ["torch==2.13.0", "torchvision==0.28.0"]  # pinned by hand, without what a CUDA build brings
    for line in LOCK:
        assert not re.search(r"^(nvidia|cuda|triton)|://|^-|^\.|@ ", line), f"a host, an option, a path, of CUDA: {line}"
    supported = SpecifierSet(PROJECT["requires-python"])
    assert [python in supported for python in ("3.10.14", *PYTHONS, "3.14.0")] == [False, True, True, True, False]
    python, *others = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    assert python.removeprefix("python=") in PYTHONS and others == ["pip", {"pip": ["-r requirements.lock", "-e ."]}]
    # An installed copy has both packages, every folder of them, and the template of the page.
    setuptools = PYPROJECT["tool"]["setuptools"]
    assert setuptools["packages"]["find"]["include"] == ["agelib*", "suite*"]
    folders = {path.parent for package in ("agelib", "suite") for path in (ROOT / package).rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]
    others = {path.suffix for path in (ROOT / "suite").rglob("*") if path.is_file()} - {".py", ".pyc"}
    assert others == {".jinja"} and setuptools["package-data"] == {"suite": ["*.jinja"]}


def test_scripts_can_be_started_and_ci_runs_the_tests():
    for name in ("run_all.sh", "run_tests.sh", ".ci/run", "tools/lock.sh"):
        assert os.access(ROOT / name, os.X_OK) and (ROOT / name).read_text().startswith("#!/usr/bin/env bash\n"), name
    assert "../run_tests.sh" in (ROOT / ".ci/run").read_text()


def test_check_env_passes_here_and_names_what_is_wrong(tmp_path):
    def check(*arguments) -> subprocess.CompletedProcess:
        command = [sys.executable, ROOT / "tools" / "check_env.py", *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    assert check(ROOT / "pyproject.toml").stdout == ""
    project = tmp_path / "pyproject.toml"
    project.write_text(
        '[project]\nname = "no-such-project-of-ours"\nrequires-python = ">=3.99"\n'
        'dependencies = ["numpy<1", "pyyaml", "no-such-package-at-all>=1", "absent-too; python_version < \'3\'"]\n'
    )
    result = check(project, "--installed")
    python, numpy, absent, own = result.stdout.splitlines()
    assert result.returncode == 1 and python.endswith("needed is >=3.99")
    assert numpy.startswith("  numpy is ") and numpy.endswith("needed is <1")
    assert (absent, own) == ("  lacks no-such-package-at-all>=1", "  lacks no-such-project-of-ours")


# A stand-in for Python on PATH: answers the version question, "makes" environments that are this script again, writes
# down what pip is asked for, and passes the check of what is installed once the project itself is.
FAKE_PYTHON = r"""#!/bin/bash
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
case "$*" in
    "-c import platform"*) echo 3.12.7 ;;
    "-c import sys"*) exit "${FAKE_UNSUPPORTED:-0}" ;;
    "-c import ensurepip") exit "${FAKE_NO_ENSUREPIP:-0}" ;;
    "-c "*) ;;
    "-m venv "*) mkdir -p "${!#}/bin" && cp "${BASH_SOURCE[0]}" "${!#}/bin/python" && echo "$*" >>"$FAKE_LOG" ;;
    *"pip install"*|*"pip --python"*) words=$*; echo "${words//--disable-pip-version-check /}" >>"$FAKE_LOG"
        [ "${FAKE_OFFLINE:-0}" = 0 ] || exit 1
        case "$*" in *"-e "*) touch "$here/complete" ;; esac ;;
    *check_env.py*) [ -e "$here/complete" ] || { echo "  lacks everything"; exit 1; } ;;
    *) exit 99 ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """A folder with the set-up's files, and a PATH on which the only Python is the stand-in. clone(NAME=value) sources the
    script and sets up, with this environment; clone.done() are the commands so far."""
    root, tools, log = tmp_path / "a clone", tmp_path / "bin", tmp_path / "log"
    (root / "tools").mkdir(parents=True)
    tools.mkdir()
    for name in ("tools/setup.sh", "tools/check_env.py", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, root / name)
    for name in ("bash", "grep", "rm", "mkdir", "cp", "dirname", "touch"):
        (tools / name).symlink_to(shutil.which(name))
    (tools / "python3").write_text(FAKE_PYTHON)
    (tools / "python3").chmod(0o755)

    def setup(**env: str) -> subprocess.CompletedProcess:
        script = f'set -euo pipefail; source "{root}/tools/setup.sh"; setup_python "{root}"; '
        script += 'echo "$PYTHON"; echo "$PYTHONPATH"'
        env = {"PATH": str(tools), "FAKE_LOG": str(log)} | env
        return subprocess.run([shutil.which("bash"), "-c", script], env=env, capture_output=True, text=True)

    setup.root, setup.venv, setup.fake = root, f"{root}/.venv", tools / "python3"
    setup.done = lambda: log.read_text().splitlines() if log.exists() else []
    return setup


def test_setup_makes_an_environment_once(clone):
    first = clone()
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-2:] == [f"{clone.venv}/bin/python", str(clone.root)]
    commands = clone.done()
    assert commands == [
        f"-m venv {clone.venv}",
        "-m pip install torch==2.13.0",
        "-m pip install --quiet --no-deps torchvision==0.28.0",
        f"-m pip install --quiet -r {clone.root}/requirements.lock",
        f"-m pip install --quiet --no-deps -e {clone.root}",
    ]
    assert clone().stdout.splitlines() == first.stdout.splitlines()[-2:] and clone.done() == commands


def test_setup_that_was_cut_off_goes_on(clone):
    assert clone(FAKE_OFFLINE="1").returncode != 0
    assert clone().returncode == 0
    assert [sum(part in command for command in clone.done()) for part in ("-m venv", "torch==")] == [1, 2]


def test_setup_without_ensurepip_uses_the_pip_that_is_there(clone):
    assert clone(FAKE_NO_ENSUREPIP="1").returncode == 0
    expected = [f"-m venv --without-pip {clone.venv}", f"-m pip --python {clone.venv}/bin/python install --quiet pip"]
    assert clone.done()[:2] == expected


def test_setup_says_that_no_python_fits(clone):
    result = clone(FAKE_UNSUPPORTED="1")
    assert result.returncode == 1 and "no Python 3.11, 3.12 or 3.13 on PATH" in result.stderr and not clone.done()


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_setup_uses_an_active_environment_that_fits_and_leaves_another_alone(clone, variable):
    active = clone.root / "active" / "bin"
    active.mkdir(parents=True)
    shutil.copy(clone.fake, active / "python")
    lacking = clone(**{variable: str(active.parent)})
    assert lacking.returncode == 0 and "is left as it is:\n  lacks everything" in lacking.stdout
    assert lacking.stdout.splitlines()[-2] == f"{clone.venv}/bin/python"
    before = clone.done()
    (active / "complete").touch()
    fits = clone(**{variable: str(active.parent)})
    assert fits.stdout.splitlines() == [f"{active}/python", str(clone.root)] and clone.done() == before


def test_setup_uses_the_python_on_path_if_it_fits(clone):
    (clone.fake.parent / "complete").touch()
    assert clone().stdout.splitlines()[0] == str(clone.fake) and not clone.done()
