"""The protocol of a sweep: which cells, which runs of which chapter, with which settings.

Each searched cell is found with a seed of its own; each random cell is drawn with one. Every cell
is then trained from scratch for a short time on a part of the training images and judged on the
held-out rest. The best of each kind is retrained in full several times and tested. Searched and
random cells go through the same retrainings (paper, sections 3.1 and 3.2).
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from darts_lib import __version__
from darts_lib.derivation import random_genotype
from darts_lib.engine.devices import auto_scale
from darts_lib.engine.places import project_root
from darts_lib.engine.refusals import SettingsError, StrictModel, unknown
from darts_lib.engine.run_files import read_json, write_json
from darts_lib.engine.settings import RunConfig
from darts_lib.retrain_step import RetrainConfig
from darts_lib.search_settings import SearchConfig
from darts_lib.tools.sweeping.run import Run

FORMAT = 1
KINDS = ("searched", "random")
CHAPTERS: dict[str, type[RunConfig]] = {"search": SearchConfig, "retrain": RetrainConfig}
OWN = ("scale", "seed", "epochs", "genotype", "holdout", "run_dir", "resume")
"""Settings of a run that the plan gives, so that `-p` cannot."""
HERE_ONLY = ("device", "graph")
"""Settings that only the worker's machine can judge."""


class SweepConfig(StrictModel):
    """How many cells and runs, and for how long; the field defaults are for the paper's scale.

    `holdout` is the share of the training images that the short retraining is judged on; the
    search's halves are 0.5. `retries` is how often a run that failed is tried again. `search` and
    `retrain` are further settings of chapters 03 and 05.
    """

    LAPTOP: ClassVar[dict[str, int]] = {
        "searches": 3,
        "randoms": 3,
        "finals": 2,
        "search_epochs": SearchConfig.LAPTOP["epochs"],
        "short_epochs": 6,
        "full_epochs": RetrainConfig.LAPTOP["epochs"],
    }
    COUNTS: ClassVar[frozenset[str]] = frozenset({"searches", "randoms", "finals", "retries"})

    scale: Literal["laptop", "paper"]
    seed: int = Field(0, ge=0, lt=2**30)
    searches: int = Field(4, ge=1)
    randoms: int = Field(4, ge=0)
    finals: int = Field(10, ge=1)
    search_epochs: int = Field(50, ge=1)
    short_epochs: int = Field(100, ge=1)
    full_epochs: int = Field(600, ge=1)
    holdout: float = Field(0.5, gt=0, lt=1)
    retries: int = Field(2, ge=0)
    search: dict[str, Any] = {}
    retrain: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _fill_from_scale(cls, given: dict[str, Any]) -> dict[str, Any]:
        scale = given.get("scale", "auto")
        if scale == "auto":
            scale = auto_scale()
        return {**(cls.LAPTOP if scale == "laptop" else {}), **given, "scale": scale}

    def with_settings(self, chapters: dict[str, dict[str, Any]]) -> Self:
        """Return the configuration with further settings of the chapters."""
        return self.model_copy(update=chapters)

    @property
    def on_cpu(self) -> bool:
        """Say whether all runs were told to stay on the CPU."""
        return {self.search.get("device"), self.retrain.get("device")} == {"cpu"}


def chapter_settings(pairs: Iterable[Sequence[str]], scale: str) -> dict[str, dict[str, Any]]:
    """Return the checked settings of each chapter from (name, value) pairs of the command line.

    `search.channels` is for the searches alone, `retrain.channels` for the retrainings, a plain
    `channels` for both. Raises SettingsError for a name or a value that a chapter does not take.
    """
    given: dict[str, dict[str, Any]] = {chapter: {} for chapter in CHAPTERS}
    for full_name, value in pairs:
        chapter, dot, name = full_name.rpartition(".")
        if dot and chapter not in CHAPTERS:
            raise SettingsError(f"-p {full_name}: write search.{name} or retrain.{name}.")
        for each in _takers(name, [chapter] if dot else list(CHAPTERS)):
            given[each][name] = value
    return {chapter: _typed(CHAPTERS[chapter], given[chapter], scale) for chapter in CHAPTERS}


