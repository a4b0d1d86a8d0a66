"""The one way to name a cell: a published name, `random`, a file, a run folder, or the text."""

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import ValidationInfo, field_validator

from darts_lib.derivation import random_genotype
from darts_lib.engine.files import read_text
from darts_lib.engine.folder import read_history
from darts_lib.engine.opening import stored_run
from darts_lib.engine.refusals import SettingsError, StrictModel, nearest, show
from darts_lib.formats.dialects import read, recognise
from darts_lib.genotype import LIMIT, PUBLISHED, BaseGenotype, Genotype, GenotypeError

AnyCell = TypeVar("AnyCell")


@dataclass(frozen=True)
class Cells(Generic[AnyCell]):
    """The cells of one kind: what one is called, the published ones, one drawn, one read.

    `draw` takes a seed, `read` a text and the name of the cell in it, if it has several.
    """

    title: str
    published: Mapping[str, AnyCell]
    draw: Callable[[int], AnyCell]
    read: Callable[[str, str], AnyCell]

    def find(self, name: str, seed: int = 0, part: str = "") -> AnyCell:
        """Return the cell that `name` stands for.

        `name` is a published cell (`DARTS_V2`), `random` (drawn with `seed`), a search's run
        folder, or a file or text in which a cell stands, see `formats.dialects.read_as`; of several
        in a file `FILE:NAME`, or `part`, names one. Raises GenotypeError with the valid names for
        anything else.
        """
        for each, cell in self.published.items():
            if name.lower() == each.lower():
                return cell
        if name.lower() == "random":
            return self.draw(seed)
        path = name
        with contextlib.suppress(ValueError):  # no user is called by a NUL or by half a character
            path = os.path.expanduser(name)
        folder = os.path.isdir(path)
        path = os.path.join(path, "genotype.json") if folder else path
        file, _, inner = path.rpartition(":")
        # Unlike Path's, isfile takes any text, however long.
        if os.path.isfile(path):
            return self._from_file(Path(path), part)
        if os.path.isfile(file):
            return self._from_file(Path(file), inner)
        quoted = "'" in name or '"' in name
        if not folder and (quoted or os.sep not in name) and recognise(name):
            return self.read(name, part)
        near = nearest(name, (*self.published, "random"), cutoff=0.75)
        hint = f"did you mean {near!r}? " if near else ""
        if folder or os.sep in name:
            hint = "this folder has no genotype.json. " if folder else "nothing is there. "
        raise GenotypeError(
            f"unknown {self.title} {show(name)}: {hint}It may be {', '.join(self.published)}, "
            "'random', a file with a cell in it (or FILE:NAME), a finished search's run folder, or "
            "a Genotype(...) text."
        )

    def _from_file(self, path: Path, part: str) -> AnyCell:
        _tell_unfinished(path)
        try:
            text = read_text(path, 40 * LIMIT + 1)  # a longer one is refused whole
            return self.read(text, part)
        except SettingsError as error:
            raise GenotypeError(str(error)) from None
        except GenotypeError as error:
            raise GenotypeError(f"{path}: {error}") from None


def _tell_unfinished(path: Path) -> None:
    """Say so if a cell is that of a search which has not finished."""
    folder = path.parent
    if path.name != "genotype.json" or (folder / "result.json").exists():
        return
    with contextlib.suppress(SettingsError):  # no run folder
        if run := stored_run(folder):
            done, epochs = len(read_history(folder)), run["settings"].get("epochs")
            print(f"warning: {folder} has not finished: its cell after epoch {done} of {epochs}")


CELLS = Cells(Genotype.title, PUBLISHED, random_genotype, lambda text, part: read(text, name=part))
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
        return self.CELLS.read(self.genotype, "")
