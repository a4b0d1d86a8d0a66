"""The table of reported faults names tests that are there, and each fault has one or a reason."""

import re
from pathlib import Path

import pytest

TABLE = Path(__file__).with_name("reported_faults.md")
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split("|"))
    for line in TABLE.read_text(encoding="utf-8").splitlines()
    if line.startswith("|") and not line.startswith(("| fault |", "| --- |"))
]


def test_the_table_has_rows() -> None:
    assert len(ROWS) > 60


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:60])
def test_every_fault_has_a_test_or_a_reason(row: tuple[str, ...]) -> None:
    fault, thread, held = row
    assert fault
    assert re.search(r"https://github\.com/[\w.-]+/[\w.-]+/issues/\d+", thread)
    named = re.findall(r"`(tests/\w+\.py)::(\w+)", held)
    assert named or "by construction" in held
    for file, name in named:
        code = (TABLE.parent.parent / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {name}\(", code, re.MULTILINE), f"{file} has no {name}"
