"""Files from a stranger: none runs code, none names a place, no archive writes where it likes.

Each reader of the library is given a file that would leave a mark if anything in it were run. What
it must do is nothing, and say in the library's own words that the file is not what it should be.
"""

import ast
import contextlib
import errno
import gzip
import io
import json
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chapter_tools import code_cells, load, text
from fuzz_tools import Patch, one_line, refusal_of
from local_server import GOOD, WANTED, Entry, archive_of, entry, tar_of
from malicious import Malicious
from picture_tools import make
from safetensors.torch import save
from scipy.io import savemat
from sources import MODULES, NOTEBOOKS
from torchvision import datasets

from darts_lib.data.data_sets import archives, read_downloaded
from darts_lib.data.downloads import Archive, prepare
from darts_lib.data.imagenet_data import KIT, TRUTH, find_pictures
from darts_lib.data.images import load_images
from darts_lib.data.text import load_text
from darts_lib.derivation import genotypes_of
from darts_lib.engine.command_line import read_config
from darts_lib.engine.files import DamagedFileError, locked, unpack
from darts_lib.engine.folder import Progress, read_alphas, read_history, read_json
from darts_lib.engine.opening import opened, stored_config, this_machine
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.settings import RunConfig
from darts_lib.formats.cell_choice import find_genotype
from darts_lib.formats.network_files import load_network as load_image_network
from darts_lib.formats.weight_files import read_weights
from darts_lib.genotype import PUBLISHED, GenotypeError
from darts_lib.recurrent.genotype import PUBLISHED as RECURRENT
from darts_lib.recurrent.retrain import load_network as load_recurrent_network
from darts_lib.recurrent.search import read_search as read_recurrent_search
from darts_lib.retrain import RetrainConfig
from darts_lib.search import SearchConfig, load_search, read_search

REFUSALS = (SettingsError, GenotypeError, DamagedFileError)
"""The library's own errors, each one line with the way out."""


SAFE_WITH = {"torch.load": "weights_only=True", "np.load": "allow_pickle=False"}
NEVER = {"compile", "__import__", "joblib.load", "yaml.load_all", "yaml.full_load"}
NEVER |= {"yaml.unsafe_load", "yaml.unsafe_load_all"}
UNPACKERS = ("extract_archive", "unpack_archive")


def unsafe(source: str) -> list[str]:
    """Return the calls that run or unpack what stands in a file and that ruff does not see."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        name
        for name, call in ((ast.unparse(call.func), call) for call in calls)
        if name in NEVER
        or name.endswith(UNPACKERS)
        or (name in SAFE_WITH and SAFE_WITH[name] not in map(ast.unparse, call.keywords))
    ]


UNSAFE = """compile(x, y, z); __import__(x); torch.load(x); torch.load(x, weights_only=False)
np.load(x); np.load(x, allow_pickle=True); joblib.load(x); yaml.unsafe_load(x)
shutil.unpack_archive(x); utils.extract_archive(x); utils.download_and_extract_archive(x, y)"""
HARMLESS = """net.compile(); re.compile(x); json.load(x); yaml.safe_load(x); archive.extractfile(x)
torch.load(x, weights_only=True); np.load(x, allow_pickle=False)"""


def test_nothing_runs_what_stands_in_a_file() -> None:
    """Magics are left out; a line for a shell would be no Python."""
    assert (len(unsafe(UNSAFE)), unsafe(HARMLESS)) == (11, [])
    sources = {path: path.read_text(encoding="utf-8") for path in MODULES}
    for path in NOTEBOOKS:
        lines = "\n".join(map(text, code_cells(load(path)))).split("\n")
        sources[path] = "\n".join(line for line in lines if not line.startswith("%"))
    assert {str(path): lines for path, source in sources.items() if (lines := unsafe(source))} == {}


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Return the file that is there if anything was run."""
    return tmp_path / "was here"


Content = str | bytes | Callable[[Path], str | bytes]
"""What a file holds, or what gives it for a mark."""


