"""What chapter 07 takes where nothing is named."""

import json
from pathlib import Path

import pytest

from darts_lib.derivation import random_genotype
from darts_lib.engine.opening import default_folder
from darts_lib.genotype import PUBLISHED, Genotype
from darts_lib.imagenet_retrain import ImageNetRetrainConfig
from darts_lib.search import SearchConfig
from darts_lib.transfer import with_defaults


def config(**given: object) -> ImageNetRetrainConfig:
    return ImageNetRetrainConfig.create(**{"scale": "laptop", "genotype": "", **given})


def stored_search(cell: Genotype, finished: bool, **given: object) -> None:
    """Lay a search's result where chapter 03's default search leaves it."""
    folder = default_folder(SearchConfig.create(**{"scale": "laptop", **given}))
    folder.mkdir(parents=True)
    (folder / "genotype.json").write_text(json.dumps(cell.to_dict()))
    if finished:
        (folder / "result.json").write_text("{}")


def test_without_a_search_it_is_the_published_cell(capsys: pytest.CaptureFixture[str]) -> None:
    assert with_defaults(config()).cell == PUBLISHED["DARTS_V2"]
    assert capsys.readouterr().out == "the cell of DARTS_V2\n"


def test_the_last_searchs_cell_is_taken() -> None:
    stored_search(random_genotype(3), finished=True)
    assert with_defaults(config()).cell == random_genotype(3)
    assert with_defaults(config(seed=1)).cell == PUBLISHED["DARTS_V2"], "of another seed"


def test_an_unfinished_search_has_no_cell() -> None:
    stored_search(random_genotype(3), finished=False)
    assert with_defaults(config()).cell == PUBLISHED["DARTS_V2"]


def test_a_named_cell_stays() -> None:
    stored_search(random_genotype(3), finished=True)
    assert with_defaults(config(genotype="NASNet")).cell == PUBLISHED["NASNet"]


def test_without_pictures_a_laptop_makes_the_examples(runs_root: Path) -> None:
    found = with_defaults(config())
    assert found.data_folder == runs_root / "example-pictures"
    assert (found.data_folder / "train" / "flower").is_dir()
    assert found.run_dir == ""


def test_the_papers_scale_makes_no_pictures(runs_root: Path) -> None:
    found = with_defaults(config(scale="paper", device="cpu"))
    assert (found.data_root, found.data_folder.name) == ("", "imagenet")
    assert not list(runs_root.iterdir())


def test_other_pictures_stay_and_have_run_folders_of_their_own(tmp_path: Path) -> None:
    found = [with_defaults(config(data_root=str(tmp_path / name))) for name in "ab"]
    assert [Path(one.data_root).name for one in found] == ["a", "b"]
    assert len({default_folder(one) for one in found}) == 2


def test_a_named_run_folder_stays(tmp_path: Path) -> None:
    found = with_defaults(config(data_root=str(tmp_path), run_dir="mine"))
    assert (found.run_dir, found.data_root) == ("mine", str(tmp_path))
