"""The library's shape: imports go down only, no module is long, nothing public is undocumented."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "darts_lib"
PACKAGE = LIBRARY.name
MODULES = sorted(LIBRARY.glob("**/*.py"))

# An import points to a strictly lower floor. A package stands on one floor, as a module does.
HOUSE = (
    "__init__",
    "search_space refusals averages",
    "genotype batches machine",
    "operations derivation bilevel complexity cells running",
    "relaxation network expected_cost separable gradient_bugs dialects search_settings pictures",
    "fan smooth_problem imagenet_network cell_choice images",
    "fused step_cost training imagenet_data weights",
    "search_step retrain_step epochs",
    "search_epoch retrain_epoch recurrent",
    "search retrain checkpoints exercises drawing measuring",
    "imagenet_retrain notebook benchmark epoch_times records sweeping",
    "transfer expected_runs sweep",
)
FLOORS = {name: floor for floor, names in enumerate(HOUSE) for name in names.split()}

MAX_LINES = 250


def module_name(path: Path) -> str:
    """Return a module's dotted name inside the package: `search` or `exercises.cells`."""
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def imported_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, module) for every import of our own package, wherever in the file it stands."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    if alias.name.split(".")[0] == PACKAGE:
                        yield node.lineno, alias.name.partition(".")[2] or "__init__"
            case ast.ImportFrom(level=level) if level:
                yield node.lineno, "." * level + (node.module or "")
            case ast.ImportFrom(module=str(module)) if module.startswith(f"{PACKAGE}."):
                yield node.lineno, module.partition(".")[2]
            case ast.ImportFrom(module=module, names=names) if module == PACKAGE:
                for alias in names:
                    there = (LIBRARY / f"{alias.name}.py", LIBRARY / alias.name)
                    is_module = alias.name in FLOORS or any(path.exists() for path in there)
                    yield node.lineno, alias.name if is_module else "__init__"


def import_problems(name: str, source: str) -> list[str]:
    """Return a line for each import of module `name` that does not go down.

    A subpackage stands on one floor, and inside it sideways is fine.
    """
    top = name.split(".")[0]
    if top not in FLOORS:
        return [f"{name} has no floor: give it one in FLOORS of {Path(__file__).name}"]
    problems = []
    for line, target in imported_modules(ast.parse(source)):
        target_top = target.split(".")[0]
        if target.startswith("."):
            problems.append(f"{name}:{line} imports {target}: write {PACKAGE}... in full")
        elif target_top not in FLOORS:
            problems.append(f"{name}:{line} imports {target}, which has no floor in FLOORS")
        elif FLOORS[target_top] >= FLOORS[top] and not (target_top == top and "." in name + target):
            floors = f"floor {FLOORS[top]} imports floor {FLOORS[target_top]}"
            problems.append(f"{name}:{line} imports {target}: {floors}, and imports go down only")
    return problems


def forbidden(source: str) -> list[str]:
    """Return a line for each call that ties code to a device or runs text, and each dead idiom."""
    found = []
    for node in ast.walk(ast.parse(source)):
        what = None
        match node:
            case ast.Call(func=ast.Attribute(attr="cuda")):
                what = ".cuda(...): use .to(device)"
            case ast.Call(func=ast.Name(id="eval" | "exec" as name)):
                what = f"{name}(...): parse with ast"
            case ast.Subscript(value=ast.Attribute(attr="data"), slice=ast.Constant(value=int())):
                what = ".data[0]: use .item()"
            case ast.Name(id="Variable") | ast.alias(name="Variable"):
                what = "Variable: tensors need none"
            case ast.Import(names=names):
                if any(alias.name.split(".")[0] == "torchtext" for alias in names):
                    what = "torchtext: it is no longer kept"
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] == "torchtext":
                what = "torchtext: it is no longer kept"
        if what:
            found.append(f"line {getattr(node, 'lineno', '?')}: {what}")
    return found


def undocumented(source: str) -> list[str]:
    """Return the public functions, classes and methods that have no docstring."""
    tree = ast.parse(source)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = []
    for scope in [tree, *(n for n in tree.body if isinstance(n, ast.ClassDef))]:
        if isinstance(scope, ast.ClassDef) and scope.name.startswith("_"):
            continue
        for node in scope.body:
            public = isinstance(node, kinds) and not node.name.startswith("_")
            if public and not ast.get_docstring(node):
                found.append(f"line {node.lineno}: {node.name}")
    return found


