"""The commands on the pages name what is there: chapters, parameters, modules, targets, folders."""

import contextlib
import functools
import io
import re
import runpy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from chapter_tools import NOTEBOOKS, load, parameters, text
from sources import ROOT

WORD = r"(?:\"[^\"\n]*\"|[^\s`\"]+)"
PAPERMILL = re.compile(
    rf"(?:papermill|\$\(PAPERMILL\)) +(notebooks/\S+) +({WORD})((?: +-p +\w+ +{WORD})*)"
)
MODULE = re.compile(r"(?:python3?|\$\(PY\)|torchrun.*) -m (darts_lib[.\w]*)([^`\n]*)")


def page(path: Path) -> str:
    """Return a page's text, with each command on one line."""
    is_chapter = path.suffix == ".ipynb"
    source = "\n\n".join(map(text, load(path)["cells"])) if is_chapter else path.read_text("utf-8")
    return re.sub(r" *\\\n#?[ \t]*", " ", source)


NAMES = ["README.md", "CONTRIBUTING.md", "Makefile", "data/README.md", "notebooks/README.md"]
NAMES += [str(path.relative_to(ROOT)) for path in NOTEBOOKS]
PAGES = {name: page(ROOT / name) for name in NAMES}


def known_parameters(chapter: Path) -> set[str]:
    config, values = parameters(chapter.stem)
    return {*values, *config.model_fields}


@functools.cache
def options_of(module: str, *words: str) -> set[str]:
    """Return the options that a command's help lists; none if it cannot be run."""
    shown = io.StringIO()
    with (
        mock.patch("sys.argv", [module, *words, "--help"]),
        contextlib.redirect_stdout(shown),
        contextlib.suppress(SystemExit, ImportError),
        warnings.catch_warnings(action="ignore"),  # of its package, which is loaded already
    ):
        runpy.run_module(module, run_name="__main__")
    return set(re.findall(r"^ +(?:-h, )?--([a-z-]+)", shown.getvalue(), re.MULTILINE))


Problems = Iterator[str]


def problems_of_papermill(text: str) -> Problems:
    for chapter, _, options in PAPERMILL.findall(text):
        if chapter not in PAGES:
            yield f"no {chapter}"
            continue
        known, (config, _) = known_parameters(Path(chapter)), parameters(Path(chapter).stem)
        given = dict(re.findall(rf"-p +(\w+) +({WORD})", options))
        yield from (f"{chapter} has no parameter {name}" for name in given if name not in known)
        try:
            config.create(**{n: v for n, v in given.items() if n in known and not {*"/$"} & {*v}})
        except ValueError as error:
            yield f"{chapter}: {error}"


def problems_of_modules(text: str) -> Problems:
    for module, rest in MODULE.findall(text):
        words, *options = re.split(r" --(?=[a-z])", rest.partition("#")[0])
        known = options_of(module, *words.split())
        unknown = {option.split()[0] for option in options} - known
        if known:
            yield from (f"{module} has no option --{option}" for option in unknown)
        else:
            yield f"{module} cannot be run"


def problems_of_make(text: str) -> Problems:
    targets = set(re.findall(r"^([a-z0-9]+):", PAGES["Makefile"], re.MULTILINE))
    named = re.findall(r"(?:`|^ {4}|^)make (?:-k )?([a-z0-9]+)\b", text, re.MULTILINE)
    yield from (f"no target {name}" for name in named if name not in targets)


def problems_of_parameters(text: str) -> Problems:
    """Yield the names after `-p`, in a command or alone, that no chapter takes."""
    known = set().union(*map(known_parameters, NOTEBOOKS))
    yield from (f"-p {name}" for name in re.findall(r"-p (\w+) ", text) if name not in known)


def problems_of_folders(text: str) -> Problems:
    """Yield the folders that papermill writes to, and refuses to make, if nothing makes them."""
    written = {path.strip('"').rpartition("/")[0] for _, path, _ in PAPERMILL.findall(text)}
    made = {path.strip('"') for path in re.findall(r"mkdir -p (\S+?);?(?:\s|$)", text)}
    yield from (f"nothing makes {folder}" for folder in sorted(written - made - {""}))


WRONG: list[tuple[Callable[[str], Problems], str, str]] = [
    (problems_of_papermill, "papermill notebooks/08_x.ipynb out.ipynb", "no notebooks/08_x"),
    (problems_of_papermill, "papermill notebooks/03_search.ipynb o -p epoch 5", "no parameter"),
    (problems_of_papermill, "papermill notebooks/03_search.ipynb o -p order 3", "order='3'"),
    (problems_of_modules, "`python -m darts_lib.train x`", "darts_lib.train cannot be run"),
    (problems_of_modules, "python -m darts_lib.genotype", "genotype cannot be run"),
    (problems_of_modules, "python -m darts_lib.sweep --colour red", "no option --colour"),
    (problems_of_make, "`make everything`", "no target everything"),
    (problems_of_parameters, "with `-p epoch 5` it", "-p epoch"),
    (problems_of_folders, 'papermill notebooks/0.ipynb "r/a b/o" -p x 1', "nothing makes r/a b"),
]


def test_the_commands_of_the_pages_name_what_is_there() -> None:
    readme, makefile = PAGES["README.md"], PAGES["Makefile"]
    found = [len(PAPERMILL.findall(page)) for page in (readme, makefile)]
    assert (found[0] >= 5, found[1] >= 8, len(MODULE.findall(readme)) >= 6) == (True,) * 3, found
    checks = {check for check, _, _ in WRONG}
    assert [(n, x) for n, page in PAGES.items() for check in checks for x in check(page)] == []


def test_a_command_that_names_what_is_not_there_is_found() -> None:
    for check, command, expected in WRONG:
        (problem,) = check(command)
        assert expected in problem
