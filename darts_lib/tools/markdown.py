"""Tables made by code: rows as Markdown, put between two marks of a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from darts_lib.engine.files import read_text, write_whole
from darts_lib.engine.refusals import SettingsError

Row = Mapping[str, float | str]


def table(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table, 'not run' for none; what a row lacks is left blank."""
    if not rows:
        return "not run"
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "| " + " | ".join("---" for _ in names) + " |"]
    for row in rows:
        lines.append("| " + " | ".join(_cell(row.get(name, "")) for name in names) + " |")
    return "\n".join(lines)


def _cell(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def put_between_marks(page: Path, name: str, text: str) -> None:
    """Replace what stands between the marks of `name` in a page; raise if they are missing."""
    start, end = f"<!-- {name}: made by darts_lib.tools.records -->", f"<!-- end of {name} -->"
    content = read_text(page)
    before, started, rest = content.partition(start)
    _, ended, after = rest.partition(end)
    if not (started and ended):
        raise SettingsError(f"{page} lacks the marks {start!r} and {end!r} for the table.")
    write_whole(page, f"{before}{start}\n{text}\n{end}{after}".encode())