def test_the_library_is_found() -> None:
    assert LIBRARY / "search_space.py" in MODULES


def test_the_house_is_the_one_that_is_told() -> None:
    rows = re.findall(r"^\| \d+ \| (.*) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert [re.findall(r"`(\w+)`", row) for row in rows] == [floor.split() for floor in HOUSE[1:]]


def test_every_module_and_package_has_its_place_and_no_other() -> None:
    there = {module_name(path).split(".")[0] for path in MODULES}
    assert sorted(there) == sorted(" ".join(HOUSE).split())


def test_every_package_is_installed_and_named_in_the_readme() -> None:
    packages = {path.parent.relative_to(ROOT) for path in MODULES}
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = find_packages(str(ROOT), include=settings["packages"]["find"]["include"])
    assert sorted(found) == sorted(".".join(path.parts) for path in packages)
    readme = (ROOT / "README.md").read_text()
    inner = packages - {LIBRARY.relative_to(ROOT)}
    assert [path for path in inner if f"[{path.name}]({path})" not in readme] == []


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_down(path: Path) -> None:
    assert import_problems(module_name(path), path.read_text()) == []


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_nothing_forbidden(path: Path) -> None:
    assert forbidden(path.read_text()) == []


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_module_fits_on_a_few_screens(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{path.name} has {lines} lines, more than {MAX_LINES}: split it"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_everything_public_has_a_docstring(path: Path) -> None:
    assert undocumented(path.read_text()) == []


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [
        ("genotype", "from darts_lib.search import search", "search"),
        ("genotype", "import darts_lib.search", "search"),
        ("genotype", "from darts_lib import operations", "operations"),
        ("genotype", "from .search_space import edges", ".search_space"),
        ("exercises.cells", "from darts_lib.notebook import check", "notebook"),
        ("genotype", "def late():\n    from darts_lib.operations import OPERATIONS", "operations"),
        ("bilevel", "import torch\nfrom darts_lib.drawing.plots import heat_map", "drawing.plots"),
        ("bilevel", "from darts_lib import cluster_engine_of_nobody, search", "search"),
    ],
)
def test_an_import_up_or_sideways_is_caught(name: str, source: str, target: str) -> None:
    problems = import_problems(name, source)
    assert len(problems) == 1
    assert f"imports {target}:" in problems[0]


@pytest.mark.parametrize(
    "source",
    [
        "from darts_lib.search_space import edges",
        "from darts_lib import __version__, search_space",
        "import numpy as np\nfrom torch import nn\nimport darts_lib_of_another",
    ],
)
def test_an_import_down_is_fine(source: str) -> None:
    assert import_problems("genotype", source) == []


def test_sideways_is_fine_inside_a_subpackage() -> None:
    assert import_problems("exercises", "from darts_lib.exercises.cells import mixed") == []
    assert import_problems("exercises.cells", "import darts_lib.exercises.counts") == []


def test_a_module_without_a_floor_is_caught() -> None:
    assert "has no floor" in import_problems("no_such_module", "")[0]
    assert "no floor" in import_problems("search", "import darts_lib.no_such_module")[0]


@pytest.mark.parametrize(
    "source",
    [
        "net.cuda()",
        "eval(text)",
        "exec(text)",
        "loss.data[0]",
        "from torch.autograd import Variable",
        "x = Variable(y)",
        "import torchtext.data",
        "from torchtext import vocab",
    ],
)
def test_forbidden_things_are_caught(source: str) -> None:
    assert forbidden(source)


@pytest.mark.parametrize(
    "source",
    [
        "net.eval()",
        "ast.literal_eval(text)",
        "torch.cuda.is_available()",
        "x = fashion.data[:, None]",
    ],
)
def test_their_harmless_neighbours_pass(source: str) -> None:
    assert forbidden(source) == []


def test_a_missing_docstring_is_caught() -> None:
    source = (
        "class Cell:\n    def forward(self): ...\n\n\ndef derive(): ...\n\n\ndef _mine(): ...\n"
    )
    names = [problem.split(": ")[1] for problem in undocumented(source)]
    assert names == ["Cell", "derive", "forward"]
