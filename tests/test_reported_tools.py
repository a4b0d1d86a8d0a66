"""What people report of the tools around a method: text, downloads, versions, notebooks, pictures.

A test names the public thread that it comes from. What is held by a module's own test file, or by
the form of the chapters in `test_notebooks.py`, is not tested again here.
"""

import ast
import hashlib
import importlib
import io
import json
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
import yaml
from packaging.requirements import Requirement
from same_bits import digest
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.datasets import utils

import darts_lib
import darts_lib.recurrent.retrain as recurrent_retraining
import darts_lib.recurrent.search as recurrent_search
import darts_lib.retrain as retraining
import darts_lib.search as image_search
from darts_lib.cost.expected_cost import edge_costs, expected_cost
from darts_lib.data.downloads import Archive, DataFile, prepare
from darts_lib.drawing.cell_pictures import cell_picture
from darts_lib.engine.opening import default_folder, opened
from darts_lib.engine.places import project_root
from darts_lib.engine.progress import TransferLines
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.run_files import read_history
from darts_lib.engine.settings import RunConfig
from darts_lib.formats.cell_choice import find_genotype
from darts_lib.genotype import PUBLISHED
from darts_lib.kernels.averages import quarters
from darts_lib.network import AuxiliaryHead
from darts_lib.recurrent.retrain import RecurrentRetrainConfig
from darts_lib.recurrent.retrain_step import RecurrentRetraining
from darts_lib.recurrent.search import RecurrentSearchConfig
from darts_lib.recurrent.search_epoch import RecurrentSearch
from darts_lib.retrain import RetrainConfig
from darts_lib.retrain_epoch import Retraining, evaluate, judging_images
from darts_lib.search import SearchConfig
from darts_lib.search_epoch import Search

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = Path(darts_lib.__file__).parent
SOURCES = sorted(LIBRARY.rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

CELL = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1)], normal_concat=[2], "
    "reduce=[('max_pool_3x3', 0), ('dil_conv_3x3', 1)], reduce_concat=[2])"
)
SHORT = {"scale": "laptop", "max_steps": 1, "epochs": 1, "batch_size": 8}
OF_WORDS = {"width": 6, "bptt": 5, "dataset": "folder"}
SEARCH = {**SHORT, "channels": 2, "layers": 1, "nodes": 1}
RETRAIN = {**SHORT, "channels": 2, "layers": 3, "genotype": CELL, "auxiliary": True}
WORD_SEARCH = {**SHORT, **OF_WORDS, "nodes": 2}
WORD_RETRAIN = {**SHORT, **OF_WORDS, "genotype": "DARTS_V1"}

