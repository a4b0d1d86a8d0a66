"""The form of the chapters, read from the files without running them.

`pytest --nbval notebooks` runs the cells and compares outputs. That only means something where
every cell was run before it was stored, so this file looks at counts, outputs, captions, headings,
links and exercises. Each rule returns a list of problems; each is shown to fail on a spoilt sample.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
CHAPTERS = (
    "01_search_space",
    "02_continuous_relaxation",
    "03_search",
    "04_genotype",
    "05_retrain",
    "06_recurrent_cells",
    "07_transfer",
)

MAX_CELL_LINES = 25
MAX_CODE_CELLS = 40
MAX_OUTPUT_BYTES = 300_000
MAX_NOTEBOOK_BYTES = 1_000_000
MAX_WORDS = 2500
MIN_EXERCISES = 3
SECTIONS = ("Parameters", "Full scale", "Exercises", "Recap")
TAGS = {"parameters", "nbval-ignore-output"}
PARAMETER = re.compile(r"[a-z_]+: (int|float|str|bool) = (\"[^\"#=]*\"|[-\w.]+)  # [^=\s][^=]*")
FENCE = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)

Notebook = dict[str, Any]
Cell = dict[str, Any]


# --- reading ------------------------------------------------------------------------------------


def load(path: Path) -> Notebook:
    """Return a notebook as plain dictionaries."""
    notebook: Notebook = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def text(cell: Cell) -> str:
    """Return a cell's source as one string; a file may hold it as a list of lines."""
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def code_cells(notebook: Notebook) -> list[Cell]:
    """Return the code cells, in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def prose(cell: Cell) -> str:
    """Return a markdown cell's text without fenced and inline code; nothing for a code cell."""
    if cell["cell_type"] != "markdown":
        return ""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text(cell)))


def headings(cells: list[Cell]) -> Iterator[tuple[int, str]]:
    """Yield (level, title) of every heading."""
    for cell in cells:
        if cell["cell_type"] == "markdown":
            for marks, title in re.findall(r"^(#{1,6}) +(.+?) *$", FENCE.sub("", text(cell)), re.M):
                yield len(marks), title


def section(notebook: Notebook, title: str) -> list[Cell]:
    """Return the cells from the heading `## title` up to the next heading of level 1 or 2."""
    found: list[Cell] = []
    inside = False
    for cell in notebook["cells"]:
        for level, name in headings([cell]):
            if level <= 2:
                inside = level == 2 and name == title
        if inside:
            found.append(cell)
    return found


def exercises(notebook: Notebook) -> list[list[Cell]]:
    """Return the exercises, each the cells from its `### ` heading to the next."""
    found: list[list[Cell]] = []
    for cell in section(notebook, "Exercises"):
        if any(level == 3 for level, _ in headings([cell])):
            found.append([])
        if found:
            found[-1].append(cell)
    return found


def is_check(cell: Cell) -> bool:
    """Say whether a code cell calls `check(...)`, the test of an exercise."""
    if cell["cell_type"] != "code":
        return False
    calls = [node for node in ast.walk(ast.parse(text(cell))) if isinstance(node, ast.Call)]
    return any(isinstance(call.func, ast.Name) and call.func.id == "check" for call in calls)


def solutions(cells: list[Cell]) -> list[str]:
    """Return the code inside the folded `<details>` solutions of some cells."""
    markdown = "\n".join(text(cell) for cell in cells if cell["cell_type"] == "markdown")
    folded = re.findall(r"<details>.*?</details>", markdown, re.DOTALL)
    return [
        code for part in folded for code in re.findall(r"^```python\n(.*?)^```", part, re.M | re.S)
    ]


# --- the rules ----------------------------------------------------------------------------------


def every_cell_was_run(notebook: Notebook) -> list[str]:
    """Counts are 1 to n in order: the notebook was run once, from top to bottom, and stored."""
    cells = code_cells(notebook)
    counts = [cell["execution_count"] for cell in cells]
    if any(not text(cell).strip() for cell in cells):
        return ["an empty code cell"]
    return [] if counts == [*range(1, len(cells) + 1)] else [f"execution counts {counts}"]


