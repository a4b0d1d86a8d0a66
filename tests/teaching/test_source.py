"""The library's source on a page."""

import inspect
import re

import pytest
import torch
from chapter_tools import code_cells, load, text
from sources import NOTEBOOKS, ROOT
from torch import nn

from darts_lib.relaxation import MixedOp, Supernet, mix
from darts_lib.teaching import show

MOST_LINES = 40


def test_what_is_shown_is_what_stands_in_the_file() -> None:
    shown = repr(show(Supernet.forward, mix))
    path, line = re.match(r"# (\S+), line (\d+)\n", shown).groups()
    there = (ROOT / path).read_text().splitlines()[int(line) - 1 :]
    first, second = shown.split("\n\n\n")
    code = first.splitlines()[1:]
    assert [each.strip() for each in code] == [each.strip() for each in there[: len(code)]]
    assert code[0].startswith("def forward(")  # a method is moved to the left
    assert second.endswith(inspect.getsource(mix).rstrip())


def test_html_has_a_link_and_every_word_of_the_source() -> None:
    page = show(MixedOp)._repr_html_()
    assert re.search(r'<a href="\.\./darts_lib/relaxation\.py#L\d+">', page)
    words = re.sub(r"<[^>]+>", "", page).replace("&quot;", '"').replace("&#39;", "'")
    words = words.replace("&gt;", ">").replace("&lt;", "<")
    assert inspect.getsource(MixedOp).strip() in words


def test_what_has_no_source_is_refused_by_name() -> None:
    assert "class Identity" in repr(show(nn.Identity))
    for odd in (torch.add, 3):
        with pytest.raises(TypeError, match="has no source in a file"):
            show(odd)


def test_a_chapter_shows_no_more_than_a_screen_at_once() -> None:
    for path in NOTEBOOKS:
        for cell in code_cells(load(path)):
            outputs = [output.get("data", {}).get("text/plain", "") for output in cell["outputs"]]
            parts = "".join(map("".join, outputs)).split("\n\n\n") if "show(" in text(cell) else []
            long = [part.splitlines()[0] for part in parts if part.count("\n") > MOST_LINES]
            assert not long, f"{path.name}: {long}"
