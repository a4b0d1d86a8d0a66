"""Files from a stranger: none runs code, none names a place, no archive writes where it likes.

Each reader of the library is given a file that would leave a mark if anything in it were run. What
it must do is nothing, and say in the library's own words that the file is not what it should be.
"""

import ast
import errno
import gzip
import io
import json
import pickle
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from malicious import Malicious
from safetensors.torch import save, save_file
from scipy.io import savemat
from test_downloads import Server, md5
from test_imagenet_data import make
from test_structure import LIBRARY, MODULES
from torchvision import datasets

from darts_lib.data.data_sets import archives, read_downloaded
from darts_lib.data.downloads import Archive, DataFile, prepare
from darts_lib.data.imagenet_data import find_pictures
from darts_lib.data.imagenet_labels import KIT, TRUTH
from darts_lib.data.images import load_images
from darts_lib.data.text import load_text
from darts_lib.derivation import genotypes_of
from darts_lib.engine.command_line import read_config
from darts_lib.engine.files import DamagedFileError, locked, unpack
from darts_lib.engine.folder import Progress
from darts_lib.engine.opening import opened, stored_config, this_machine
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.run_files import read_alphas, read_history, read_json
from darts_lib.engine.settings import RunConfig
from darts_lib.formats import dialects
from darts_lib.formats.cell_choice import find_genotype
from darts_lib.formats.network_files import load_network as load_image_network
from darts_lib.formats.weight_files import read_weights
from darts_lib.genotype import PUBLISHED, GenotypeError
from darts_lib.recurrent.genotype import PUBLISHED as RECURRENT
from darts_lib.recurrent.retrain import load_network as load_recurrent_network
from darts_lib.recurrent.search import read_search as read_recurrent_search
from darts_lib.retrain_step import RetrainConfig
from darts_lib.search import load_search, read_search
from darts_lib.search_settings import SearchConfig

NOTEBOOKS = sorted((LIBRARY.parent / "notebooks").glob("*.ipynb"))
REFUSALS = (SettingsError, GenotypeError, DamagedFileError)
"""The library's own errors, each one line with the way out."""

# In the source ----------------------------------------------------------------------------------

UNSAFE_CALLS = {
    "pickle": {"load", "loads", "Unpickler"},
    "marshal": {"load", "loads"},
    "shelve": {"open"},
    "joblib": {"load"},
    "yaml": {"load", "load_all", "full_load", "unsafe_load", "unsafe_load_all"},
    "os": {"system", "popen"},
    "tempfile": {"mktemp"},
}
WITH_SAFETY = {("torch", "load"): ("weights_only", True), ("np", "load"): ("allow_pickle", False)}
UNPACKERS = {"extractall", "extract_archive", "unpack_archive", "download_and_extract_archive"}


def safe_loaders(tree: ast.AST) -> set[str]:
    """Return the classes of a source that are yaml's loader of plain data, with more checks."""
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    return {
        each.name for each in classes if [ast.unparse(b) for b in each.bases] == ["yaml.SafeLoader"]
    }


def unsafe(source: str) -> list[str]:
    """Return a line for each call that could run what stands in a file, or unpack it anywhere."""
    found, tree = [], ast.parse(source)
    for node in ast.walk(tree):
        what = None
        match node:
            case ast.Call(func=ast.Name(id="eval" | "exec" | "compile" | "__import__" as name)):
                what = name
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="yaml"), attr="load"),
                args=[_, ast.Name(id=loader)],
            ) if loader in safe_loaders(tree):
                pass
            case ast.ImportFrom(module=str(module), names=names) if module in UNSAFE_CALLS:
                taken = {alias.name for alias in names} & UNSAFE_CALLS[module]
                what = f"from {module} import {', '.join(sorted(taken))}" if taken else None
            case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr=name), keywords=given):
                values = {word.arg: getattr(word.value, "value", None) for word in given}
                if name in UNSAFE_CALLS.get(module, ()):
                    what = f"{module}.{name}"
                elif (module, name) in WITH_SAFETY:
                    argument, value = WITH_SAFETY[module, name]
                    what = None if values.get(argument) is value else f"{name} without {argument}"
                elif values.get("shell"):
                    what = "shell=True"
                elif name in UNPACKERS:
                    what = name
            case ast.Call(func=ast.Attribute(attr=name)) if name in UNPACKERS:
                what = name
        if what:
            found.append(f"line {getattr(node, 'lineno', '?')}: {what}")
    return found


