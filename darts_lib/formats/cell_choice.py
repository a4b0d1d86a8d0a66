"""The one way to name a cell: a published name, `random`, a file, a run folder, or the text."""

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import ValidationInfo, field_validator

from darts_lib.derivation import random_genotype
from darts_lib.engine.refusals import SettingsError, StrictModel, nearest, show
from darts_lib.formats.dialects import read
from darts_lib.genotype import LIMIT, PUBLISHED, BaseGenotype, Genotype, GenotypeError

AnyCell = TypeVar("AnyCell")


@dataclass(frozen=True)
class Cells(Generic[AnyCell]):
    """The cells of one kind: what one is called, the published ones, one drawn, one read.

    `draw` takes a seed, `read` the text of a cell, also as JSON.
    """

    title: str
    published: Mapping[str, AnyCell]
    draw: Callable[[int], AnyCell]
    read: Callable[[str], AnyCell]

    def find(self, name: str, seed: int = 0) -> AnyCell:
        """Return the cell that `name` stands for.

        `name` is a published cell (`DARTS_V2`), `random` (drawn with `seed`), the path of a
        `genotype.json`, of a cell's text or of a search's run folder, or a `Genotype(...)` text;
        a convolutional cell may also be in another project's text, with a list for each node or a
        weight in each pair. Raises GenotypeError with the valid names for anything else.
        """
        if name in self.published:
            return self.published[name]
        if name == "random":
            return self.draw(seed)
        if name.lstrip().startswith("Genotype"):
            return self.read(name)
        path = name
        with contextlib.suppress(ValueError):  # no user is called by a NUL or by half a character
            path = os.path.expanduser(name)
        folder = os.path.isdir(path)
        path = os.path.join(path, "genotype.json") if folder else path
        if os.path.isfile(path):  # unlike Path's, it takes any text, however long
            return self._from_file(Path(path))
        near = nearest(name, (*self.published, "random"))
        hint = f"did you mean {near!r}? " if near else ""
        if folder or os.sep in name:
            hint = "this folder has no genotype.json. " if folder else "nothing is there. "
        raise GenotypeError(
            f"unknown {self.title} {show(name)}: {hint}It may be {', '.join(self.published)}, "
            "'random', a genotype.json, a finished search's run folder, or a Genotype(...) text."
        )

    def _from_file(self, path: Path) -> AnyCell:
        try:
            with open(path, encoding="utf-8-sig") as file:
                return self.read(file.read(LIMIT + 1))  # more is no cell, however it goes on
        except OSError as error:
            reason = f"cannot be read ({error.strerror}); name another file."
        except GenotypeError as error:
            reason = str(error)
        except ValueError as error:
            reason = f"is no text ({error}); name another file."
        raise GenotypeError(f"{path}: {reason}") from None


CELLS = Cells(Genotype.title, PUBLISHED, random_genotype, read)
find_genotype = CELLS.find
"""Return the convolutional genotype that a name stands for; see `Cells.find`."""


class CellSettings(StrictModel):
    """The cell of a retraining.

    `genotype` is anything that `find_genotype` knows; it is stored as the cell's text, so that a
    run stays what it was when a file changes.
    """

    CELLS: ClassVar[Cells[Any]] = CELLS

    genotype: str = "DARTS_V2"

    @field_validator("genotype", mode="before")
    @classmethod
    def _name_to_cell(cls, name: object, info: ValidationInfo) -> object:
        if not isinstance(name, str | BaseGenotype | Path) or not str(name):
            return name  # empty: a chapter fills it with the cell that its search found
        return str(cls.CELLS.find(str(name), info.data.get("seed", 0)))

    @property
    def cell(self) -> Any:
        """Return the genotype itself; an empty name has none and is refused."""
        if not self.genotype:
            raise SettingsError("genotype is empty; name a cell, for example genotype='DARTS_V2'.")
        return self.CELLS.read(self.genotype)
