"""What a folder of pictures holds: listed once, the same for every kind of run, and told.

Only names are read here, and for `copies` the bytes of files of equal size; no picture is opened.
"""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from darts_lib.data.labels import EXTENSIONS, flat_files
from darts_lib.engine.progress import counted, several
from darts_lib.engine.refusals import SettingsError

TEST_SHARE = 5  # one picture in so many is a test picture where no test folder is given
MOST_COMPARED = 50_000
"""Files of a folder up to which copies among them are looked for: their bytes are read for it."""
LAYOUT = (
    "one folder a class, FOLDER/<class>/*.jpg, or FOLDER/train/<class>/*.jpg with "
    "FOLDER/test/<class>/*.jpg or FOLDER/val/<class>/*.jpg, where data_root is FOLDER"
)
SPLITS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development"), "valid"),
    **dict.fromkeys(("test", "testing", "tst", "eval", "evaluation"), "test"),
}
"""How folders of a split are called, in any case and without what `FILLER` takes away."""
FILLER = re.compile(r"[\W\d_]|set|images?|imgs?|pictures?|pics?|photos?|data|splits?|folder|seg")
WRAPPERS = ("images", "image", "imgs", "img", "pictures", "photos", "data")
"""Folders of these names stand between a class and its pictures, and are no class themselves."""
HIDDEN = (".", "@", "__macosx", "$recycle.bin", "lost+found", "system volume information")
HIDDEN_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini")

ClassFiles = dict[str, list[Path]]  # of every class, by its name, in order of it
Labelled = list[tuple[Path, int]]
Split = Literal["train", "valid", "test"]


@dataclass(frozen=True, eq=False)
class Listing:
    """The picture files of a folder by split, with their labels, each split in a mixed order.

    `valid` is empty where a folder has none beside its test split. `sources` says by split where
    it is from, `notes` what a person may not expect, `unread` counts the files inside the class
    folders that are no pictures, by ending.
    """

    root: Path
    classes: tuple[str, ...]
    train: Labelled
    valid: Labelled
    test: Labelled
    sources: dict[str, str]
    unread: Counter[str]
    notes: tuple[str, ...]

    @property
    def splits(self) -> dict[Split, Labelled]:
        """Return the files of each split that there is."""
        splits: dict[Split, Labelled] = {"train": self.train, "test": self.test}
        return {**splits, "valid": self.valid} if self.valid else splits

    def tell(self, form: str, brief: bool = False) -> None:
        """Print two lines, `form` at the end of the first, and a warning for each oddity.

        If `brief`, only the first: for the second look at the same folder.
        """
        valid = f", {len(self.valid)} validation" if self.valid else ""
        print(
            f"{self.root}: {len(self.train)} training{valid} and {len(self.test)} test pictures in "
            f"{len(self.classes)} classes, {form}",
            flush=True,
        )
        if brief:
            return
        sources = "; ".join(f"{split} from {source}" for split, source in self.sources.items())
        unread = f"; not read: {several(endings(self.unread))}" if self.unread else ""
        many = sum(map(len, self.splits.values())) > MOST_COMPARED
        compared = "; too many to look for copies" if many else ""
        print(f"classes: {several(self.classes)}; {sources}{unread}{compared}", flush=True)
        for note in (*self.notes, *self.copies()):
            print(f"warning: {note}", flush=True)

    def copies(self) -> list[str]:
        """Return a line for each way in which pictures, byte for byte, are there more than once."""
        files = [(*pair, split) for split, pairs in self.splits.items() for pair in sorted(pairs)]
        if len(files) > MOST_COMPARED:
            return []
        equal: dict[object, list[tuple[Path, int, str]]] = defaultdict(list)
        sizes = Counter(sized := [os.stat(path).st_size for path, _, _ in files])
        for file, size in zip(files, sized, strict=True):
            if sizes[size] > 1:
                equal[size, _digest(file[0])].append(file)
        pairs: dict[str, list[tuple[Path, Path]]] = defaultdict(list)
        for (first, label, split), *others in equal.values():
            for path, other_label, other_split in others:
                if other_label != label:
                    pairs["two classes"].append((first, path))
                if other_split != split:
                    pairs[f"{split} and {other_split}"].append((first, path))
        return [
            f"the same file in {where}: {counted(len(same), 'picture')}, such as {same[0][0]} and "
            f"{same[0][1]}; figures on them mean little, remove one of each"
            for where, same in sorted(pairs.items())
        ]


