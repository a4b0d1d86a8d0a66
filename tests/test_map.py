"""The map of the method: each name is where it says, and can be imported from `darts_lib` too."""

import importlib

import pytest

import darts_lib


def test_every_name_of_the_map_is_that_of_its_module() -> None:
    for module, names in darts_lib.NAMES.items():
        for name in names.split():
            there = getattr(importlib.import_module(f"darts_lib.{module}"), name)
            assert getattr(darts_lib, name) is there


def test_no_name_stands_twice_and_an_unknown_one_is_refused() -> None:
    names = " ".join(darts_lib.NAMES.values()).split()
    assert len(names) == len(set(names))
    with pytest.raises(AttributeError, match="has no attribute 'Supernets'"):
        _ = darts_lib.Supernets
