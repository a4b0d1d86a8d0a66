"""Any text as plain data: Python, JSON, yaml, or running text such as a log; nothing is run.

JSON's and yaml's parsers keep the last of two equal names in silence, and yaml builds objects from
tags and copies from anchors. A cell needs none of that, so it is refused here, in a line.
"""

import ast
import contextlib
import html
import json
import re
import warnings
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import yaml

from darts_lib.engine.refusals import show
from darts_lib.genotype import LIMIT, GenotypeError

# --- what stands in a text, by name ------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Unread:
    """A place in a text that is no plain data, and why; `name` is that of a variable."""

    reason: str
    name: str = ""


REPEATED = Unread("is there more than once, or a name in it is; keep one.")
"""What stands under a name that comes again."""


class Named(NamedTuple):
    """What a line of a text gives a name."""

    name: str
    value: object


class Call(dict[object, object]):
    """The arguments of a call in a text, by name, or by number where they have none."""


def readings(text: str) -> Iterator[tuple[list[tuple[str, object]], bool]]:
    """Yield (name, data) of what stands in a text, as Python or JSON, as yaml, as running text.

    True with it says that the text is a log: what comes again in it comes later.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)  # colours of a terminal
    if _MARKUP.search(text):
        text = html.unescape(_TAG.sub(" ", text))
    typed = text.translate(_TYPED).replace("\\_", "_").strip()
    if len(text) <= LIMIT:
        yield [("", _code(typed, "exec"))], False
        with contextlib.suppress(GenotypeError):
            if _KEY.search(text):
                table = load_yaml(text.replace("!!python/tuple", ""))
                if not unread(table):  # a repeated name would hide a cell
                    yield [("", table)], False
    pieces = list(_pieces(typed))
    alone = not any(listed for *_, listed in pieces)
    log = alone and (not any(name for name, *_ in pieces) or bool(_TIME.search(typed)))
    yield [(name, data) for name, data, _ in pieces], log


_KEY = re.compile(r"""^[ \t{-]*['"]?[\w./][\w./ -]*['"]?:(?:\s|$)""", re.MULTILINE)
_TIME = re.compile(r"\d:\d\d:\d\d|\bepoch\b", re.IGNORECASE)
_MARKUP = re.compile(r"&(?:#x?[0-9a-fA-F]+|[a-z]+);|<br")
_TAG = re.compile(r"</?(?:br|code|div|p|pre|span|td)\b[^<>]*>")
_TYPED = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "\xa0": " ", "\u200b": None})
"""What word processors and web pages make of quotes and spaces; Markdown writes `\\_`."""


def _code(text: str, mode: str) -> object:
    """Return the data in Python's or JSON's text; None where it is neither."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of JSON's \/ and the like
            return _plain(ast.parse(text, mode=mode))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def _plain(node: ast.AST) -> object:
    """Return the data that a syntax tree writes down; a tuple of what is inside for the rest."""
    match node:
        case ast.Constant(value=str() | int() | float() | None as value):
            return value
        case ast.Name(id="null" | "true" | "false" as name):
            return {"null": None, "true": True, "false": False}[name]
        case ast.Name(id=name):
            return _unread(node, name)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            return [_plain(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            return _table({}, ((_plain(key or node), _plain(value)) for key, value in pairs))
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return Named(name, _plain(value))
        case ast.AnnAssign(target=ast.Name(id=name)):  # or a line `name: value` of yaml
            return Named(name, (_plain(node.annotation), node.value and _plain(node.value)))
        case ast.FunctionDef(name=name):
            return Named(name, tuple(map(_plain, node.body)))
        case ast.Call():
            return _call(node)
    return (_unread(node), *map(_plain, ast.iter_child_nodes(node)))


def _unread(node: ast.AST, name: str = "") -> Unread:
    line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0) + 1
    plain = "is not a plain list; write pairs like ('sep_conv_3x3', 0)."
    return Unread(f"at line {line}, column {column} {plain}", name)


def _call(node: ast.Call) -> object:
    """Return the range or the value that a call stands for, or its arguments."""
    name = getattr(node.func, "id", getattr(node.func, "attr", ""))
    values = [_plain(value) for value in node.args]
    match name, values:
        case "range", [int(start), int(stop)] if not node.keywords and abs(stop - start) < 100:
            return list(range(start, stop))
        case "range", _:
            return _unread(node)
        case _, [value] if _WRAPPER.fullmatch(name):
            return value
        case "OrderedDict", [list(items)] if all(
            isinstance(item, list) and len(item) == 2 for item in items
        ):
            return _table({}, ((item[0], item[1]) for item in items))
    named = ((word.arg, _plain(word.value)) for word in node.keywords)
    call = _table(Call(enumerate(values)), named)
    inner = getattr(node.func, "value", None)
    return (call, _plain(inner)) if isinstance(inner, ast.Call) else call


_WRAPPER = re.compile("list|tuple|array|tensor|str_|u?int[0-9]*|float[0-9]*")
"""What stands around a value, as in NumPy's `np.int64(3)`."""


def _table(
    table: dict[object, object], items: Iterable[tuple[object, object]]
) -> dict[object, object]:
    for name, value in items:
        key = name if isinstance(name, Hashable) else repr(name)
        table[key] = REPEATED if key in table else value
    return table


