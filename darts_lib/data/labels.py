"""Labels of a flat folder of validation pictures, in the forms in which they are handed out."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from darts_lib.engine.files import read_text
from darts_lib.engine.progress import several
from darts_lib.engine.refusals import SettingsError

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".ppm", ".pgm", ".pbm", ".pnm", ".bmp"),
    *(".tif", ".tiff", ".webp", ".gif", ".avif"),
)
"""Endings of the files that are pictures, in small letters."""

TRUTH = "ILSVRC2012_validation_ground_truth.txt"
TEXTS = ("val_labels.txt", "LOC_val_solution.csv", "val_annotations.txt")
"""Our own plain form, Kaggle's and Tiny ImageNet's: a line a picture, its file and its class."""
KIT = "ILSVRC2012_devkit_t12/data"

Labels = dict[str, str]  # the class of each picture, by its file's name without the extension


def flat_files(
    folder: Path, pictures: list[Path], train: Mapping[str, object], needed: bool
) -> tuple[dict[str, list[Path]], Path]:
    """Return a flat folder's pictures by class, in the order of `train`, and the file of labels.

    That is looked for in the folder and the four above it, also in an unpacked development kit
    there. Without one there are none, or where they are `needed` a SettingsError, as for a picture
    without a label, a label without a picture and a class of only one side.
    """
    places = (folder, *folder.parents[:4])
    texts = dict.fromkeys(TEXTS, _text_labels)
    forms = {**texts, TRUTH: _kit_labels, f"{KIT}/{TRUTH}": _kit_labels}
    known = ((place / name, read) for place in places for name, read in forms.items())
    source, read = next((each for each in known if each[0].is_file()), (folder, None))
    if read is None:
        if not needed:
            return {}, folder
        raise SettingsError(
            f"{folder} has neither the class folders of the training pictures nor labels: put "
            f"{TRUTH} with meta.mat (from the development kit), {', '.join(TEXTS[:-1])} or "
            f"{TEXTS[-1]} into {folder.parent}, or sort the pictures into {folder.name}/<class>."
        )
    labels, names = read(source), {_stem(path.name) for path in pictures}
    if odd := sorted(names - set(labels)) or sorted(set(labels) - names):
        lacks = "label" if odd[0] in names else "picture"
        raise SettingsError(
            f"{source} labels {len(labels)} pictures, but there are {len(names)} (for example, "
            f"{odd[0]} has no {lacks}): add or remove pictures until both are the same."
        )
    if odd := sorted(set(labels.values()) ^ set(train)):
        raise SettingsError(
            f"the classes of the training pictures and of {source} differ in {len(odd)}, "
            f"{several(odd, 5)}: train/ needs a folder a class, named as the labels are."
        )
    files: dict[str, list[Path]] = {name: [] for name in train}
    for path in pictures:
        files[labels[_stem(path.name)]].append(path)
    return files, source


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
    from scipy.io import loadmat  # slow to load, and only needed here

    meta = truth.with_name("meta.mat")
    try:  # the WNID of each ILSVRC2012_ID, which counts from 1
        synsets = np.atleast_1d(loadmat(meta, squeeze_me=True)["synsets"])
        classes = {str(int(each["ILSVRC2012_ID"])): str(each["WNID"]) for each in synsets}
    except Exception as error:  # SciPy's are of all kinds for a file that is no meta.mat
        raise SettingsError(
            f"{meta}, which says what the numbers of {TRUTH} stand for, cannot be read "
            f"({type(error).__name__}: {error}); take it from the development kit."
        ) from error
    labels = {}
    for number, line in enumerate(_lines(truth), 1):
        if line not in classes:
            raise SettingsError(
                f"{truth}, line {number}: {line!r} is no ILSVRC2012_ID of meta.mat beside it; "
                "unpack the development kit again."
            )
        labels[f"ILSVRC2012_val_{number:08}"] = classes[line]
    return labels


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in read_text(file).splitlines() if line]
