"""DARTS, differentiable architecture search: the library behind the notebooks."""

from pathlib import Path

__version__ = "0.1.0"
__path__.append(str(Path(__file__).parent / "commands"))  # so that commands keep short names
