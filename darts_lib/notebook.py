"""What a notebook needs besides the lesson: its parameters checked, its exercises, its memory."""

import ast
import gc
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from darts_lib.retrain import RetrainConfig
from darts_lib.runs import default_folder
from darts_lib.search import SearchConfig, SearchResult, read_search, search
from darts_lib.settings import RunConfig, SettingsError

Config = TypeVar("Config", bound=RunConfig)


def read_parameters(namespace: Mapping[str, Any], config: type[Config]) -> Config:
    """Return the checked configuration from a notebook's parameter cell: call it right after.

    Known names are those of the parameter cell and the configuration's fields. Papermill only
    warns about a misspelt name and goes on with the default; here it ends the notebook. Injected
    cells begin with '# Parameters' and stand in `In`, IPython's list of executed sources.
    """
    names = set(_annotations(namespace)) | _injected(namespace.get("In", ()))
    return config.create(**{name: namespace[name] for name in sorted(names)})


def _annotations(namespace: Mapping[str, Any]) -> set[str]:
    if "__annotations__" not in namespace and "__annotate__" in namespace:  # Python 3.14
        return set(namespace["__annotate__"](1))
    return set(namespace.get("__annotations__", ()))


def _injected(sources: Any) -> set[str]:
    return {
        target.id
        for source in sources
        if source.startswith("# Parameters\n")
        for statement in ast.parse(source).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }


def check(attempt: object, test: Callable[[Any], None]) -> None:
    """Run an exercise's test, or say that it waits for the reader's attempt.

    A wrong attempt is not an error of the notebook: the hint is printed, and all else still runs.
    """
    if attempt is None:
        print("Not attempted yet: replace None with your own answer, then run again.")
        return
    try:
        test(attempt)
    except AssertionError as hint:
        print(f"Not yet: {hint}")
    else:
        print("Correct.")


def set_seed(seed: int) -> None:
    """Seed Python, NumPy and torch for the cells that follow."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def free_memory() -> None:
    """Give back what earlier cells no longer use, on the GPU too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def search_before(config: RunConfig, folder: str = "") -> SearchResult:
    """Return chapter 03's search: from `folder`, else the default one, else made here if small.

    At paper scale a missing search stops the chapter with the command that makes it.
    """
    shared = ("scale", "dataset", "data_root", "image_size", "max_images", "seed", "device")
    wanted = SearchConfig.create(**config.model_dump(include=set(shared)))
    path = default_folder(wanted, "search")
    if folder:
        return read_search(_finished(folder))
    if config.scale == "paper" and not (path / "result.json").exists():
        raise SettingsError(
            f"no finished search in {path}; run `papermill notebooks/03_search.ipynb out.ipynb "
            "-p scale paper -p epochs 50 -p run_dir FOLDER` first, then pass that folder here."
        )
    return search(wanted)


def _finished(folder: str) -> Path:
    path = Path(folder).expanduser()
    if not (path / "result.json").exists():
        raise SettingsError(f"{path} is not the folder of a finished search; run chapter 03 on it.")
    return path


def with_searched_cell(config: RetrainConfig) -> RetrainConfig:
    """Return the configuration with an empty `genotype` filled by the search of chapter 03."""
    if config.genotype:
        return config
    return config.model_copy(update={"genotype": str(search_before(config).genotype)})
