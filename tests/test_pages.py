"""The commands on the pages name what is there: chapters, parameters, modules, targets, folders."""

import ast
import contextlib
import functools
import importlib
import importlib.util
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darts_lib.engine.settings import RunConfig

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
WORD = r"(?:\"[^\"\n]*\"|[^\s`\"]+)"
PAPERMILL = re.compile(
    rf"(?:papermill|\$\(PAPERMILL\)) +(notebooks/\S+) +({WORD})((?: +-p +\w+ +{WORD})*)"
)
MODULE = re.compile(r"(?:python3?|\$\(PY\)|torchrun.*) -m (darts_lib[.\w]*)([^`\n]*)")


def cells(chapter: Path) -> list[dict[str, Any]]:
    content: dict[str, Any] = json.loads(chapter.read_text(encoding="utf-8"))
    return [{**cell, "source": "".join(cell["source"])} for cell in content["cells"]]


def page(path: Path) -> str:
    """Return a page's text, with each command on one line."""
    if path.suffix == ".ipynb":
        text = "\n\n".join(cell["source"] for cell in cells(path))
    else:
        text = path.read_text(encoding="utf-8")
    return re.sub(r" *\\\n#?[ \t]*", " ", text)


PAGES = {
    str(path.relative_to(ROOT)): page(path)
    for path in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile", "data/README.md")),
        ROOT / "notebooks" / "README.md",
        *CHAPTERS,
    )
}


@functools.cache
def configuration(chapter: str) -> tuple[type[RunConfig], frozenset[str]]:
    """Return the configuration that a chapter reads, and the names it takes as parameters."""
    sources = [cell for cell in cells(ROOT / chapter) if cell["cell_type"] == "code"]
    trees = [ast.parse(cell["source"]) for cell in sources]
    (name,) = re.findall(r"read_parameters\(globals\(\), (\w+)", PAGES[chapter])
    (module,) = (
        node.module
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]
    )
    config = getattr(importlib.import_module(str(module)), name)
    annotated = {
        node.target.id
        for cell, tree in zip(sources, trees, strict=True)
        if "parameters" in cell["metadata"].get("tags", [])
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return config, frozenset(annotated) | frozenset(config.model_fields)


def problems_of_papermill(text: str) -> list[str]:
    """Return what is wrong with the papermill commands of a text."""
    found = []
    for chapter, _, options in PAPERMILL.findall(text):
        if chapter not in PAGES:
            found.append(f"no {chapter}")
            continue
        config, known = configuration(chapter)
        given = dict(re.findall(rf"-p +(\w+) +({WORD})", options))
        found += [f"{chapter} has no parameter {name}" for name in given if name not in known]
        plain = {n: v for n, v in given.items() if n in known and not re.search(r"[/$]", v)}
        try:
            config.create(**plain)
        except ValueError as error:
            found.append(f"{chapter}: {error}")
    return found


def source_of(module: str) -> str:
    """Return the code of a command, with that of the module whose `main` it calls; or nothing."""
    spec = None
    with contextlib.suppress(ModuleNotFoundError):
        spec = importlib.util.find_spec(module)
    source = Path(str(spec.origin)).read_text() if spec and spec.origin else ""
    if '__name__ == "__main__"' not in source:
        return ""
    called = re.findall(r"^from (darts_lib[.\w]*) import main$", source, re.MULTILINE)
    return source + "".join(map(inspect.getsource, map(importlib.import_module, called)))


def problems_of_modules(text: str) -> list[str]:
    """Return the modules that cannot be run, and options that theirs do not mention."""
    found = []
    for module, rest in MODULE.findall(text):
        source = source_of(module)
        if not source:
            found.append(f"{module} cannot be run")
            continue
        options = re.findall(r"--([a-z][a-z-]*)", rest.partition("#")[0])
        for option in [each for each in options if each != "help"]:  # that one is argparse's own
            if f'"--{option}"' not in source and option.replace("-", "_") not in source:
                found.append(f"{module} has no option --{option}")
    return found


def problems_of_make(text: str) -> list[str]:
    targets = set(re.findall(r"^([a-z0-9]+):", PAGES["Makefile"], re.MULTILINE))
    named = re.findall(r"(?:`|^ {4}|^)make (?:-k )?([a-z0-9]+)\b", text, re.MULTILINE)
    return [f"no target {name}" for name in named if name not in targets]


def problems_of_parameters(text: str) -> list[str]:
    """Return the names after `-p`, in a command or alone, that no chapter takes."""
    known = frozenset[str]().union(*(configuration(f"notebooks/{c.name}")[1] for c in CHAPTERS))
    return [f"-p {name}" for name in re.findall(r"-p (\w+) ", text) if name not in known]


def problems_of_folders(text: str) -> list[str]:
    """Return the folders that papermill writes to, and refuses to make, if nothing makes them."""
    written = {path.strip('"').rpartition("/")[0] for _, path, _ in PAPERMILL.findall(text)}
    made = {path.strip('"') for path in re.findall(r"mkdir -p (\S+?);?(?:\s|$)", text)}
    return [f"nothing makes {folder}" for folder in sorted(written - made - {""})]


CHECKS = [problems_of_papermill, problems_of_modules, problems_of_make]
CHECKS += [problems_of_parameters, problems_of_folders]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_commands_of_the_pages_name_what_is_there(check: Callable[[str], list[str]]) -> None:
    problems = {name: check(text) for name, text in PAGES.items()}
    assert not any(problems.values()), {name: found for name, found in problems.items() if found}


@pytest.mark.parametrize(("check", "text", "problem"), [
    (problems_of_papermill, "papermill notebooks/08_x.ipynb out.ipynb", "no notebooks/08_x"),
    (problems_of_papermill, "papermill notebooks/03_search.ipynb o -p epoch 5", "no parameter"),
    (problems_of_papermill, "papermill notebooks/03_search.ipynb o -p order 3", "order='3'"),
    (problems_of_modules, "`python -m darts_lib.train x`", "darts_lib.train cannot be run"),
    (problems_of_modules, "python -m darts_lib.genotype", "genotype cannot be run"),
    (problems_of_modules, "python -m darts_lib.sweep --colour red", "no option --colour"),
    (problems_of_make, "`make everything`", "no target everything"),
    (problems_of_parameters, "with `-p epoch 5` it", "-p epoch"),
    (problems_of_folders, 'papermill notebooks/0.ipynb "r/a b/o" -p x 1', "nothing makes r/a b"),
])  # fmt: skip
def test_a_command_that_names_what_is_not_there_is_found(
    check: Callable[[str], list[str]], text: str, problem: str
) -> None:
    (found,) = check(text)
    assert problem in found


def test_the_commands_are_found() -> None:
    """The checks above look at something: the README's and the Makefile's commands are many."""
    pages = [(PAPERMILL, "README.md"), (PAPERMILL, "Makefile"), (MODULE, "README.md")]
    counts = [len(pattern.findall(PAGES[name])) for pattern, name in pages]
    assert all(count >= least for count, least in zip(counts, (5, 8, 6), strict=True)), counts
