"""pyproject.toml, requirements.lock and environment.yml agree; the set-up script makes and reuses environments."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PYTHONS = ("3.11", "3.12", "3.13")
CHECK = ROOT / "tools" / "check_env.py"


def pins(python: str, system: str = "linux") -> dict[str, str]:
    """name -> version of the lock's lines that hold on this Python and system."""
    place = default_environment() | {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": system,
    }
    place["os_name"] = "nt" if system == "win32" else "posix"
    found: dict[str, str] = {}
    for line in LOCK.splitlines():
        if not line or line.startswith("#"):
            continue
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==" and "*" not in specifier.version and "+" not in specifier.version, line
        if requirement.marker is None or requirement.marker.evaluate(place):
            name = canonicalize_name(requirement.name)
            assert name not in found, f"{name} is pinned twice on Python {python}"
            found[name] = specifier.version
    return found


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_pins_every_dependency_inside_its_range(python, system):
    pinned = pins(python, system)
    for text in PROJECT["dependencies"]:
        requirement = Requirement(text)
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{text}, but the lock says {version}"


def test_the_pair_of_torch_is_pinned_by_hand_and_first():
    lines = [line for line in LOCK.splitlines() if line and not line.startswith("#")]
    assert lines[:2] == ["torch==2.13.0", "torchvision==0.28.0"]
    assert not re.search(r"^(nvidia|cuda|triton)", LOCK, re.MULTILINE)
    assert not re.search(r"://|^-|^\.|@ ", LOCK, re.MULTILINE), "the lock names a host, an option or a path"


def test_the_pythons_agree():
    supported = SpecifierSet(PROJECT["requires-python"])
    assert all(python in supported for python in PYTHONS)
    assert "3.10.14" not in supported and "3.14.0" not in supported


def test_conda_installs_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, packages = environment["dependencies"]
    assert python.removeprefix("python=") in PYTHONS
    assert pip == "pip"
    assert packages == {"pip": ["-r requirements.lock", "-e ."]}


def check(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(CHECK), *arguments], capture_output=True, text=True)


def test_check_env_passes_here_and_names_what_is_wrong(tmp_path):
    assert check(str(ROOT / "pyproject.toml")).stdout == ""
    project = tmp_path / "pyproject.toml"
    project.write_text(
        '[project]\nname = "no-such-project-of-ours"\nrequires-python = ">=3.99"\n'
        'dependencies = ["numpy<1", "pyyaml", "no-such-package-at-all>=1", "absent-too; python_version < \'3\'"]\n'
    )
    result = check(str(project), "--installed")
    assert result.returncode == 1
    python, numpy, absent, own = result.stdout.splitlines()
    assert python.endswith("needed is >=3.99")
    assert numpy.strip().startswith("numpy is ") and numpy.endswith("needed is <1")
    assert absent == "  lacks no-such-package-at-all>=1"
    assert own == "  lacks no-such-project-of-ours"


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
    """A folder with the set-up's files, and a PATH on which the only Python is the stand-in."""
    root, tools = tmp_path / "a clone", tmp_path / "bin"
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
        env = {"PATH": str(tools), "FAKE_LOG": str(tmp_path / "log")} | env
        return subprocess.run([shutil.which("bash"), "-c", script], env=env, capture_output=True, text=True)

    setup.root = root
    setup.log = tmp_path / "log"
    setup.fake = tools / "python3"
    return setup


def test_setup_makes_an_environment_once(clone):
    first = clone()
    assert first.returncode == 0, first.stderr
    root = clone.root
    assert first.stdout.splitlines()[-2:] == [f"{root}/.venv/bin/python", str(root)]
    commands = clone.log.read_text().splitlines()
    assert commands == [
        f"-m venv {root}/.venv",
        "-m pip install torch==2.13.0",
        "-m pip install --quiet --no-deps torchvision==0.28.0",
        f"-m pip install --quiet -r {root}/requirements.lock",
        f"-m pip install --quiet --no-deps -e {root}",
    ]
    second = clone()
    assert second.stdout.splitlines() == first.stdout.splitlines()[-2:]
    assert clone.log.read_text().splitlines() == commands


def test_setup_that_was_cut_off_goes_on(clone):
    assert clone(FAKE_OFFLINE="1").returncode != 0
    assert clone().returncode == 0
    commands = clone.log.read_text().splitlines()
    assert sum(command.startswith("-m venv") for command in commands) == 1
    assert sum("torch==" in command for command in commands) == 2


def test_setup_without_ensurepip_uses_the_pip_that_is_there(clone):
    assert clone(FAKE_NO_ENSUREPIP="1").returncode == 0
    venv = f"{clone.root}/.venv"
    expected = [f"-m venv --without-pip {venv}", f"-m pip --python {venv}/bin/python install --quiet pip"]
    assert clone.log.read_text().splitlines()[:2] == expected


def test_setup_says_that_no_python_fits(clone):
    result = clone(FAKE_UNSUPPORTED="1")
    assert result.returncode == 1
    assert "no Python 3.11, 3.12 or 3.13 on PATH" in result.stderr
    assert not clone.log.exists()


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_setup_uses_an_active_environment_that_fits_and_leaves_another_alone(clone, variable):
    active = clone.root / "active" / "bin"
    active.mkdir(parents=True)
    shutil.copy(clone.fake, active / "python")
    lacking = clone(**{variable: str(active.parent)})
    assert lacking.returncode == 0
    assert "is left as it is:\n  lacks everything" in lacking.stdout
    assert lacking.stdout.splitlines()[-2] == f"{clone.root}/.venv/bin/python"
    before = clone.log.read_text()
    (active / "complete").touch()
    fits = clone(**{variable: str(active.parent)})
    assert fits.stdout.splitlines() == [f"{active}/python", str(clone.root)]
    assert clone.log.read_text() == before


def test_setup_uses_the_python_on_path_if_it_fits(clone):
    (clone.fake.parent / "complete").touch()
    assert clone().stdout.splitlines()[0] == str(clone.fake)
    assert not clone.log.exists()


@pytest.mark.parametrize("name", ["run_all.sh", "run_tests.sh", ".ci/run", "tools/lock.sh"])
def test_scripts_can_be_started(name):
    assert os.access(ROOT / name, os.X_OK)
    assert (ROOT / name).read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")


def test_ci_runs_the_tests():
    assert "../run_tests.sh" in (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_an_installed_copy_is_whole():
    """Both packages, every folder of them found, and the template of the page."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert setuptools["packages"]["find"]["include"] == ["agelib*", "suite*"]
    folders = {path.parent for package in ("agelib", "suite") for path in (ROOT / package).rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]
    others = {path for path in (ROOT / "suite").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert {path.suffix for path in others} == {".jinja"} and setuptools["package-data"] == {"suite": ["*.jinja"]}
