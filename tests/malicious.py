"""A pickle that does harm where it is read."""

from pathlib import Path
from typing import Any


class Malicious:
    """What a harmful pickle does: it names a function to call when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)
