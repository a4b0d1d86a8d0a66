"""The labels of a flat folder of validation pictures, in the forms in which they are handed out."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from darts_lib.data.picture_folder import EXTENSIONS
from darts_lib.engine.refusals import SettingsError

TRUTH = "ILSVRC2012_validation_ground_truth.txt"
TEXTS = ("val_labels.txt", "LOC_val_solution.csv", "val_annotations.txt")
"""Our own plain form, Kaggle's and Tiny ImageNet's: a line a picture, its file and its class."""
KIT = "ILSVRC2012_devkit_t12/data"

Labels = dict[str, str]
"""The class of each picture, by its file's name without the extension."""


def find_labels(root: Path) -> tuple[Labels, Path]:
    """Return the labels of `root/val`'s pictures, and the file that they come from.

    It is looked for in `root`, `root/val` and the three folders above `root`, also in an unpacked
    development kit there. Raises SettingsError if there is none.
    """
    for place in (root / "val", root, *root.parents[:3]):
        for name in TEXTS:
            if (place / name).is_file():
                return _text_labels(place / name), place / name
        for truth in (place / TRUTH, place / KIT / TRUTH):
            if truth.is_file():
                return _kit_labels(truth), truth
    raise SettingsError(
        f"{root / 'val'} has neither the class folders of {root / 'train'} nor labels: put "
        f"{TRUTH} with meta.mat (from the development kit), {', '.join(TEXTS[:-1])} or "
        f"{TEXTS[-1]} into {root}, or sort the pictures into val/<class>."
    )


def labelled(
    pictures: Sequence[Path], labels: Mapping[str, str], source: Path, classes: Sequence[str]
) -> list[tuple[Path, int]]:
    """Return each picture with its class's place in `classes`, after checking each against each.

    Raises SettingsError for a picture without a label, a label without a picture, a class of only
    one side.
    """
    names = {_stem(path.name) for path in pictures}
    bare, spare = sorted(names - set(labels)), sorted(set(labels) - names)
    if bare or spare:
        first = f"{bare[0]} has no label" if bare else f"{spare[0]} has no picture"
        raise SettingsError(
            f"{source} labels {len(labels)} pictures, but there are {len(names)} (for example, "
            f"{first}): add or remove pictures until both are the same."
        )
    if odd := sorted(set(labels.values()) ^ set(classes)):
        raise SettingsError(
            f"the classes of the training pictures and of {source} differ in {len(odd)}, "
            f"{', '.join(odd[:5])}: train/ needs a folder a class, named as the labels are."
        )
    place = {name: index for index, name in enumerate(classes)}
    return [(path, place[labels[_stem(path.name)]]) for path in pictures]


def _stem(name: str) -> str:
    stem, dot, extension = name.rpartition(".")
    return stem if dot + extension.lower() in EXTENSIONS else name


def _text_labels(file: Path) -> Labels:
    """Read lines of `file class`, with a comma or blanks between; what follows is left out."""
    labels = {}
    for number, line in enumerate(_lines(file), 1):
        fields = line.replace(",", " ").split()
        if len(fields) < 2:
            raise SettingsError(f"{file}, line {number}: {line!r} is not 'file class'; repair it.")
        if fields[0] != "ImageId":  # the head of Kaggle's table
            labels[_stem(fields[0])] = fields[1]
    return labels


def _kit_labels(truth: Path) -> Labels:
    """Read the kit's numbers, one for each picture in order; meta.mat tells what they stand for."""
    classes = _kit_classes(truth.with_name("meta.mat"))
    labels = {}
    for number, line in enumerate(_lines(truth), 1):
        if line not in classes:
            raise SettingsError(
                f"{truth}, line {number}: {line!r} is no ILSVRC2012_ID of meta.mat beside it; "
                "unpack the development kit again."
            )
        labels[f"ILSVRC2012_val_{number:08}"] = classes[line]
    return labels


def _kit_classes(meta: Path) -> dict[str, str]:
    """Return the WNID of each ILSVRC2012_ID, which counts from 1."""
    try:
        synsets = np.atleast_1d(loadmat(meta, squeeze_me=True)["synsets"])
        return {str(int(each["ILSVRC2012_ID"])): str(each["WNID"]) for each in synsets}
    except (
        OSError, ValueError, KeyError, IndexError, TypeError, NotImplementedError, MatReadError,
    ) as error:  # fmt: skip
        raise SettingsError(
            f"{meta}, which says what the numbers of {TRUTH} stand for, cannot be read "
            f"({type(error).__name__}: {error}); take it from the development kit."
        ) from error


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line]
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file} cannot be read as text ({error}); get it again.") from error
