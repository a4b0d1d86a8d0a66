"""A pytest plugin for `make chapters`: which chapters one of its two processes tests.

Chapters 04, 05 and 07 go on from the search of chapter 03, so the process that ran it tests them,
in order. The others stand alone.
"""

import pytest

AFTER_SEARCH = ("03", "04", "05", "07")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every cell with its group; `--dist loadgroup` keeps a group in one process."""
    for item in items:
        name = item.path.stem
        group = "images" if name.startswith(AFTER_SEARCH) else name
        item.add_marker(pytest.mark.xdist_group(group))