Run = Callable[[str, str], object]
RUNS: dict[str, Run] = {
    "search": lambda path, _: image_search.search(SearchConfig.create(**SEARCH, run_dir=path)),
    "retrain": lambda path, _: retraining.retrain(RetrainConfig.create(**RETRAIN, run_dir=path)),
    "recurrent search": lambda path, text: recurrent_search.search(
        RecurrentSearchConfig.create(**WORD_SEARCH, run_dir=path, data_root=text)
    ),
    "recurrent retraining": lambda path, text: recurrent_retraining.retrain(
        RecurrentRetrainConfig.create(**WORD_RETRAIN, run_dir=path, data_root=text)
    ),
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a folder of text, as small as the runs."""
    folder = tmp_path_factory.mktemp("text")
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_text("one two three four five six\n" * 40)
    return str(folder)


@pytest.fixture(autouse=True)
def untold_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no run tell what it will cost: finding it takes longer than these runs."""
    for module in (image_search, retraining, recurrent_search, recurrent_retraining):
        monkeypatch.setattr(module, "describe", lambda run: None)


# A loss that is no number -----------------------------------------------------------------------


def test_a_recurrent_search_that_blows_up_keeps_its_last_good_checkpoint(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of asappresearch/sru#2: not even clipping helps, since it spreads what is no number."""
    config = RecurrentSearchConfig.create(
        **{**WORD_SEARCH, "epochs": 3, "max_steps": 2},
        data_root=text,
        run_dir=str(tmp_path / "run"),
    )
    step, taken = RecurrentSearch.step, []

    def poisoned(run: RecurrentSearch, *words: Any) -> Tensor:
        taken.append(1)
        if len(taken) == 4:  # the second step of the second epoch
            with torch.no_grad():
                next(iter(run.weights.values()))[0, 0] = torch.inf
        return step(run, *words)

    after_first: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(RecurrentSearch, "step", poisoned)
        with pytest.raises(FloatingPointError) as caught:
            recurrent_search.search(
                config, lambda _: after_first.append(digest(tmp_path / "run" / "checkpoint.pt"))
            )
    message = str(caught.value)
    assert "in step 2 of epoch 2 (loss " in message
    assert "learning rate 20), norm of the gradient nan; the checkpoint before" in message
    assert digest(tmp_path / "run" / "checkpoint.pt") == after_first[-1]
    assert len(after_first) == 1
    recurrent_search.search(config)
    assert len(read_history(tmp_path / "run")) == 3, "the same command goes on after it"


# Text -------------------------------------------------------------------------------------------


def test_no_address_of_data_is_written_down_that_could_die() -> None:
    """Of pytorch/text#2247: addresses of data died with their hosts. Ours are torchvision's."""
    pages = [*SOURCES, ROOT / "data" / "README.md", ROOT / "environment.yml"]
    hosts = {host for page in pages for host in re.findall(r"https?://([\w.-]+)", page.read_text())}
    assert hosts <= {"arxiv.org", "pytorch.org"}


@pytest.mark.real_data("penn", "wikitext-2")
def test_the_page_of_the_data_has_the_sums_of_the_texts(real_data_root: Path) -> None:
    """Whoever finds the files elsewhere, as in pytorch/text#2247, can know them by their sums."""
    page = (ROOT / "data" / "README.md").read_text()
    rows = re.findall(r"^\| `([\w./-]+)` \| ([\d,]+) \| `([0-9a-f]{64})` \|$", page, re.MULTILINE)
    assert len(rows) == 6
    for name, size, expected in rows:
        content = (real_data_root / name).read_bytes()
        assert f"{len(content):,}" == size
        assert hashlib.sha256(content).hexdigest() == expected


# Downloads --------------------------------------------------------------------------------------

PAYLOAD = bytes(200_000)


class Answer(io.BytesIO):
    """What a server answers, as `urlopen` returns it."""

    def __init__(self, request: Any) -> None:
        super().__init__(PAYLOAD)
        self.url, self.length = request.full_url, len(PAYLOAD)


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Archive:
    """Return a file to download, from a server that needs no network."""
    monkeypatch.setattr(utils.urllib.request, "urlopen", Answer)
    known = hashlib.md5(PAYLOAD, usedforsecurity=False).hexdigest()
    file = DataFile("toy.mat", known)
    return Archive("http://nowhere/toy.mat", file, (file,), 1)


@pytest.mark.parametrize("watched", [False, True])
def test_a_download_shows_a_bar_only_to_a_person(
    watched: bool,
    archive: Archive,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of nteract/papermill#765: in a log and a stored output, a bar is thousands of lines."""
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    if watched:
        monkeypatch.setenv("JPY_SESSION_NAME", "03_search.ipynb")
    before = utils.tqdm
    prepare("toy", tmp_path, [archive])
    assert utils.tqdm is before
    said = capsys.readouterr()
    assert ("200k" in said.err) == watched
    assert watched or said.err == ""
    assert "\r" not in said.out


def test_a_slow_download_tells_size_speed_and_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of pytorch/vision#9536: at 70 kB/s a person should see so, and choose another way."""
    now = [0.0]
    monkeypatch.setattr("darts_lib.engine.progress.time.monotonic", lambda: now[0])
    with TransferLines(total=170_000_000, unit="B", unit_scale=True) as lines:
        for second in range(1, 101):
            now[0] = float(second)
            lines.update(70_000)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 5
    assert said[0] == "1 of 170 MB, 0.07 MB/s, 40 min left"
    unknown = TransferLines()
    now[0] += 20
    unknown.update(2_000_000)
    assert capsys.readouterr().out == "2 MB, 0.10 MB/s\n"


# Versions, devices ------------------------------------------------------------------------------

NAMES = {"sklearn": "scikit-learn", "yaml": "pyyaml", "PIL": "pillow"}
NAMES |= {"cycler": "matplotlib", "distributed": "dask"}


def imported(source: str) -> Iterator[str]:
    """Yield the module of every import, in full."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def cells(path: Path) -> list[dict[str, Any]]:
    """Return a notebook's code cells."""
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def declared(extras: tuple[str, ...] = ()) -> set[str]:
    lines = [*PROJECT["project"]["dependencies"]]
    for extra in extras:
        lines += PROJECT["project"]["optional-dependencies"][extra]
    return {Requirement(line).name.lower() for line in lines}


@pytest.mark.parametrize("path", [*SOURCES, *NOTEBOOKS], ids=lambda path: path.stem)
def test_whatever_is_imported_is_installed(path: Path) -> None:
    """Of pytorch/text#2283, xflr6/graphviz#162 and tqdm/tqdm#1310.

    That is a text package nobody keeps, a program that pip does not bring, and widgets that the
    kernel does not have.
    """
    if path.suffix == ".py":
        sources, known = [path.read_text()], declared(("sweep", "onnx"))
    else:
        sources, known = [cell["source"] for cell in cells(path)], declared()
        known -= {"graphviz", "tqdm"}
    for name in (name for source in sources for name in imported(source)):
        top = name.split(".")[0]
        if top not in sys.stdlib_module_names and top != "darts_lib":
            assert NAMES.get(top, top) in known, name
        assert name not in ("tqdm.auto", "tqdm.notebook", "tqdm.autonotebook")


def test_the_library_is_imported_without_a_word() -> None:
    """Of pytorch/pytorch#135013: a warning at import fails whoever compares stderr."""
    names = [".".join(path.relative_to(LIBRARY.parent).with_suffix("").parts) for path in SOURCES]
    names = [name.removesuffix(".__init__") for name in names]
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", f"import {', '.join(names)}"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_uses_nothing_that_is_on_its_way_out(kind: str, tmp_path: Path, text: str) -> None:
    """Of quark0/darts#90: each newer torch stopped the code of the one before."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RUNS[kind](str(tmp_path / "run"), text)


OLD = re.compile(r"\btorch\.cuda\.amp\b|\bvolatile=|\basync=|\.data(\[[^\]]*\])? *[-+*/]?=[^=]")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_tensor_is_changed_behind_autograds_back(path: Path) -> None:
    """Of quark0/darts#35 and pytorch/pytorch#138957: idioms that a reader would copy."""
    assert OLD.search(path.read_text()) is None


def test_old_idioms_are_found() -> None:
    for line in ("w.data[:] = k", "w.data += g", "torch.cuda.amp.autocast()", "x.cuda(async=True)"):
        assert OLD.search(line), line
    assert OLD.search("pixels = part.data") is None


class Types(TorchDispatchMode):
    """Notes the operations that put out float64."""

    def __init__(self) -> None:
        super().__init__()
        self.wide: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.dtype == torch.float64:
                self.wide.append(str(func))
        return out


def one_search(_: str) -> None:
    run = Search(SearchConfig.create(**SEARCH, cutout=2))
    with Types() as types:
        for batches in run.batches(torch.Generator().manual_seed(0)):
            run.step(*batches)
        run.evaluate()
    assert types.wide == []


def one_retraining(_: str) -> None:
    run = Retraining(RetrainConfig.create(**RETRAIN, cutout=2))
    images = judging_images(run.config)
    with Types() as types:
        for batch in run.batches(torch.Generator().manual_seed(0)):
            run.step(batch)
        evaluate(run.net, images)
    assert types.wide == []


def one_search_of_words(text: str) -> None:
    run = RecurrentSearch(RecurrentSearchConfig.create(**WORD_SEARCH, data_root=text))
    with Types() as types:
        generator = torch.Generator().manual_seed(0)
        for train, valid in run.batches(generator):
            run.train_masks.draw(generator)
            run.valid_masks.draw(generator)
            run.step(train, valid)
        run.evaluate()
    assert types.wide == []


def one_retraining_of_words(text: str) -> None:
    run = RecurrentRetraining(RecurrentRetrainConfig.create(**WORD_RETRAIN, data_root=text))
    with Types() as types:
        run.masks.draw(torch.Generator().manual_seed(0))
        run.step((run.train[:4], run.train[1:5]))
    assert types.wide == []


@pytest.mark.parametrize(
    "run", [one_search, one_retraining, one_search_of_words, one_retraining_of_words]
)
def test_no_number_of_a_step_is_wider_than_apples_gpus_have(
    run: Callable[[str], None], text: str
) -> None:
    """Of pytorch/pytorch#122602: float64 does not exist there."""
    run(text)


def test_the_expected_cost_needs_nothing_wider_either() -> None:
    """A fake Apple GPU: it has shapes, types and a device. The figure is float64's elsewhere."""
    costs = edge_costs(4, 3, 2, (8, 8))
    with FakeTensorMode(allow_non_fake_inputs=True), Types() as types:
        alphas = {kind: torch.zeros(cost.shape, device="mps") for kind, cost in costs.items()}
        found = expected_cost(alphas, costs)
        assert (found.device.type, found.dtype) == ("mps", torch.float32)
    assert types.wide == []
    real = {kind: torch.zeros(cost.shape) for kind, cost in costs.items()}
    assert expected_cost(real, costs).dtype == torch.float64


@pytest.mark.parametrize("sides", [(1, 1), (1, 3), (2, 2), (3, 5), (4, 4), (6, 7), (7, 7)])
def test_the_auxiliary_head_takes_any_map_without_adaptive_pooling(sides: tuple[int, int]) -> None:
    """Of pytorch/pytorch#96056: mps refuses it for sides that do not divide.

    CUDA's deterministic mode (pytorch/pytorch#50198) refuses it altogether.
    """
    x = torch.randn(2, 3, *sides, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    expected = F.adaptive_avg_pool2d(x, 2)
    torch.testing.assert_close(quarters(y), expected)
    (by_torch,) = torch.autograd.grad(expected.square().sum(), x)
    (ours,) = torch.autograd.grad(quarters(y).square().sum(), y)
    torch.testing.assert_close(ours, by_torch)


class NoAdaptivePooling(TorchDispatchMode):
    """Fails where an adaptive pooling is computed."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "adaptive" not in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("side", [2, 7, 8])
def test_no_adaptive_pooling_is_left(side: int) -> None:
    head, x = AuxiliaryHead(4, 10), torch.randn(2, 4, side, side, requires_grad=True)
    with NoAdaptivePooling():
        head(x).sum().backward()


@pytest.mark.parametrize(
    ("cuda", "card", "device", "told"),
    [
        (None, True, "auto", True),
        ("13.0", True, "auto", False),
        (None, False, "auto", False),
        (None, True, "cpu", False),
    ],
)
def test_a_gpu_that_this_torch_cannot_use_is_told(
    cuda: str | None,
    card: bool,
    device: str,
    told: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of NRCan/geo-deep-learning#490: a CPU build was installed, and nobody said so."""
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if card else None)
    with opened(SearchConfig.create(**SEARCH, device=device)):
        pass
    said = capsys.readouterr().out
    assert ("this machine has an NVIDIA GPU" in said) == told
    assert said.count("\n") == told


def test_the_environment_has_the_name_that_the_readme_activates() -> None:
    (name,) = re.findall(r"conda activate ([\w-]+)", (ROOT / "README.md").read_text())
    assert yaml.safe_load((ROOT / "environment.yml").read_text())["name"] == name


# Parameters -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ("{learning_rate: 1e-3}", "learning_rate", 0.001),  # YAML 1.1 reads this as a text
        ("{seed: 1.0e+3}", "seed", 1000),
        ("{resume: no}", "resume", False),
        ("{resume: 'no'}", "resume", False),
        ("{epochs: 05}", "epochs", 5),
        ("{amp: 'off'}", "amp", "off"),
    ],
)
def test_what_yaml_makes_of_a_parameter_becomes_what_was_meant(
    given: str, name: str, value: object
) -> None:
    """Of huggingface/trl#1450; papermill reads `-y` and `-f` so."""
    found = getattr(SearchConfig.create(**{**SEARCH, **yaml.safe_load(given)}), name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("switch", ["amp", "compile", "graph"])
@pytest.mark.parametrize("given", ["off", "'false'", "no", "1"])
def test_a_switch_that_is_no_word_is_refused_with_the_three_words(switch: str, given: str) -> None:
    """YAML's `off` is False, papermill's `-p amp false` a text that a condition takes for true."""
    with pytest.raises(SettingsError, match=rf"^{switch}=.*'auto', 'on' or 'off'"):
        RunConfig.create(scale="laptop", **yaml.safe_load(f"{{{switch}: {given}}}"))


# Folders ----------------------------------------------------------------------------------------


def test_a_run_leaves_nothing_in_the_callers_folder(
    tmp_path: Path, text: str, runs_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of nteract/papermill#316: it runs in the caller's folder, Jupyter in the notebook's."""
    caller = tmp_path / "caller"
    caller.mkdir()
    monkeypatch.chdir(caller)
    assert project_root() == ROOT
    for kind in ("search", "recurrent search"):
        RUNS[kind]("", text)
    assert list(caller.iterdir()) == []
    assert len([path for path in runs_root.iterdir() if path.is_dir()]) == 2
    config = SearchConfig.create(**SEARCH)
    places = set()
    for folder in (caller, ROOT, ROOT / "notebooks"):
        monkeypatch.chdir(folder)
        places.add((default_folder(config), config.data_folder))
    assert len(places) == 1


# Notebooks --------------------------------------------------------------------------------------


def hides_failure(source: str) -> list[str]:
    """Say what in a cell could end a run as if all were well, or is no Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        return [f"no plain Python: {error}"]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            again = any(isinstance(part, ast.Raise) for part in ast.walk(node))
            if caught in ("everything", "Exception", "BaseException") and not again:
                found.append(f"catches {caught}")
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ENDS:
            found.append(f"calls {ast.unparse(node.func)}")
    return found


ENDS = ("exit", "quit", "sys.exit", "os._exit", "os.abort")
STABLE = {
    "an object": re.compile(r"<(?!Figure size)[\w.]+[^>\n]*>|\bobject at\b"),
    "a time that the sanitiser does not know": re.compile(
        r"\b\d+(\.\d+)? ?(sec|secs|seconds?|minutes?|hours?|us|µs|it/s)\b"
    ),
    "a date": re.compile(r"\b20\d\d-\d\d-\d\d\b"),
}


def unstable(cell: dict[str, Any]) -> list[str]:
    """Say what in the compared output of a cell differs between machines."""
    if "nbval-ignore-output" in cell["metadata"].get("tags", []):
        return []
    texts = []
    for output in cell["outputs"]:
        texts.append(output.get("text", ""))
        texts += [part for kind, part in output.get("data", {}).items() if kind == "text/plain"]
    shown = "\n".join("".join(text) for text in texts)
    return [what for what, pattern in STABLE.items() if pattern.search(shown)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_cell_turns_a_failure_into_success(path: Path) -> None:
    """Of nteract/papermill#464 and computationalmodelling/nbval#147: nor is one a magic line."""
    assert [found for cell in cells(path) for found in hides_failure(cell["source"])] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_compared_is_the_same_on_every_machine(path: Path) -> None:
    """Of computationalmodelling/nbval#6: what the sanitiser does not hide must not differ."""
    problems = [(cell["execution_count"], unstable(cell)) for cell in cells(path)]
    assert [problem for problem in problems if problem[1]] == []


@pytest.mark.parametrize(
    "source",
    [
        "try:\n    search()\nexcept Exception as error:\n    print(error)",
        "try:\n    search()\nexcept:\n    pass",
        "import sys\nsys.exit(0)",
        "exit()",
        "%matplotlib inline",
        "!pip install darts",
    ],
)
def test_a_cell_that_hides_a_failure_is_caught(source: str) -> None:
    assert hides_failure(source)


def test_a_cell_that_shows_an_error_on_purpose_passes() -> None:
    assert hides_failure("try:\n    f()\nexcept ValueError as error:\n    print(error)") == []
    assert hides_failure("try:\n    f()\nexcept Exception:\n    clean()\n    raise") == []


@pytest.mark.parametrize(
    "text",
    ["<Axes: title={'center': 'cell'}>", "<generator object f at 0x7f1200>", "12.5 seconds"]
    + ["2026-01-31", "[<matplotlib.lines.Line2D at 0x7f1200aa>]"],
)
def test_an_output_that_differs_between_machines_is_caught(text: str) -> None:
    stream = {"output_type": "stream", "name": "stdout", "text": [f"found {text}\n"]}
    value = {"output_type": "execute_result", "data": {"text/plain": text}}
    for output in (stream, value):
        assert unstable({"metadata": {}, "outputs": [output]})
        assert not unstable({"metadata": {"tags": ["nbval-ignore-output"]}, "outputs": [output]})
    assert not unstable(
        {"metadata": {}, "outputs": [{"data": {"text/plain": "<Figure size 7x4 with 1 Axes>"}}]}
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_as_it_stands_needs_no_gpu_no_data_and_no_network(path: Path) -> None:
    """Of computationalmodelling/nbval#151: it runs the parameter cell as it is."""
    sources = [cell["source"] for cell in cells(path)]
    guard = next(source for source in sources if "read_parameters(globals()" in source)
    parameters = sources[sources.index(guard) - 1]
    name = re.findall(r"read_parameters\(globals\(\), (\w+)", guard)[0]
    module = re.findall(rf"^from ([\w.]+) import .*\b{name}\b", "\n".join(sources), re.MULTILINE)
    kind = getattr(importlib.import_module(module[0]), name)
    given = {
        part.target.id: ast.literal_eval(part.value)
        for part in ast.parse(parameters).body
        if isinstance(part, ast.AnnAssign)
        and isinstance(part.target, ast.Name)
        and part.value is not None
    }
    config = kind.create(**given)
    assert config.scale == "laptop"
    assert config.dataset in ("digits", "topics") or "workers" in kind.model_fields
    assert config.epochs <= 8
    assert not any(given.get(place) for place in ("data_root", "run_dir"))


def write_notebook(path: Path, *sources: str) -> None:
    path.parent.mkdir(exist_ok=True)
    made = [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=kernel), path)


def test_pytest_leaves_papermills_notebooks_alone_and_keeps_a_chapter_together(
    tmp_path: Path,
) -> None:
    """Of computationalmodelling/nbval#121: cells dealt to processes miss one another's names.

    And what `papermill ... out.ipynb` wrote is no test.
    """
    for name in ("pyproject.toml", "tests/nbval_sanitize.cfg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    write_notebook(
        tmp_path / "notebooks" / "01.ipynb", "x = 1", "x += 1", "x += 1", "assert x == 3"
    )
    for folder in (".", "runs"):
        write_notebook(tmp_path / folder / "out.ipynb", "assert False")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval", "-q", "-n", "2", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert re.search(r"^4 passed", done.stdout, re.MULTILINE), done.stdout[-2000:]


# Pictures ---------------------------------------------------------------------------------------


def test_a_cell_is_drawn_alike_whatever_it_is_named_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of quark0/darts#19: by its name, its text, a file or the folder of its search."""
    monkeypatch.setenv("PATH", str(tmp_path))  # no dot
    cell = PUBLISHED["DARTS_V2"]
    file = tmp_path / "genotype.json"
    file.write_text(json.dumps(cell.to_dict()))
    pictures = set()
    for number, name in enumerate(("DARTS_V2", str(cell), str(file), str(tmp_path))):
        path = tmp_path / f"{number}.svg"
        cell_picture(find_genotype(name), path)
        pictures.add(digest(path))
    assert len(pictures) == 1
    drawn = path.read_text()
    assert len(re.findall(r'id="edge \d+"', drawn)) == 2 * 8, "both cells, eight edges each"
