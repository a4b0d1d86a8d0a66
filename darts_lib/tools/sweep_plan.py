"""The protocol of a sweep: which cells, which runs of which chapter, with which settings.

Each searched cell is found with a seed of its own; each random cell is drawn with one. Every cell
is then trained from scratch for a short time on a part of the training images and judged on the
held-out rest. The best of each kind is retrained in full several times and tested. Searched and
random cells go through the same retrainings (paper, sections 3.1 and 3.2).
"""

import errno
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from darts_lib import __version__
from darts_lib.derivation import random_genotype
from darts_lib.engine.command_line import clone_with
from darts_lib.engine.devices import auto_scale
from darts_lib.engine.folder import read_json, write_json
from darts_lib.engine.places import place
from darts_lib.engine.refusals import SettingsError, StrictModel, nearest, show, unknown
from darts_lib.engine.settings import RunConfig, project_root
from darts_lib.retrain import RetrainConfig
from darts_lib.search import SearchConfig
from darts_lib.tools.sweep_runs import ChapterRun

FORMAT = 1
SEARCH, RETRAIN = "notebooks/03_search.ipynb", "notebooks/05_retrain.ipynb"
KINDS = ("searched", "random")
CHAPTERS: dict[str, type[RunConfig]] = {"search": SearchConfig, "retrain": RetrainConfig}
PLANNED = ("scale", "seed", "epochs", "genotype", "holdout", "run_dir", "resume")
"""Settings of a run that the plan gives, so that `-p` cannot."""
SEEDS = "of the first cell of each kind; the next ones count on"


