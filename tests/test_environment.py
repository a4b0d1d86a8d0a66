"""What gets installed: pyproject.toml names what the chapters need, environment.yml installs it."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = (ROOT / "environment.yml").read_text()


def _requirements(lines: list[str]) -> dict[str, Requirement]:
    return {line.name.lower(): line for line in map(Requirement, lines)}


RUNTIME = _requirements(PROJECT["dependencies"])
DEV = _requirements(PROJECT["optional-dependencies"]["dev"])
ONNX = _requirements(PROJECT["optional-dependencies"]["onnx"])
SWEEP = _requirements(PROJECT["optional-dependencies"]["sweep"])
OURSELVES = DEV.pop("darts-lib")  # an extra that brings another one
EVERYTHING = RUNTIME | DEV | ONNX | SWEEP


def test_each_extra_brings_what_it_is_for() -> None:
    assert {"torch", "torchvision", "jupyterlab", "matplotlib", "papermill"} <= set(RUNTIME)
    assert {"nbval", "pytest", "ruff", "mypy", "nbstripout", "import-linter"} <= set(DEV)
    assert {"onnx", "onnxscript", "onnxruntime"} <= set(ONNX)
    assert OURSELVES.extras == {"onnx", "sweep"}
    assert SWEEP["dask"].extras == {"distributed", "diagnostics"}, "the scheduler, its dashboard"


def test_ranges_and_no_pins() -> None:
    for requirement in EVERYTHING.values():
        operators = {part.operator for part in requirement.specifier}
        assert ">=" in operators, f"{requirement} has no lower end"
        assert not operators & {"==", "===", "~="}, f"{requirement} is a pin"
    admitted = RUNTIME["torch"].specifier
    assert all(admitted.contains(version) for version in ("2.11.0", "2.14.1", "2.99"))
    assert not any(admitted.contains(version) for version in ("2.10.1", "3.0"))
    assert PROJECT["requires-python"] == ">=3.11"
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_environment_installs_the_project_with_its_extras() -> None:
    environment = yaml.safe_load(ENVIRONMENT)
    assert environment["channels"] == ["conda-forge"]
    names = [line for line in environment["dependencies"] if isinstance(line, str)]
    assert [name.split(">")[0] for name in names] == ["python", "pip"]
    (from_pip,) = [line for line in environment["dependencies"] if isinstance(line, dict)]
    assert from_pip == {"pip": ["-e .[dev]"]}
    silent = [x for x in ENVIRONMENT.splitlines() if len(x.partition("#")[2].split()) < 3]
    assert silent == []
    (name,) = re.findall(r"conda activate ([\w-]+)", (ROOT / "README.md").read_text())
    assert yaml.safe_load(ENVIRONMENT)["name"] == name


NAMES = {"sklearn": "scikit-learn", "yaml": "pyyaml", "PIL": "pillow"}
NAMES |= {"cycler": "matplotlib", "distributed": "dask"}
SOURCES = sorted((ROOT / "darts_lib").rglob("*.py"))


def imported(source: str) -> Iterator[str]:
    """Yield the module of every import, in full."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_whatever_is_imported_is_installed() -> None:
    """Of pytorch/text#2283 and tqdm/tqdm#1310: a package nobody keeps, and missing widgets."""
    sources = [(path, path.read_text(), set(RUNTIME | ONNX | SWEEP)) for path in SOURCES]
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        code = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        sources += [(path, source, set(RUNTIME) - {"tqdm"}) for source in code]
    for path, source, known in sources:
        for name in imported(source):
            top = name.split(".")[0]
            ours = top in sys.stdlib_module_names or top == "darts_lib"
            assert ours or NAMES.get(top, top) in known, (path, name)
            assert name not in ("tqdm.auto", "tqdm.notebook", "tqdm.autonotebook"), path


@pytest.mark.deep
def test_the_library_is_imported_without_a_word() -> None:
    """Of pytorch/pytorch#135013: a warning at import fails whoever compares stderr."""
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in SOURCES]
    code = f"import {', '.join(name.removesuffix('.__init__') for name in names)}"
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
