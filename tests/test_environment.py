"""What gets installed: pyproject.toml names what the chapters need, environment.yml installs it."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest
import yaml
from chapter_tools import chapter_cells
from packaging.requirements import Requirement
from sources import MODULES, NOTEBOOKS, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = (ROOT / "environment.yml").read_text()


def requirements(lines: list[str]) -> dict[str, Requirement]:
    return {line.name.lower(): line for line in map(Requirement, lines)}


RUNTIME = requirements(PROJECT["dependencies"])
EXTRAS = {name: requirements(x) for name, x in PROJECT["optional-dependencies"].items()}
OURSELVES = EXTRAS["dev"].pop("darts-lib")  # an extra that brings another one
OPTIONAL = EXTRAS["onnx"] | EXTRAS["sweep"]


def test_each_extra_brings_what_it_is_for() -> None:
    assert {"torch", "torchvision", "jupyterlab", "matplotlib", "papermill"} <= {*RUNTIME}
    tools = {"nbval", "pytest", "ruff", "mypy", "nbstripout", "import-linter"}
    assert tools <= {*EXTRAS["dev"]}
    assert {"onnx", "onnxscript", "onnxruntime"} <= {*EXTRAS["onnx"]}
    assert OURSELVES.extras == {"onnx", "sweep"}
    dask = EXTRAS["sweep"]["dask"]
    assert dask.extras == {"distributed", "diagnostics"}, "the scheduler, its dashboard"


def test_ranges_and_no_pins() -> None:
    for requirement in (RUNTIME | EXTRAS["dev"] | OPTIONAL).values():
        operators = {part.operator for part in requirement.specifier}
        assert ">=" in operators, f"{requirement} has no lower end"
        assert not operators & {"==", "===", "~="}, f"{requirement} is a pin"
    admitted = RUNTIME["torch"].specifier
    versions = ["2.11.0", "2.14.1", "2.99", "2.10.1", "3.0"]
    assert [*admitted.filter(versions)] == versions[:3]
    assert (PROJECT["requires-python"], PROJECT["license"]) == (">=3.11", "Apache-2.0")
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_environment_installs_the_project_with_its_extras() -> None:
    environment = yaml.safe_load(ENVIRONMENT)
    assert environment["channels"] == ["conda-forge"]
    *names, from_pip = environment["dependencies"]
    assert [name.split(">")[0] for name in names] == ["python", "pip"]
    assert from_pip == {"pip": ["-e .[dev]"]}
    silent = [x for x in ENVIRONMENT.splitlines() if len(x.partition("#")[2].split()) < 3]
    assert silent == [], "each line says why it is there"
    readme = (ROOT / "README.md").read_text()
    assert re.findall(r"conda activate ([\w-]+)", readme) == [environment["name"]]


def test_the_readme_names_systems_and_hosted_notebooks() -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for words in ("Linux, Windows or a Mac with Apple silicon", "no packages for Intel Macs"):
        assert words in readme
    (lowest,) = (part.version for part in RUNTIME["torch"].specifier if part.operator == ">=")
    hosted = readme.partition("Colab, Kaggle")[2]
    assert f"torch {lowest}" in hosted
    assert "`pip install --no-deps -e .`" in hosted


NAMES = {"sklearn": "scikit-learn", "yaml": "pyyaml", "PIL": "pillow"}
NAMES |= {"cycler": "matplotlib", "distributed": "dask"}


def imports(source: str) -> Iterator[str]:
    """Yield the module of every import, in full."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_whatever_is_imported_is_installed() -> None:
    """Of pytorch/text#2283 and tqdm/tqdm#1310: a package nobody keeps, and missing widgets."""
    sources = [(path, path.read_text(), {*RUNTIME, *OPTIONAL}) for path in MODULES]
    for path in NOTEBOOKS:
        sources += [(path, x, {*RUNTIME} - {"tqdm"}) for x in chapter_cells(path.stem, "code")]
    for path, source, installed in sources:
        for name in imports(source):
            top = name.split(".")[0]
            ours = top in sys.stdlib_module_names or top == "darts_lib"
            assert ours or NAMES.get(top, top) in installed, (path, name)
            assert name not in ("tqdm.auto", "tqdm.notebook", "tqdm.autonotebook"), path


@pytest.mark.deep
def test_the_library_is_imported_without_a_word() -> None:
    """Of pytorch/pytorch#135013: a warning at import fails whoever compares stderr."""
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in MODULES]
    code = f"import {', '.join(name.removesuffix('.__init__') for name in names)}"
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
