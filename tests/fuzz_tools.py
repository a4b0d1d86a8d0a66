"""What the fuzz tests share: the same few examples each time, or with a variable many new ones.

DARTS_LIB_FUZZ=5000 pytest tests/data/test_picture_folder.py     # 5000 random examples a test
"""

import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, settings

from darts_lib.engine.refusals import SettingsError

Patch, Printed, Said = pytest.MonkeyPatch, pytest.CaptureFixture[str], Callable[[], str]
"""Fixtures' types by short names: with them, the first line of a test is one line."""

MANY = int(os.environ.get("DARTS_LIB_FUZZ") or 0)


def examples(count: int) -> settings:
    """Return settings of `count` examples that never change, so that a check can be repeated."""
    return settings(
        max_examples=MANY or count,
        derandomize=not MANY,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),  # a smaller example would cost minutes
        suppress_health_check=list(HealthCheck),
    )


def one_line(error: BaseException, *words: str) -> str:
    """Return an error's message after checking that it is short, on one line, and has the words."""
    message = str(error)
    assert message
    assert len(message.splitlines()) == 1, message
    assert len(message) < 1500, message
    assert all(word in message for word in words), (words, message)
    return message


def refusal_of(call: Callable[[], object], *words: str) -> str:
    """Return the message of the SettingsError that a call ends in: one line with the words."""
    with pytest.raises(SettingsError) as caught:
        call()
    return one_line(caught.value, *words)


def failing(error: BaseException) -> Callable[..., None]:
    """Return what raises an error, whatever it is given."""

    def fail(*_: object, **__: object) -> None:
        raise error

    return fail
