"""What a run knows of its pictures, above all the classes of its outputs; digests of files.

For whoever goes on with a run, tests its network, or uses it elsewhere: by name, never by number.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor

from darts_lib.data.pixels import EIGHT_BITS, Scale
from darts_lib.engine.folder import Row
from darts_lib.engine.progress import several
from darts_lib.engine.refusals import SettingsError, StrictModel, nearest

Side = Annotated[int, Field(ge=0, le=10_000)]
Deviation = Annotated[float, Field(gt=0)]


class PictureData(StrictModel):
    """The pictures that a network was trained on; `create` checks what a file says of them.

    `size` is (height, width) in pixels. `mean` and `std` are of pixels that `scale` brought from
    its `low` and `high` to 0 and 1. A network from elsewhere knows no classes, and size (0, 0).
    """

    model_config = ConfigDict(extra="ignore")

    dataset: str = "folder"
    classes: tuple[str, ...]
    channels: int = Field(ge=1)
    size: tuple[Side, Side]
    mean: tuple[float, ...]
    std: tuple[Deviation, ...]
    scale: dict[str, float] = asdict(EIGHT_BITS)

    @classmethod
    def row(cls, pictures: Any) -> Row:
        """Return what a run keeps of a set of pictures, or of their files."""
        names = ("classes", "channels", "size", "mean", "std")
        given = {name: getattr(pictures, name) for name in names}
        given["scale"] = asdict(pictures.scale)
        return cls.create(dataset=pictures.name, **given).model_dump(mode="json")

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if self.classes and {len(self.mean), len(self.std)} != {self.channels}:
            raise ValueError(f"mean and std have a figure for each of {self.channels} channels")
        if {*self.scale} != {"low", "high"} or self.scale["low"] >= self.scale["high"]:
            raise ValueError("scale has a low, and a high above it")
        return self

    @property
    def pixels(self) -> Scale | None:
        """Return how deeper pictures become 8 bits; None where that is not known."""
        return Scale(**self.scale) if self.classes else None

    def numbers(self, classes: Sequence[str], labels: Tensor, place: object) -> Tensor:
        """Return labels that number `classes` as the numbers of the same classes here, by name.

        A class that has no pictures is told. Raises SettingsError for one that is not known here.
        """
        if not self.classes:
            print(f"the network does not name its classes; by their order: {names_of(classes)}")
            return labels
        if strange := [name for name in classes if name not in self.classes]:
            near = nearest(strange[0], self.classes)
            hint = f" ({near!r} is the nearest)" if near else ""
            raise SettingsError(
                f"{place} has classes that the network does not know: {names_of(strange)}{hint}; "
                f"it knows {names_of(self.classes)}. Rename those, or name other pictures."
            )
        table = torch.tensor([self.classes.index(name) for name in classes], device=labels.device)
        numbered = table[labels]
        present = set(numbered.tolist())
        if absent := [name for i, name in enumerate(self.classes) if i not in present]:
            print(f"{place} has no pictures of {names_of(absent)}: the others alone are tested.")
        return numbered


def names_of(classes: Sequence[str]) -> str:
    """Return the first names in quotes, and how many more there are."""
    return several(map(repr, classes))


def file_digest(path: Path, contents: bool = True, way_out: str = "repair it") -> bytes:
    """Return the SHA-256 of a file, or its size; SettingsError names one that cannot be read."""
    try:
        if not contents:
            return b"%d" % path.stat().st_size
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}): {way_out}.") from error