def _is_wrapper(folders: Sequence[Path]) -> bool:
    """Say whether a class has one folder of pictures, as in Tiny ImageNet."""
    return len(folders) == 1 and folders[0].name.lower() in WRAPPERS


@dataclass
class _Walk:
    """A walk through folders, which keeps what it met besides pictures."""

    unread: Counter[str] = field(default_factory=Counter)
    odd: set[Path] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def entries(self, folder: Path, above: Sequence[str] = ()) -> tuple[list[Path], list[Path]]:
        """Return the folders and the files in a folder, in order; hidden ones are left out.

        Links are followed, but not one to a folder that the walk is in (`above`: real paths).
        """
        inside = [*above, os.path.realpath(folder)]
        folders, files = [], []
        try:
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    name, path = entry.name.lower(), Path(entry.path)
                    if name.startswith(HIDDEN) or name in HIDDEN_FILES:
                        continue
                    place = os.path.realpath(path) if entry.is_symlink() else ""
                    if place and any(Path(each).is_relative_to(place) for each in inside):
                        self.odd.add(path)
                    elif os.path.isdir(place) if place else entry.is_dir():
                        folders.append(path)
                    elif os.path.isfile(place) if place else entry.is_file():
                        files.append(path)
                    else:
                        self.odd.add(path)
        except OSError as error:
            raise SettingsError(
                f"the folder {folder} cannot be read ({error.strerror}): allow it, or move the "
                "folder away."
            ) from error
        return folders, files

    def pictures(self, folder: Path, above: Sequence[str] = ()) -> list[Path]:
        """Return the picture files below a folder, in order of their path."""
        folders, files = self.entries(folder, above)
        pictures = [path for path in files if path.suffix.lower() in EXTENSIONS]
        if len(pictures) < len(files):
            others = (path.suffix.lower() for path in files)
            self.unread.update(
                each or "without ending" for each in others if each not in EXTENSIONS
            )
        inside = (*above, os.path.realpath(folder))
        deeper = [path for each in folders for path in self.pictures(each, inside)]
        return sorted([*pictures, *deeper]) if deeper else pictures

    def classes(self, folder: Path) -> ClassFiles:
        """Return the pictures of every class folder in a folder; refuse what cannot be classes."""
        folders, beside = self.entries(folder)
        if len(folders) < 2:
            what = f"one class, {folders[0].name}" if folders else "no class folders"
            hint = _meant(self, folder) or f"; expected: {LAYOUT}."
            raise SettingsError(f"{folder} has {what}{hint}")
        inner = {
            each: [deeper for deeper in self.entries(each)[0] if _Walk().pictures(deeper)]
            for each in folders
        }
        if all(inner.values()) and not all(map(_is_wrapper, inner.values())):
            names = several(dict.fromkeys(each.name for each in chain(*inner.values())))
            raise SettingsError(
                f"every class folder of {folder}, {several(each.name for each in folders)}, has "
                f"folders in it ({names}): is data_root {folders[0]} meant? Else lay the pictures "
                "of a class into its folder, without other folders."
            )
        if odd := [each.name for each in folders if each.name.lower() in WRAPPERS[:4]]:
            raise SettingsError(
                f"{folder} has the folders {several(each.name for each in folders)}: {odd[0]} is "
                f"no class; expected: {LAYOUT}."
            )
        deep = [each.name for each, names in inner.items() if names and not _is_wrapper(names)]
        if deep:
            self.notes.append(
                f"{several(deep)} in {folder} have folders in them, whose pictures are read too"
            )
        if spare := [path.name for path in beside if path.suffix.lower() in EXTENSIONS]:
            self.notes.append(f"not read, beside the classes of {folder}: {several(spare, 3)}")
        files = {}
        for each in folders:
            before = self.unread.copy()
            files[each.name] = self.pictures(each, (os.path.realpath(folder),))
            if not files[each.name]:
                others = several(endings(self.unread - before))
                raise SettingsError(
                    f"the class folder {each} has no pictures{others and f' but {others}'}: add "
                    f"some ({', '.join(EXTENSIONS)}) or remove it; expected: {LAYOUT}."
                )
        return files


