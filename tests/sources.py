"""Where the project's own files are."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "darts_lib"
MODULES = sorted(LIBRARY.glob("**/*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
