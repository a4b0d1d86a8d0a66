"""What a notebook needs besides the lesson: its parameters checked, its exercises, its memory."""

import ast
import contextlib
import os
import random
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from darts_lib.data.imagenet_data import find_pictures
from darts_lib.data.images import check_half, load_images
from darts_lib.data.listing import listed
from darts_lib.data.pixels import survey
from darts_lib.data.text import load_text
from darts_lib.engine.batches import check_batch_size
from darts_lib.engine.opening import check_start, default_folder
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.settings import RunConfig
from darts_lib.formats.cell_choice import CellSettings
from darts_lib.recurrent.settings import TextConfig
from darts_lib.retrain import RetrainConfig
from darts_lib.search import SearchConfig, SearchResult, read_search, search
from darts_lib.transfer import ImageNetRetrainConfig

Config = TypeVar("Config", bound=RunConfig)


def read_parameters(
    namespace: Mapping[str, Any], config: type[Config], trains: bool = False
) -> Config:
    """Return the checked configuration from a notebook's parameter cell: call it right after.

    Known names are those of the parameter cell and the configuration's fields. Papermill only
    warns about a misspelt name and goes on with the default; here it ends the notebook. `trains`
    says that the chapter trains on pictures: one's own are then counted here, before the lesson.
    """
    names = _written(namespace.get("In", ())) or set(namespace.get("__annotations__", ()))
    if not names and "__annotate__" in namespace:  # no cells are told, and it is Python 3.14
        names = set(namespace["__annotate__"](1))
    found = config.create(**{name: namespace[name] for name in sorted(names) if name in namespace})
    if trains:
        check_run(found)
    return found


def check_run(config: RunConfig) -> None:
    """Raise SettingsError for what would refuse a run: its folder, its data."""
    if not isinstance(config, CellSettings) or config.genotype:  # else it is not yet known which
        check_start(config)
    if isinstance(config, TextConfig):
        load_text(config.dataset, config.data_folder)
    elif isinstance(config, ImageNetRetrainConfig):
        given = config.data_folder, config.image_size, config.max_images
        find_pictures(*given, brief=True)  # the run itself tells all of it
    elif isinstance(config, SearchConfig | RetrainConfig) and config.dataset == "folder":
        check_pictures(config)
    elif isinstance(config, SearchConfig | RetrainConfig):
        load_images(config.dataset, config.data_folder, "train")


def figure_folder(path: Path) -> Path:
    """Return where figures are kept: a run's folder, or a new one, told, if that is read-only."""
    if os.access(path, os.W_OK):
        return path
    folder = Path(tempfile.mkdtemp(prefix="darts-figures-"))
    print(f"{path} cannot be written: the figures are kept in {folder}")
    return folder


def check_pictures(config: SearchConfig | RetrainConfig) -> None:
    """Raise SettingsError for too few pictures of one's own: before a lesson, not after it."""
    if config.dataset != "folder":
        return
    listing = listed(config.data_folder)
    judged = [*listing.valid, *listing.test]
    survey(*([path for path, _ in files] for files in (listing.train, judged)))
    train, valid = (
        len(files[: config.max_images or None]) for files in (listing.train, listing.valid)
    )
    if isinstance(config, SearchConfig):
        check_half(config.batch_size, train, valid)
    else:
        check_batch_size(config.batch_size, train - (0 if valid else round(config.holdout * train)))


def _written(sources: Sequence[str]) -> set[str]:
    """Return the names in the last parameter cell that was run, and in the cell injected after it.

    `sources` is IPython's `In`, all cells that were run. Older ones do not count: a wrong name that
    the reader has put right is still among the kernel's variables. A parameter cell is made of
    assignments, some of them annotated; papermill's injected cells begin with '# Parameters'.
    """
    injected: set[str] = set()
    for source in reversed(sources):
        cell = ast.Module([], [])
        with contextlib.suppress(SyntaxError):
            cell = ast.parse(source)
        if all(isinstance(line, ast.Assign | ast.AnnAssign) for line in cell.body):
            stored = [node for node in ast.walk(cell) if isinstance(node, ast.Name)]
            names = {node.id for node in stored if isinstance(node.ctx, ast.Store)}
            if source.startswith("# Parameters\n"):
                injected = injected or names
            elif any(isinstance(line, ast.AnnAssign) for line in cell.body):
                return names | injected
    return set()


def check(attempt: object, test: Callable[[Any], None]) -> None:
    """Run an exercise's test, or say that it waits for the reader's attempt.

    A wrong attempt is no error of the notebook: its hint is printed; if it raises, also the line.
    """
    if attempt is None:
        print("Not attempted yet: replace None with your own answer, then run again.")
        return
    try:
        test(attempt)
    except AssertionError as hint:
        print(f"Not yet: {hint}")
    except Exception as error:
        cell = getattr(getattr(attempt, "__code__", None), "co_filename", None)
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f"\nin your line: {f.line}" for f in frames if f.filename == cell and f.line]
        print(f"Not yet: {type(error).__name__}: {error}{''.join(lines[-1:])}")
    else:
        print("Correct.")


def set_seed(seed: int) -> None:
    """Seed Python, NumPy and torch for the cells that follow."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def search_before(config: RunConfig, folder: str = "") -> SearchResult:
    """Return chapter 03's search: from `folder`, else the default one, else made here if small."""
    shared = {"scale", "dataset", "data_root", "image_size", "max_images", "seed", "device"}
    wanted = SearchConfig.create(**config.model_dump(include={*shared, "deterministic"}))
    path = Path(folder).expanduser() if folder else default_folder(wanted)
    finished = (path / "result.json").exists()
    if folder and not finished:
        raise SettingsError(f"{path} is not the folder of a finished search; run chapter 03 on it.")
    if folder:
        return read_search(path)
    if config.scale == "paper" and not finished:
        raise SettingsError(
            f"no finished search in {path}; run `papermill notebooks/03_search.ipynb out.ipynb "
            "-p scale paper -p epochs 50 -p run_dir FOLDER` first, then pass that folder here."
        )
    return search(wanted)


def with_searched_cell(config: RetrainConfig) -> RetrainConfig:
    """Return the configuration with an empty `genotype` filled by the search of chapter 03."""
    if config.genotype:
        return config
    filled = config.model_copy(update={"genotype": str(search_before(config).genotype)})
    check_start(filled)
    return filled