def code_of(notebook: Path) -> str:
    """Return a notebook's code cells as one source, without magics; a line for a shell stays."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    lines = "\n".join(code).split("\n")
    return "\n".join(line for line in lines if not line.startswith("%"))


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_no_module_runs_what_stands_in_a_file(path: Path) -> None:
    assert unsafe(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_notebook_does(path: Path) -> None:
    assert unsafe(code_of(path)) == [], "and no line for a shell, which is no Python"


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "__import__(name)",
        "pickle.loads(x)",
        "from pickle import loads",
        "yaml.load(x, Loader)",
        "class Mine(yaml.Loader): ...\nyaml.load(x, Mine)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "np.load(x)",
        "np.load(x, allow_pickle=True)",
        "subprocess.run(x, shell=True)",
        "os.system(x)",
        "tarfile.open(x).extractall(y)",
        "utils.extract_archive(x)",
        "tempfile.mktemp()",
    ],
)
def test_an_unsafe_call_is_noticed(source: str) -> None:
    assert unsafe(source)


@pytest.mark.parametrize(
    "source",
    [
        "net.eval()",
        "net.compile()",
        "ast.literal_eval(x)",
        "json.loads(x)",
        "yaml.safe_load(x)",
        "class Mine(yaml.SafeLoader): ...\nyaml.load(x, Mine)",
        "torch.load(x, weights_only=True)",
        "np.load(x, allow_pickle=False)",
        "subprocess.run([x])",
        "archive.extractfile(x)",
        "from pickle import UnpicklingError",
    ],
)
def test_its_harmless_neighbour_passes(source: str) -> None:
    assert unsafe(source) == []


# Files that would run code ----------------------------------------------------------------------


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Return the file that is there if anything was run."""
    return tmp_path / "was here"


def test_the_payload_works_where_it_is_let(mark: Path) -> None:
    pickle.loads(pickle.dumps(Malicious(mark)))
    assert mark.exists()


Plant = Callable[[Path, Path], Callable[[], object]]
"""Puts a harmful file into a folder, given the mark, and returns what reads it."""
PLANTS: dict[str, Plant] = {}


def plant(function: Plant) -> Plant:
    PLANTS[function.__name__] = function
    return function