class SweepConfig(StrictModel):
    """How many cells and runs, and for how long; the field defaults are for the paper's scale.

    Fields with a description are options of the command line. The search's halves are a `holdout`
    of 0.5. `search` and `retrain` are further settings of chapters 03 and 05.
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
    seed: int = Field(0, ge=0, lt=2**30, description=SEEDS)
    searches: int = Field(4, ge=1, description="cells to search")
    randoms: int = Field(4, ge=0, description="cells to draw at random")
    finals: int = Field(10, ge=1, description="full retrainings of the best cell of each kind")
    search_epochs: int = Field(50, ge=1, description="of a search")
    short_epochs: int = Field(100, ge=1, description="of the retraining that selects")
    full_epochs: int = Field(600, ge=1, description="of a full retraining")
    holdout: float = Field(0.5, gt=0, lt=1, description="share of the training images that selects")
    retries: int = Field(2, ge=0, description="of a run that failed")
    search: dict[str, Any] = {}
    retrain: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _fill_from_scale(cls, given: dict[str, Any]) -> dict[str, Any]:
        scale = given.get("scale", "auto")
        scale = auto_scale() if scale == "auto" else scale
        return {**(cls.LAPTOP if scale == "laptop" else {}), **given, "scale": scale}

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
        fields = {each: CHAPTERS[each].model_fields for each in ([chapter] if dot else CHAPTERS)}
        known = {field for each in fields.values() for field in each}
        near = nearest(name, sorted({*known, *PLANNED}))  # a known name: itself
        if near in PLANNED:
            raise SettingsError(
                f"-p {name}: the plan of a sweep gives {near} to each run; see the options of "
                "`python -m darts_lib.sweep --help`."
            )
        if name not in known:
            raise SettingsError(f"-p: {unknown('setting', name, sorted(known - set(PLANNED)))}")
        for each in fields:
            if name in fields[each]:
                given[each][name] = value
    for chapter, settings in given.items():
        # Device and graph only the worker's machine can judge.
        checked = {name: settings[name] for name in settings if name not in ("device", "graph")}
        config = CHAPTERS[chapter].create(**checked, scale=scale)
        settings |= {name: getattr(config, name) for name in checked}
        if "data_root" in settings:  # a worker stands in another folder
            settings["data_root"] = str(Path(settings["data_root"]).expanduser().absolute())
    return given


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

    @classmethod
    def create(cls, config: SweepConfig, folder: str) -> Self:
        """Return the plan in a folder; SettingsError if it or the chapters cannot be used."""
        clone_with(SEARCH, RETRAIN)
        plan = cls(config, place(folder, "--folder", folder=True).resolve())
        try:
            plan.root.mkdir(parents=True, exist_ok=True)
            if not os.access(plan.root, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise SettingsError(
                f"--folder {show(folder)} cannot be used: {error.strerror}; name another."
            ) from None
        plan.check()
        return plan

    @property
    def runs_at_once(self) -> int:
        """Return how many runs can go at the same time at most: no more workers are of use."""
        return max(len(self.cells()), len(KINDS) * self.config.finals)

    def cells(self) -> list[Cell]:
        """Return the cells: searched ones first, each kind with the same row of seeds."""
        counts = zip(KINDS, (self.config.searches, self.config.randoms), strict=True)
        return [Cell(kind, self.config.seed + i) for kind, count in counts for i in range(count)]

    def chain(self, cell: Cell) -> list[ChapterRun]:
        """Return what leads to a cell's judgement, in turn: its search, and the short retraining.

        A random cell needs no search. The retraining is judged on held-out training images.
        """
        short = {"epochs": self.config.short_epochs, "holdout": self.config.holdout}
        retraining = self._retraining("short", cell.name, cell, {"seed": cell.seed, **short})
        return [retraining] if cell.kind == "random" else [self._search(cell), retraining]

    def full(self, cell: Cell) -> list[ChapterRun]:
        """Return the full retrainings of a selected cell, tested on the test images."""
        config, runs = self.config, []
        for seed in range(config.seed, config.seed + config.finals):
            given = {"seed": seed, "epochs": config.full_epochs}
            runs.append(self._retraining("full", f"{cell.name}-seed-{seed}", cell, given))
        return runs

    def _search(self, cell: Cell) -> ChapterRun:
        given = {"seed": cell.seed, "epochs": self.config.search_epochs, **self.config.search}
        return self._run(SEARCH, "search", cell.name, given)

    def _retraining(self, stage: str, name: str, cell: Cell, given: dict[str, Any]) -> ChapterRun:
        drawn = cell.kind == "random"
        genotype = random_genotype(cell.seed) if drawn else self._search(cell).folder
        given = {"genotype": str(genotype), **given, **self.config.retrain}
        return self._run(RETRAIN, stage, name, given)

    def _run(self, chapter: str, stage: str, name: str, given: dict[str, Any]) -> ChapterRun:
        folder = self.root / stage / name
        parameters = {"scale": self.config.scale, "run_dir": str(folder), **given}
        return ChapterRun(project_root() / chapter, folder, parameters)

    def claim(self) -> None:
        """Write `sweep.json`, after the check that the folder is that of this sweep."""
        wanted = self.check()
        names = [run.name for cell in self.cells() for run in self.chain(cell)]
        content = {"format": FORMAT, "library": __version__, "settings": wanted, "runs": names}
        write_json(self.root / "sweep.json", content)

    def check(self) -> dict[str, Any]:
        """Return the settings as JSON's types, after the check that no other sweep is there.

        The counts may change: more cells or retrainings are added to what is there. Raises
        SettingsError where anything differs that the runs depend on.
        """
        file, wanted = self.root / "sweep.json", self.config.model_dump(mode="json")
        stored = read_json(file).get("settings") if file.exists() else wanted
        if not isinstance(stored, dict):
            raise SettingsError(f"{file} was not written by a sweep; give another --folder.")
        differing = [
            f"{name} {stored.get(name)!r} there, {value!r} here"
            for name, value in wanted.items()
            if name not in self.config.COUNTS and stored.get(name) != value
        ]
        if differing:
            raise SettingsError(
                f"{self.root} holds a sweep with other settings ({'; '.join(differing)}); "
                "give another --folder."
            )
        return wanted
