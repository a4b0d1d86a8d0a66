"""JSON and yaml from other projects as plain data: nothing is run, errors name line or field.

Both parsers keep the last of two equal names in silence, and yaml builds objects from tags and
copies from anchors. A cell needs none of that, so it is refused here: by GenotypeError, in a line.
"""

import json
import re
from collections.abc import Hashable
from typing import Any

import yaml

from darts_lib.engine.refusals import show
from darts_lib.genotype import GenotypeError


def load_json(text: str) -> dict[str, object]:
    """Return the object of a JSON text; a GenotypeError names the line, or the repeated field."""
    try:
        content = json.loads(text, object_pairs_hook=_without_repeats)
    except GenotypeError:
        raise
    except json.JSONDecodeError as error:
        raise GenotypeError(f"line {error.lineno}: {error.msg}; correct the JSON there.") from None
    except (ValueError, RecursionError) as error:
        raise GenotypeError(f"line 1 or later: {error}; write short lists and numbers.") from None
    if not isinstance(content, dict):
        raise GenotypeError(f"line 1: found {show(content)}; write a JSON object, {{...}}.")
    return content


def _without_repeats(items: list[tuple[str, object]]) -> dict[str, object]:
    table: dict[str, object] = {}
    for name, value in items:
        if name in table:
            raise GenotypeError(f"field {show(name)} is there more than once; keep one.")
        table[name] = value
    return table


class _PlainLoader(yaml.SafeLoader):
    """Reads plain data, every name of a mapping once, however it is written or quoted."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return the mapping of a node, or name the line where a name comes again."""
        table = super().construct_mapping(node, deep)
        first: dict[Hashable, int] = {}
        for key, _ in node.value if len(table) < len(node.value) else ():
            name, line = self.construct_object(key, deep=True), key.start_mark.line + 1
            if name in first:
                where = f"first on line {first[name]}"
                raise GenotypeError(f"line {line}: {show(name)} is there again, {where}; keep one.")
            first[name] = line
        return table


def load_yaml(text: str) -> dict[object, object]:
    """Return the mapping of a yaml text; a GenotypeError names the line, of a tag or anchor too."""
    _check_lines(text)
    try:
        content = yaml.load(text, _PlainLoader)
    except GenotypeError:
        raise
    except yaml.MarkedYAMLError as error:
        raise GenotypeError(f"{_place(error)}: {error.problem}; correct the yaml there.") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise GenotypeError(f"line {line}: {error.reason}; delete that character.") from None
    except Exception as error:  # its readers of numbers and dates let all kinds of error out
        problem = f"{type(error).__name__}: {error}"
        raise GenotypeError(f"line 1 or later: {problem}; write names and lists only.") from None
    if not isinstance(content, dict):
        raise GenotypeError(f"line 1: found {show(content)}; write a mapping, `name:` and so on.")
    return content


def _place(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark
    if "end of stream" in str(error.problem):  # a quote left open; it is the start that helps
        mark = error.context_mark or mark
    return f"line {mark.line + 1}" if mark else "line 1 or later"


_COMMENT = re.compile("(^| )#")


def _check_lines(text: str) -> None:
    """Refuse the marks of tags, anchors, copies and merges; comments may have them."""
    for number, line in enumerate(text.splitlines(), start=1):
        after_quotes = max(line.rfind("'"), line.rfind('"')) + 1  # before it # may be no comment
        comment = _COMMENT.search(line, after_quotes)
        if odd := re.search(r"[!&*<]", line[: comment.start()] if comment else line):
            raise GenotypeError(
                f"line {number}: {odd[0]!r} has no place in this format; remove it."
            )
