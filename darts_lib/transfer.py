"""What a transfer takes where nothing is named: the last search's cell, the example pictures."""

from darts_lib.data.example_pictures import example_pictures
from darts_lib.engine.opening import default_folder
from darts_lib.engine.places import runs_root
from darts_lib.formats.cell_choice import find_genotype
from darts_lib.imagenet_retrain import ImageNetRetrainConfig
from darts_lib.search import SearchConfig

FALLBACK = "DARTS_V2"
"""The published cell that is taken where no search has finished."""


def with_defaults(config: ImageNetRetrainConfig) -> ImageNetRetrainConfig:
    """Return the configuration with its empty names filled, and print the cell that was taken.

    An empty `genotype` becomes the cell of chapter 03's default search at this scale and seed, or
    the published DARTS_V2 if there is none; no search is made here. An empty `data_root` becomes
    the example pictures at laptop scale; at paper scale it stays `imagenet` in the data folder.
    """
    if not config.genotype:
        config = config.model_copy(update={"genotype": _last_cell(config)})
    if not config.data_root and config.scale == "laptop":
        return config.model_copy(update={"data_root": str(example_pictures(runs_root()))})
    return config


def _last_cell(config: ImageNetRetrainConfig) -> str:
    """Return the text of the cell."""
    wanted = SearchConfig.create(**config.model_dump(include={"scale", "seed", "device"}))
    folder = default_folder(wanted)
    name = str(folder) if (folder / "result.json").exists() else FALLBACK
    print(f"the cell of {name}")
    return str(find_genotype(name, config.seed))