def pickled(mark: Path) -> bytes:
    return pickle.dumps(Malicious(mark))


def test_the_payload_works_where_it_is_let(mark: Path) -> None:
    pickle.loads(pickled(mark))
    assert mark.exists()


def written(write: Callable[[io.BytesIO], object]) -> bytes:
    write(buffer := io.BytesIO())
    return buffer.getvalue()


def saved(content: object, zipped: bool = True) -> bytes:
    return written(lambda file: torch.save(content, file, _use_new_zipfile_serialization=zipped))


def by_torch(mark: Path, zipped: bool = True) -> bytes:
    return saved({"state": {"x": Malicious(mark)}, "format": 1}, zipped)


by_old_torch = partial(by_torch, zipped=False)


def arrays(**content: Any) -> bytes:
    return written(lambda file: np.savez(file, **content))


def array_of_objects(mark: Path) -> bytes:
    return arrays(normal=np.array([Malicious(mark)], dtype=object))


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        [archive.writestr(name, content) for name, content in files.items()]
    return buffer.getvalue()


def call(mark: Path) -> str:
    """Return a genotype's text with a call in it."""
    harm = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    return f"Genotype(normal={harm}, normal_concat=[2], reduce=[], reduce_concat=[2])"


def checkpoint(folder: Path) -> object:
    return unpack(folder / "checkpoint.pt")


def weights(folder: Path) -> object:
    return read_weights(next(folder.glob("weights.*")))


def image_network(folder: Path) -> object:
    return load_image_network(next(folder.glob("weights.*")), PUBLISHED["DARTS_V2"])


def pictures(folder: Path) -> object:
    """Read the folder with pictures beside its file, which may be their labels."""
    return find_pictures(make(folder, flat=True))


def of_the_right_size(folder: Path) -> object:
    """Read Fashion-MNIST's files, each the harmful one made as long as it should be."""
    for archive in archives("fashion_mnist"):
        file = folder / archive.members[0].path
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as out:
            out.write((folder / "harm").read_bytes())
            out.truncate(archive.members[0].bytes)
    return read_downloaded("fashion_mnist", folder)


ALPHAS, WEIGHTS, HISTORY = "alphas.npz", "weights.safetensors", "history.jsonl"
SEARCH = SearchConfig.create(scale="laptop", channels=2, layers=1, nodes=1).settings_that_matter()
A_SEARCH = json.dumps({"format": 1, "settings": {"kind": "search", **SEARCH}})
CELL = RECURRENT["DARTS_V2"]
RESULT = {"result.json": json.dumps({"genotype": CELL.to_dict()})}
ZERO, ENCODER = torch.zeros(1), {"encoder.weight": torch.zeros(4, 2)}
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
CIFAR = [f"{datasets.CIFAR10.base_folder}/{name}" for name in BATCHES]
ODD_MAT = written(lambda file: savemat(file, {"X": "odd", "y": "odd"}))
SVHN = ["train_32x32.mat", "test_32x32.mat"]
TEXTS = ["train.txt", "valid.txt", "test.txt"]
NUMBERS = {f"{KIT}/{TRUTH}": "1\n2\n3\n" * 2}
ODD_HISTORIES = ("", "{}\n", '{"genotype": 3}\n', '{"genotype": "os.system"}\n')
SOME_ALPHAS = arrays(normal=np.zeros((2, 14, 8), np.float32))

