"""What every run shares: roots, device, seeds and the base configuration."""

import contextlib
import difflib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, ValidationError, model_validator

from darts_lib.heap import keep_freed_memory
from darts_lib.refusals import StrictModel, is_unset, readable, show, unknown

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
        raise SettingsError(f"device {show(name)} is not there; use 'auto' or 'cpu'.")
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


WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
FIXED_WORKSPACES = (":4096:8", ":16:8")
"""The two values with which cuBLAS adds up in one order; torch knows no others."""


@contextlib.contextmanager
def deterministic_algorithms(wanted: bool, device: torch.device) -> Iterator[None]:
    """Let torch use only algorithms that give the same bits each time inside, if `wanted`.

    The switches of torch and cuDNN are put back, also after an error. The variable of cuBLAS stays:
    it is read once, when CUDA starts. Raises SettingsError where CUDA has started without it.
    """
    if not wanted:
        yield
        return
    if device.type == "cuda":
        _fix_workspace()
    cudnn, enabled = torch.backends.cudnn, torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    before = cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        cudnn.deterministic, cudnn.benchmark = before


def _fix_workspace() -> None:
    if os.environ.get(WORKSPACE) in FIXED_WORKSPACES:
        return
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise SettingsError(
            f"deterministic=True comes too late: CUDA was started without {WORKSPACE}; set "
            f"{WORKSPACE}={FIXED_WORKSPACES[0]} in the environment and start the process again."
        )
    os.environ[WORKSPACE] = FIXED_WORKSPACES[0]


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

Switch = Literal["auto", "on", "off"]


class RunConfig(StrictModel):
    """Settings that searching and retraining share. The field defaults are the paper's.

    `scale` chooses the defaults of everything that is not given: `paper`, `laptop`, or `auto`,
    which is `paper` where CUDA is found. An unknown name or a wrong value is refused before any
    data are read. `threads` of the CPU change the last bits of a sum, and so the run; 0 leaves
    them as torch has them. `amp` is bfloat16, `compile` compiled cells, `graph` the step as one
    CUDA graph; `acceleration` says what `auto` makes of them.

    On the CPU the same seed gives the same bits each time. On a GPU sums are added up in any order;
    `deterministic` allows only algorithms that keep to one, which are slower, during the run. Even
    so the bits are those of one machine: another model of GPU or CPU, another number of threads or
    ranks and another version of torch give others. An operation without such an algorithm raises
    torch's error, which names it.
    """

    LAPTOP: ClassVar[dict[str, Any]] = {}
    FILLED_BY_SCALE: ClassVar[tuple[str, ...]] = ("epochs", "dataset", "batch_size")
    NO_EFFECT_ON_RESULT: ClassVar[frozenset[str]] = frozenset(
        {"data_root", "run_dir", "resume", "device"}
    )

    scale: str = Field("auto", pattern="^(auto|laptop|paper)$")
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
    epochs: int = Field(1, ge=1)
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
        own = [name for name in cls.FILLED_BY_SCALE if is_unset(given.get(name))]
        kept = {name: value for name, value in given.items() if name not in own}
        scale = kept.get("scale", "auto")
        named = scale if isinstance(scale, str) else ""
        if named == "auto":
            scale = named = "paper" if torch.cuda.is_available() else "laptop"
        return {**(cls.LAPTOP if named == "laptop" else {}), **kept, "scale": scale}

    @model_validator(mode="after")
    def _check_dataset_and_device(self) -> Self:
        if self.dataset not in DATASETS:
            near = difflib.get_close_matches(self.dataset, DATASETS, n=1) or DATASETS
            given = show(self.dataset)
            raise ValueError(f"unknown dataset {given}; did you mean {' or '.join(near)}?")
        device = resolve_device(self.device)  # refuses what is absent
        if self.graph == "on" and device.type != "cuda":
            raise ValueError(f"graph='on' needs CUDA, not {device.type!r}; use 'auto' or 'off'")
        return self

    @property
    def capturable(self) -> bool:
        """Say whether a step is one that a graph or a compiler can take."""
        return True

    @classmethod
    def create(cls, /, **given: object) -> Self:
        """Build the configuration; raise `SettingsError` with one readable line if it is wrong."""
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise SettingsError("; ".join(map(readable, error.errors()))) from None

    @property
    def data_folder(self) -> Path:
        """Return where the data set lies: `data_root` if given, else the project's data folder."""
        return Path(os.path.expanduser(self.data_root)) if self.data_root else data_root()

    def open_device(self) -> torch.device:
        """Return the device to compute on, after setting the CPU's threads and its heap."""
        if self.threads:
            torch.set_num_threads(self.threads)
        keep_freed_memory()
        return resolve_device(self.device)

    def settings_that_matter(self) -> dict[str, Any]:
        """Return the settings that change the result; two runs with equal ones are the same run.

        `deterministic` is one of them only where it is on: so runs from before that switch go on.
        """
        off = [] if self.deterministic else ["deterministic"]
        return self.model_dump(mode="json", exclude={*self.NO_EFFECT_ON_RESULT, *off})
