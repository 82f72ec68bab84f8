"""The order of the layers and the size of folders and modules, read from the source."""

import ast
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from common.files import ROOT

# a package may import from itself and from what stands before it; those in one line do not know each other
LAYERS = (
    "common",
    "network",
    "dataloaders",
    "engine.hardware",
    "engine.runs",
    "engine.export",
    "engine.fusion",
    "engine.predictor",
    "engine.inference",
    "engine.evaluation",
    "engine.training engine.comparison engine.features engine.serving",
)
RANK = {package: rank for rank, packages in enumerate(LAYERS) for package in packages.split()}
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
MAX_MODULES, MAX_LINES = 13, 300
ABOVE = ("engine", "network.__main__", "dataloaders.audit.__main__")  # commands may use everything


def modules() -> dict[str, Path]:
    paths = (path for top in ("common", "network", "dataloaders", "engine") for path in (ROOT / top).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


MODULES = modules()


def imports(path: Path) -> set[str]:
    """Names of our modules that a file imports, inside functions and for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in MODULES or name in SCRIPTS}


def layer(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "engine" else parts[0]


@pytest.mark.parametrize("module", [name for name in MODULES if name not in ABOVE])
def test_a_module_imports_only_from_its_own_package_and_from_lower_layers(module):
    own = layer(module)
    for name in imports(MODULES[module]):
        if name == "mypath":
            is_command = module.endswith("__main__") or module == "dataloaders.pack"
            assert is_command, "the data of mypath.py come as arguments; only commands read the file"
            continue
        assert name not in SCRIPTS, f"{module} imports the script {name}.py"
        other = layer(name)
        assert other in (own, "engine") or RANK[other] < RANK[own], f"{module} imports {name}, which stands above it"


def test_no_modules_import_each_other_in_a_circle():
    # a package's __init__ is left out: importing a module of it imports it, too
    graph = {name: imports(path) & set(MODULES) for name, path in MODULES.items()}
    graph = {name: {other for other in others if other != name} for name, others in graph.items()}
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    order = TopologicalSorter({name: others - packages for name, others in graph.items() if name not in packages})
    order.prepare()  # raises CycleError, which names the circle


def test_no_folder_and_no_module_grows_beyond_one_look():
    folders = Counter(path.parent for path in ROOT.rglob("*.py") if not path.relative_to(ROOT).parts[0].startswith("."))
    del folders[ROOT]
    counted = {str(folder): number for folder, number in folders.items()}
    own = {folder: number - (Path(folder) / "__init__.py").exists() for folder, number in counted.items()}
    assert {folder: number for folder, number in own.items() if number > MAX_MODULES} == {}
    others = [path for folder in (".", "benchmarks", "assets") for path in (ROOT / folder).glob("*.py")]
    lines = {str(path): path.read_text(encoding="utf-8").count("\n") for path in [*MODULES.values(), *others]}
    assert {name: number for name, number in lines.items() if number > MAX_LINES} == {}


@pytest.mark.parametrize("package", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_a_package_says_in_a_line_each_what_its_modules_are(package):
    text = ast.get_docstring(ast.parse(MODULES[package].read_text(encoding="utf-8"))) or ""
    names = [name.removeprefix(f"{package}.") for name in MODULES if name.rpartition(".")[0] == package]
    assert [name for name in names if name not in text] == []


def test_no_test_imports_a_test():
    for path in (ROOT / "tests").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert not [name for name in names if "test_" in name or name == "tests.conftest"], path
