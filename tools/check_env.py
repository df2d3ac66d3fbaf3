"""Does this interpreter have what pyproject.toml asks for? Exit code 0 or 1, and a line for each thing that is wrong.

`python tools/check_env.py pyproject.toml [--installed]`; with --installed the project itself must be installed as well.
Reads package metadata only and imports none of the packages: a fraction of a second, and it works in a bare Python.
"""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

try:
    import tomllib

    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet
except ImportError as error:
    sys.exit(f"  lacks {error.name}")


def problems(pyproject: str, installed: bool) -> list[str]:
    with open(pyproject, "rb") as file:
        project = tomllib.load(file)["project"]
    asked = {"Python": (platform.python_version(), SpecifierSet(project["requires-python"]))}
    found = []
    for requirement in map(Requirement, project["dependencies"] + [project["name"]] * installed):
        if requirement.marker is None or requirement.marker.evaluate():
            try:
                asked[requirement.name] = version(requirement.name), requirement.specifier
            except PackageNotFoundError:
                found.append(f"  lacks {requirement}")
    odd = ((name, has, needed) for name, (has, needed) in asked.items() if not needed.contains(has, prereleases=True))
    return [f"  {name} is {has}, needed is {needed}" for name, has, needed in odd] + found


if __name__ == "__main__":
    lines = problems(sys.argv[1], "--installed" in sys.argv[2:])
    print(*lines, sep="\n", end="\n" * bool(lines))
    sys.exit(bool(lines))
