"""What the tests of the engine share."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a place for a run folder, with nothing there."""
    return tmp_path / "run"


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return what gives all that was printed since it was last asked."""
    return lambda: capsys.readouterr().out
