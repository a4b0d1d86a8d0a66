"""Rows as a table, and its place in a page."""

from pathlib import Path

from fuzz_tools import refusal_of

from darts_lib.tools.markdown import put_between_marks, table


def test_rows_become_a_table_and_what_is_missing_is_blank() -> None:
    said = table([{"what": "x", "plain": 12345.6, "fused": 2.0}, {"what": "y", "fused": 0.1234}])
    assert said.splitlines() == [
        "| what | plain | fused |",
        "| --- | --- | --- |",
        "| x | 12,346 | 2 |",
        "| y |  | 0.123 |",
    ]
    assert table([]) == "not run"


def test_a_table_takes_the_place_of_the_one_before_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    start, end = "<!-- speed: made by darts_lib.tools.records -->", "<!-- end of speed -->"
    page.write_text(f"before\n{start}\nold\n{end}\nafter\n")
    for text in ("new", "newer"):
        put_between_marks(page, "speed", text)
        assert page.read_text() == f"before\n{start}\n{text}\n{end}\nafter\n"
    page.write_text("no marks")
    refusal_of(lambda: put_between_marks(page, "speed", "x"), "lacks the marks")
    assert page.read_text() == "no marks"
