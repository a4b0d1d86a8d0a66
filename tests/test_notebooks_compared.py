"""What the strict comparison of chapters relies on: nothing hides a failure, nothing differs.

A test names the public thread that it comes from.
"""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chapter_tools import NOTEBOOKS, code_cells, imported, load, text, write_notebook

ROOT = Path(__file__).resolve().parent.parent


def cells(path: Path) -> list[dict[str, Any]]:
    """Return a notebook's code cells."""
    return code_cells(load(path))


ENDS = ("exit", "quit", "sys.exit", "os._exit", "os.abort")


def hides_failure(source: str) -> list[str]:
    """Say what in a cell could end a run as if all were well, or is no Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        return [f"no plain Python: {error}"]
    problems = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            again = any(isinstance(part, ast.Raise) for part in ast.walk(node))
            if caught in ("everything", "Exception", "BaseException") and not again:
                problems.append(f"catches {caught}")
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ENDS:
            problems.append(f"calls {ast.unparse(node.func)}")
    return problems


STABLE = {
    "an object": re.compile(r"<(?!Figure size)[\w.]+[^>\n]*>|\bobject at\b"),
    "a time that the sanitiser does not know": re.compile(
        r"\b\d+(\.\d+)? ?(sec|secs|seconds?|minutes?|hours?|us|µs|it/s)\b"
    ),
    "a date": re.compile(r"\b20\d\d-\d\d-\d\d\b"),
}


def unstable(cell: dict[str, Any]) -> list[str]:
    """Say what in the compared output of a cell differs between machines."""
    if "nbval-ignore-output" in cell["metadata"].get("tags", []):
        return []
    texts = [out.get("text", out.get("data", {}).get("text/plain", "")) for out in cell["outputs"]]
    shown = "\n".join("".join(text) for text in texts)
    return [what for what, pattern in STABLE.items() if pattern.search(shown)]


def test_no_cell_turns_a_failure_into_success() -> None:
    """Of nteract/papermill#464 and computationalmodelling/nbval#147: nor is one a magic line."""
    for path in NOTEBOOKS:
        assert [line for cell in cells(path) for line in hides_failure(text(cell))] == [], path


def test_what_is_compared_is_the_same_on_every_machine() -> None:
    """Of computationalmodelling/nbval#6: what the sanitiser does not hide must not differ."""
    for path in NOTEBOOKS:
        problems = {cell["execution_count"]: unstable(cell) for cell in cells(path)}
        assert {count: what for count, what in problems.items() if what} == {}, path


def test_a_cell_that_hides_a_failure_is_caught() -> None:
    for ending in (
        *("try:\n f()\nexcept Exception as error:\n print(error)", "try:\n f()\nexcept:\n pass"),
        *("import sys\nsys.exit(0)", "exit()", "%matplotlib inline", "!pip install darts"),
    ):
        assert hides_failure(ending), ending
    assert hides_failure("try:\n f()\nexcept ValueError as error:\n print(error)") == []
    assert hides_failure("try:\n f()\nexcept Exception:\n clean()\n raise") == []


def test_an_output_that_differs_between_machines_is_caught() -> None:
    shown = ["<Axes: title={'center': 'cell'}>", "<generator object f at 0x7f1200>", "12.5 seconds"]
    shown += ["2026-01-31", "[<matplotlib.lines.Line2D at 0x7f1200aa>]"]
    for part in shown:
        stream = {"output_type": "stream", "name": "stdout", "text": [f"found {part}\n"]}
        value = {"output_type": "execute_result", "data": {"text/plain": part}}
        for output in (stream, value):
            assert unstable({"metadata": {}, "outputs": [output]}), part
            tagged = {"metadata": {"tags": ["nbval-ignore-output"]}, "outputs": [output]}
            assert not unstable(tagged)
    figure = {"data": {"text/plain": "<Figure size 7x4 with 1 Axes>"}}
    assert not unstable({"metadata": {}, "outputs": [figure]})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_as_it_stands_needs_no_gpu_no_data_and_no_network(path: Path) -> None:
    """Of computationalmodelling/nbval#151: it runs the parameter cell as it is."""
    sources = [text(cell) for cell in cells(path)]
    index = next(i for i, source in enumerate(sources) if "read_parameters(globals()" in source)
    (name,) = re.findall(r"read_parameters\(globals\(\), (\w+)", sources[index])
    kind, given = imported(path.stem)[name], {}
    exec(sources[index - 1], given)
    given = {key: given[key] for key in given["__annotations__"]}
    config = kind.create(**given)
    assert config.scale == "laptop"
    assert config.dataset in ("digits", "topics") or "workers" in kind.model_fields
    assert config.epochs <= 8
    assert not any(given.get(place) for place in ("data_root", "run_dir"))


@pytest.mark.deep
def test_pytest_leaves_papermills_notebooks_and_keeps_a_chapter_together(tmp_path: Path) -> None:
    """Of computationalmodelling/nbval#121: cells dealt to processes miss one another's names.

    And what `papermill ... out.ipynb` wrote is no test.
    """
    for name in ("pyproject.toml", "tests/nbval_sanitize.cfg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    write_notebook(tmp_path / "notebooks/01.ipynb", "x = 1", "x += 1", "x += 1", "assert x == 3")
    for folder in (".", "runs"):
        write_notebook(tmp_path / folder / "out.ipynb", "assert False")
    command = [sys.executable, "-m", "pytest", "--nbval", "-q", "-n", "2", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:]
    assert re.search(r"^4 passed", done.stdout, re.MULTILINE), done.stdout[-2000:]
