"""The chapters as tests read them: their cells, exercises and folded solutions."""

import ast
import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

Cell = dict[str, Any]
Notebook = dict[str, Any]


def load(path: Path) -> Notebook:
    """Return a notebook as plain dictionaries."""
    notebook: Notebook = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def write_notebook(path: Path, *sources: str) -> None:
    """Write a notebook of these cells, the second of them its parameters."""
    path.parent.mkdir(exist_ok=True)
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    for cell in cells[1:2]:
        cell.metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)


def text(cell: Cell) -> str:
    """Return a cell's source as one string; a file may hold it as a list of lines."""
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def code_cells(notebook: Notebook) -> list[Cell]:
    """Return the code cells, in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def chapter_cells(chapter: str, kind: str) -> list[str]:
    """Return the sources of a chapter's cells of one kind, `markdown` or `code`."""
    cells = load(FOLDER / f"{chapter}.ipynb")["cells"]
    return [text(cell) for cell in cells if cell["cell_type"] == kind]


def imported(chapter: str) -> dict[str, Any]:
    """Return the names that a chapter imports."""
    nodes = [node for cell in chapter_cells(chapter, "code") for node in ast.parse(cell).body]
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    namespace: dict[str, Any] = {}
    exec(compile(ast.Module(imports, []), chapter, "exec"), namespace)
    return namespace


def checked_answers(notebook: Notebook) -> list[tuple[str, str, str]]:
    """Return the cell of each exercise with a check, the answer's name and the check's."""
    sources = [text(cell) for cell in code_cells(notebook)]
    calls = [(x, re.search(r"^check\((\w+), checks\.(\w+)\)$", x, re.M)) for x in sources]
    return [(source, called[1], called[2]) for source, called in calls if called]


def folded_solutions(notebook: Notebook) -> list[str]:
    """Return the code of each folded solution, in order."""
    prose = "\n".join(text(c) for c in notebook["cells"] if c["cell_type"] == "markdown")
    folded = re.findall(r"<details><summary>Solution.*?</details>", prose, re.S)
    return ["\n".join(re.findall(r"^```python\n(.*?)^```", f, re.M | re.S)) for f in folded]


def exercises(chapter: str) -> Iterator[tuple[str, str, Callable[[Any], None], Any]]:
    """Yield, for each exercise with a check: the answer's name, its cell, the check, the solution.

    A solution runs with what the chapter imports.
    """
    notebook, names = load(FOLDER / f"{chapter}.ipynb"), imported(chapter)
    pairs = zip(checked_answers(notebook), folded_solutions(notebook), strict=True)
    for (cell, name, check), code in pairs:
        namespace = dict(names)
        exec(code, namespace)
        yield name, cell, getattr(names["checks"], check), namespace[name]


def checks_of(module: Any) -> set[Callable[..., None]]:
    """Return the public functions of a module of checks."""
    functions = inspect.getmembers(module, inspect.isfunction)
    return {f for name, f in functions if f.__module__ == module.__name__ and name[0] != "_"}


def solution(chapter: str, name: str) -> Any:
    """Return the folded solution of the exercise whose answer is called `name`."""
    return next(answer for each, _, _, answer in exercises(chapter) if each == name)