def parameters_then_guard(notebook: Notebook) -> list[str]:
    """One cell has the tag `parameters`; its lines are what papermill reads; the guard follows."""
    cells = code_cells(notebook)
    tagged = [i for i, c in enumerate(cells) if "parameters" in c["metadata"].get("tags", [])]
    if len(tagged) != 1:
        return [f"{len(tagged)} cells tagged parameters"]
    (index,) = tagged
    lines = text(cells[index]).splitlines()
    problems = [f"parameter line {line!r}" for line in lines if not PARAMETER.fullmatch(line)]
    following = text(cells[index + 1]) if index + 1 < len(cells) else ""
    if "read_parameters(globals()" not in following:
        problems.append("the code cell after the parameters does not call read_parameters")
    return problems


def metadata_is_plain(notebook: Notebook) -> list[str]:
    """The kernel is python3; no time stamps, versions, widget states or editor settings."""
    metadata = notebook["metadata"]
    problems = [f"metadata {k}" for k in metadata.keys() - {"kernelspec", "language_info"}]
    if metadata.get("kernelspec", {}).get("name") != "python3":
        problems.append(f"kernel {metadata.get('kernelspec')}")
    if "version" in metadata.get("language_info", {}):
        problems.append("metadata language_info.version")
    for number, cell in enumerate(notebook["cells"]):
        extra = cell["metadata"].keys() - {"tags"}
        problems += [f"cell {number}: metadata {key}" for key in sorted(extra)]
        unknown = set(cell["metadata"].get("tags", [])) - TAGS
        problems += [f"cell {number}: tag {tag}" for tag in sorted(unknown)]
    return problems


def no_cell_ends_in_a_semicolon(notebook: Notebook) -> list[str]:
    """A last `;` hides a value in Jupyter but not under nbval; `_ = ...` hides it in both."""
    ends = [text(cell).rstrip().splitlines()[-1:] for cell in code_cells(notebook)]
    return [f"a cell ends in {end[0]!r}" for end in ends if end and end[0].endswith(";")]


def cells_are_short(notebook: Notebook) -> list[str]:
    """A code cell fits on half a screen, and there are not too many of them."""
    cells = code_cells(notebook)
    problems = [f"{len(cells)} code cells"] if len(cells) > MAX_CODE_CELLS else []
    lines = [len(text(cell).splitlines()) for cell in cells]
    return problems + [f"a code cell of {n} lines" for n in lines if n > MAX_CELL_LINES]


def outputs_are_clean(notebook: Notebook) -> list[str]:
    """No error, no warning, nothing large."""
    problems = []
    for cell in code_cells(notebook):
        for output in cell["outputs"]:
            size = len(json.dumps(output))
            if output["output_type"] == "error":
                problems.append(f"cell [{cell['execution_count']}] ends in an error")
            if output.get("name") == "stderr":
                problems.append(f"cell [{cell['execution_count']}] writes to stderr")
            if size > MAX_OUTPUT_BYTES:
                problems.append(f"cell [{cell['execution_count']}] has an output of {size} bytes")
    return problems


def figures_have_captions(notebook: Notebook) -> list[str]:
    """The cell after a picture has a line that begins with `*Figure` and says what is seen."""
    problems = []
    cells = notebook["cells"]
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        kinds = {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}
        if kinds & {"image/png", "image/gif", "image/svg+xml"}:
            caption = following and following["cell_type"] == "markdown" and text(following)
            if not re.search(r"^\*Figure", caption or "", re.MULTILINE):
                problems.append(f"no caption after cell [{cell['execution_count']}]")
    return problems


def headings_are_in_order(notebook: Notebook) -> list[str]:
    """One title, first of all; no level is skipped; the sections of every chapter are there."""
    found = list(headings(notebook["cells"]))
    levels = [level for level, _ in found]
    problems = [] if levels.count(1) == 1 and levels[0] == 1 else [f"heading levels {levels}"]
    for (above, _), (level, title) in zip(found, found[1:], strict=False):
        if level > above + 1:
            problems.append(f"heading {title!r} skips a level")
    titles = [title for level, title in found if level == 2]
    order = [titles.index(name) for name in SECTIONS if name in titles]
    problems += [f"no section {name!r}" for name in SECTIONS if name not in titles]
    return problems + ([] if order == sorted(order) else [f"sections out of order: {titles}"])


def links_lead_somewhere(notebook: Notebook) -> list[str]:
    """Relative links name files that exist, and headings or anchors that exist in them."""
    problems = []
    for cell in notebook["cells"]:
        prose_text = prose(cell)
        problems += ["an image without alt text"] * len(re.findall(r"!\[\s*\]\(", prose_text))
        for target in re.findall(r"\]\(([^()\s]+)\)", prose_text):
            if not re.match(r"[a-z]+:", target):
                problems += _dead_link(target)
    return problems


