"""What a folder of pictures holds: listed once, the same for every kind of run, and told.

Only names are read for that, and bytes for `copies` and `fingerprint`; no picture is opened.
"""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from darts_lib.data.description import file_digest
from darts_lib.data.labels import EXTENSIONS, flat_files
from darts_lib.engine.folder import Row
from darts_lib.engine.progress import counted, several
from darts_lib.engine.refusals import SettingsError

TEST_SHARE = 5  # one picture in so many is a test picture where no test folder is given
MOST_COMPARED = 50_000
"""Files of a folder up to which copies among them are looked for: their bytes are read for it."""
SIZES, CONTENTS = 10_000, 500
"""Of a set too large to be read twice, so many files tell their sizes, and so many their contents.
They are spread evenly over it; the names of all count."""
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
        for note in (*self.notes, *([] if many else self.copies())):
            print(f"warning: {note}", flush=True)

    def fingerprint(self, unused: Split, large: bool = False) -> Row:
        """Return classes, and by split but the unused the number of files and a digest of them.

        It is of each file's name below `root`, its label and its content, in no order; of a `large`
        set, of some files' sizes and fewer contents. No picture is decoded.
        """
        counts, digests = {}, {}
        for split, files in self.splits.items():
            if split == unused:
                continue
            whole, counts[split] = hashlib.sha256(), len(files)
            sized, read = (-(-len(files) // most) if large else 1 for most in (SIZES, CONTENTS))
            for index, (path, label) in enumerate(sorted(files)):
                known = index % sized == 0 or index % read == 0
                said = file_digest(path, contents=index % read == 0) if known else b""
                name = os.fsencode(path.relative_to(self.root).as_posix())
                whole.update(b"%d:%s%d:%d:%s" % (len(name), name, label, len(said), said))
            digests[split] = whole.hexdigest()
        return {"classes": list(self.classes), "counts": counts, "digest": digests}

    def copies(self) -> list[str]:
        """Return a line for each way in which pictures, byte for byte, are there more than once."""
        files = [(*pair, split) for split, pairs in self.splits.items() for pair in sorted(pairs)]
        equal: dict[object, list[tuple[Path, int, str]]] = defaultdict(list)
        sizes = Counter(sized := [os.stat(path).st_size for path, _, _ in files])
        for file, size in zip(files, sized, strict=True):
            if sizes[size] > 1:
                equal[size, file_digest(file[0])].append(file)
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


@dataclass
class _Told:
    """What a walk through folders met besides pictures."""

    unread: Counter[str] = field(default_factory=Counter)
    odd: set[Path] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


class _Folder:
    """A folder, read when it is first asked for and only once; hidden entries are left out.

    Links are followed, but not one to a folder that the walk is in (`above`: real paths).
    """

    def __init__(self, path: Path, told: _Told, above: Sequence[str] = ()) -> None:
        self.path, self.name, self.told = path, path.name, told
        self.inside = (*above, os.path.realpath(path))

    @cached_property
    def entries(self) -> tuple[list["_Folder"], list[Path]]:
        """Return the folders and the files in it, in order of their names."""
        folders, files = [], []
        try:
            with os.scandir(self.path) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    name, path = entry.name.lower(), Path(entry.path)
                    if name.startswith(HIDDEN) or name in HIDDEN_FILES:
                        continue
                    place = os.path.realpath(path) if entry.is_symlink() else ""
                    if place and any(Path(each).is_relative_to(place) for each in self.inside):
                        self.told.odd.add(path)
                    elif os.path.isdir(place) if place else entry.is_dir():
                        folders.append(_Folder(path, self.told, self.inside))
                    elif os.path.isfile(place) if place else entry.is_file():
                        files.append(path)
                    else:
                        self.told.odd.add(path)
        except OSError as error:
            raise SettingsError(
                f"the folder {self.path} cannot be read ({error.strerror}): allow it, or move the "
                "folder away."
            ) from error
        return folders, files

    @property
    def folders(self) -> list["_Folder"]:
        return self.entries[0]

    @cached_property
    def pictures(self) -> list[Path]:
        """Return the picture files below it, in order of their path."""
        pictures = [path for path in self.entries[1] if path.suffix.lower() in EXTENSIONS]
        deeper = [path for each in self.folders for path in each.pictures]
        return sorted([*pictures, *deeper]) if deeper else pictures

    def unread(self) -> Counter[str]:
        """Count the files below it that are no pictures, by ending."""
        suffixes = (path.suffix.lower() for path in self.entries[1])
        counts = Counter(each or "without ending" for each in suffixes if each not in EXTENSIONS)
        return sum((each.unread() for each in self.folders), counts)

    def classes(self) -> ClassFiles:
        """Return the pictures of every class folder in it; refuse what cannot be classes."""
        names = several(each.name for each in self.folders)
        if len(self.folders) < 2:
            what = f"one class, {names}" if names else "no class folders"
            hint = self.meant() or f"; expected: {LAYOUT}."
            raise SettingsError(f"{self.path} has {what}{hint}")
        inner = {
            each.name: [deeper.name for deeper in each.folders if deeper.pictures]
            for each in self.folders
        }
        # One folder of a wrapper's name stands between a class and its pictures in Tiny ImageNet.
        deep = [
            name for name, found in inner.items()
            if found and not (len(found) == 1 and found[0].lower() in WRAPPERS)
        ]  # fmt: skip
        if deep and all(inner.values()):
            raise SettingsError(
                f"every class folder of {self.path}, {names}, has folders in it "
                f"({several(dict.fromkeys(chain(*inner.values())))}): is data_root "
                f"{self.folders[0].path} meant? Else lay the pictures of a class into its folder, "
                "without other folders."
            )
        if odd := [name for name in inner if name.lower() in WRAPPERS[:4]]:
            raise SettingsError(
                f"{self.path} has the folders {names}: {odd[0]} is no class; expected: {LAYOUT}."
            )
        for each in self.folders:
            if not each.pictures:
                others = several(endings(each.unread()))
                raise SettingsError(
                    f"the class folder {each.path} has no pictures{others and f' but {others}'}: "
                    f"add some ({', '.join(EXTENSIONS)}) or remove it; expected: {LAYOUT}."
                )
            self.told.unread.update(each.unread())
        if deep:
            self.told.notes.append(
                f"{several(deep)} in {self.path} have folders in them, whose pictures are read too"
            )
        beside = (path.name for path in self.entries[1] if path.suffix.lower() in EXTENSIONS)
        if spare := several(beside, 3):
            self.told.notes.append(f"not read, beside the classes of {self.path}: {spare}")
        return {each.name: each.pictures for each in self.folders}

    def class_level(self) -> "_Folder | None":
        """Return the folder whose folders are a split's classes: itself or a single one in it."""
        if len(self.folders) == 1:
            name = self.folders[0].name
            if name.lower() in WRAPPERS or split_of(name) == split_of(self.name):
                return self.folders[0].class_level()
        return self if self.folders else None

    def meant(self) -> str:
        """Ask whether a folder further down is meant, if a single one leads to several."""
        deepest = self
        while len(deepest.folders) == 1:
            deepest = deepest.folders[0]
        if deepest is self or not deepest.folders:
            return ""
        names = several(each.name for each in deepest.folders)
        return f"; {deepest.name} has the folders {names}: is data_root {deepest.path} meant?"


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
    told, rng = _Told(), np.random.RandomState(0)  # the same numbers in every version of NumPy
    folder = _Folder(root, told)
    splits, sources = _given_splits(folder)
    if not splits:
        splits, sources = {"train": folder.classes()}, {}
    if "test" not in splits and "valid" in splits:
        splits["test"], sources["test"] = splits.pop("valid"), sources.pop("valid")
    if "test" not in splits:
        splits["train"], splits["test"] = _fifth(splits["train"], rng, root)
        sources["test"] = f"one picture in {TEST_SHARE} of each class"
    if told.odd:
        told.notes.append(
            "not read, since they are no files, lead nowhere or lead round in a circle: "
            f"{several(map(str, sorted(told.odd)), 3)}"
        )
    order = {split: interleave(splits.get(split, {}), rng) for split in ("train", "test", "valid")}
    return Listing(
        root, tuple(splits["train"]), **order, sources=sources, unread=told.unread,
        notes=tuple(told.notes),
    )  # fmt: skip


def split_of(name: str) -> str:
    """Return the split that a folder of this name is for: train, valid, test, or none, empty."""
    return SPLITS.get(FILLER.sub("", name.lower()), "")


def _given_splits(root: _Folder) -> tuple[dict[str, ClassFiles], dict[str, str]]:
    """Return the splits that are folders of their own, and where each is from; or none."""
    named: dict[str, list[_Folder]] = {"train": [], "test": [], "valid": [], "": []}
    for each in root.folders:
        named[split_of(each.name)].append(each)
    names = {split: several(each.name for each in folders) for split, folders in named.items()}
    level = next(filter(None, (each.class_level() for each in named["train"])), None)
    if not level:
        deep = any(each.class_level() for each in (*named["test"], *named["valid"]))
        if root.folders and (deep or not named[""]):
            raise SettingsError(
                f"{root.path} has {several(each.name for each in root.folders)}, but no folder "
                f"train that has a folder a class{root.meant()}; expected: {LAYOUT}."
            )
        return {}, {}
    for split in ("train", "test", "valid"):
        if len(named[split]) > 1:
            raise SettingsError(
                f"{root.path} has {names[split]}, which all mean {split}: put them together, or "
                "move all but one away."
            )
    train = level.classes()
    splits, sources = {"train": train}, {"train": named["train"][0].name}
    for split in ("test", "valid"):
        for folder in named[split]:
            needed = not (named["valid"] if split == "test" else "test" in splits)
            files, source = _held_out(folder, level, train, needed)
            if files:
                splits[split], sources[split] = files, source
            else:
                root.told.notes.append(f"{folder.path} is not read: {source}")
    if named[""]:
        root.told.notes.append(f"not read in {root.path}: the folders {names['']}")
    return splits, sources


def _held_out(
    folder: _Folder, level: _Folder, train: ClassFiles, needed: bool
) -> tuple[ClassFiles, str]:
    """Return a split's files by class and where they are from; or none, and why.

    `needed`: without it there is no test split, and what looks like one is refused.
    """
    place = folder.class_level() or folder
    names = {each.name for each in place.folders}
    if not names & set(train):
        if not folder.pictures:
            raise SettingsError(
                f"{folder.path} has no pictures to test on: add some or remove it; "
                f"expected: {LAYOUT}."
            )
        if split_of(folder.name) == "valid":
            files, source = flat_files(folder.path, folder.pictures, train, needed)
            if files:
                return files, f"{folder.name}, its labels from {source}"
        if not needed or len(names) < 2:
            return {}, "it has neither a class folder of train nor labels"
    if odd := sorted(set(train) ^ names):
        raise SettingsError(
            f"the classes of {level.path} and {place.path} differ in {several(odd)}: both need the "
            "same folders."
        )
    return place.classes(), folder.name


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
