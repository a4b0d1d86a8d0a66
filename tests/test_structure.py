"""The library's shape: imports go down only, no module is long, nothing public is undocumented."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parent.parent / "darts_lib"
PACKAGE = LIBRARY.name
MODULES = sorted(LIBRARY.glob("**/*.py"))

# An import points to a strictly lower floor. Whole numbers are the floors of the design; a module
# between two floors is a part that one of the floor above was split into.
FLOORS = {
    "__init__": 0,
    "search_space": 1,
    "refusals": 1,
    "heap": 1,
    "places": 1,
    "averages": 1.5,
    "batches": 1.5,
    "devices": 1.5,
    "determinism": 1.5,
    "operations": 2,
    "genotype": 2,
    "settings": 2,
    "progress": 2,
    "run_end": 2,
    "markdown": 2.5,
    "derivation": 2.5,
    "files": 2.5,
    "picture_folder": 2.5,
    "cell_layout": 2.5,
    "plot_style": 2.5,
    "dialect_texts": 2.5,
    "dialect_formats": 2.6,
    "downloads": 2.6,
    "data_sets": 2.7,
    "relaxation": 3,
    "network": 3,
    "imagenet_network": 3.2,
    "imagenet_labels": 2.6,
    "imagenet_data": 3.2,
    "complexity": 3,
    "step_cost": 3.6,
    "images": 3,
    "run_files": 2.8,
    "runs": 3,
    "run_opening": 3.2,
    "cell_names": 2.6,
    "dialects": 3,
    "cell_plots": 3.5,
    "cell_choice": 3.5,
    "training": 3.5,
    "branches": 1,
    "depthwise": 1,
    "pointwise": 1,
    "precision": 1,
    "separable": 3.2,
    "fan": 3.5,
    "expected_cost": 3.5,
    "epochs": 4,
    "fused": 4,
    "bilevel": 4,
    "recurrent": 4.2,  # above what it may import, below search_settings
    "plots": 4,
    "recurrent_plots": 5.6,
    "cell_pictures": 4,
    "image_plots": 4,
    "example_pictures": 3,
    "acceleration": 2.5,
    "timing": 2.5,
    "ranks": 2.2,
    "command_line": 3.4,
    "finite_guard": 2,
    "search_settings": 4.4,
    "search_step": 4.5,
    "search_epoch": 4.6,
    "retrain_step": 4.5,
    "retrain_epoch": 4.6,
    "smooth_problem": 4.5,
    "search": 5,
    "retrain": 5,
    "imagenet_retrain": 5.1,
    "transfer": 5.2,
    "original_steps": 5,
    "recurrent_original_steps": 5.5,
    "step_sizes": 4.6,
    "resident_memory": 5,
    "benchmark": 6,
    "epoch_times": 6,
    "weight_files": 3,
    "mmrazor_names": 3,
    "onnx_files": 3.5,
    "network_files": 3.5,
    "checkpoints": 6,
    "expected_runs": 6,
    "records": 6,
    "sweep_plan": 5.5,
    "sweep_figures": 5.6,
    "sweep_run": 5.4,
    "sweep_cluster": 5.7,
    "sweep": 6,
    "exercises": 6,
    "notebook": 6,
    "gradient_bugs": 6,
}

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
        ("bilevel", "import torch\nfrom darts_lib.plots import heat_map", "plots"),
        ("runs", "from darts_lib import cluster_engine_of_nobody, search", "search"),
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
