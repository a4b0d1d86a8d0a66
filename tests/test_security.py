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
import os
import pickle
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chapter_tools import code_cells, load, text
from fuzz_tools import Patch, one_line, refusal_of
from local_server import GOOD, WANTED, Entry, archive_of, entry, tar_of
from picture_tools import make
from safetensors.torch import save
from scipy.io import savemat
from sources import MODULES, NOTEBOOKS
from torchvision import datasets

from darts_lib.data.data_sets import archives, read_downloaded
from darts_lib.data.downloads import Archive, prepare
from darts_lib.data.imagenet_data import find_pictures
from darts_lib.data.images import load_images
from darts_lib.data.labels import KIT, TRUTH
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


MARK = Path(tempfile.gettempdir()) / f"darts-lib-test-{os.getpid()}-was-here"
"""The file that is there if anything was run."""


class Malicious:
    """What a harmful pickle does: it names a function to call when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (MARK,)


def written(write: Callable[[io.BytesIO], object]) -> bytes:
    write(buffer := io.BytesIO())
    return buffer.getvalue()


def saved(content: object, zipped: bool = True) -> bytes:
    return written(lambda file: torch.save(content, file, _use_new_zipfile_serialization=zipped))


def arrays(**content: Any) -> bytes:
    return written(lambda file: np.savez(file, **content))


def zip_of(files: dict[str, bytes]) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


PICKLED = pickle.dumps(Malicious())
BY_TORCH, BY_OLD_TORCH = (saved({"x": Malicious(), "format": 1}, new) for new in (True, False))


def test_the_payload_works_where_it_is_let() -> None:
    pickle.loads(PICKLED)
    assert MARK.exists()
    MARK.unlink()


@contextlib.contextmanager
def harmless() -> Iterator[None]:
    """Expect a refusal in one of the library's own errors, and nothing to have been run."""
    with pytest.raises((SettingsError, GenotypeError, DamagedFileError)) as caught:
        yield
    assert not MARK.exists()
    assert "weights_only" not in one_line(caught.value), "torch's advice would be to trust it"


CALL = f"Genotype(normal=__import__('pathlib').Path({str(MARK)!r}).touch(), normal_concat=[2])"
CELL, ZERO = RECURRENT["DARTS_V2"], torch.zeros(1)
ENCODER = {"encoder.weight": torch.zeros(4, 2)}
NOT_JSON = (PICKLED, b"[" * 100_000, b'[{"a": 1}]')
OBJECT = b'{"py/object": "os.system", "settings": 3}'
"""Of another kind; any object is fine as a result or as a row of a history."""
Read = Callable[[Path], object]


def network(file: Path) -> object:
    return load_image_network(file, PUBLISHED["DARTS_V2"])


@pytest.mark.parametrize(("name", "read", "contents"), [
    ("checkpoint.pt", unpack, (PICKLED, BY_TORCH, BY_OLD_TORCH)),
    ("weights.pt", read_weights, (PICKLED, BY_TORCH, BY_OLD_TORCH)),
    ("weights.safetensors", read_weights, (BY_TORCH, save({"x": ZERO}, {"genotype": CALL}))),
    ("weights.safetensors", network, (save(ENCODER, {"genotype": str(CELL)}),)),
    ("weights.pth", network, (BY_TORCH,)),
    ("alphas.npz", lambda file: read_alphas(file.parent), (
        *(PICKLED, arrays(normal=np.array([Malicious()], dtype=object))),
        *(zip_of({"../normal": PICKLED}), arrays(normal=np.array(["a", "b"]))),
        written(lambda file: np.save(file, np.zeros(3))),
    )),
    ("genotype.json", lambda file: find_genotype(str(file)), (*NOT_JSON, OBJECT)),
    ("config.json", lambda file: stored_config(file.parent, SearchConfig), (*NOT_JSON, OBJECT)),
    ("settings.json", lambda file: read_config(file, SearchConfig), (*NOT_JSON, OBJECT)),
    ("result.json", read_json, NOT_JSON),
    ("history.jsonl", lambda file: read_history(file.parent), NOT_JSON),
    ("history.jsonl", lambda file: genotypes_of(read_history(file.parent)),
        (b'{"genotype": ["a"]}\n',)),
])  # fmt: skip
def test_a_harmful_file_does_nothing(name: str, read: Read, contents: Any, tmp_path: Path) -> None:
    for content in contents:
        (tmp_path / name).write_bytes(content)
        with harmless():
            read(tmp_path / name)


def of_the_right_size(folder: Path) -> object:
    """Read Fashion-MNIST's files, each the harmful one made as long as it should be."""
    for archive in archives("fashion_mnist"):
        file = folder / archive.members[0].path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(PICKLED)
        os.truncate(file, archive.members[0].bytes or 0)
    return read_downloaded("fashion_mnist", folder)


SEARCH = SearchConfig.create(scale="laptop", channels=2, layers=1, nodes=1).settings_that_matter()
A_SEARCH = json.dumps({"format": 1, "settings": {"kind": "search", **SEARCH}}).encode()
RESULT = {"result.json": json.dumps({"genotype": CELL.to_dict()}).encode()}
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
CIFAR = [f"{datasets.CIFAR10.base_folder}/{name}" for name in BATCHES]
MAT = written(lambda file: savemat(file, {"X": "odd", "y": "odd"}))
ALPHAS = {"alphas.npz": arrays(normal=np.zeros((2, 14, 8), np.float32))}
WEIGHTS = "weights.safetensors"


