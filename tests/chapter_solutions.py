"""The solutions folded away under a chapter's exercises: their code, and what it defines."""

import json
import re
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def chapter_cells(chapter: str, kind: str) -> list[str]:
    """Return the sources of a chapter's cells of one kind, `markdown` or `code`."""
    notebook = json.loads((NOTEBOOKS / f"{chapter}.ipynb").read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def folded_solutions(chapter: str) -> list[str]:
    """Return the code of each folded solution, in order."""
    prose = "\n".join(chapter_cells(chapter, "markdown"))
    folded = re.findall(r"<details><summary>Solution.*?</details>", prose, re.S)
    return ["\n".join(re.findall(r"^```python\n(.*?)^```", f, re.M | re.S)) for f in folded]


def solutions(chapter: str, **names: object) -> dict[str, Any]:
    """Run the folded solutions in turn, with `names` at hand, and return what they define."""
    namespace: dict[str, Any] = dict(names)
    for code in folded_solutions(chapter):
        exec(code, namespace)  # our own text
    return namespace
