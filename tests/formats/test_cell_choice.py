"""One name for a cell: published, random, a file, a run folder, or the text."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzz_tools import Patch, one_line

from darts_lib.derivation import random_genotype
from darts_lib.formats.cell_choice import find_genotype
from darts_lib.formats.dialects import WRITTEN, write
from darts_lib.genotype import PUBLISHED, GenotypeError
from darts_lib.recurrent import genotype as recurrent

Kind = tuple[Callable[..., Any], dict[str, Any], Callable[..., Any]]
"""How cells of a kind are found, which are published, how they are drawn."""


@pytest.fixture(params=["convolutional", "recurrent"])
def kind(request: pytest.FixtureRequest) -> Kind:
    if request.param == "recurrent":
        return recurrent.find_genotype, recurrent.PUBLISHED, recurrent.random_genotype
    return find_genotype, PUBLISHED, random_genotype


def test_published_and_random_cells_are_found_by_name(kind: Kind) -> None:
    find, published, draw = kind
    assert {name: find(name) for name in published} == published
    assert find("random", 3) == draw(3) != find("random", 4)


def test_a_text_file_or_folder_names_a_cell(kind: Kind, tmp_path: Path, monkeypatch: Patch) -> None:
    find, published, _ = kind
    cell, file = published["DARTS_V1"], tmp_path / "genotype.json"
    file.write_text(json.dumps(cell.to_dict()))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (str(cell), f"  {cell}", str(file), str(tmp_path), "~", "~/genotype.json"):
        assert find(name) == cell


@pytest.mark.parametrize(("name", "hint"), [
    ("DARTS_V3", "'DARTS_V3': did you mean 'DARTS_V"),
    ("dart_v2", "did you mean 'DARTS_V2'?"),
    ("Randum", "did you mean 'random'?"),
    ("no/such/folder", "genotype 'no/such/folder': nothing is there. It may be"),
    ("", "genotype ''"),
    ("~nobody-of-this-name/x", "genotype '~nobody"),
    ("~\0", "genotype '~"),
    ("a null \0 inside", "genotype 'a null"),
    ("\ud800", "genotype '"),
    ("normal=" + 100 * "[('sep_conv_3x3', 0)]", "genotype"),  # too long for a path
])  # fmt: skip
def test_an_unknown_name_is_refused_with_what_is_known(kind: Kind, name: str, hint: str) -> None:
    find, published, _ = kind
    with pytest.raises(GenotypeError, match="^unknown (recurrent )?genotype ") as caught:
        find(name)
    one_line(caught.value, hint, *published, "'random'", "run folder")


@pytest.mark.parametrize(("content", "words"), [
    (b"", ""), (b"{", "line 1"), (b"\xff", "is not UTF-8"), (b'{"a": 1}', "fields must"),
    (b"[" * 1500, ""), (b"\xed\xa0\x80", "is not UTF-8"),
])  # fmt: skip
def test_a_damaged_file_is_named(kind: Kind, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "genotype.json").write_bytes(content)
    for name in (str(tmp_path), str(tmp_path / "genotype.json")):
        with pytest.raises(GenotypeError) as caught:
            kind[0](name)
        one_line(caught.value, "genotype.json", words)


def test_a_folder_without_a_cell_and_a_wrong_operation_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GenotypeError, match="no genotype.json. .* finished search's run folder"):
        find_genotype(str(tmp_path))
    text = json.dumps(PUBLISHED["DARTS_V1"].to_dict()).replace("sep_conv_3x3", "sep_conv_3x4")
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(GenotypeError, match=r"mine\.json: .* operation 'sep_conv_3x4'; did .*\?$"):
        find_genotype(str(tmp_path / "mine.json"))


def test_a_file_of_another_project_is_read(tmp_path: Path) -> None:
    for dialect in WRITTEN:
        (tmp_path / "cell").write_text(write(PUBLISHED["DARTS_V2"], dialect))
        assert find_genotype(str(tmp_path / "cell")) == PUBLISHED["DARTS_V2"]


@pytest.mark.parametrize("config", ["", "{}", "[]", '{"settings": 3}', None])
def test_a_cell_beside_a_config_of_another_project_is_read(
    tmp_path: Path, config: str | None
) -> None:
    (tmp_path / "genotype.json").write_text(json.dumps(PUBLISHED["DARTS_V2"].to_dict()))
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert find_genotype(str(tmp_path)) == PUBLISHED["DARTS_V2"]


def test_the_cell_of_a_search_that_has_not_finished_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"format": 1, "settings": {"kind": "search", "epochs": 50}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "history.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n')
    (tmp_path / "genotype.json").write_text(json.dumps(PUBLISHED["DARTS_V2"].to_dict()))
    told = f"warning: {tmp_path} has not finished: its cell after epoch 2 of 50"
    for finished in (False, True):
        assert find_genotype(str(tmp_path)) == PUBLISHED["DARTS_V2"]
        assert (told in capsys.readouterr().out) == (not finished)
        (tmp_path / "result.json").write_text("{}")
