"""What every run shares: roots, device, seeds and the base configuration."""

import difflib
import os
import sys
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

DATASETS = ("digits", "cifar10", "cifar100", "fashion_mnist", "svhn", "folder")
"""The image data sets: `digits` ships with scikit-learn, `folder` is a folder of your pictures."""


class SettingsError(ValueError):
    """A setting or an input that cannot be used; one line that names it and the way out."""


# Where things are -----------------------------------------------------------------------------


def project_root() -> Path:
    """Return the nearest parent of the current folder with this project's `pyproject.toml`.

    Jupyter runs a notebook in its own folder and papermill in the caller's; both find the same
    root, and so does an installed library's source tree. Elsewhere it is the current folder.
    """
    here = Path.cwd()
    for folder in (here, *here.parents, *Path(__file__).resolve().parents):
        file = folder / "pyproject.toml"
        if file.is_file() and 'name = "darts-lib"' in file.read_text(encoding="utf-8"):
            return folder
    return here


def runs_root() -> Path:
    """Return the folder of run folders: `DARTS_LIB_RUNS`, else `runs` in the project."""
    return Path(os.environ.get("DARTS_LIB_RUNS") or project_root() / "runs")


def data_root() -> Path:
    """Return the folder of data sets: `DARTS_LIB_DATA`, else `data` in the project."""
    return Path(os.environ.get("DARTS_LIB_DATA") or project_root() / "data")


# Device and seed ------------------------------------------------------------------------------


def resolve_device(name: str) -> torch.device:
    """Return the device `auto`, `cpu`, `cuda`, `cuda:1` or `mps`; refuse what is absent."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    present = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or (device.index or 0) >= present.get(device.type, 0):
        raise SettingsError(f"device {name!r} is not there; use 'auto' or 'cpu'.")
    return device


def seed_epoch(seed: int, epoch: int, device: torch.device, attempt: int = 0) -> torch.Generator:
    """Seed all randomness of one epoch and return the generator for the device.

    The randomness of an epoch is a function of (seed, epoch, attempt) alone, `attempt` being how
    often the epoch was given up before. A run that was killed and continued therefore draws what
    it would have drawn, and no random state needs to be stored.
    """
    mixed = (seed * 1_000_003 + epoch * 7919 + attempt * 15_485_863 + 1) % 2**31
    torch.manual_seed(mixed)
    return torch.Generator(device=device).manual_seed(mixed)


def machine() -> dict[str, str | int]:
    """Describe where a figure was measured: device, threads and versions."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else f"CPU ({os.cpu_count()} cores)",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }


# The base configuration -----------------------------------------------------------------------

SWITCH = "^(auto|on|off)$"

UNSET = ("", 0, "auto", None)
"""Values of the parameter cell that mean 'the scale's own'."""


class RunConfig(BaseModel):
    """Settings that searching and retraining share. The field defaults are the paper's.

    `scale` chooses the defaults of everything that is not given: `paper`, `laptop`, or `auto`,
    which is `paper` where CUDA is found. An unknown name or a wrong value is refused before any
    data are read. `threads` of the CPU change the last bits of a sum, and so the run; 0 leaves
    them as torch has them. `amp` is bfloat16, `compile` compiled cells, `graph` the step as one
    CUDA graph; `acceleration` says what `auto` makes of them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    LAPTOP: ClassVar[dict[str, Any]] = {}
    FILLED_BY_SCALE: ClassVar[tuple[str, ...]] = ("epochs", "dataset", "batch_size")
    NO_EFFECT_ON_RESULT: ClassVar[frozenset[str]] = frozenset(
        {"data_root", "run_dir", "resume", "device"}
    )

    scale: str = Field("auto", pattern="^(auto|laptop|paper)$")
    dataset: str = "cifar10"
    data_root: str = ""
    image_size: int = Field(0, ge=0)
    max_images: int = Field(0, ge=0)
    run_dir: str = ""
    device: str = "auto"
    threads: int = Field(0, ge=0)
    seed: int = Field(0, ge=0, lt=2**31)
    resume: bool = True
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(64, ge=2)
    max_steps: int = Field(0, ge=0)
    amp: str = Field("auto", pattern=SWITCH)
    compile: str = Field("auto", pattern=SWITCH)
    graph: str = Field("auto", pattern=SWITCH)

    @model_validator(mode="before")
    @classmethod
    def _fill_from_scale(cls, given: dict[str, Any]) -> dict[str, Any]:
        for name in set(given) - set(cls.model_fields):
            near = difflib.get_close_matches(name, cls.model_fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(cls.model_fields)}"
            raise ValueError(f"unknown setting {name!r}; {hint}")
        kept = {
            name: value
            for name, value in given.items()
            if not (name in cls.FILLED_BY_SCALE and value in UNSET and value is not False)
        }
        scale = kept.get("scale", "auto")
        if scale == "auto":
            scale = "paper" if torch.cuda.is_available() else "laptop"
        return {**(cls.LAPTOP if scale == "laptop" else {}), **kept, "scale": scale}

    @model_validator(mode="after")
    def _check_dataset_and_device(self) -> Self:
        if self.dataset not in DATASETS:
            near = difflib.get_close_matches(self.dataset, DATASETS, n=1) or DATASETS
            raise ValueError(f"unknown dataset {self.dataset!r}; did you mean {' or '.join(near)}?")
        device = resolve_device(self.device)  # refuses what is absent
        if self.graph == "on" and device.type != "cuda":
            raise ValueError(f"graph='on' needs CUDA, not {device.type!r}; use 'auto' or 'off'")
        return self

    @property
    def capturable(self) -> bool:
        """Say whether a step is one that a graph or a compiler can take."""
        return True

    @classmethod
    def create(cls, **given: object) -> Self:
        """Build the configuration; raise `SettingsError` with one readable line if it is wrong."""
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            lines = [_readable(dict(problem)) for problem in error.errors()]
            raise SettingsError("; ".join(lines)) from None

    @property
    def data_folder(self) -> Path:
        """Return where the data set lies: `data_root` if given, else the project's data folder."""
        return Path(self.data_root).expanduser() if self.data_root else data_root()

    def open_device(self) -> torch.device:
        """Return the device to compute on, after setting the CPU's threads."""
        if self.threads:
            torch.set_num_threads(self.threads)
        return resolve_device(self.device)

    def settings_that_matter(self) -> dict[str, Any]:
        """Return the settings that change the result; two runs with equal ones are the same run."""
        return self.model_dump(mode="json", exclude=set(self.NO_EFFECT_ON_RESULT))


def _readable(problem: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{place}={problem['input']!r}: {message}" if place else message
