"""The library's shape, where neither ruff nor import-linter has a rule for it."""

import importlib
import re
import tomllib

import pytest
from setuptools import find_packages
from sources import LIBRARY, MODULES, ROOT

import darts_lib

MAX_LINES = 400  # of a module; it has one subject
MAX_NAMES = 14  # of modules at the top of the library: the method, in the order of the chapters


def test_modules_fit_on_a_few_screens_and_the_top_ones_are_the_method() -> None:
    lines = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in MODULES}
    assert len(lines) > 80
    assert {path: count for path, count in lines.items() if count > MAX_LINES} == {}
    top = [path.stem for path in LIBRARY.glob("*.py") if path.stem != "__init__"]
    assert len(top) <= MAX_NAMES, top


def test_every_name_of_the_map_is_that_of_its_module() -> None:
    pairs = [(name, module) for module, x in darts_lib.NAMES.items() for name in x.split()]
    assert len(pairs) == len(dict(pairs)), "a name stands in the map twice"
    for name, module in pairs:
        there = getattr(importlib.import_module(f"darts_lib.{module}"), name)
        assert getattr(darts_lib, name) is there
    with pytest.raises(AttributeError, match="has no attribute 'Supernets'"):
        _ = darts_lib.Supernets


def test_every_package_is_installed() -> None:
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in MODULES}
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert {*find_packages(str(ROOT), include=settings["packages"]["find"]["include"])} == packages


IDIOMS = re.compile(
    r"\.cuda\(|\btorch\.cuda\.amp\b|\bvolatile=|\basync=|\.data(\[[^\]]*\])? *[-+*/]?=[^=]"
)
"""What ties code to one kind of device or one age of torch, or writes behind autograd's back."""


def test_no_idiom_that_a_reader_should_not_copy() -> None:
    """Of quark0/darts#35, quark0/darts#90 and pytorch/pytorch#138957."""
    for line in ("w.data[:] = k", "w.data += g", "torch.cuda.amp.x()", "net.cuda()", "f(async=1)"):
        assert IDIOMS.search(line), line
    for line in ("pixels = part.data", "torch.cuda.is_available()", "net.to(device)"):
        assert IDIOMS.search(line) is None, line
    assert [path for path in MODULES if IDIOMS.search(path.read_text())] == []


def test_no_address_of_data_is_written_down_that_could_die() -> None:
    """Of pytorch/text#2247: addresses of data died with their hosts. Ours are torchvision's."""
    pages = [*MODULES, ROOT / "data" / "README.md", ROOT / "environment.yml"]
    hosts = {host for page in pages for host in re.findall(r"https?://([\w.-]+)", page.read_text())}
    assert hosts <= {"arxiv.org", "pytorch.org"}