def unread(value: object) -> Unread | None:
    """Return the first place in data that is none."""
    if isinstance(value, dict):
        value = [*value.values()]
    if isinstance(value, list | tuple):
        return next(filter(None, map(unread, value)), None)
    return value if isinstance(value, Unread) else None


# --- running text ------------------------------------------------------------------------------

_START = re.compile(
    r"""(?<![\w.])[\w.]{1,80}\s*(?P<call>\()\s*(?:\w{1,40}\s*=|[\[(])"""
    r"""|(?P<table>\{)\s*\\?['"]|(?P<numbers>[\[(])\s*[\[(]\s*[\[(]\s*\d"""
)
"""Where a call, a table or a cell in numbers may begin."""

_NAME = re.compile(r"""(?:^|[^\w.])([A-Za-z_][\w./-]*)['"]?\s*[:=]\s*['"(\[]*\s*$""")


def _pieces(text: str) -> Iterator[tuple[str, object, bool]]:
    """Yield name and data of the calls and tables in running text, and whether it is in a list.

    The name stands in front of it in its line. Pieces may lie in each other, so that they are read
    only as long as all of them have few characters.
    """
    begins = {match.start(match.lastgroup or 0): match.start() for match in _START.finditer(text)}
    ends = _ends(text, begins)
    done, left = 0, len(text) + 3 * LIMIT
    for bracket in sorted(ends):
        begin, end = begins[bracket], ends[bracket] + 1
        if begin < done or end - begin > LIMIT or (left := left - (end - begin)) < 0:
            continue
        piece = text[begin:end]
        if begin < bracket and not re.search("['\"]", piece):
            continue
        data = _code(piece, "eval") or _code(_repaired(piece), "eval")
        if data is not None:
            before = text[max(text.rfind("\n", 0, begin) + 1, begin - 200) : begin].rstrip()
            name, done = _NAME.search(before), end
            yield name[1] if name else "", data, not name and before[-1:] in {*"'\"-*,(["}


def _ends(text: str, begins: Iterable[int]) -> dict[int, int]:
    """Return where the brackets that open there close; what closes no bracket is left out."""
    ends, stack = dict[int, int](), list[int]()
    for match in re.finditer(r"[()\[\]{}]", text):
        if match[0] in "([{":
            stack.append(match.start())
        elif stack and text[stack[-1]] + match[0] in ("()", "[]", "{}"):
            ends[stack.pop()] = match.start()
    return {start: ends[start] for start in begins if start in ends}


def _repaired(piece: str) -> str:
    """Take the marks of quoted lines, of escaped quotes and of lines broken in a name away."""
    piece = re.sub(r"\n[ \t]*(?:[>#|]+|\.\.\.)[ \t]?", "\n", piece)
    piece = piece.replace("\\n", " ").replace("\\", "")
    return re.sub(r"(['\"])(\w*)[ \t]*\n\s*(\w*)\1", r"\1\2\3\1", piece)


# --- as a whole --------------------------------------------------------------------------------


def load_json(text: str) -> dict[str, object]:
    """Return the object of a JSON text; a GenotypeError names the line of what is wrong."""
    try:
        content = json.loads(text, object_pairs_hook=lambda items: _table({}, items))
    except json.JSONDecodeError as error:
        raise GenotypeError(f"line {error.lineno}: {error.msg}; correct the JSON there.") from None
    except (ValueError, RecursionError) as error:
        raise GenotypeError(f"line 1 or later: {error}; write short lists and numbers.") from None
    if not isinstance(content, dict):
        raise GenotypeError(f"line 1: found {show(content)}; write a JSON object, {{...}}.")
    return content


class _PlainLoader(yaml.SafeLoader):
    """Reads plain data, without tags, anchors and copies, every name of a mapping once."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse what is more than names, lists and values, before it is anything."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if event.anchor or getattr(event, "tag", None):
            line = f"line {event.start_mark.line + 1}"
            raise GenotypeError(f"{line}: a tag, anchor or copy has no place here; remove it.")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node; `<<` is no name in it, since nothing constructs that."""
        items = ([self.construct_object(part, deep=True) for part in pair] for pair in node.value)
        return _table({}, ((name, value) for name, value in items))


def load_yaml(text: str) -> dict[object, object]:
    """Return the mapping of a yaml text; a GenotypeError names the line, of a tag or anchor too."""
    if isinstance(content := _read_yaml(text), str):
        raise GenotypeError(content)
    return content


@lru_cache(maxsize=1)  # a text is asked for twice where no cell is in it
def _read_yaml(text: str) -> dict[object, object] | str:
    """Return the mapping of a yaml text, or what is wrong with it."""
    try:
        content = yaml.load(text, _PlainLoader)
    except GenotypeError as error:
        return str(error)
    except yaml.MarkedYAMLError as error:
        open_end = "end of stream" in str(error.problem)  # a quote left open: its start helps
        mark = error.context_mark if open_end and error.context_mark else error.problem_mark
        return f"line {mark.line + 1 if mark else 1}: {error.problem}; correct the yaml there."
    except Exception as error:  # its readers of numbers and dates let all kinds of error out
        problem = f"{type(error).__name__}: {error}"
        return f"line 1 or later: {problem}; write names and lists only."
    if not isinstance(content, dict):
        return f"line 1: found {show(content)}; write a mapping, `name:` and so on."
    return content