@pytest.mark.parametrize(("read", "files"), [
    (load_search, {"config.json": A_SEARCH, "checkpoint.pt": BY_TORCH}),
    (load_recurrent_network, {WEIGHTS: PICKLED}),
    (load_recurrent_network, {WEIGHTS: save({"stem.0.weight": ZERO}), **RESULT}),
    (load_recurrent_network, {WEIGHTS: save({"encoder.weight": ZERO}), **RESULT}),
    (load_recurrent_network, {WEIGHTS: save(ENCODER), "result.json": b"{}"}),
    *((read, {"history.jsonl": odd, **ALPHAS}) for read in (read_search, read_recurrent_search)
      for odd in (b"", b"{}\n", b'{"genotype": 3}\n', b'{"genotype": "os.system"}\n')),
    (lambda folder: read_downloaded("cifar10", folder), dict.fromkeys(CIFAR, PICKLED)),
    (lambda folder: read_downloaded("svhn", folder),
        dict.fromkeys(("train_32x32.mat", "test_32x32.mat"), MAT)),
    (of_the_right_size, {}),
    (lambda folder: find_pictures(make(folder, flat=True)),
        {f"{KIT}/meta.mat": PICKLED, f"{KIT}/{TRUTH}": b"1\n2\n3\n" * 2}),
    (lambda folder: find_pictures(make(folder, flat=True)), {"val_labels.txt": PICKLED}),
    (lambda folder: load_images("folder", make(folder), "train"), {"train/n01/odd.png": PICKLED}),
    (lambda folder: load_text("folder", folder),
        dict.fromkeys(("train.txt", "valid.txt", "test.txt"), PICKLED)),
])  # fmt: skip
def test_a_harmful_folder_does_nothing(read: Read, files: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with harmless():
        read(tmp_path)


def write_config(path: Path, **settings: object) -> None:
    own = RetrainConfig.create(scale="laptop").settings_that_matter()
    content = {"format": 1, "settings": {"kind": "retrain", **own, **settings}}
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(content))


def test_a_run_folder_names_no_place(tmp_path: Path) -> None:
    write_config(tmp_path, data_root="/etc", run_dir="../x", device="cuda:7", resume=False)
    assert stored_config(tmp_path, RetrainConfig) == RetrainConfig.create(scale="laptop")
    places = RetrainConfig.create(scale="laptop", data_root="/my/own")
    assert stored_config(tmp_path, RetrainConfig, **this_machine(places)).data_root == "/my/own"


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
        stored = partial(stored_config, tmp_path / "run", RetrainConfig)
        refusal_of(stored, "is not the text of a cell")


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """Return a file that nothing may write to."""
    file = tmp_path / "outside"
    file.write_text("mine")
    yield file
    assert file.read_text() == "mine"


def test_links_in_a_run_folder_are_never_written_through(outside: Path, tmp_path: Path) -> None:
    path, state, progress = tmp_path / "run", {"x": torch.zeros(3)}, Progress()
    config = RunConfig.create(scale="laptop", dataset="digits", epochs=2, run_dir=str(path))
    with opened(config) as folder:
        progress.history.append({"epoch": 1})
        folder.save(state, progress)
    for name in ("history.jsonl", "checkpoint.next.pt", "result.json.part", ".x.1.part"):
        (path / name).unlink(missing_ok=True)
        (path / name).symlink_to(outside)
    with opened(config) as folder:
        assert folder.load() is not None
        progress.history.append({"epoch": 2})
        folder.save(state, progress)
        folder.finish({})
    assert not (path / "history.jsonl").is_symlink()
    assert [row["epoch"] for row in read_history(path)] == [1, 2]


def test_a_link_in_the_place_of_a_lock_is_refused(outside: Path, tmp_path: Path) -> None:
    """The lock is written to: through a link that would be another file."""
    (tmp_path / ".run.lock").symlink_to(outside)
    config = RunConfig.create(scale="laptop", dataset="digits", run_dir=str(tmp_path / "run"))
    refusal_of(opened(config).__enter__, "cannot be used")
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


def tree(folder: Path) -> dict[str, bytes | str]:
    """Return what each file below a folder holds, and where each link leads."""
    links = {path: os.readlink(path) for path in folder.rglob("*") if path.is_symlink()}
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {str(path.relative_to(folder)): each for path, each in (files | links).items()}


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
    refusal_of(lambda: prepare("toy", tmp_path / "data", [toy]), "toy/a is missing")
    assert not (tmp_path / "data" / "toy" / "a").exists()


@pytest.mark.parametrize(("name", "body"), [
    ("toy.tar.gz", b"no archive at all"),
    ("toy.tar.gz", tar_of()[:20]),
    ("toy.tar.gz", tar_of()[:-20]),
    ("z.zip", zip_of({"../evil": b"harm", **GOOD})),
])  # fmt: skip
def test_what_is_no_such_archive_is_refused(name: str, body: bytes, tmp_path: Path) -> None:
    toy = laid_down(tmp_path / "data", body, name)
    toy = replace(toy, members=toy.members[:1])
    refusal_of(lambda: prepare("toy", tmp_path / "data", [toy]), "another folder as data_root")
    assert set(tree(tmp_path)) <= {f"data/{name}", "data/.toy.lock", "data/toy/a"}


def test_a_compressed_file_goes_to_its_own_place_whatever_name_is_in_it(tmp_path: Path) -> None:
    with gzip.GzipFile("../../evil", "wb", fileobj=(buffer := io.BytesIO())) as packed:
        packed.write(GOOD["toy/a"])
    toy = laid_down(tmp_path / "data", buffer.getvalue(), "a.gz")
    prepare("toy", tmp_path / "data", [replace(toy, members=toy.members[:1])])
    assert set(tree(tmp_path)) == {"data/a.gz", "data/.toy.lock", "data/toy/a"}