def _takers(name: str, chapters: Sequence[str]) -> list[str]:
    known = {field for each in chapters for field in CHAPTERS[each].model_fields}
    near = difflib.get_close_matches(name, sorted({*known, *OWN}), n=1)  # a known name: itself
    if near and near[0] in OWN:
        raise SettingsError(
            f"-p {name}: the plan of a sweep gives {near[0]} to each run; see the options of "
            "`python -m darts_lib.sweep --help`."
        )
    if name not in known:
        raise SettingsError(f"-p: {unknown('setting', name, sorted(known - set(OWN)))}")
    return [chapter for chapter in chapters if name in CHAPTERS[chapter].model_fields]


def _typed(kind: type[RunConfig], given: dict[str, Any], scale: str) -> dict[str, Any]:
    checked = kind.create(
        **{name: value for name, value in given.items() if name not in HERE_ONLY}, scale=scale
    )
    typed = {n: given[n] if n in HERE_ONLY else getattr(checked, n) for n in given}
    if "data_root" in typed:  # a worker stands in another folder
        typed["data_root"] = str(Path(typed["data_root"]).expanduser().absolute())
    return typed


@dataclass(frozen=True)
class Cell:
    """A cell of the sweep: how it comes about, and the seed of all that is done with it."""

    kind: str
    seed: int

    @property
    def name(self) -> str:
        """Return `searched-0`: kind and seed."""
        return f"{self.kind}-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """All runs of a sweep in the folder `root`."""

    config: SweepConfig
    root: Path

    def cells(self) -> list[Cell]:
        """Return the cells: searched ones first, each kind with the same row of seeds."""
        counts = zip(KINDS, (self.config.searches, self.config.randoms), strict=True)
        return [Cell(kind, self.config.seed + i) for kind, count in counts for i in range(count)]

    def search(self, cell: Cell) -> Run | None:
        """Return the run that finds a cell; a random one needs none."""
        if cell.kind == "random":
            return None
        own = {"seed": cell.seed, "epochs": self.config.search_epochs}
        return self._run("03_search.ipynb", "search", cell.name, own, self.config.search)

    def short(self, cell: Cell) -> Run:
        """Return the short retraining, judged on held-out training images."""
        own = {"epochs": self.config.short_epochs, "holdout": self.config.holdout}
        return self._retraining("short", cell.name, cell, cell.seed, own)

    def chain(self, cell: Cell) -> list[Run]:
        """Return what leads to a cell's judgement, in turn."""
        search = self.search(cell)
        return [search, self.short(cell)] if search else [self.short(cell)]

    def full(self, cell: Cell) -> list[Run]:
        """Return the full retrainings of a selected cell, tested on the test images."""
        own = {"epochs": self.config.full_epochs}
        seeds = range(self.config.seed, self.config.seed + self.config.finals)
        names = {seed: f"{cell.name}-seed-{seed}" for seed in seeds}
        return [self._retraining("full", name, cell, seed, own) for seed, name in names.items()]

    def _retraining(self, stage: str, name: str, cell: Cell, seed: int, own: dict[str, Any]) -> Run:
        search = self.search(cell)
        genotype = str(search.folder if search else random_genotype(cell.seed))
        own = {"genotype": genotype, "seed": seed, **own}
        return self._run("05_retrain.ipynb", stage, name, own, self.config.retrain)

    def _run(
        self, chapter: str, stage: str, name: str, own: dict[str, Any], given: dict[str, Any]
    ) -> Run:
        folder = self.root / stage / name
        parameters = {"scale": self.config.scale, "run_dir": str(folder), **own, **given}
        return Run(project_root() / "notebooks" / chapter, folder, parameters)

    def claim(self) -> None:
        """Write `sweep.json`, or check that the folder is that of this sweep.

        The counts may change: more cells or retrainings are added to what is there. Raises
        SettingsError where anything differs that the runs depend on.
        """
        file, wanted = self.root / "sweep.json", self.config.model_dump(mode="json")
        found = read_json(file).get("settings", {}) if file.exists() else wanted
        differing = [
            f"{name} {found.get(name)!r} there, {value!r} here"
            for name, value in wanted.items()
            if name not in self.config.COUNTS and found.get(name) != value
        ]
        if differing:
            raise SettingsError(
                f"{self.root} holds a sweep with other settings ({'; '.join(differing)}); "
                "give another --folder."
            )
        names = [run.name for cell in self.cells() for run in self.chain(cell)]
        content = {"format": FORMAT, "library": __version__, "settings": wanted, "runs": names}
        write_json(file, content)