def saved(content: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def harmful(mark: Path) -> dict[str, bytes]:
    """Return the payload as a bare pickle, and as torch writes one in its new and its old form."""
    payload = {"state": {"x": Malicious(mark)}, "format": 1}
    return {
        "pickle": pickle.dumps(Malicious(mark)),
        "torch": saved(payload),
        "old torch": saved(payload, _use_new_zipfile_serialization=False),
    }


for form in ("pickle", "torch", "old torch"):

    def checkpoint(folder: Path, mark: Path, form: str = form) -> Callable[[], object]:
        (folder / "checkpoint.pt").write_bytes(harmful(mark)[form])
        return lambda: unpack(folder / "checkpoint.pt")

    def weights(folder: Path, mark: Path, form: str = form) -> Callable[[], object]:
        (folder / "weights.pt").write_bytes(harmful(mark)[form])
        return lambda: read_weights(folder / "weights.pt")

    def network(folder: Path, mark: Path, form: str = form) -> Callable[[], object]:
        (folder / "weights.pth").write_bytes(harmful(mark)[form])
        return lambda: load_image_network(folder / "weights.pth", PUBLISHED["DARTS_V2"])

    PLANTS |= {f"checkpoint, {form}": checkpoint, f"weights, {form}": weights}
    PLANTS |= {f"network, {form}": network}


@plant
def search_folder(folder: Path, mark: Path) -> Callable[[], object]:
    config = SearchConfig.create(scale="laptop", channels=2, layers=1, nodes=1)
    settings = {"kind": "search", **config.settings_that_matter()}
    (folder / "config.json").write_text(json.dumps({"format": 1, "settings": settings}))
    (folder / "checkpoint.pt").write_bytes(harmful(mark)["torch"])
    return lambda: load_search(folder)


@plant
def alphas_of_objects(folder: Path, mark: Path) -> Callable[[], object]:
    harm = np.array([Malicious(mark)], dtype=object)
    np.savez(folder / "alphas.npz", normal=harm)
    return lambda: read_alphas(folder)


@plant
def alphas_that_are_one_array(folder: Path, mark: Path) -> Callable[[], object]:
    with (folder / "alphas.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    return lambda: read_alphas(folder)


@plant
def alphas_of_words(folder: Path, mark: Path) -> Callable[[], object]:
    np.savez(folder / "alphas.npz", normal=np.array(["a", "b"]))
    return lambda: read_alphas(folder)


@plant
def alphas_with_a_bare_file(folder: Path, mark: Path) -> Callable[[], object]:
    with zipfile.ZipFile(folder / "alphas.npz", "w") as archive:
        archive.writestr("../normal", harmful(mark)["pickle"])
    return lambda: read_alphas(folder)


@plant
def alphas_that_are_a_pickle(folder: Path, mark: Path) -> Callable[[], object]:
    (folder / "alphas.npz").write_bytes(harmful(mark)["pickle"])
    return lambda: read_alphas(folder)


@plant
def safetensors_that_are_a_pickle(folder: Path, mark: Path) -> Callable[[], object]:
    (folder / "weights.safetensors").write_bytes(harmful(mark)["torch"])
    return lambda: read_weights(folder / "weights.safetensors")


@plant
def safetensors_with_a_call_for_a_genotype(folder: Path, mark: Path) -> Callable[[], object]:
    save_file({"x": torch.zeros(1)}, folder / "w.safetensors", {"genotype": call(mark)})
    return lambda: read_weights(folder / "w.safetensors")


@plant
def recurrent_safetensors_that_are_a_pickle(folder: Path, mark: Path) -> Callable[[], object]:
    (folder / "weights.safetensors").write_bytes(harmful(mark)["pickle"])
    return lambda: load_recurrent_network(folder)


RECURRENT_RESULT = json.dumps({"genotype": RECURRENT["DARTS_V2"].to_dict()})


@plant
def recurrent_safetensors_of_images(folder: Path, mark: Path) -> Callable[[], object]:
    (folder / "weights.safetensors").write_bytes(save({"stem.0.weight": torch.zeros(1)}))
    (folder / "result.json").write_text(RECURRENT_RESULT)
    return lambda: load_recurrent_network(folder)


@plant
def recurrent_safetensors_of_another_shape(folder: Path, mark: Path) -> Callable[[], object]:
    (folder / "weights.safetensors").write_bytes(save({"encoder.weight": torch.zeros(4)}))
    (folder / "result.json").write_text(RECURRENT_RESULT)
    return lambda: load_recurrent_network(folder)


@plant
def recurrent_result_without_a_cell(folder: Path, mark: Path) -> Callable[[], object]:
    (folder / "weights.safetensors").write_bytes(save({"encoder.weight": torch.zeros(4, 2)}))
    (folder / "result.json").write_text("{}")
    return lambda: load_recurrent_network(folder)


@plant
def image_safetensors_of_a_language_model(folder: Path, mark: Path) -> Callable[[], object]:
    file = folder / "weights.safetensors"
    cell = str(RECURRENT["DARTS_V2"])
    file.write_bytes(save({"encoder.weight": torch.zeros(4, 2)}, {"genotype": cell}))
    return lambda: load_image_network(file)


def call(mark: Path) -> str:
    """Return a genotype's text with a call in it."""
    harm = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    return f"Genotype(normal={harm}, normal_concat=[2], reduce=[], reduce_concat=[2])"


@plant
def genotype_text(folder: Path, mark: Path) -> Callable[[], object]:
    return lambda: find_genotype(call(mark))


@plant
def genotype_text_of_another_project(folder: Path, mark: Path) -> Callable[[], object]:
    return lambda: dialects.read(call(mark), "pt.darts")


@plant
def genotype_yaml(folder: Path, mark: Path) -> Callable[[], object]:
    harm = f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{mark}]]"
    return lambda: dialects.read(f"normal:\n  chosen: {harm}\n")


