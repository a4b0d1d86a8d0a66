"""The library's own source on a page: what a reader sees is what runs."""

import inspect
import textwrap
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

import darts_lib

HERE = Path(darts_lib.__file__).parent
PRE = "font-family: monospace; font-size: 13px; padding: 8px; overflow-x: auto"
"""How the block of code looks: what wraps a page's outputs has a font of its own."""


class Source:
    """The source of classes and functions, as a notebook shows it: plain text, and HTML."""

    def __init__(self, *things: Callable[..., Any]) -> None:
        self.parts = [_part(thing) for thing in things]

    def __repr__(self) -> str:
        return "\n\n\n".join(f"# {path}, line {line}\n{code}" for path, line, code in self.parts)

    def _repr_html_(self) -> str:
        # With all style in the words themselves: a page has no style sheet of ours.
        form = HtmlFormatter(noclasses=True, style="friendly", prestyles=PRE)
        pages = []
        for path, line, code in self.parts:
            link = f'<a href="../{escape(path)}#L{line}">{escape(path)}, line {line}</a>'
            pages.append(f"<p>{link}</p>\n{highlight(code, PythonLexer(), form)}")
        return "\n".join(pages)


def show(*things: Callable[..., Any]) -> Source:
    """Return the source of classes, methods or functions, each under its path and line.

    Raises TypeError for what has no source in Python, such as a function of torch's C++.
    """
    return Source(*things)


def _part(thing: Callable[..., Any]) -> tuple[str, int, str]:
    """Return path from the project's root, first line and code of one thing."""
    try:
        plain = inspect.unwrap(thing)
        lines, first = inspect.getsourcelines(plain)
        path = Path(inspect.getsourcefile(plain) or "")
    except (TypeError, OSError) as error:
        raise TypeError(
            f"{thing!r} has no source in a file: show a class or a function of a library."
        ) from error
    place = path.relative_to(HERE.parent) if path.is_relative_to(HERE) else Path(path.name)
    return place.as_posix(), first, textwrap.dedent("".join(lines)).rstrip()
