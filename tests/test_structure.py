"""The library's shape, where neither ruff nor import-linter has a rule for it."""

import ast
import importlib
import re
import tomllib

import pytest
from setuptools import find_packages
from sources import LIBRARY, MODULES, ROOT

import darts_lib

MAX_LINES = 400  # of a module; it has one subject

MAX_NAMES = 14  # of modules at the top of the library: the method, in the order of the chapters


def device_bound(source: str) -> list[int]:
    """Return the lines that call `.cuda(...)`, which ties code to one kind of device."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    functions = [call.func for call in calls]
    return [f.lineno for f in functions if isinstance(f, ast.Attribute) and f.attr == "cuda"]


def test_modules_fit_on_a_few_screens() -> None:
    lines = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in MODULES}
    assert len(lines) > 80
    assert {path: count for path, count in lines.items() if count > MAX_LINES} == {}


def test_the_top_of_the_library_is_the_method() -> None:
    modules = [path.stem for path in LIBRARY.glob("*.py") if path.stem != "__init__"]
    assert len(modules) <= MAX_NAMES, modules


def test_every_name_of_the_map_is_that_of_its_module() -> None:
    for module, names in darts_lib.NAMES.items():
        for name in names.split():
            there = getattr(importlib.import_module(f"darts_lib.{module}"), name)
            assert getattr(darts_lib, name) is there
    names = " ".join(darts_lib.NAMES.values())
    assert len(names.split()) == len({*names.split()})
    with pytest.raises(AttributeError, match="has no attribute 'Supernets'"):
        _ = darts_lib.Supernets


def test_no_code_is_bound_to_one_kind_of_device() -> None:
    assert device_bound("net.cuda()\ntorch.cuda.is_available()\nnet.to(device)") == [1]
    assert [path for path in MODULES if device_bound(path.read_text())] == []


def test_every_package_is_installed_and_says_for_whom_it_is() -> None:
    packages = {path.parent for path in MODULES}
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = find_packages(str(ROOT), include=settings["packages"]["find"]["include"])
    assert sorted(found) == sorted(".".join(path.relative_to(ROOT).parts) for path in packages)
    starts = {path: ast.parse((path / "__init__.py").read_text()) for path in packages}
    assert [path for path, start in starts.items() if not ast.get_docstring(start)] == []


OLD = re.compile(r"\btorch\.cuda\.amp\b|\bvolatile=|\basync=|\.data(\[[^\]]*\])? *[-+*/]?=[^=]")


def test_no_tensor_is_changed_behind_autograds_back() -> None:
    """Of quark0/darts#35 and pytorch/pytorch#138957: idioms that a reader would copy."""
    for line in ("w.data[:] = k", "w.data += g", "torch.cuda.amp.autocast()", "x.cuda(async=True)"):
        assert OLD.search(line), line
    assert OLD.search("pixels = part.data") is None
    assert [path for path in MODULES if OLD.search(path.read_text())] == []


def test_no_address_of_data_is_written_down_that_could_die() -> None:
    """Of pytorch/text#2247: addresses of data died with their hosts. Ours are torchvision's."""
    pages = [*MODULES, ROOT / "data" / "README.md", ROOT / "environment.yml"]
    hosts = {host for page in pages for host in re.findall(r"https?://([\w.-]+)", page.read_text())}
    assert hosts <= {"arxiv.org", "pytorch.org"}