def _dead_link(target: str) -> list[str]:
    name, _, anchor = target.partition("#")
    path = FOLDER / name
    if name and not path.exists():
        return [f"dead link {target}"]
    if anchor and path.suffix == ".md" and anchor not in _anchors(path.read_text(encoding="utf-8")):
        return [f"dead anchor {target}"]
    return []


def _anchors(markdown: str) -> set[str]:
    titles = re.findall(r"^#{1,6} +(.+?) *$", FENCE.sub("", markdown), re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return slugs | set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", markdown))


def exercises_can_be_checked(notebook: Notebook) -> list[str]:
    """At least three exercises have a check; each of these has a folded solution that is Python."""
    checked = [cells for cells in exercises(notebook) if any(is_check(cell) for cell in cells)]
    problems = [] if len(checked) >= MIN_EXERCISES else [f"{len(checked)} exercises with a check"]
    for number, cells in enumerate(checked, start=1):
        codes = solutions(cells)
        if not codes:
            problems.append(f"exercise {number} has no folded solution in a ```python block")
        for code in codes:
            try:
                ast.parse(code)
            except SyntaxError as error:
                problems.append(f"the solution of exercise {number} is not Python: {error}")
    return problems


def prose_is_short(notebook: Notebook) -> list[str]:
    """A chapter is read in ten minutes; fenced code and formulas between $$ are not counted."""
    words = re.sub(r"\$\$.*?\$\$", "", " ".join(map(prose, notebook["cells"])), flags=re.DOTALL)
    count = len(words.split())
    return [] if count <= MAX_WORDS else [f"{count} words"]


RULES: list[Callable[[Notebook], list[str]]] = [
    every_cell_was_run,
    parameters_then_guard,
    metadata_is_plain,
    no_cell_ends_in_a_semicolon,
    cells_are_short,
    outputs_are_clean,
    figures_have_captions,
    headings_are_in_order,
    links_lead_somewhere,
    exercises_can_be_checked,
    prose_is_short,
]


# --- the chapters -------------------------------------------------------------------------------


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_chapter_exists(chapter: str) -> None:
    assert (FOLDER / f"{chapter}.ipynb").is_file()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_form(path: Path, rule: Callable[[Notebook], list[str]]) -> None:
    assert rule(load(path)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_file_is_small(path: Path) -> None:
    assert path.stat().st_size <= MAX_NOTEBOOK_BYTES


# --- the rules can fail -------------------------------------------------------------------------


def _markdown(source: str) -> Cell:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def _code(source: str, *outputs: Cell, tags: tuple[str, ...] = ()) -> Cell:
    metadata = {"tags": list(tags)} if tags else {}
    return {"cell_type": "code", "metadata": metadata, "source": source, "outputs": list(outputs)}


def sample() -> Notebook:
    """Return a small notebook that keeps every rule."""
    picture = {"output_type": "display_data", "metadata": {}, "data": {"image/png": "iVBO"}}
    solution = "<details><summary>Solution</summary>\n\n```python\nx = 1\n```\n\n</details>"
    cells = [
        _markdown("# 1 · A sample\n\nA [link](README.md#sample) and code `[no](link.md)`."),
        _markdown("## Parameters"),
        _code(
            'epochs: int = 0  # 0: the default\nscale: str = "auto"  # or laptop',
            tags=("parameters",),
        ),
        _code("config = read_parameters(globals(), SearchConfig)"),
        _markdown("## Full scale\n\n```\n# not a heading\n```"),
        _code("plot()", picture),
        _markdown("*Figure 1. A line that rises from 0 to 1.*"),
        _markdown("## Exercises"),
    ]
    for number in range(1, MIN_EXERCISES + 1):
        cells += [_markdown(f"### {number} · Try"), _code("x = None\ncheck(x, checks.x)")]
        cells += [_markdown(solution)]
    cells += [_markdown("### 4 · Open, with no solution"), _markdown("## Recap")]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {"cells": cells, "metadata": {"kernelspec": kernel, "language_info": {}}}
    for count, cell in enumerate(code_cells(notebook), start=1):
        cell["execution_count"] = count
    return notebook


def _set(index: int, key: str, value: object) -> Callable[[Notebook], None]:
    return lambda notebook: notebook["cells"][index].__setitem__(key, value)


def _meta(key: str, value: object) -> Callable[[Notebook], None]:
    return lambda notebook: notebook["metadata"].__setitem__(key, value)


def _drop(index: int) -> Callable[[Notebook], None]:
    return lambda notebook: notebook["cells"].__delitem__(index)


ERROR = {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}
STDERR = {"output_type": "stream", "name": "stderr", "text": "a warning"}
LARGE = {"output_type": "stream", "name": "stdout", "text": "x" * (MAX_OUTPUT_BYTES + 1)}
SPOILT: list[tuple[Callable[[Notebook], list[str]], Callable[[Notebook], None]]] = [
    (every_cell_was_run, _set(3, "execution_count", None)),
    (every_cell_was_run, _set(3, "execution_count", 7)),
    (every_cell_was_run, _set(3, "source", "")),
    (parameters_then_guard, _set(2, "metadata", {})),
    (parameters_then_guard, _set(3, "metadata", {"tags": ["parameters"]})),
    (parameters_then_guard, _set(3, "source", "print(epochs)")),
    (parameters_then_guard, _set(2, "source", "epochs: int | None = None  # papermill is blind")),
    (parameters_then_guard, _set(2, "source", "epochs: int = 0")),
    (parameters_then_guard, _set(2, "source", "epochs: int = 0  # 0 = all: papermill is blind")),
    (parameters_then_guard, _set(2, "source", 'name: str = "a=b"  # papermill cannot read it')),
    (metadata_is_plain, _meta("kernelspec", {"name": "my-env"})),
    (metadata_is_plain, _meta("papermill", {})),
    (metadata_is_plain, _meta("language_info", {"version": "3.11.7"})),
    (metadata_is_plain, _set(5, "metadata", {"execution": {}})),
    (metadata_is_plain, _set(5, "metadata", {"tags": ["raises-exception"]})),
    (no_cell_ends_in_a_semicolon, _set(5, "source", "ax.plot([0, 1]);")),
    (cells_are_short, _set(5, "source", "x = 1\n" * (MAX_CELL_LINES + 1))),
    (cells_are_short, lambda n: n["cells"].extend([n["cells"][3]] * MAX_CODE_CELLS)),
    (outputs_are_clean, _set(5, "outputs", [ERROR])),
    (outputs_are_clean, _set(5, "outputs", [STDERR])),
    (outputs_are_clean, _set(5, "outputs", [LARGE])),
    (figures_have_captions, _drop(6)),
    (figures_have_captions, _set(6, "source", "See above.")),
    (headings_are_in_order, _set(0, "source", "## No title")),
    (headings_are_in_order, _set(6, "source", "# A second title")),
    (headings_are_in_order, _set(6, "source", "#### Too deep")),
    (headings_are_in_order, _drop(4)),
    (links_lead_somewhere, _set(0, "source", "# [next](no_such_chapter.ipynb)")),
    (links_lead_somewhere, _set(0, "source", "# [term](../CONTRIBUTING.md#no-such-heading)")),
    (links_lead_somewhere, _set(0, "source", "# ![](../LICENSE)")),
    (exercises_can_be_checked, _set(9, "source", "x = None")),
    (exercises_can_be_checked, _set(10, "source", "no solution")),
    (
        exercises_can_be_checked,
        _set(10, "source", "<details>\n```python\nx = = 1\n```\n</details>"),
    ),
    (prose_is_short, _set(6, "source", "word " * (MAX_WORDS + 1))),
]


@pytest.fixture
def folder_with_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the sample's links start in a folder where the file they name exists."""
    (tmp_path / "README.md").write_text("# Sample\n")
    monkeypatch.setitem(globals(), "FOLDER", tmp_path)


@pytest.mark.usefixtures("folder_with_readme")
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_sample_keeps_every_rule(rule: Callable[[Notebook], list[str]]) -> None:
    assert rule(sample()) == []


@pytest.mark.parametrize(("rule", "spoil"), SPOILT)
def test_a_spoilt_sample_is_caught(
    rule: Callable[[Notebook], list[str]], spoil: Callable[[Notebook], None]
) -> None:
    notebook = sample()
    spoil(notebook)
    assert rule(notebook) != []


def test_every_rule_is_shown_to_fail() -> None:
    assert {rule.__name__ for rule, _ in SPOILT} == {rule.__name__ for rule in RULES}


def test_solutions_are_found() -> None:
    assert solutions(exercises(sample())[0]) == ["x = 1\n"]