def listed(root: Path) -> Listing:
    """List a folder of pictures, in either layout of `LAYOUT`, with split names as people spell.

    The test split is the folder for the test, else the one for validation, else a fixed fifth of
    every class. Raises SettingsError, in one line that names the folder and what was probably
    meant, for a folder that is not there or cannot be read, fewer than two classes, splits of
    other classes than those of train, or folders inside all classes.
    """
    if not os.path.isdir(root):  # unlike its own is_dir, for a name of any length
        what = "is a file: unpack it" if os.path.isfile(root) else "is not there"
        raise SettingsError(f"the folder of pictures {root} {what}; expected: {LAYOUT}.")
    walk, rng = _Walk(), np.random.RandomState(0)  # the same numbers in every version of NumPy
    splits, sources = _given_splits(root, walk)
    if not splits:
        splits, sources = {"train": walk.classes(root)}, {}
    if "test" not in splits and "valid" in splits:
        splits["test"], sources["test"] = splits.pop("valid"), sources.pop("valid")
    if "test" not in splits:
        splits["train"], splits["test"] = _fifth(splits["train"], rng, root)
        sources["test"] = f"one picture in {TEST_SHARE} of each class"
    if walk.odd:
        walk.notes.append(
            "not read, since they are no files, lead nowhere or lead round in a circle: "
            f"{several(map(str, sorted(walk.odd)), 3)}"
        )
    order = {split: interleave(splits.get(split, {}), rng) for split in ("train", "test", "valid")}
    return Listing(
        root, tuple(splits["train"]), **order, sources=sources, unread=walk.unread,
        notes=tuple(walk.notes),
    )  # fmt: skip


def split_of(name: str) -> str:
    """Return the split that a folder of this name is for: train, valid, test, or none, empty."""
    return SPLITS.get(FILLER.sub("", name.lower()), "")


def _given_splits(root: Path, walk: _Walk) -> tuple[dict[str, ClassFiles], dict[str, str]]:
    """Return the splits that are folders of their own, and where each is from; or none."""
    folders = walk.entries(root)[0]
    named: dict[str, list[Path]] = {"train": [], "test": [], "valid": [], "": []}
    for each in folders:
        named[split_of(each.name)].append(each)
    level = next(filter(None, (_class_level(walk, each) for each in named["train"])), None)
    if not level:
        deep = [each for each in folders if split_of(each.name) and _class_level(walk, each)]
        if folders and (deep or not named[""]):
            names = several(each.name for each in folders)
            raise SettingsError(
                f"{root} has {names}, but no folder train that has a folder a class"
                f"{_meant(walk, root)}; expected: {LAYOUT}."
            )
        return {}, {}
    for split in ("train", "test", "valid"):
        if len(named[split]) > 1:
            names = several(each.name for each in named[split])
            raise SettingsError(
                f"{root} has {names}, which all mean {split}: put them together, or move all but "
                "one away."
            )
    train = walk.classes(level)
    splits, sources = {"train": train}, {"train": named["train"][0].name}
    for split in ("test", "valid"):
        for folder in named[split]:
            needed = not (named["valid"] if split == "test" else "test" in splits)
            files, source = _held_out(walk, folder, level, train, needed)
            if files:
                splits[split], sources[split] = files, source
            else:
                walk.notes.append(f"{folder} is not read: {source}")
    if named[""]:
        names = several(each.name for each in named[""])
        walk.notes.append(f"not read in {root}: the folders {names}")
    return splits, sources


