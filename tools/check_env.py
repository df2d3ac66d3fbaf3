"""Does this interpreter have what pyproject.toml asks for? Exit code 0 or 1, and a line for each thing that is wrong.

`python tools/check_env.py pyproject.toml [--installed]`; with --installed the project itself must be installed as well.
Reads package metadata only and imports none of the packages: a fraction of a second, and it works in a bare Python.
"""

import importlib.metadata
import platform
import sys

try:
    import tomllib

    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet
except ImportError as error:
    sys.exit(f"  lacks {error.name}")


def problems(pyproject: str, installed: bool) -> list[str]:
    """One line for each unmet requirement of the file `pyproject`; empty when everything fits."""
    with open(pyproject, "rb") as file:
        project = tomllib.load(file)["project"]
    found = []
    if platform.python_version() not in SpecifierSet(project["requires-python"], prereleases=True):
        found.append(f"  Python is {platform.python_version()}, needed is {project['requires-python']}")
    for text in project["dependencies"] + [project["name"]] * installed:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            found.append(f"  lacks {text}")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            found.append(f"  {requirement.name} is {version}, needed is {requirement.specifier}")
    return found


if __name__ == "__main__":
    lines = problems(sys.argv[1], "--installed" in sys.argv[2:])
    print("\n".join(lines), end="\n" if lines else "")
    sys.exit(1 if lines else 0)
