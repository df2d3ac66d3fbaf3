"""Who may import whom, read from the source with `ast`; and notebooks that only call."""

import ast
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*(ROOT / "agelib").rglob("*.py"), *(ROOT / "suite").rglob("*.py")])

# A room of agelib imports those of the lines above it and itself; suite imports all of agelib, and agelib no suite.
# metrics stands above the methods because it measures arrays and callables and knows none.
ORDER = [
    {"losses", "sphere", "color", "images", "tv"}, {"training", "data", "plot"}, {"networks", "metrics"}, {"age"},
    {"conditional"}, {"rivals"}, {"model"}, {"__init__"},
]  # fmt: skip
# Third-party package -> the only modules, with what is in them, that import it.
ONLY_IN = {
    "matplotlib": {"agelib.plot", "agelib.data.standins"},
    "pandas": {"suite.tables"},
    "sklearn": {"agelib.metrics.svm", "agelib.data.standins"},
    "pydantic": {"suite.params", "suite.plan", "suite.tables"},
    "ipywidgets": {"suite.widgets"},
    "jinja2": {"suite.page"},
    "yaml": {"suite.plan", "suite.runner"},  # runner writes what papermill reads
}


def module(path):
    """agelib/data/own.py -> agelib.data.own; agelib/data/__init__.py -> agelib.data."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(source):
    """Absolute dotted names that a source imports, anywhere in it, down to the module: {"agelib.sphere", "yaml"}."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import, line {node.lineno}"
            packages = node.module in ("agelib", "suite")
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if packages else {node.module}
    return found


def forbidden(name, source):
    """What the source of module `name` imports against ORDER and ONLY_IN."""
    found = imports(source)
    against = {other for other in found if other.split(".")[0] in ("notebooks", "tests")} | found & {"matplotlib.pyplot"}
    for package, homes in ONLY_IN.items():
        if not any(f"{name}.".startswith(f"{home}.") for home in homes):
            against |= {other for other in found if other.split(".")[0] == package}
    if name.split(".")[0] == "suite":
        return against
    room = (name.split(".") + ["__init__"])[1]
    level = next((i for i, rooms in enumerate(ORDER) if room in rooms), None)
    assert level is not None, f"agelib/{room} has no place in ORDER; give it one"
    allowed = {room}.union(*ORDER[:level])
    own = {other for other in found if other.split(".")[0] == "agelib" and f"{other}.agelib".split(".")[1] not in allowed}
    return against | own | {other for other in found if other.split(".")[0] == "suite"}


def test_the_reading_of_imports():
    source = "import agelib.sphere as s\nfrom agelib import age, data\nfrom agelib.data.own import x\n"
    source += "def f():\n    import yaml\n    from suite import plan\n"
    assert imports(source) == {"agelib.sphere", "agelib.age", "agelib.data", "agelib.data.own", "yaml", "suite.plan"}
    assert forbidden("agelib.networks", source) == {"agelib.age", "suite.plan", "yaml"}
    assert forbidden("agelib.model", source) == {"suite.plan", "yaml"} and forbidden("suite.plan", source) == set()
    assert forbidden("agelib.metrics.ais", "import agelib\nimport agelib.age as a") == {"agelib", "agelib.age"}
    assert forbidden("agelib.plot", "import matplotlib.pyplot") == {"matplotlib.pyplot"}  # it keeps figures as global state


@pytest.mark.parametrize("path", FILES, ids=module)
def test_a_module_imports_only_what_is_below_it_and_heavy_packages_have_one_home(path):
    assert forbidden(module(path), path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_define_no_class_and_no_long_function(path):
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    for node in (node for source in cells for node in ast.walk(ast.parse(source))):
        assert not isinstance(node, ast.ClassDef), f"the class {node.name} belongs in suite"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 3, f"{node.name} is longer than 3 lines; it belongs in suite"