@plant
def genotype_yaml_in_json_form(folder: Path, mark: Path) -> Callable[[], object]:
    harm = f'{{"chosen": !!python/object/new:os.system ["touch \'{mark}\'"]}}'
    return lambda: dialects.read(harm, "mmrazor")


JSON_FILES: dict[str, Callable[[Path], object]] = {
    "genotype.json": lambda folder: find_genotype(str(folder)),
    "result.json": lambda folder: read_json(folder / "result.json"),
    "config.json": lambda folder: stored_config(folder, SearchConfig),
    "settings.json": lambda folder: read_config(folder / "settings.json", SearchConfig),
    "history.jsonl": read_history,
}
NOT_JSON: dict[str, Callable[[Path], bytes]] = {
    "pickle": lambda mark: harmful(mark)["pickle"],
    "deep": lambda mark: b"[" * 100_000,
    "not an object": lambda mark: b'[{"a": 1}]',
    "an object of another kind": lambda mark: b'{"py/object": "os.system", "settings": 3}',
}

for name, reader in JSON_FILES.items():
    for how, content in NOT_JSON.items():
        if how == "an object of another kind" and name in ("result.json", "history.jsonl"):
            continue  # any object is fine there

        def json_file(
            folder: Path,
            mark: Path,
            name: str = name,
            reader: Callable[[Path], object] = reader,
            content: Callable[[Path], bytes] = content,
        ) -> Callable[[], object]:
            (folder / name).write_bytes(content(mark))
            return lambda: reader(folder)

        PLANTS[f"{name}, {how}"] = json_file


for text in ("", "{}\n", '{"genotype": 3}\n', '{"genotype": "os.system"}\n'):

    def history(folder: Path, mark: Path, text: str = text) -> Callable[[], object]:
        (folder / "history.jsonl").write_text(text)
        np.savez(folder / "alphas.npz", normal=np.zeros((2, 14, 8), np.float32))
        return lambda: read_search(folder)

    def recurrent_history(folder: Path, mark: Path, text: str = text) -> Callable[[], object]:
        history(folder, mark, text)
        return lambda: read_recurrent_search(folder)

    PLANTS |= {f"history of a search {text!r}": history}
    PLANTS |= {f"history of a recurrent search {text!r}": recurrent_history}


@plant
def history_of_odd_cells(folder: Path, mark: Path) -> Callable[[], object]:
    (folder / "history.jsonl").write_text('{"genotype": ["a"]}\n')
    return lambda: genotypes_of(read_history(folder))


@plant
def cifar_pickle(folder: Path, mark: Path) -> Callable[[], object]:
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"):
        file = folder / datasets.CIFAR10.base_folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(harmful(mark)["pickle"])
    return lambda: read_downloaded("cifar10", folder)


@plant
def svhn_file(folder: Path, mark: Path) -> Callable[[], object]:
    for split in ("train", "test"):
        savemat(folder / f"{split}_32x32.mat", {"X": "odd", "y": "odd"})
    return lambda: read_downloaded("svhn", folder)


@plant
def fashion_mnist_file_of_the_right_size(folder: Path, mark: Path) -> Callable[[], object]:
    for archive in archives("fashion_mnist"):
        file = folder / archive.members[0].path
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as out:
            out.write(harmful(mark)["pickle"])
            out.truncate(archive.members[0].bytes)
    return lambda: read_downloaded("fashion_mnist", folder)


