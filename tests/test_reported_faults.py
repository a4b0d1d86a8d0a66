"""The table of reported faults names tests that are there, and each fault has one or a reason."""

import re
from pathlib import Path

TABLE = Path(__file__).with_name("reported_faults.md")
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split("|"))
    for line in TABLE.read_text(encoding="utf-8").splitlines()
    if line.startswith("|") and not line.startswith(("| fault |", "| --- |"))
]


def test_every_fault_has_a_thread_and_a_test_or_a_reason() -> None:
    assert len(ROWS) > 60
    for fault, thread, held in ROWS:
        assert fault
        assert re.search(r"https://github\.com/[\w.-]+/[\w.-]+/issues/\d+", thread), fault
        assert "tests/" in held or "by construction" in held, fault


def test_every_test_that_the_table_names_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)", TABLE.read_text(encoding="utf-8"))
    codes = {file: TABLE.parent.parent / file for file, _ in named}
    texts = {file: path.read_text() if path.exists() else "" for file, path in codes.items()}
    missing = [f"{file}::{name}" for file, name in named if f"\ndef {name}(" not in texts[file]]
    assert missing == []
