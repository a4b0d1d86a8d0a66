"""The base configuration: where things are, and the settings that every run shares."""

import contextlib
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator

from darts_lib.engine.devices import auto_scale, keep_freed_memory, resolve_device
from darts_lib.engine.files import is_there, read_text
from darts_lib.engine.places import place
from darts_lib.engine.refusals import SettingsError, StrictModel, is_unset, show, unknown


def project_root() -> Path:
    """Return the nearest parent of the current folder with this project's `pyproject.toml`.

    Jupyter runs a notebook in its own folder and papermill in the caller's: both find the same
    root. Elsewhere it is the source tree of the library, or else the current folder.
    """
    here = Path.cwd()
    for folder in (here, *here.parents, *Path(__file__).resolve().parents):
        file = folder / "pyproject.toml"
        with contextlib.suppress(SettingsError):  # what cannot be read is not ours
            if is_there(file) and 'name = "darts-lib"' in read_text(file):
                return folder
    return here


def runs_root() -> Path:
    """Return the folder of run folders: `DARTS_LIB_RUNS`, else `runs` in the project."""
    return _root("DARTS_LIB_RUNS", "runs")


def data_root() -> Path:
    """Return the folder of data sets: `DARTS_LIB_DATA`, else `data` in the project."""
    return _root("DARTS_LIB_DATA", "data")


def _root(variable: str, usual: str) -> Path:
    return place(os.environ.get(variable) or project_root() / usual, variable, folder=True)


DOWNLOADED = ("cifar10", "cifar100", "fashion_mnist", "svhn")
"""The image data sets that are downloaded where they are missing."""
DATASETS = ("digits", *DOWNLOADED, "folder")
"""All: `digits` ships with scikit-learn, `folder` is a folder of your pictures."""
SHAPES = {
    "digits": (10, 1),
    "cifar10": (10, 3),
    "cifar100": (100, 3),
    "fashion_mnist": (10, 1),
    "svhn": (10, 3),
}
"""The number of classes and of channels of each. A folder's are found from its pictures."""

Switch = Literal["auto", "on", "off"]


def known_dataset(name: str, what: str = "dataset", known: Collection[str] = DATASETS) -> str:
    """Return the name of a data set however it is spelt; capitals and hyphens do not count.

    Raises SettingsError for an unknown one, which says what to write for a folder's path.
    """
    plain = {re.sub(r"[\W_]", "", each.lower()): each for each in known}
    if match := plain.get(re.sub(r"[\W_]", "", name.lower())):
        return match
    if os.path.isdir(os.path.expanduser(name)):
        raise SettingsError(f"dataset is 'folder', and this is its data_root: {show(name)}")
    raise SettingsError(unknown(what, name, known))


