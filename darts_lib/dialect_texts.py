"""JSON and yaml from other projects as plain data: nothing is run, errors name line or field.

Both parsers keep the last of two equal names in silence, and yaml builds objects from tags and
copies from anchors. A cell needs none of that, so it is refused here.
"""

import json
import re
import reprlib

import yaml

from darts_lib.genotype import GenotypeError


class DialectError(GenotypeError):
    """A text that is no cell in its dialect, or a cell that a dialect cannot hold; one line."""


def show(value: object) -> str:
    """Return a short repr of a value from a file, however long or deep it is."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python refuses to print integers of more than 4300 digits
        return "a huge number"


def load_json(text: str) -> dict[str, object]:
    """Return the object of a JSON text.

    Raises DialectError, which names the line, or the field that is there twice.
    """
    try:
        content = json.loads(text, object_pairs_hook=_without_repeats)
    except DialectError:
        raise
    except json.JSONDecodeError as error:
        raise DialectError(f"line {error.lineno}: {error.msg}; correct the JSON there.") from None
    except (ValueError, RecursionError) as error:
        raise DialectError(f"line 1 or later: {error}; write short lists and numbers.") from None
    if not isinstance(content, dict):
        raise DialectError(f"line 1: found {show(content)}; write a JSON object, {{...}}.")
    return content


def _without_repeats(items: list[tuple[str, object]]) -> dict[str, object]:
    table: dict[str, object] = {}
    for name, value in items:
        if name in table:
            raise DialectError(f"field {show(name)} is there more than once; keep one.")
        table[name] = value
    return table


def load_yaml(text: str) -> dict[object, object]:
    """Return the mapping of a yaml text.

    Raises DialectError, which names the line, also for tags, anchors and names given twice.
    """
    _check_lines(text)
    try:
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        raise DialectError(f"{_place(error)}: {error.problem}; correct the yaml there.") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise DialectError(f"line {line}: {error.reason}; delete that character.") from None
    except Exception as error:  # its readers of numbers and dates let all kinds of error out
        problem = f"{type(error).__name__}: {error}"
        raise DialectError(f"line 1 or later: {problem}; write names and lists only.") from None
    if not isinstance(content, dict):
        raise DialectError(f"line 1: found {show(content)}; write a mapping, `name:` and so on.")
    return content


def _place(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark
    if "end of stream" in str(error.problem):  # a quote left open; it is the start that helps
        mark = error.context_mark or mark
    return f"line {mark.line + 1}" if mark else "line 1 or later"


def _check_lines(text: str) -> None:
    first: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = re.sub(r"(^|\s)#[^'\"]*$", "", line)  # a quote after # may mean it is no comment
        if odd := re.search(r"[!&*<]", line):
            raise DialectError(f"line {number}: {odd[0]!r} has no place in this format; remove it.")
        if (key := re.match(r"([^\s:]+)\s*:", line)) and first.setdefault(key[1], number) != number:
            where = f"first on line {first[key[1]]}"
            raise DialectError(f"line {number}: {show(key[1])} is there again, {where}; keep one.")
