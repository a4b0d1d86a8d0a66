"""The form of the chapters, read from the files without running them.

`pytest --nbval notebooks` runs the cells and compares outputs. That only means something where
every cell was run before it was stored, so this file looks at counts, outputs, captions, headings,
links, exercises and what differs between machines. Each rule returns a list of problems; each is
shown to fail on a spoilt sample.
"""

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chapter_tools import (
    FOLDER,
    NOTEBOOKS,
    Cell,
    Notebook,
    checked_answers,
    code_cells,
    folded_solutions,
    imported,
    load,
    text,
    write_notebook,
)

ROOT = FOLDER.parent
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


def markdown(notebook: Notebook) -> list[str]:
    """Return the markdown cells' texts without fenced code."""
    cells = (cell for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    return [FENCE.sub("", text(cell)) for cell in cells]


def prose(notebook: Notebook) -> str:
    """Return the markdown cells' text without fenced and inline code."""
    return re.sub(r"`[^`\n]*`", "", "\n\n".join(markdown(notebook)))


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
            size, place = len(json.dumps(output)), f"cell [{cell['execution_count']}]"
            if output["output_type"] == "error":
                problems.append(f"{place} ends in an error")
            if output.get("name") == "stderr":
                problems.append(f"{place} writes to stderr")
            if size > MAX_OUTPUT_BYTES:
                problems.append(f"{place} has an output of {size} bytes")
    return problems


ENDS = ("exit", "quit", "sys.exit", "os._exit", "os.abort")


def no_cell_hides_a_failure(notebook: Notebook) -> list[str]:
    """No cell ends a run as if all were well, and none is a magic line: it is plain Python.

    Of nteract/papermill#464 and computationalmodelling/nbval#147.
    """
    problems = []
    for source in map(text, code_cells(notebook)):
        try:
            tree = ast.parse(source)
        except SyntaxError as error:
            return [f"no plain Python: {error}"]
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "everything"
                again = any(isinstance(part, ast.Raise) for part in ast.walk(node))
                if caught in ("everything", "Exception", "BaseException") and not again:
                    problems.append(f"catches {caught}")
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ENDS:
                problems.append(f"calls {ast.unparse(node.func)}")
    return problems


UNSTABLE = {
    "an object": r"<(?!Figure size)[\w.]+[^>\n]*>|\bobject at\b",
    "a time": r"\b\d+(\.\d+)? ?(sec|secs|seconds?|minutes?|hours?|us|µs|it/s)\b",
    "a date": r"\b20\d\d-\d\d-\d\d\b",
}
"""What the sanitiser of the comparison does not know."""


def outputs_are_the_same_on_every_machine(notebook: Notebook) -> list[str]:
    """Of computationalmodelling/nbval#6: what the sanitiser does not hide must not differ."""
    problems = []
    for cell in code_cells(notebook):
        if "nbval-ignore-output" not in cell["metadata"].get("tags", []):
            texts = (
                o.get("text", o.get("data", {}).get("text/plain", "")) for o in cell["outputs"]
            )
            shown = "\n".join(map("".join, texts))
            problems += [what for what, form in UNSTABLE.items() if re.search(form, shown)]
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
    pairs = re.findall(r"^(#{1,6}) +(.+?) *$", "\n".join(markdown(notebook)), re.M)
    levels, titles = [len(marks) for marks, _ in pairs], [t for marks, t in pairs if marks == "##"]
    problems = [] if levels.count(1) == 1 and levels[0] == 1 else [f"heading levels {levels}"]
    skips = zip(levels, levels[1:], pairs[1:], strict=False)
    problems += [f"heading {title!r} skips a level" for a, b, (_, title) in skips if b > a + 1]
    order = [titles.index(name) for name in SECTIONS if name in titles]
    problems += [f"no section {name!r}" for name in SECTIONS if name not in titles]
    return problems + ([] if order == sorted(order) else [f"sections out of order: {titles}"])


def links_lead_somewhere(notebook: Notebook) -> list[str]:
    """Relative links name files that exist, and headings or anchors that exist in them."""
    images = ["an image without alt text"] * len(re.findall(r"!\[\s*\]\(", prose(notebook)))
    return images + dead_links(prose(notebook), FOLDER)


def dead_links(page: str, folder: Path) -> list[str]:
    """Return what is wrong with the relative links of a page in `folder`."""
    problems = []
    for target in re.findall(r"\]\((?![a-z]+:)([^()\s]+)\)", page):
        name, _, anchor = target.partition("#")
        path = folder / name
        if name and not path.exists():
            problems.append(f"dead link {target}")
        elif anchor and path.suffix == ".md" and anchor not in anchors(path.read_text("utf-8")):
            problems.append(f"dead anchor {target}")
    return problems


def anchors(page: str) -> set[str]:
    titles = re.findall(r"^#{1,6} +(.+?) *$", FENCE.sub("", page), re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return slugs | set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", page))


def exercises_can_be_checked(notebook: Notebook) -> list[str]:
    """At least three exercises have a check; each has a folded solution, which tests run."""
    checked = len(checked_answers(notebook))
    folded = len([*filter(None, folded_solutions(notebook))])
    problems = [] if checked >= MIN_EXERCISES else [f"{checked} exercises with a check"]
    return problems + ([] if folded == checked else [f"{checked} checks, {folded} solutions"])


def prose_is_short(notebook: Notebook) -> list[str]:
    """A chapter is read in ten minutes; fenced code and formulas between $$ are not counted."""
    count = len(re.sub(r"\$\$.*?\$\$", "", prose(notebook), flags=re.DOTALL).split())
    return [] if count <= MAX_WORDS else [f"{count} words"]


RULES: list[Callable[[Notebook], list[str]]] = [
    *(every_cell_was_run, parameters_then_guard, metadata_is_plain, no_cell_ends_in_a_semicolon),
    *(cells_are_short, outputs_are_clean, figures_have_captions, headings_are_in_order),
    *(links_lead_somewhere, exercises_can_be_checked, prose_is_short),
    *(no_cell_hides_a_failure, outputs_are_the_same_on_every_machine),
]


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


def test_links_of_the_pages_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), ROOT / "data" / "README.md"]
    pages += [page for name in ("docs", "notebooks") for page in (ROOT / name).rglob("*.md")]
    assert len(pages) >= 6
    dead = {str(page): dead_links(FENCE.sub("", page.read_text()), page.parent) for page in pages}
    assert {page: links for page, links in dead.items() if links} == {}


