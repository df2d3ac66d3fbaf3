"""Who may import whom, read from the source with `ast`; and notebooks that only call."""

import ast
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "agelib"
FILES = sorted(PACKAGE.rglob("*.py"))

CORE = {"sphere", "step", "fast"}
# Module or subpackage -> the parts of agelib that it may import; a part that is not here must be added, with a reason.
ALLOWED = {
    "__init__": {"allocator"},
    "allocator": set(),
    "sphere": set(),
    "color": set(),
    "step": set(),
    "fast": set(),
    "checkpoint": set(),
    "progress": set(),
    "plotting": set(),
    "plotting_theory": {"plotting"},
    "plotting_colors": {"plotting"},
    "plotting_scores": {"plotting"},
    "tables": set(),
    "gallery": set(),
    "params": set(),
    "plan": set(),
    "tv": set(),
    "apply": set(),
    "data": {"data", "tv"},
    "networks": {"sphere", "fast"},
    "losses": {"sphere", "fast"},
    "run": {"checkpoint", "step", "fast"},
    "graphs": {"step"},
    "fit": {"checkpoint", "graphs", "step", "fast", "progress", "run"},
    "age": {"networks", "losses"} | CORE,
    "baselines": {"networks", "losses", "color"} | CORE,
    "conditional": {"age", "color", "networks", "losses"} | CORE,
    "annealing": {"checkpoint"},
    "metrics": {"annealing", "progress", "tv"},  # a long estimate resumes and shows its progress; tv: before torch_fidelity
    "toy": set(),
    "points": {"age", "baselines", "networks", "sphere", "step"},
    "scores": {"metrics"},
    "color_scores": {"metrics"},
    "colorizers": {"apply", "baselines", "color", "conditional", "run", "step", "trained"},
    "widgets": {"colorizers", "data", "sphere"},
    "score_table": {"metrics"},
    "feature_table": {"metrics"},
    "features": {"apply"},
    "judge": {"apply", "checkpoint", "fast", "progress"},
    "models": {"age", "apply", "checkpoint", "fit", "networks", "rival", "run", "sphere", "step"},
    "likelihood": {"metrics"},
    "trained": {"fit", "step"},
    "decoders": {"age", "apply", "networks", "rival", "run", "sphere", "step", "trained"},
    "rival": {"apply", "baselines", "fit", "run", "step"},
}
ANYTHING = {"bench", "bench_ais", "bench_scores"}
# Third-party package -> the only places that import it.
ONLY_IN = {
    "matplotlib": {"plotting", "plotting_theory", "plotting_scores", "data.embedded"},
    "pandas": {"tables"},
    "sklearn": {"metrics.svm_features", "data.embedded"},
    "pydantic": {"params"},
    "ipywidgets": {"widgets"},
    "jinja2": {"gallery"},
    "yaml": {"plan"},
}


def module(path: Path) -> str:
    """agelib/data/cifar.py -> data.cifar; agelib/data/__init__.py -> data; agelib/__init__.py -> __init__."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports(source: str, name: str) -> set[str]:
    """Absolute dotted names that the source of module `name` imports, anywhere in it; of agelib, down to the module."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            whole = node.module == "agelib"
            found |= {f"agelib.{alias.name}" for alias in node.names} if whole else {node.module}
    return found


def own(source: str, name: str) -> set[str]:
    """First-level parts of agelib that a source imports: {"data", "sphere"}; `import agelib` counts as "agelib"."""
    parts = (dotted.split(".") for dotted in imports(source, name))
    return {part[1] if len(part) > 1 else "agelib" for part in parts if part[0] == "agelib"}


def test_the_reading_of_imports():
    source = "import agelib.sphere as s\nfrom agelib import fast, step\nfrom agelib.data.cifar import x\n"
    source += "def f():\n    import yaml\n"
    assert own(source, "m") == {"sphere", "fast", "step", "data"}
    assert imports(source, "m") == {"agelib.sphere", "agelib.fast", "agelib.step", "agelib.data.cifar", "yaml"}
    assert own("import agelib", "m") == {"agelib"}


@pytest.mark.parametrize("path", FILES, ids=module)
def test_a_module_imports_only_what_is_below_it(path):
    name = module(path)
    part = name.split(".")[0]
    if part in ANYTHING:
        return
    assert part in ALLOWED, f"agelib/{part} has no place in the layers; give it one in ALLOWED"
    source = path.read_text(encoding="utf-8")
    allowed = ALLOWED[part]
    if part in ("baselines", "metrics"):  # these share a folder, and know nothing of each other
        same = {dotted for dotted in imports(source, name) if dotted.startswith(f"agelib.{part}.")}
        assert not same or path.name == "__init__.py", f"{name} imports its sibling {same}"
        allowed = allowed | {part} if path.name == "__init__.py" else allowed
    extra = own(source, name) - allowed
    assert not extra, f"agelib.{name} must not import agelib.{', agelib.'.join(sorted(extra))}"


@pytest.mark.parametrize("path", FILES, ids=module)
def test_a_heavy_package_has_one_home(path):
    name = module(path)
    for dotted in imports(path.read_text(encoding="utf-8"), name):
        homes = ONLY_IN.get(dotted.split(".")[0])
        fits = homes is None or any(name == home or name.startswith(f"{home}.") for home in homes)
        assert fits, f"agelib.{name} imports {dotted}; only {', '.join(sorted(homes or ()))} may"
        assert dotted != "matplotlib.pyplot", f"agelib.{name} imports pyplot, which keeps figures as global state"
        assert dotted.split(".")[0] != "notebooks"


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_define_no_class_and_no_long_function(path):
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type != "code":
            continue
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.ClassDef), f"cell {number} defines the class {node.name}"
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= 3, f"cell {number}: {node.name} has {lines} lines; it belongs in agelib"
