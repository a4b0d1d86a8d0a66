"""The chapters as tests read them: their cells, parameters, exercises and folded solutions."""

import ast
import functools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
from sources import NOTEBOOKS as NOTEBOOKS
from sources import ROOT

FOLDER = ROOT / "notebooks"
CHECK = re.compile(r"^check\((\w+), checks\.(\w+)\)$", re.M)
GUARD = re.compile(r"read_parameters\(globals\(\), (\w+)")

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
    return "".join(cell["source"])


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


@functools.cache
def parameters(chapter: str) -> tuple[Any, dict[str, Any]]:
    """Return the configuration that a chapter reads, and its parameters as they stand."""
    sources, values = chapter_cells(chapter, "code"), dict[str, Any]()
    guard, config = next((i, m[1]) for i, x in enumerate(sources) if (m := GUARD.search(x)))
    exec(sources[guard - 1], values)
    return imported(chapter)[config], {name: values[name] for name in values["__annotations__"]}


def exercises(chapter: str) -> Iterator[tuple[str, str, Callable[[Any], None], Any]]:
    """Yield, for each exercise with a check: the answer's name, its cell, the check, the solution.

    A solution runs with what the chapter imports.
    """
    names, prose = imported(chapter), "\n".join(chapter_cells(chapter, "markdown"))
    cells = chapter_cells(chapter, "code")
    calls = [(cell, call.groups()) for cell in cells if (call := CHECK.search(cell))]
    folded = re.findall(r"<details><summary>Solution.*?</details>", prose, re.S)
    for (cell, (name, check)), solved in zip(calls, folded, strict=True):
        namespace = dict(names)
        exec("\n".join(re.findall(r"^```python\n(.*?)^```", solved, re.M | re.S)), namespace)
        yield name, cell, getattr(names["checks"], check), namespace[name]


@functools.cache
def solution(chapter: str, name: str) -> Any:
    """Return the folded solution of the exercise whose answer is called `name`."""
    return next(answer for each, _, _, answer in exercises(chapter) if each == name)