@plant
def labels_of_a_kit(folder: Path, mark: Path) -> Callable[[], object]:
    root = make(folder / "pictures", flat=True)
    (root / KIT).mkdir(parents=True)
    (root / KIT / TRUTH).write_text("1\n2\n3\n" * 2)
    (root / KIT / "meta.mat").write_bytes(harmful(mark)["pickle"])
    return lambda: find_pictures(root)


@plant
def labels_that_are_a_pickle(folder: Path, mark: Path) -> Callable[[], object]:
    root = make(folder / "pictures", flat=True)
    (root / "val_labels.txt").write_bytes(harmful(mark)["pickle"])
    return lambda: find_pictures(root)


@plant
def picture(folder: Path, mark: Path) -> Callable[[], object]:
    root = make(folder / "pictures")
    (root / "train" / "n01" / "odd.png").write_bytes(harmful(mark)["pickle"])
    return lambda: load_images("folder", root, "train")


@plant
def text_corpus(folder: Path, mark: Path) -> Callable[[], object]:
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_bytes(harmful(mark)["pickle"])
    return lambda: load_text("folder", folder)


@pytest.mark.parametrize("name", PLANTS)
def test_a_harmful_file_does_nothing_and_is_refused(name: str, tmp_path: Path, mark: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    read = PLANTS[name](folder, mark)
    with pytest.raises(REFUSALS) as caught:
        read()
    assert not mark.exists()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_a_damaged_file_of_weights_is_refused_whatever_in_it_is_changed(tmp_path: Path) -> None:
    """Each reader's complaint becomes ours; what still can be read is tensors."""
    state, file = {"a": torch.arange(6.0), "b": torch.zeros(2, 2)}, tmp_path / "weights.pt"
    refused = 0
    for whole in (saved(state), saved(state, _use_new_zipfile_serialization=False)):
        for position in range(0, len(whole), 5):
            changed = bytearray(whole)
            changed[position] ^= 1 << (position % 8)
            file.write_bytes(changed)
            try:
                found = read_weights(file)
            except SettingsError:
                refused += 1
            else:
                assert all(isinstance(value, torch.Tensor) for value in found.tensors.values())
    assert refused > 100


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


def test_a_run_whose_checkpoints_are_harmful_begins_anew(
    tmp_path: Path, mark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    two_epochs(path)
    for name, form in (("checkpoint.pt", "torch"), ("checkpoint.previous.pt", "pickle")):
        (path / name).write_bytes(harmful(mark)[form])
    with opened(config(path)) as folder:
        assert folder.load() is None
    assert not mark.exists()
    assert "no good checkpoint is left" in capsys.readouterr().out
    assert (path / "checkpoint.pt.damaged").exists(), "kept, to be looked at"


# Places -----------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("name", ["cell.json", "../cell.json", "{absolute}", "link.json", "folder"])
def test_a_run_folder_names_no_file_with_its_cell(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though a person may name one, and each of these would be a good one."""
    here = tmp_path / "here"
    (here / "folder").mkdir(parents=True)
    cell = json.dumps(PUBLISHED["DARTS_V1"].to_dict())
    for file in (here / "cell.json", tmp_path / "cell.json", here / "folder" / "genotype.json"):
        file.write_text(cell)
    (here / "link.json").symlink_to(tmp_path / "cell.json")
    monkeypatch.chdir(here)
    name = name.format(absolute=tmp_path / "cell.json")
    assert find_genotype(name) == PUBLISHED["DARTS_V1"]
    write_config(tmp_path / "run", genotype=name)
    with pytest.raises(SettingsError, match="is not the text of a cell"):
        stored_config(tmp_path / "run", RetrainConfig)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("{first}", "../../{first}", "{first} has no label"),
        ("{first}", "/etc/{first}", "{first} has no label"),
        ("n01", "../n01", "differ in 2, ../n01, n01: train/ needs"),
        ("n01", "/n01", "differ in 2, /n01, n01: train/ needs"),
    ],
)
def test_labels_name_no_file_and_no_folder(old: str, new: str, words: str, tmp_path: Path) -> None:
    root = make(tmp_path / "pictures", flat=True)
    pictures = sorted(file.stem for file in (root / "val").iterdir())
    old, new, words = (text.format(first=pictures[0]) for text in (old, new, words))
    known = "\n".join(f"{name}.JPEG n0{i % 3 + 1}" for i, name in enumerate(pictures))
    (root / "val_labels.txt").write_text(known)
    find_pictures(root)
    (root / "val_labels.txt").write_text(known.replace(old, new))
    with pytest.raises(SettingsError) as caught:
        find_pictures(root)
    assert words in str(caught.value)


def test_links_in_a_run_folder_are_replaced_and_never_written_through(tmp_path: Path) -> None:
    path, outside = tmp_path / "run", tmp_path / "outside"
    two_epochs(path)
    outside.write_text("mine")
    names = ("history.jsonl", "checkpoint.next.pt", "result.json.part", ".x.1.part")
    for name in names:
        (path / name).unlink(missing_ok=True)
        (path / name).symlink_to(outside)
    with opened(config(path)) as folder:
        stored = folder.load()
        assert stored is not None
        stored[1].history.append({"epoch": 3})
        folder.save({"x": torch.zeros(3)}, stored[1])
        folder.finish({})
    assert outside.read_text() == "mine"
    assert not (path / "history.jsonl").is_symlink()
    assert [row["epoch"] for row in read_history(path)] == [1, 2, 3]


def test_a_link_in_the_place_of_a_lock_is_refused(tmp_path: Path) -> None:
    """The lock is written to: through a link that would be another file."""
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / ".run.lock").symlink_to(outside)
    with (
        pytest.raises(SettingsError, match="cannot be used"),
        opened(config(tmp_path / "run")),
    ):
        pass
    with (
        pytest.raises(OSError, match=str(errno.ELOOP)),
        locked(tmp_path / ".run.lock", "thing", wait=0),
    ):
        pass
    assert outside.read_text() == "mine"


# Archives ---------------------------------------------------------------------------------------

GOOD = {"toy/a": b"a" * 100, "toy/b": b"b" * 100}


def entry(name: str, **values: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for field, value in values.items():
        setattr(made, field, value)
    return made


Entry = tuple[tarfile.TarInfo, bytes]


def extra(outside: Path) -> dict[str, list[Entry]]:
    """Return entries that would write, link or make something they must not, by what they are."""
    harm = b"harm"

    def file(name: str) -> Entry:
        return entry(name, size=len(harm)), harm

    def other(name: str, kind: bytes, link: str = "") -> Entry:
        return entry(name, type=kind, linkname=link, devmajor=1, devminor=3), b""

    link, hard = tarfile.SYMTYPE, tarfile.LNKTYPE
    return {
        "a way up": [file("../evil"), file("toy/../../evil")],
        "an absolute path": [file(str(outside.parent / "evil"))],
        "a symlink": [other("toy/link", link, str(outside))],
        "a file through a symlink": [other("toy/out", link, ".."), file("toy/out/evil")],
        "a file through an absolute symlink": [
            other("toy/out", link, str(outside.parent)),
            file("toy/out/outside"),
        ],
        "a folder that is a symlink": [other("toy", link, "..")],
        "a hard link": [other("toy/hard", hard, "../outside")],
        "a symlink, then a file of its name": [
            other("toy/x", link, str(outside)),
            file("toy/x"),
        ],
        "a device": [other("toy/null", tarfile.CHRTYPE), other("toy/disk", tarfile.BLKTYPE)],
        "a pipe": [other("toy/pipe", tarfile.FIFOTYPE)],
        "a file nobody asked for": [file("toy/c"), file(".bashrc"), file("toy.tar.gz")],
    }


def tar_of(entries: list[Entry]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for made, content in entries:
            archive.addfile(made, io.BytesIO(content))
    return buffer.getvalue()


def laid_down(root: Path, body: bytes, name: str = "toy.tar.gz") -> Archive:
    """Put an archive into a data folder, with the checksum that its maker promised."""
    root.mkdir()
    (root / name).write_bytes(body)
    members = tuple(DataFile(member, md5(content)) for member, content in GOOD.items())
    return Archive("http://127.0.0.1:9/toy", DataFile(name, md5(body)), members, 1)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): b"a link" if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("kind", extra(Path("/outside")))
def test_of_an_archive_only_the_files_that_are_wanted_are_written(
    kind: str, first: bool, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    good = [(entry(name, size=len(content)), content) for name, content in GOOD.items()]
    odd = extra(outside)[kind]
    body = tar_of([*odd, *good] if first else [*good, *odd])
    prepare("toy", tmp_path / "data", [laid_down(tmp_path / "data", body)])
    wanted = {f"data/{name}": content for name, content in GOOD.items()}
    wanted |= {"data/toy.tar.gz": body, "outside": b"mine"}
    found = tree(tmp_path)
    lock = found.pop("data/.toy.lock")
    assert found == wanted
    assert lock.startswith(b"process ")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_a_link_in_the_place_of_a_wanted_file_is_not_it(kind: bytes, tmp_path: Path) -> None:
    """Even if it leads to the very bytes that are wanted."""
    (tmp_path / "outside").write_bytes(GOOD["toy/a"])
    link = entry("toy/a", type=kind, linkname=str(tmp_path / "outside"))
    body = tar_of([(link, b""), (entry("toy/b", size=100), GOOD["toy/b"])])
    root = tmp_path / "data"
    toy = laid_down(root, body)
    with pytest.raises(SettingsError, match="toy/a is missing"):
        prepare("toy", root, [toy])
    assert not (root / "toy" / "a").exists()


@pytest.mark.parametrize("cut", [0, 20, -20])
def test_an_archive_that_cannot_be_read_is_refused(cut: int, tmp_path: Path) -> None:
    good = [(entry(name, size=len(content)), content) for name, content in GOOD.items()]
    body = tar_of(good)[:cut] if cut else b"no archive at all"
    toy = laid_down(tmp_path / "data", body)
    with pytest.raises(SettingsError) as caught:
        prepare("toy", tmp_path / "data", [toy])
    assert "\n" not in str(caught.value)
    assert "another folder as data_root" in str(caught.value)


def test_a_zip_is_not_unpacked_at_all(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../evil", b"harm")
        for name, content in GOOD.items():
            archive.writestr(name, content)
    toy = laid_down(tmp_path / "data", buffer.getvalue(), "toy.zip")
    toy = Archive(toy.url, toy.file, toy.members[:1], 1)
    with pytest.raises(SettingsError):
        prepare("toy", tmp_path / "data", [toy])
    assert set(tree(tmp_path)) == {"data/toy.zip", "data/.toy.lock"}


def test_a_compressed_file_goes_to_its_own_place_whatever_it_says(tmp_path: Path) -> None:
    """A `.gz` carries a name too, which programs may use."""
    buffer = io.BytesIO()
    with gzip.GzipFile("../../evil", "wb", fileobj=buffer) as file:
        file.write(GOOD["toy/a"])
    root = tmp_path / "data"
    toy = laid_down(root, buffer.getvalue(), "a.gz")
    prepare("toy", root, [Archive(toy.url, toy.file, toy.members[:1], 1)])
    assert set(tree(tmp_path)) == {"data/a.gz", "data/toy/a", "data/.toy.lock"}


def test_a_download_is_checked_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever answers for the server can send what he likes."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    good = tar_of([(entry(name, size=len(data)), data) for name, data in GOOD.items()])
    sent = tar_of([(entry(name, size=len(data)), data) for name, data in {"toy/a": b"x"}.items()])
    toy = laid_down(tmp_path / "data", good)
    (tmp_path / "data" / "toy.tar.gz").unlink()
    with Server(sent) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/toy.tar.gz"
        toy = Archive(url, toy.file, toy.members, 1)
        with pytest.raises(SettingsError, match=r"toy\.tar\.gz\.part\.bad"):
            prepare("toy", tmp_path / "data", [toy])
        server.shutdown()
    assert not (tmp_path / "data" / "toy").exists()