Read = Callable[[Path], object]
CASES: list[tuple[Read, dict[str, Content]]] = [
    *((checkpoint, {"checkpoint.pt": form}) for form in (pickled, by_torch, by_old_torch)),
    *((weights, {"weights.pt": form}) for form in (pickled, by_torch, by_old_torch)),
    (image_network, {"weights.pth": by_torch}),
    (load_search, {"config.json": A_SEARCH, "checkpoint.pt": by_torch}),
    (read_alphas, {ALPHAS: pickled}),
    (read_alphas, {ALPHAS: array_of_objects}),
    (read_alphas, {ALPHAS: written(lambda file: np.save(file, np.zeros(3)))}),
    (read_alphas, {ALPHAS: arrays(normal=np.array(["a", "b"]))}),
    (read_alphas, {ALPHAS: lambda mark: zip_of({"../normal": pickled(mark)})}),
    (weights, {WEIGHTS: by_torch}),
    (weights, {WEIGHTS: lambda mark: save({"x": ZERO}, {"genotype": call(mark)})}),
    (image_network, {WEIGHTS: save(ENCODER, {"genotype": str(CELL)})}),
    (load_recurrent_network, {WEIGHTS: pickled}),
    (load_recurrent_network, {WEIGHTS: save({"stem.0.weight": ZERO}), **RESULT}),
    (load_recurrent_network, {WEIGHTS: save({"encoder.weight": ZERO}), **RESULT}),
    (load_recurrent_network, {WEIGHTS: save(ENCODER), "result.json": "{}"}),
    (lambda folder: genotypes_of(read_history(folder)), {HISTORY: '{"genotype": ["a"]}\n'}),
    *((read_search, {HISTORY: text, ALPHAS: SOME_ALPHAS}) for text in ODD_HISTORIES),
    *((read_recurrent_search, {HISTORY: text, ALPHAS: SOME_ALPHAS}) for text in ODD_HISTORIES),
    (lambda folder: read_downloaded("cifar10", folder), dict.fromkeys(CIFAR, pickled)),
    (lambda folder: read_downloaded("svhn", folder), dict.fromkeys(SVHN, ODD_MAT)),
    (of_the_right_size, {"harm": pickled}),
    (pictures, {f"{KIT}/meta.mat": pickled, **NUMBERS}),
    (pictures, {"val_labels.txt": pickled}),
    (lambda folder: load_images("folder", make(folder), "train"), {"train/n01/odd.png": pickled}),
    (lambda folder: load_text("folder", folder), dict.fromkeys(TEXTS, pickled)),
]
JSON_READERS: dict[str, Read] = {
    "genotype.json": lambda folder: find_genotype(str(folder)),
    "config.json": lambda folder: stored_config(folder, SearchConfig),
    "settings.json": lambda folder: read_config(folder / "settings.json", SearchConfig),
    "result.json": lambda folder: read_json(folder / "result.json"),
    HISTORY: read_history,
}
NOT_JSON: list[Content] = [pickled, b"[" * 100_000, '[{"a": 1}]']
CASES += [(read, {name: text}) for name, read in JSON_READERS.items() for text in NOT_JSON]
OBJECT = '{"py/object": "os.system", "settings": 3}'
"""Of another kind; any object is fine as a result or as a row of a history."""
CASES += [(JSON_READERS[name], {name: OBJECT}) for name in list(JSON_READERS)[:3]]


@pytest.mark.parametrize(("read", "files"), CASES)
def test_a_harmful_file_does_nothing(read: Read, files: Any, tmp_path: Path, mark: Path) -> None:
    folder = tmp_path / "folder"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        made = content(mark) if callable(content) else content
        (folder / name).write_bytes(made.encode() if isinstance(made, str) else made)
    with pytest.raises(REFUSALS) as caught:
        read(folder)
    assert not mark.exists()
    assert "weights_only" not in one_line(caught.value), "torch's advice would be to trust it"


def test_a_damaged_file_of_weights_is_refused_whatever_in_it_is_changed(tmp_path: Path) -> None:
    state, file = {"a": torch.arange(6.0), "b": torch.zeros(2, 2)}, tmp_path / "weights.pt"
    refusals = 0
    for whole in (saved(state), saved(state, zipped=False)):
        for position in range(0, len(whole), 5):
            changed = bytearray(whole)
            changed[position] ^= 1 << (position % 8)
            file.write_bytes(changed)
            try:
                assert all(isinstance(x, torch.Tensor) for x in read_weights(file).tensors.values())
            except SettingsError:
                refusals += 1
    assert refusals > 100


