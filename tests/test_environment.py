"""What gets installed: pyproject.toml names what the chapters need, environment.yml installs it."""

import tomllib
from pathlib import Path

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


@pytest.mark.parametrize(
    "name", ["torch", "torchvision", "jupyterlab", "matplotlib", "graphviz", "papermill"]
)
def test_a_plain_install_brings(name: str) -> None:
    assert name in RUNTIME


@pytest.mark.parametrize("name", ["nbval", "pytest", "ruff", "mypy", "nbstripout"])
def test_the_dev_extra_brings(name: str) -> None:
    assert name in DEV


def test_the_dev_extra_brings_what_exports_and_checks_onnx() -> None:
    assert OURSELVES.extras == {"onnx", "sweep"}
    assert {"onnx", "onnxscript", "onnxruntime"} <= set(ONNX)


def test_the_sweep_extra_brings_the_scheduler_and_its_dashboard() -> None:
    assert SWEEP["dask"].extras == {"distributed", "diagnostics"}


@pytest.mark.parametrize("requirement", EVERYTHING.values(), ids=str)
def test_ranges_and_no_pins(requirement: Requirement) -> None:
    operators = {part.operator for part in requirement.specifier}
    assert ">=" in operators, f"{requirement} has no lower end"
    assert not operators & {"==", "===", "~="}, f"{requirement} is a pin"


@pytest.mark.parametrize("version", ["2.11.0", "2.14.1", "2.99"])
def test_the_torch_range_admits(version: str) -> None:
    assert RUNTIME["torch"].specifier.contains(version)


@pytest.mark.parametrize("version", ["2.10.1", "3.0"])
def test_the_torch_range_refuses(version: str) -> None:
    assert not RUNTIME["torch"].specifier.contains(version)


def test_python_and_licence() -> None:
    assert PROJECT["requires-python"] == ">=3.11"
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_environment_installs_the_project_with_its_extras() -> None:
    environment = yaml.safe_load(ENVIRONMENT)
    assert environment["channels"] == ["conda-forge"]
    names = [line for line in environment["dependencies"] if isinstance(line, str)]
    assert [name.split(">")[0] for name in names] == ["python", "graphviz", "pip"]
    (from_pip,) = [line for line in environment["dependencies"] if isinstance(line, dict)]
    assert from_pip == {"pip": ["-e .[dev]"]}


@pytest.mark.parametrize("line", ENVIRONMENT.splitlines())
def test_each_line_of_the_environment_says_what_it_is_for(line: str) -> None:
    assert len(line.partition("#")[2].split()) >= 3
