"""The form of the chapters, read from the files without running them.

`pytest --nbval notebooks` runs the cells and compares outputs. That only means something where
every cell was run before it was stored, so this file looks at counts, outputs, captions, headings,
links and what differs between machines. Each rule yields problems; it is shown a spoilt chapter.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from chapter_tools import (
    FOLDER,
    NOTEBOOKS,
    Cell,
    Notebook,
    code_cells,
    load,
    parameters,
    text,
    write_notebook,
)
from nbformat.v4 import new_markdown_cell, new_output
from sources import ROOT

MAX_CELL_LINES = 25
MAX_CODE_CELLS = 30
MAX_ASSERTS = 10
MAX_IMPORT_LINES = 10
MIN_PREDICTIONS = 4
MAX_OUTPUT_BYTES = 300_000
MAX_NOTEBOOK_BYTES = 1_000_000
MAX_WORDS = 2300
SECTIONS = ["Parameters", "Full scale", "Exercises", "Recap"]
LEVELS = ("Recall", "Build", "Open")
TAGS = {"parameters", "nbval-ignore-output"}
PARAMETER = re.compile(r"[a-z_]+: (int|float|str|bool) = (\"[^\"#=]*\"|[-\w.]+)  # [^=\s][^=]*")
FENCE = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)

Problems = Iterator[str]


def prose(notebook: Notebook) -> str:
    """Return the markdown cells' text without fenced and inline code."""
    cells = (cell for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    return re.sub(r"`[^`\n]*`", "", "\n\n".join(FENCE.sub("", text(cell)) for cell in cells))


def tags(cell: Cell) -> set[str]:
    return set(cell["metadata"].get("tags", []))


def every_cell_was_run(notebook: Notebook) -> Problems:
    """Counts are 1 to n in order: the notebook was run once, from top to bottom, and stored."""
    cells = code_cells(notebook)
    counts = [cell["execution_count"] for cell in cells]
    if counts != [*range(1, len(cells) + 1)]:
        yield f"execution counts {counts}"
    if not all(text(cell).strip() for cell in cells):
        yield "an empty code cell"


def parameters_then_guard(notebook: Notebook) -> Problems:
    """One cell has the tag `parameters`; its lines are what papermill reads; the guard follows."""
    cells = code_cells(notebook)
    tagged = [i for i, cell in enumerate(cells) if "parameters" in tags(cell)]
    if len(tagged) != 1:
        yield f"{len(tagged)} cells tagged parameters"
        return
    lines = text(cells[tagged[0]]).splitlines()
    yield from (f"parameter line {line!r}" for line in lines if not PARAMETER.fullmatch(line))
    if "read_parameters(globals()" not in "".join(map(text, cells[tagged[0] + 1 : tagged[0] + 2])):
        yield "the code cell after the parameters does not call read_parameters"


def metadata_is_plain(notebook: Notebook) -> Problems:
    """The kernel is python3; no time stamps, versions, widget states or editor settings."""
    metadata = notebook["metadata"]
    yield from (f"metadata {key}" for key in metadata.keys() - {"kernelspec", "language_info"})
    if metadata["kernelspec"]["name"] != "python3":
        yield f"kernel {metadata['kernelspec']}"
    if "version" in metadata["language_info"]:
        yield "metadata language_info.version"
    for number, cell in enumerate(notebook["cells"]):
        extra = cell["metadata"].keys() - {"tags"} | tags(cell) - TAGS
        yield from (f"cell {number}: {name}" for name in sorted(extra))


def outputs_are_clean(notebook: Notebook) -> Problems:
    """No error, no warning, nothing large."""
    for output in (output for cell in code_cells(notebook) for output in cell["outputs"]):
        if output["output_type"] == "error" or output.get("name") == "stderr":
            yield f"an error or a warning: {output}"
        if (size := len(json.dumps(output))) > MAX_OUTPUT_BYTES:
            yield f"an output of {size} bytes"


HIDES = re.compile(
    r"^\s*except( Exception| BaseException)?( as .+)?:|^[%!].*|\b(exit|quit|abort)\(|.*;\s*\Z",
    re.M,
)


def no_cell_hides_a_failure_or_a_value(notebook: Notebook) -> Problems:
    """No cell catches everything or ends a run as if all were well, and none is a magic line.

    Of nteract/papermill#464 and computationalmodelling/nbval#147. A last `;` hides a value in
    Jupyter but not under nbval; `_ = ...` hides it in both.
    """
    for source in map(text, code_cells(notebook)):
        yield from (repr(found[0]) for found in HIDES.finditer(source))


UNSTABLE = {
    "an object": r"<(?!Figure size)[\w.]+[^>\n]*>|\bobject at\b",
    "a time": r"\b\d+(\.\d+)? ?(sec|secs|seconds?|minutes?|hours?|us|µs|it/s)\b",
    "a date": r"\b20\d\d-\d\d-\d\d\b",
}
"""What the sanitiser of the comparison does not know."""


def outputs_are_the_same_on_every_machine(notebook: Notebook) -> Problems:
    """Of computationalmodelling/nbval#6: what the sanitiser does not hide must not differ."""
    compared = (cell for cell in code_cells(notebook) if "nbval-ignore-output" not in tags(cell))
    for output in (output for cell in compared for output in cell["outputs"]):
        shown = "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
        yield from (what for what, form in UNSTABLE.items() if re.search(form, shown))


def figures_have_captions(notebook: Notebook) -> Problems:
    """The cell after a picture has a line that begins with `*Figure` and says what is seen."""
    for cell, following in pairwise([*notebook["cells"], new_markdown_cell("the end")]):
        kinds = {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}
        caption = following["cell_type"] == "markdown" and text(following)
        is_figure = kinds & {"image/png", "image/gif", "image/svg+xml"}
        if is_figure and not re.search(r"^\*Figure", caption or "", re.MULTILINE):
            yield f"no caption after cell [{cell['execution_count']}]"


def headings_are_in_order(notebook: Notebook) -> Problems:
    """One title, first of all; no level is skipped; the sections of every chapter are there."""
    headings = re.findall(r"^(#{1,6}) +(.+?) *$", prose(notebook), re.MULTILINE)
    levels = [len(marks) for marks, _ in headings]
    if levels.count(1) != 1 or levels[0] != 1 or any(b > a + 1 for a, b in pairwise(levels)):
        yield f"heading levels {levels}"
    sections = [title for marks, title in headings if marks == "##" and title in SECTIONS]
    # An appendix may go without a full scale and exercises.
    needed = [each for each in SECTIONS if each in sections or each in ("Parameters", "Recap")]
    if sections != (SECTIONS if number_of(notebook) else needed):
        yield f"sections {sections}"


def number_of(notebook: Notebook) -> int:
    """Return the number in a chapter's title, 0 for an appendix."""
    title = re.match(r"# (\d+) · ", text(notebook["cells"][0]))
    return int(title[1]) if title else 0


def the_reader_knows_where_he_is(notebook: Notebook) -> Problems:
    """The first picture is that of the whole method, with this chapter marked."""
    first = next((cell for cell in code_cells(notebook) if cell["outputs"]), {"source": ""})
    if (number := number_of(notebook)) and f"draw_pipeline({number})" not in text(first):
        yield "the first output is not the picture of the whole method"


def the_lesson_is_not_a_test(notebook: Notebook) -> Problems:
    """A few assertions, a few imports; a reader predicts before a result, and builds a module.

    What else is to be checked is a test. Imports and predictions: in the chapters of the method.
    """
    number, sources = number_of(notebook), [*map(text, code_cells(notebook))]
    asserts = sum(len(re.findall(r"^\s*assert\b", source, re.M)) for source in sources)
    if number and asserts > MAX_ASSERTS:
        yield f"{asserts} assertions"
    if number not in range(1, 6):
        return
    imports = len([line for line in sources[0].splitlines() if re.match(r"from|import|  ", line)])
    if imports > MAX_IMPORT_LINES:
        yield f"{imports} lines of imports"
    if (found := prose(notebook).count("**Predict first:**")) < MIN_PREDICTIONS:
        yield f"{found} predictions"
    levels = set(re.findall(r"^### \d+ · (\w+):", prose(notebook), re.M))
    if levels != set(LEVELS):
        yield f"exercises of the levels {sorted(levels)}"


def links_lead_somewhere(notebook: Notebook) -> Problems:
    """Relative links name files that exist, and headings or anchors that exist in them."""
    yield from ("an image without alt text" for _ in re.findall(r"!\[\s*\]\(", prose(notebook)))
    yield from dead_links(prose(notebook), FOLDER)


def dead_links(page: str, folder: Path) -> Problems:
    """Yield what is wrong with the relative links of a page in `folder`."""
    for target in re.findall(r"\]\((?![a-z]+:)([^()\s]+)\)", page):
        name, _, anchor = target.partition("#")
        path = folder / name
        if name and not path.exists():
            yield f"dead link {target}"
        elif anchor and path.suffix == ".md" and anchor not in anchors(path.read_text("utf-8")):
            yield f"dead anchor {target}"


def anchors(page: str) -> set[str]:
    titles = re.findall(r"^#{1,6} +(.+?) *$", FENCE.sub("", page), re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return slugs | set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", page))


def it_is_short(notebook: Notebook) -> Problems:
    """A chapter is read in ten minutes, a code cell fits on half a screen; they are not many.

    Fenced code and formulas between $$ are not counted.
    """
    lines = [len(text(cell).splitlines()) for cell in code_cells(notebook)]
    words = len(re.sub(r"\$\$.*?\$\$", "", prose(notebook), flags=re.DOTALL).split())
    if len(lines) > MAX_CODE_CELLS or max(lines) > MAX_CELL_LINES or words > MAX_WORDS:
        yield f"{words} words, {len(lines)} code cells of up to {max(lines)} lines"


def stream(shown: str, name: str = "stdout") -> Cell:
    return {"outputs": [new_output("stream", name=name, text=shown)]}


DIFFERING = [
    *("<Axes: title={'center': 'cell'}>", "<generator object f at 0x7f1200>", "12.5 seconds"),
    *("2026-01-31", "[<matplotlib.lines.Line2D at 0x7f1200aa>]"),
]
OUTPUTS = [stream(f"found {shown}\n") for shown in DIFFERING]
OUTPUTS += [{"outputs": [new_output("execute_result", {"text/plain": DIFFERING[0]})]}]
HIDING = ["try:\n f()\nexcept Exception as e:\n print(e)", "sys.exit(0)", "%time f()", "ax.plot();"]
TITLE, PARAMETERS, GUARD, CAPTION = "# 1", "channels: int", "config = ", "*Figure"

# Each rule with what breaks it: how the cell of chapter 01 begins, and what is changed there.
SPOILT: list[tuple[Callable[[Notebook], Problems], str, Cell]] = [
    (every_cell_was_run, GUARD, {"execution_count": 7}),
    (every_cell_was_run, GUARD, {"source": ""}),
    (parameters_then_guard, PARAMETERS, {"metadata": {}}),
    (parameters_then_guard, GUARD, {"source": "print(epochs)"}),
    (parameters_then_guard, PARAMETERS, {"source": "epochs: int | None = None  # unseen"}),
    (parameters_then_guard, PARAMETERS, {"source": "epochs: int = 0  # 0 = all: unseen"}),
    (parameters_then_guard, PARAMETERS, {"source": 'name: str = "a=b"  # unseen by papermill'}),
    (metadata_is_plain, "the notebook", {"kernelspec": {"name": "my-env"}}),
    (metadata_is_plain, "the notebook", {"papermill": {}}),
    (metadata_is_plain, "the notebook", {"language_info": {"version": "3.11.7"}}),
    (metadata_is_plain, GUARD, {"metadata": {"execution": {}}}),
    (metadata_is_plain, GUARD, {"metadata": {"tags": ["raises-exception"]}}),
    (outputs_are_clean, GUARD, {"outputs": [new_output("error", ename="E", evalue="")]}),
    (outputs_are_clean, GUARD, stream("a warning", "stderr")),
    (outputs_are_clean, GUARD, stream("x" * (MAX_OUTPUT_BYTES + 1))),
    (figures_have_captions, CAPTION, {"cell_type": "raw"}),
    (figures_have_captions, CAPTION, {"source": "See above."}),
    (headings_are_in_order, TITLE, {"source": "## No title"}),
    (headings_are_in_order, CAPTION, {"source": "#### Too deep"}),
    (headings_are_in_order, "## Exercises", {"source": "## Recap"}),
    (the_reader_knows_where_he_is, "drawing.use_style", {"source": "drawing.draw_pipeline(2)"}),
    (the_lesson_is_not_a_test, GUARD, {"source": "assert True\n" * (MAX_ASSERTS + 1)}),
    (the_lesson_is_not_a_test, "import", {"source": "import os\n" * (MAX_IMPORT_LINES + 1)}),
    (the_lesson_is_not_a_test, "**Predict first:**", {"source": "What now?"}),
    (the_lesson_is_not_a_test, "## Exercises", {"source": "### 1 · Fold: it"}),
    (links_lead_somewhere, TITLE, {"source": "# [next](no_such_chapter.ipynb)"}),
    (links_lead_somewhere, TITLE, {"source": "# [term](../CONTRIBUTING.md#no-such-heading)"}),
    (links_lead_somewhere, TITLE, {"source": "# ![](../LICENSE)"}),
    (it_is_short, CAPTION, {"source": "word " * (MAX_WORDS + 1)}),
    (it_is_short, GUARD, {"source": "x = 1\n" * (MAX_CELL_LINES + 1)}),
    *((no_cell_hides_a_failure_or_a_value, GUARD, {"source": source}) for source in HIDING),
    *((outputs_are_the_same_on_every_machine, GUARD, output) for output in OUTPUTS),
]
RULES = [*dict.fromkeys(rule for rule, _, _ in SPOILT)]


def test_the_chapters_keep_every_rule() -> None:
    assert len(NOTEBOOKS) >= 7
    problems = [
        f"{path.name}: {rule.__name__}: {problem}"
        for path in NOTEBOOKS
        for rule in RULES
        for problem in rule(load(path))
    ]
    assert problems == []
    assert [path.name for path in NOTEBOOKS if path.stat().st_size > MAX_NOTEBOOK_BYTES] == []


def test_a_spoilt_chapter_is_caught_by_every_rule() -> None:
    for rule, begins, change in SPOILT:
        notebook = load(NOTEBOOKS[0])
        cells = (cell for cell in notebook["cells"] if text(cell).startswith(begins))
        part = next(cells, notebook["metadata"])
        part |= change
        assert [*rule(notebook)], f"{rule.__name__} misses {change} in {begins}"
    assert [*it_is_short({"cells": code_cells(load(NOTEBOOKS[0])) * MAX_CODE_CELLS})]


def test_links_of_the_pages_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), ROOT / "data" / "README.md"]
    pages += [page for name in ("docs", "notebooks") for page in (ROOT / name).rglob("*.md")]
    assert len(pages) >= 6
    dead = {page: [*dead_links(FENCE.sub("", page.read_text()), page.parent)] for page in pages}
    assert {page: links for page, links in dead.items() if links} == {}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_as_it_stands_needs_no_gpu_no_data_and_no_network(path: Path) -> None:
    """Of computationalmodelling/nbval#151: it runs the parameter cell as it is."""
    kind, given = parameters(path.stem)
    config = kind.create(**given)
    assert config.scale == "laptop"
    assert config.dataset in ("digits", "topics") or "workers" in kind.model_fields
    assert config.epochs <= 8
    assert not any(given.get(place) for place in ("data_root", "run_dir"))


@pytest.mark.deep
def test_pytest_leaves_papermills_notebooks_and_keeps_a_chapter_together(tmp_path: Path) -> None:
    """Of nbval#121: cells dealt to processes miss one another's names; out.ipynb is no test."""
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