def config(path: Path) -> RunConfig:
    given = {"scale": "laptop", "dataset": "digits", "epochs": 3}
    return RunConfig.create(**given, run_dir=str(path))


def two_epochs(path: Path) -> None:
    """Leave a run folder with two finished epochs."""
    with opened(config(path)) as folder:
        progress = Progress()
        for epoch in (1, 2):
            progress.history.append({"epoch": epoch})
            folder.save({"x": torch.zeros(3)}, progress)


def write_config(path: Path, **settings: object) -> None:
    own = RetrainConfig.create(scale="laptop").settings_that_matter()
    content = {"format": 1, "settings": {"kind": "retrain", **own, **settings}}
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(content))


def test_a_run_folder_names_no_place(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain", tmp_path / "run"
    write_config(plain)
    write_config(path, data_root="/etc", run_dir="../../elsewhere", device="cuda:7", resume=False)
    assert stored_config(path, RetrainConfig) == stored_config(plain, RetrainConfig)
    places = RetrainConfig.create(scale="laptop", data_root="/my/own")
    assert stored_config(path, RetrainConfig, **this_machine(places)).data_root == "/my/own"


def test_a_run_folder_names_no_file(tmp_path: Path, monkeypatch: Patch) -> None:
    """Though a person may name one, and each of these would be a good one."""
    here, cell = tmp_path / "here", PUBLISHED["DARTS_V1"]
    (here / "folder").mkdir(parents=True)
    for file in (here / "cell.json", tmp_path / "cell.json", here / "folder" / "genotype.json"):
        file.write_text(json.dumps(cell.to_dict()))
    (here / "link.json").symlink_to(tmp_path / "cell.json")
    monkeypatch.chdir(here)
    for name in ("cell.json", "../cell.json", f"{tmp_path}/cell.json", "link.json", "folder"):
        assert find_genotype(name) == cell
        write_config(tmp_path / "run", genotype=name)
        with pytest.raises(SettingsError, match="is not the text of a cell"):
            stored_config(tmp_path / "run", RetrainConfig)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """Return a file that nothing may write to."""
    file = tmp_path / "outside"
    file.write_text("mine")
    yield file
    assert file.read_text() == "mine"


def test_links_in_a_run_folder_are_never_written_through(outside: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    two_epochs(path)
    for name in ("history.jsonl", "checkpoint.next.pt", "result.json.part", ".x.1.part"):
        (path / name).unlink(missing_ok=True)
        (path / name).symlink_to(outside)
    with opened(config(path)) as folder:
        stored = folder.load()
        assert stored is not None
        stored[1].history.append({"epoch": 3})
        folder.save({"x": torch.zeros(3)}, stored[1])
        folder.finish({})
    assert not (path / "history.jsonl").is_symlink()
    assert [row["epoch"] for row in read_history(path)] == [1, 2, 3]


def test_a_link_in_the_place_of_a_lock_is_refused(outside: Path, tmp_path: Path) -> None:
    """The lock is written to: through a link that would be another file."""
    (tmp_path / ".run.lock").symlink_to(outside)
    with pytest.raises(SettingsError, match="cannot be used"):
        opened(config(tmp_path / "run")).__enter__()
    with pytest.raises(OSError, match=str(errno.ELOOP)):
        locked(tmp_path / ".run.lock", "thing", wait=0).__enter__()


def extra(outside: Path) -> dict[str, list[Entry]]:
    """Return entries that would write, link or make something they must not, by what they are."""

    def file(name: str) -> Entry:
        return entry(name, b"harm")

    def other(name: str, kind: bytes, link: str = "") -> Entry:
        return entry(name, type=kind, linkname=link, devmajor=1, devminor=3)

    symlink, up = tarfile.SYMTYPE, str(outside.parent)
    return {
        "a way up": [file("../evil"), file("toy/../../evil")],
        "an absolute path": [file(f"{up}/evil")],
        "a symlink": [other("toy/link", symlink, str(outside))],
        "a file through a symlink": [other("toy/out", symlink, ".."), file("toy/out/evil")],
        "one through an absolute symlink": [other("toy/x", symlink, up), file("toy/x/outside")],
        "a folder that is a symlink": [other("toy", symlink, "..")],
        "a hard link": [other("toy/hard", tarfile.LNKTYPE, "../outside")],
        "a symlink, then a file": [other("toy/x", symlink, str(outside)), file("toy/x")],
        "a device": [other("toy/null", tarfile.CHRTYPE), other("toy/disk", tarfile.BLKTYPE)],
        "a pipe": [other("toy/pipe", tarfile.FIFOTYPE)],
        "a file nobody asked for": [file("toy/c"), file(".bashrc"), file("toy.tar.gz")],
    }


def laid_down(root: Path, body: bytes, name: str = "toy.tar.gz") -> Archive:
    """Put an archive into a data folder."""
    root.mkdir()
    (root / name).write_bytes(body)
    return archive_of("http://127.0.0.1:9/toy", body, name)


def tree(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    contents = [b"a link" if path.is_symlink() else path.read_bytes() for path in paths]
    return {str(p.relative_to(folder)): each for p, each in zip(paths, contents, strict=True)}


@pytest.mark.parametrize("kind", extra(Path("/outside")))
def test_only_the_wanted_files_are_written(kind: str, outside: Path, tmp_path: Path) -> None:
    odd = extra(outside)[kind]
    for body in (tar_of([*odd, *WANTED]), tar_of([*WANTED, *odd])):
        prepare("toy", tmp_path / "data", [laid_down(tmp_path / "data", body)])
        files = tree(tmp_path)
        assert files.pop("data/.toy.lock").startswith(b"process ")
        expected = {f"data/{name}": content for name, content in GOOD.items()}
        assert files == {**expected, "data/toy.tar.gz": body, "outside": b"mine"}
        shutil.rmtree(tmp_path / "data")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_a_link_in_the_place_of_a_wanted_file_is_not_it(kind: bytes, tmp_path: Path) -> None:
    """Even if it leads to the very bytes that are wanted."""
    (tmp_path / "outside").write_bytes(GOOD["toy/a"])
    link = entry("toy/a", type=kind, linkname=str(tmp_path / "outside"))
    toy = laid_down(tmp_path / "data", tar_of([link, WANTED[1]]))
    with pytest.raises(SettingsError, match="toy/a is missing"):
        prepare("toy", tmp_path / "data", [toy])
    assert not (tmp_path / "data" / "toy" / "a").exists()


@pytest.mark.parametrize("body", [b"no archive at all", tar_of()[:20], tar_of()[:-20]], ids=len)
def test_an_archive_that_cannot_be_read_is_refused(body: bytes, tmp_path: Path) -> None:
    toy = laid_down(tmp_path / "data", body)
    refusal_of(lambda: prepare("toy", tmp_path / "data", [toy]), "another folder as data_root")


def named_elsewhere(file: io.BytesIO) -> None:
    with gzip.GzipFile("../../evil", "wb", fileobj=file) as packed:
        packed.write(GOOD["toy/a"])


def test_a_zip_is_not_unpacked_and_a_compressed_file_goes_to_its_own_place(tmp_path: Path) -> None:
    for name, body, left, ending in (
        ("z.zip", zip_of({"../evil": b"harm", **GOOD}), set(), pytest.raises(SettingsError)),
        ("a.gz", written(named_elsewhere), {"data/toy/a"}, contextlib.nullcontext()),
    ):
        toy = laid_down(tmp_path / "data", body, name)
        with ending:
            prepare("toy", tmp_path / "data", [Archive(toy.url, toy.file, toy.members[:1], 1)])
        assert set(tree(tmp_path)) == {f"data/{name}", "data/.toy.lock", *left}
        shutil.rmtree(tmp_path / "data")