class RunConfig(StrictModel):
    """Settings that searching and retraining share.

    `scale` chooses the defaults of everything that is not given: `paper`, `laptop`, or `auto`,
    which is `paper` where CUDA is found. An unknown name or a wrong value is refused before any
    data are read. `threads` of the CPU change the last bits of a sum, and so the run; 0 leaves
    them as torch has them. `amp` is bfloat16, `compile` compiled cells, `graph` the step as one
    CUDA graph; `acceleration` says what `auto` makes of them.

    On the CPU the same seed gives the same bits each time. On a GPU sums are added up in any order;
    `deterministic` allows only algorithms that keep to one, which are slower, during the run. Even
    so the bits are those of one machine: another model of GPU or CPU, another number of threads or
    ranks and another version of torch give others.
    """

    KIND: ClassVar[str] = "run"  # how its folders are named and told apart
    AUTOMATIC: ClassVar[tuple[str, ...]] = ("amp", "graph")  # what `auto` may switch on
    KNOWN_DATA: ClassVar[tuple[str, tuple[str, ...]]] = "dataset", DATASETS
    LAPTOP: ClassVar[dict[str, Any]] = {}
    FILLED_BY_SCALE: ClassVar[tuple[str, ...]] = ("epochs", "dataset", "batch_size")
    NO_EFFECT_ON_RESULT: ClassVar[frozenset[str]] = frozenset(
        {"data_root", "run_dir", "resume", "device"}
    )
    NAMED_WHERE_CHANGED: ClassVar[frozenset[str]] = frozenset({"deterministic"})

    scale: Literal["auto", "laptop", "paper"] = "auto"
    dataset: str = "cifar10"
    data_root: str = ""
    image_size: int = Field(0, ge=0, le=10_000)
    max_images: int = Field(0, ge=0)
    run_dir: str = ""
    device: str = "auto"
    threads: int = Field(0, ge=0, le=1024)
    seed: int = Field(0, ge=0, lt=2**31)
    deterministic: bool = False
    resume: bool = True
    epochs: int = Field(1, ge=1)  # not the paper's: hours are spent only where they are asked for
    batch_size: int = Field(64, ge=2)
    max_steps: int = Field(0, ge=0)
    amp: Switch = "auto"
    compile: Switch = "auto"
    graph: Switch = "auto"

    @model_validator(mode="before")
    @classmethod
    def _fill_from_scale(cls, given: dict[str, Any]) -> dict[str, Any]:
        for name in given:
            if name not in cls.model_fields:
                raise ValueError(unknown("setting", name, cls.model_fields))
        unset = [name for name in cls.FILLED_BY_SCALE if is_unset(given.get(name))]
        kept = {name: value for name, value in given.items() if name not in unset}
        scale = kept.get("scale", "auto")
        named = scale if isinstance(scale, str) else ""  # anything else is refused by its field
        if named == "auto":
            scale = named = auto_scale()
        return {**(cls.LAPTOP if named == "laptop" else {}), **kept, "scale": scale}

    @field_validator("data_root", "run_dir")
    @classmethod
    def _check_place(cls, given: str, info: ValidationInfo) -> str:
        os.fsencode(given)  # a ValueError for half a character
        if os.path.expanduser(given).startswith("~"):
            raise ValueError("there is no such user; write the whole path")
        if given:
            place(given, str(info.field_name), folder=True)
        return given

    @field_validator("dataset")
    @classmethod
    def _as_known(cls, name: str) -> str:
        return known_dataset(name, *cls.KNOWN_DATA)

    @model_validator(mode="after")
    def _check_device(self) -> Self:
        device = resolve_device(self.device)  # refuses what is absent
        if self.graph == "on" and device.type != "cuda":
            raise ValueError(f"graph='on' needs CUDA, not {device.type!r}; use 'auto' or 'off'")
        return self

    @property
    def capturable(self) -> bool:
        """Say whether a step is one that a graph or a compiler can take."""
        return True

    @property
    def data_folder(self) -> Path:
        """Return where the data set lies: `data_root` if given, else the project's data folder."""
        return Path(os.path.expanduser(self.data_root)) if self.data_root else data_root()

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells a person's own data from others, before any are loaded.

        By name: lists of names in their order (`classes`), and by split how much there is
        (`counts`) and a digest of the files (`digest`). Empty for a data set known by its name.
        """
        return {}

    def open_device(self) -> torch.device:
        """Return the device to compute on, after setting the CPU's threads and heap."""
        if self.threads:
            torch.set_num_threads(self.threads)
        device = resolve_device(self.device)
        if device.type == "cpu":
            keep_freed_memory()
        return device

    @classmethod
    def _told(cls, problem: Mapping[str, Any]) -> str:
        """Return one line for a problem; 0 is below some bounds and yet has a meaning."""
        filled = set(problem["loc"]) & set(cls.FILLED_BY_SCALE)
        also = filled and problem["type"] == "greater_than_equal"
        return super()._told(problem) + (", or 0 for the scale's own" if also else "")

    @property
    def line(self) -> str:
        """Return the settings that change the result, `epochs=4  dataset=digits ...`."""
        return "  ".join(f"{name}={value}" for name, value in self.settings_that_matter().items())

    def settings_that_matter(self) -> dict[str, Any]:
        """Return the settings that change the result; two runs with equal ones are the same run.

        Those of `NAMED_WHERE_CHANGED` are left out at their default: runs from before them go on.
        """
        fields = type(self).model_fields
        usual = {n for n in self.NAMED_WHERE_CHANGED if getattr(self, n) == fields[n].default}
        return self.model_dump(mode="json", exclude={*self.NO_EFFECT_ON_RESULT, *usual})