def _held_out(
    walk: _Walk, folder: Path, level: Path, train: ClassFiles, needed: bool
) -> tuple[ClassFiles, str]:
    """Return a split's files by class and where they are from; or none, and why.

    `needed`: without it there is no test split, and what looks like one is refused.
    """
    place = _class_level(walk, folder) or folder
    names = {each.name for each in walk.entries(place)[0]}
    if not names & set(train):
        if not (pictures := _Walk().pictures(folder)):
            raise SettingsError(
                f"{folder} has no pictures to test on: add some or remove it; expected: {LAYOUT}."
            )
        if split_of(folder.name) == "valid":
            files, source = flat_files(folder, pictures, train, needed)
            if files:
                return files, f"{folder.name}, its labels from {source}"
        if not needed or len(names) < 2:
            return {}, "it has neither a class folder of train nor labels"
    if odd := sorted(set(train) ^ names):
        raise SettingsError(
            f"the classes of {level} and {place} differ in {several(odd)}: both need the same "
            "folders."
        )
    return walk.classes(place), folder.name


def _class_level(walk: _Walk, folder: Path) -> Path | None:
    """Return the folder whose folders are a split's classes: itself or a single one inside it."""
    folders = walk.entries(folder)[0]
    if len(folders) == 1:
        name = folders[0].name
        if name.lower() in WRAPPERS or split_of(name) == split_of(folder.name):
            return _class_level(walk, folders[0])
    return folder if folders else None


def _meant(walk: _Walk, folder: Path) -> str:
    """Ask whether a folder further down is meant, if a single one leads to several."""
    start, folders = folder, walk.entries(folder)[0]
    while len(folders) == 1:
        folder = folders[0]
        folders = walk.entries(folder)[0]
    if folder == start or not folders:
        return ""
    names = several(each.name for each in folders)
    return f"; {folder.name} has the folders {names}: is data_root {folder} meant?"


def _fifth(
    files: ClassFiles, rng: np.random.RandomState, root: Path
) -> tuple[ClassFiles, ClassFiles]:
    """Return the files to train on and a fixed random fifth of every class, one at least."""
    train, test = {}, {}
    for name, paths in files.items():
        if len(paths) < 2:
            raise SettingsError(
                f"class {name!r} in {root} has one picture, too few to train and to "
                "test: add more or give a test folder."
            )
        order, count = rng.permutation(len(paths)), max(1, round(len(paths) / TEST_SHARE))
        test[name] = [paths[i] for i in sorted(order[:count])]
        train[name] = [paths[i] for i in sorted(order[count:])]
    return train, test


def interleave(classes: ClassFiles, rng: np.random.RandomState) -> Labelled:
    """Mix all classes so that every stretch of the list has its share of each.

    The i-th of a class's n pictures stands at (i + 1/2) / n of the way. So each half of the list,
    and its start, has all classes: a class of two pictures has one in each half.
    """
    placed = []
    for label, files in enumerate(classes.values()):
        for rank, index in enumerate(rng.permutation(len(files))):
            place = (2 * rank + 1) / (2 * len(files))
            placed.append((place, rng.random_sample(), files[index], label))
    return [(path, label) for _, _, path, label in sorted(placed)]


def endings(counts: Counter[str]) -> list[str]:
    """Write counts of files by ending: `3 .heic`, most first."""
    return [f"{count} {ending}" for ending, count in counts.most_common()]


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError:  # it is named when it is to be opened as a picture
        return os.fsencode(path)