def _markdown(source: str) -> Cell:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def _code(source: str, *outputs: Cell, tags: tuple[str, ...] = ()) -> Cell:
    metadata = {"tags": list(tags)} if tags else {}
    return {"cell_type": "code", "metadata": metadata, "source": source, "outputs": list(outputs)}


def sample() -> Notebook:
    """Return a small notebook that keeps every rule."""
    shown = {"image/png": "iVBO", "text/plain": "<Figure size 7x4 with 1 Axes>"}
    picture = {"output_type": "display_data", "metadata": {}, "data": shown}
    named = "try:\n f()\nexcept ValueError as error:\n print(error)"
    again = "try:\n f()\nexcept Exception:\n clean()\n raise"
    solution = "<details><summary>Solution</summary>\n\n```python\nx = 1\n```\n\n</details>"
    parameters = 'epochs: int = 0  # 0: the default\nscale: str = "auto"  # or laptop'
    cells = [
        _markdown("# 1 · A sample\n\nA [link](README.md#glossary) and code `[no](link.md)`."),
        _markdown("## Parameters"),
        _code(parameters, tags=("parameters",)),
        _code("config = read_parameters(globals(), SearchConfig)"),
        _markdown("## Full scale\n\n```\n# not a heading\n```"),
        _code("plot()", picture),
        _markdown("*Figure 1. A line that rises from 0 to 1.*"),
        _markdown("## Exercises"),
    ]
    for number in range(1, MIN_EXERCISES + 1):
        cells += [_markdown(f"### {number} · Try"), _code("x = None\ncheck(x, checks.x)")]
        cells += [_markdown(solution)]
    cells += [_markdown("### 4 · Open, with no solution"), _markdown("## Recap"), _code(named)]
    cells += [_code(again, *differing(), tags=("nbval-ignore-output",))]
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
HIDING = [
    *("try:\n f()\nexcept Exception as error:\n print(error)", "try:\n f()\nexcept:\n pass"),
    *("import sys\nsys.exit(0)", "exit()", "%matplotlib inline", "!pip install darts"),
]


def differing() -> Iterator[Cell]:
    shown = ["<Axes: title={'center': 'cell'}>", "<generator object f at 0x7f1200>", "12.5 seconds"]
    for part in (*shown, "2026-01-31", "[<matplotlib.lines.Line2D at 0x7f1200aa>]"):
        yield {"output_type": "stream", "name": "stdout", "text": [f"found {part}\n"]}
        yield {"output_type": "execute_result", "data": {"text/plain": part}}


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
    (prose_is_short, _set(6, "source", "word " * (MAX_WORDS + 1))),
    *((no_cell_hides_a_failure, _set(5, "source", hiding)) for hiding in HIDING),
    *((outputs_are_the_same_on_every_machine, _set(5, "outputs", [o])) for o in differing()),
]


def test_the_sample_keeps_every_rule_and_a_spoilt_one_is_caught() -> None:
    assert {rule.__name__: rule(sample()) for rule in RULES if rule(sample())} == {}
    missed = []
    for number, (rule, spoil) in enumerate(SPOILT):
        notebook = sample()
        spoil(notebook)
        missed += [] if rule(notebook) else [f"{rule.__name__} misses SPOILT[{number}]"]
    assert missed == []
    assert {rule for rule, _ in SPOILT} == set(RULES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_as_it_stands_needs_no_gpu_no_data_and_no_network(path: Path) -> None:
    """Of computationalmodelling/nbval#151: it runs the parameter cell as it is."""
    sources = [*map(text, code_cells(load(path)))]
    index = next(i for i, source in enumerate(sources) if "read_parameters(globals()" in source)
    (name,) = re.findall(r"read_parameters\(globals\(\), (\w+)", sources[index])
    kind, names = imported(path.stem)[name], {}
    exec(sources[index - 1], names)
    given = {key: names[key] for key in names["__annotations__"]}
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
