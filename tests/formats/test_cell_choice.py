"""One name for a cell: published, random, a file, a run folder, or the text."""

import json
from pathlib import Path

import pytest

from darts_lib.derivation import random_genotype
from darts_lib.formats.cell_choice import find_genotype
from darts_lib.formats.dialects import DIALECTS, write
from darts_lib.genotype import PUBLISHED, Genotype, GenotypeError

CELL = PUBLISHED["DARTS_V1"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cells_are_found_by_name(name: str) -> None:
    assert find_genotype(name) == PUBLISHED[name]


def test_random_cells_follow_the_seed() -> None:
    assert find_genotype("random", 3) == random_genotype(3)
    assert find_genotype("random", 3) != find_genotype("random", 4)


def test_a_text_a_file_and_a_run_folder_name_the_same_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "genotype.json"
    file.write_text(json.dumps(CELL.to_dict()))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (str(CELL), f"  {CELL}", str(file), str(tmp_path), "~", "~/genotype.json"):
        assert find_genotype(name) == CELL


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("DARTS_V3", "did you mean 'DARTS_V"),
        ("darts_v2", "did you mean 'DARTS_V2'?"),
        ("Random", "did you mean 'random'?"),
        ("no/such/folder", "unknown genotype 'no/such/folder': nothing is there. It may be"),
        ("", "unknown genotype ''"),
        ("~nobody-of-this-name/x", "unknown genotype"),
        ("a null \0 inside", "unknown genotype"),
        ("normal=" + 100 * "[('sep_conv_3x3', 0)]", "unknown genotype"),  # too long for a path
    ],
)
def test_an_unknown_name_is_refused_with_what_is_known(name: str, hint: str) -> None:
    with pytest.raises(GenotypeError) as caught:
        find_genotype(name)
    message = str(caught.value)
    assert hint in message
    assert "DARTS_V2, " in message
    assert "run folder" in message


def test_a_folder_without_a_cell_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GenotypeError, match="no genotype.json. .* finished search's run folder"):
        find_genotype(str(tmp_path))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_file_of_another_project_is_read(dialect: str, tmp_path: Path) -> None:
    cell = PUBLISHED["DARTS_V2"]
    (tmp_path / "cell").write_text(write(cell, dialect))
    assert find_genotype(str(tmp_path / "cell")) == cell


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "\xff"])
def test_a_damaged_file_is_named(content: str, tmp_path: Path) -> None:
    file = tmp_path / "genotype.json"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(GenotypeError, match=r"genotype\.json: "):
        find_genotype(str(file))


def test_a_file_with_a_wrong_operation_names_it(tmp_path: Path) -> None:
    cell = CELL.to_dict()
    cell["normal"] = [["sep_conv_3x4", 0], *CELL.normal[1:]]
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(cell))
    with pytest.raises(GenotypeError, match=r"mine\.json: .* operation 'sep_conv_3x4'") as caught:
        find_genotype(str(file))
    assert "?." not in str(caught.value)


def test_a_text_is_never_run() -> None:
    with pytest.raises(GenotypeError):
        find_genotype("Genotype(normal=__import__('os').abort())")
    assert Genotype.from_text(str(CELL)) == CELL
