"""Faults that people report of public implementations, where no other file has a test for them.

Pictures of one's own, what a search sees, compiled cells, leftovers of a killed run, and whether
the commands on the pages name what is there.
"""

import ast
import functools
import importlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_imagenet_data import make
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.func import functional_call

from darts_lib import operations, search_epoch
from darts_lib.bilevel import InnerStep, Loss, architecture_gradient
from darts_lib.cost.complexity import multiply_adds, multiply_adds_by_part
from darts_lib.cost.step_cost import StepCost
from darts_lib.data.images import ImageSet, augmented_batch, load_images, normalise
from darts_lib.engine.acceleration import Acceleration
from darts_lib.engine.files import unpack
from darts_lib.engine.opening import default_folder
from darts_lib.engine.settings import RunConfig
from darts_lib.fast.fused import FusedSupernet
from darts_lib.genotype import Genotype
from darts_lib.imagenet_network import ImageNetNetwork
from darts_lib.imagenet_retrain import ImageNetRetrainConfig, ImageNetRetraining
from darts_lib.network import Network
from darts_lib.relaxation import Supernet
from darts_lib.retrain import RetrainConfig, evaluate, retrain
from darts_lib.retrain_epoch import Retraining
from darts_lib.search import SearchConfig, reach_warning, search
from darts_lib.search_epoch import Search
from darts_lib.search_space import KINDS

ROOT = Path(__file__).resolve().parent.parent
CELL = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1)], normal_concat=[2], "
    "reduce=[('max_pool_3x3', 0), ('dil_conv_3x3', 1)], reduce_concat=[2])"
)
SMALL = {"scale": "laptop", "layers": 2, "max_steps": 2, "batch_size": 8, "epochs": 1}
TO_SEARCH = {**SMALL, "channels": 2, "nodes": 1}
TO_RETRAIN = {**SMALL, "channels": 4, "genotype": CELL}


def pictures(root: Path, counts: dict[str, int], mode: str = "RGB") -> Path:
    """Write so many pictures of each class, of mixed sizes and random pixels."""
    rng = np.random.RandomState(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            height, width = rng.randint(9, 20, size=2)
            pixels = rng.randint(256, size=(height, width, 3)).astype(np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / name / f"{index}.png")
    return root


@pytest.fixture(autouse=True)
def step_of_twelve_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the look at each operation before a run; tests/cost/test_step_cost.py is about it."""
    cost = StepCost(peak_bytes=50 * 2**20)
    monkeypatch.setattr(StepCost, "seconds", lambda *_: 12.0)
    for module in ("search", "retrain"):
        monkeypatch.setattr(f"darts_lib.{module}.trace", lambda run, step: cost)


class StartedError(Exception):
    """Raised in place of the first epoch."""


def said_before_the_first_step(
    run: Callable[[Any], object], config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> str:
    """Return what a run prints before it starts, and end it there."""

    def epoch(_: object, __: int) -> NoReturn:
        raise StartedError

    with pytest.MonkeyPatch.context() as patched:
        for kind in (Search, Retraining):
            patched.setattr(kind, "epoch", epoch)
        with pytest.raises(StartedError):
            run(config)
    return capsys.readouterr().out


# Pictures of one's own --------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_own_pictures_go_from_search_to_retraining_by_parameters_alone(
    mode: str, channels: int, tmp_path: Path
) -> None:
    """Classes and channels come from the folder; a blank or an umlaut in a path does no harm."""
    root, classes = tmp_path / "my pictures, süß", [f"class {i}" for i in range(7)]
    pictures(root / "train", dict.fromkeys(classes, 6), mode)
    pictures(root / "val", dict.fromkeys(classes, 2), mode)
    own: dict[str, Any] = {"dataset": "folder", "data_root": str(root), "image_size": 9}
    own["cutout"] = 4
    there = tmp_path / "not yet" / "there"
    found = search(SearchConfig.create(**{**TO_SEARCH, **own}, run_dir=str(there / "a sëarch")))
    state: Any = unpack(found.path / "checkpoint.pt")["state"]
    assert state["weights"]["classifier.weight"].shape[0] == 7
    assert state["weights"]["stem.0.weight"].shape[1] == channels
    given = {**TO_RETRAIN, **own, "genotype": str(found.path), "run_dir": str(there / "b")}
    result = retrain(RetrainConfig.create(**given))
    assert result.genotype == found.genotype
    assert (result.figures["test_images"], result.figures["tested_on"]) == (14, "test images")
    stored = load_file(result.path / "weights.safetensors")
    assert stored["classifier.weight"].shape[0] == 7
    assert stored["auxiliary_head.classifier.weight"].shape[0] == 7
    assert stored["stem.0.weight"].shape[1] == channels


def test_no_run_folder_has_a_name_that_a_disk_may_refuse(tmp_path: Path) -> None:
    """A colon, as in a time, is refused by Windows."""
    for dataset in ("digits", "folder"):
        config = RunConfig.create(scale="laptop", dataset=dataset, data_root=str(tmp_path / "a: b"))
        assert re.fullmatch(r"[\w-]+", default_folder(config).name)


def test_a_search_tells_uneven_classes_and_too_few_steps_before_it_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pictures(tmp_path / "uneven", {"few": 5, "many": 40, "some": 10})
    own: dict[str, Any] = {"dataset": "folder", "data_root": str(root), "image_size": 8}
    own |= {"epochs": 3, "max_steps": 0, "alpha_learning_rate": 3e-4}
    config = SearchConfig.create(**{**TO_SEARCH, **own})
    said = said_before_the_first_step(search, config, capsys)
    assert "22 images for the weights (2 to 16 a class), 22 for the alphas, 3 steps an" in said
    line = (
        "9 steps of about 0.0003 move each alpha by 0.0027 at most, so the cell found will be noise"
    )
    assert f"warning: {line}" in said
    assert len(reach_warning(config, 3)) == 1
    assert reach_warning(config, 112) == [], "3 x 112 steps of 0.0003 are a tenth"
    quicker = config.model_copy(update={"alpha_learning_rate": 0.05})
    assert reach_warning(quicker, 3) == []


def test_a_retraining_tells_how_many_pictures_a_class_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pictures(tmp_path / "even", {"a": 10, "b": 10})
    own: dict[str, Any] = {"dataset": "folder", "data_root": str(root), "image_size": 8}
    config = RetrainConfig.create(**{**TO_RETRAIN, **own})
    said = said_before_the_first_step(retrain, config, capsys)
    assert "16 training images (8 a class), 2 steps an epoch" in said


# Sizes ------------------------------------------------------------------------------------------


class WithoutPadding(nn.Conv2d):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(channels, channels, 3, stride)


WRONG: dict[str, Callable[[int, int, bool], nn.Module]] = {
    "no stride": lambda channels, stride, affine: nn.Identity(),
    "no padding": lambda channels, stride, affine: WithoutPadding(channels, stride),
    "rounded down": lambda channels, stride, affine: nn.AvgPool2d(stride),
    "channels": lambda channels, stride, affine: nn.Conv2d(channels, 2 * channels, 1, stride),
}


@pytest.mark.parametrize("fault", WRONG)
def test_an_operation_of_another_size_is_named_when_it_is_built(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(operations.OPERATIONS, "mine", WRONG[fault])
    with pytest.raises(
        ValueError, match=r"operation 'mine' at stride [12] turns \(2, [48], 7, 6\)"
    ):
        Supernet(4, 3, 2, primitives=("none", "mine"))


def test_looking_at_a_size_draws_nothing() -> None:
    operations._check_shape.cache_clear()
    torch.manual_seed(3)
    first = operations.build_operation("sep_conv_3x3", 6, 1, affine=True)
    torch.manual_seed(3)
    again = operations.build_operation("sep_conv_3x3", 6, 1, affine=True)
    pairs = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("count", "parts"), [(8, [2, 2, 2, 2]), (7, [3, 2, 2]), (5, [3, 2]), (3, [3]), (2, [2])]
)
def test_a_part_of_a_batch_has_two_pictures_or_more(count: int, parts: list[int]) -> None:
    """Of one alone the auxiliary head's last normalisation has a single value a channel."""
    run, seen = Retraining(RetrainConfig.create(**TO_RETRAIN, accumulate=4)), []
    run.net.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    images, labels = next(run.batches(torch.Generator().manual_seed(0)))
    assert run.step((images[:count], labels[:count]))[2] == count
    assert seen == parts


# What a search and a retraining see -------------------------------------------------------------


def by_hand(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the mean loss and the accuracy."""
    loss = nn.functional.cross_entropy(logits, labels)
    return float(loss), float((logits.argmax(1) == labels).float().mean())


@torch.no_grad()
def test_accuracies_are_those_of_clean_pictures() -> None:
    """Of a set that was split by index, the part that judges must not be augmented too."""
    run = Search(SearchConfig.create(**TO_SEARCH, cutout=4))
    found = run.evaluate()
    torch.rand(3)
    assert run.evaluate() == found
    clean = normalise(run.valid.images[:16], run.valid.mean, run.valid.std)
    logits = torch.cat([run.net(batch, run.alphas) for batch in clean.split(8)])
    loss, accuracy = by_hand(logits, run.valid.labels[:16])
    assert found["valid_loss"] == pytest.approx(loss, rel=1e-5)
    assert found["valid_accuracy"] == pytest.approx(accuracy)

    test = load_images("digits", Path(), "test", max_images=21)
    net = Network(Genotype.from_text(CELL), 4, 3, 10, 1).eval()
    judged = evaluate(net, test, 8)
    loss, accuracy = by_hand(net(normalise(test.images, test.mean, test.std))[0], test.labels)
    assert judged["loss"] == pytest.approx(loss, rel=1e-5)
    assert judged["top1"] == pytest.approx(accuracy)


def to_search(_: Path) -> Search:
    return Search(SearchConfig.create(**TO_SEARCH))


def to_retrain(_: Path) -> Retraining:
    return Retraining(RetrainConfig.create(**TO_RETRAIN))


def to_retrain_from_files(folder: Path) -> ImageNetRetraining:
    given: dict[str, Any] = {**TO_RETRAIN, "batch_size": 6, "workers": 2}
    return ImageNetRetraining(ImageNetRetrainConfig.create(**given, data_root=str(make(folder))))


@pytest.mark.parametrize("started", [to_search, to_retrain, to_retrain_from_files])
def test_no_two_epochs_draw_alike_and_each_draws_the_same_again(
    started: Callable[[Path], Any], tmp_path: Path
) -> None:
    run, seen = started(tmp_path), []

    def step(*batches: tuple[Tensor, Tensor]) -> Tensor:
        seen[-1] += [images for images, _ in batches]
        return torch.ones(3)

    run.step = step
    for epoch in (0, 1, 0):
        seen.append([])
        run.epoch(epoch)
    first, second, again = (torch.cat(images) for images in seen)
    assert torch.equal(first, again)
    assert first.shape == second.shape
    assert not torch.equal(first, second)
    if started is to_retrain_from_files:  # of photographs no two crops are the same
        both = [image.numpy().tobytes() for image in torch.cat([first, second])]
        assert len(set(both)) == len(both) == 24


def test_the_alphas_half_is_used_up_before_it_is_drawn_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Begun anew at each step, a half is not covered, and a loader starts its workers each time."""
    drawn: list[Tensor] = []
    run = Search(SearchConfig.create(**{**TO_SEARCH, "max_steps": 0, "max_images": 200}))
    run.valid = run.valid.select(slice(20))

    def noting(images: ImageSet, indices: Tensor, *rest: Any) -> Any:
        if images is run.valid:
            drawn.append(indices)
        return augmented_batch(images, indices, *rest)

    monkeypatch.setattr(search_epoch, "augmented_batch", noting)
    steps = len(list(run.batches(torch.Generator().manual_seed(0))))
    assert steps == len(drawn) == 13
    passes = [torch.cat(drawn[start : start + 3]).tolist() for start in range(0, 12, 3)]
    assert [sorted(each) for each in passes] == [list(range(20))] * 4
    assert len({tuple(each) for each in passes}) == 4, "in another order each time"


# Cost and speed ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "config"),
    [
        (search, SearchConfig.create(**{**TO_SEARCH, "epochs": 3})),
        (retrain, RetrainConfig.create(**{**TO_RETRAIN, "epochs": 3})),
    ],
)
def test_what_a_run_costs_is_said_before_its_first_step(
    run: Callable[[Any], object], config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    said = said_before_the_first_step(run, config, capsys)
    for name, value in config.settings_that_matter().items():
        assert f"{name}={value}" in said
    cost = r"[\d,]+ weights.*; a step adds about 84 MiB \(less with .*batch_size.*\)"
    assert re.search(cost + r"; about 72 s for 3 epochs", said), said


def test_the_multiply_adds_of_each_part_by_hand() -> None:
    conv, linear = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Linear(128, 10)
    net = nn.Sequential(nn.Sequential(conv, nn.BatchNorm2d(8)), nn.ReLU(), nn.Flatten(), linear)
    ours, last = 4 * 4 * 8 * 3 * 9, 8 * 4 * 4 * 10
    by_part = multiply_adds_by_part(net.train(), (3, 8, 8))
    assert by_part == {"": ours + last, "0": ours, "0.0": ours, "3": last}
    assert net.training


def test_the_parts_of_a_network_add_up() -> None:
    """The auxiliary head is not among them: it is no part of what is used."""
    with torch.device("meta"):
        net = ImageNetNetwork(Genotype.from_text(CELL), 8, 3, auxiliary=True)
    by_part = multiply_adds_by_part(net, (3, 64, 64))
    top = [f"cells.{i}" for i in range(3)] + ["stem0", "stem1", "classifier"]
    assert sum(by_part[name] for name in top) == by_part[""]
    assert by_part[""] == multiply_adds(net, (3, 64, 64))
    assert not any(name.startswith("auxiliary_head") for name in by_part)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounter]:
    """Put a compiler that counts, and leaves the graph as it is, in the place of the real one."""
    counter = CompileCounter()
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
    yield counter
    torch._dynamo.reset()


def test_a_compiled_supernet_is_compiled_once_and_has_the_eager_gradients(
    compiler: CompileCounter,
) -> None:
    """All candidates are in every pass, so other alphas and weights are no other program.

    There are three, by the gradients that a pass is for: by weights, by both, by alphas.
    """
    torch.manual_seed(0)
    net = FusedSupernet(2, 1, 1, 10, 1, ("none", "skip_connect", "sep_conv_3x3"))
    weights = dict(net.named_parameters())
    images, labels = torch.randn(2, 6, 1, 8, 8), torch.arange(6)

    def loss_of(batch: int) -> Loss:
        return lambda weights, alphas: nn.functional.cross_entropy(
            functional_call(net, dict(weights), (images[batch], alphas)), labels
        )

    def total(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        alphas = {kind: torch.randn(2, 3, requires_grad=True) for kind in KINDS}
        inner = InnerStep(0.1 / (1 + seed), 0.0, 0.0)
        found = architecture_gradient(loss_of(0), loss_of(1), weights, alphas, inner)
        return list(found.total.values())

    eager = [total(seed) for seed in range(4)]
    config = SearchConfig.create(scale="laptop", compile="on")
    Acceleration.of(config, torch.device("cpu")).compiled(net.cells)
    counts, compiled = [], []
    for seed in range(4):
        compiled.append(total(seed))
        counts.append(compiler.frame_count)
    assert counts == [3] * 4
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-5)


# What a killed run leaves -----------------------------------------------------------------------

READER = """
import multiprocessing, sys, time
from pathlib import Path
import torch
from darts_lib.data.imagenet_data import find_pictures, read_batches
train, _ = find_pictures(Path(sys.argv[1]), 32)
reading = read_batches(train, [torch.arange(4)] * 1000, 2, torch.device("cpu"), 9)
next(reading)
print("workers", *(child.pid for child in multiprocessing.active_children()), flush=True)
time.sleep(600)
"""


def is_gone(process: int) -> bool:
    """Say whether a process has ended, waited for or not."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{process}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.slow
def test_workers_end_when_the_process_that_they_read_for_is_killed(tmp_path: Path) -> None:
    """Else they hold memory for good: nobody is left who could stop them."""
    command = [sys.executable, "-c", READER, str(make(tmp_path))]
    own = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=own) as reader:
        assert reader.stdout is not None
        line = next(line for line in reader.stdout if line.startswith("workers "))
        workers = [int(word) for word in line.split()[1:]]
        reader.kill()
    assert len(workers) == 2
    until = time.monotonic() + 120
    while not all(map(is_gone, workers)):
        assert time.monotonic() < until, f"still there: {workers}"
        time.sleep(0.2)


# Commands on the pages --------------------------------------------------------------------------

CHAPTERS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
WORD = r"(?:\"[^\"\n]*\"|[^\s`\"]+)"
PAPERMILL = re.compile(
    rf"(?:papermill|\$\(PAPERMILL\)) +(notebooks/\S+) +({WORD})((?: +-p +\w+ +{WORD})*)"
)
MODULE = re.compile(r"(?:python3?|\$\(PY\)|torchrun.*) -m (darts_lib[.\w]*)([^`\n]*)")


def cells(chapter: Path) -> list[dict[str, Any]]:
    content: dict[str, Any] = json.loads(chapter.read_text(encoding="utf-8"))
    return [{**cell, "source": "".join(cell["source"])} for cell in content["cells"]]


def page(path: Path) -> str:
    """Return a page's text, with each command on one line."""
    if path.suffix == ".ipynb":
        text = "\n\n".join(cell["source"] for cell in cells(path))
    else:
        text = path.read_text(encoding="utf-8")
    return re.sub(r" *\\\n#?[ \t]*", " ", text)


PAGES = {
    str(path.relative_to(ROOT)): page(path)
    for path in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile", "data/README.md")),
        ROOT / "notebooks" / "README.md",
        *CHAPTERS,
    )
}


@functools.cache
def configuration(chapter: str) -> tuple[type[RunConfig], frozenset[str]]:
    """Return the configuration that a chapter reads, and the names it takes as parameters."""
    sources = [cell for cell in cells(ROOT / chapter) if cell["cell_type"] == "code"]
    trees = [ast.parse(cell["source"]) for cell in sources]
    (name,) = re.findall(r"read_parameters\(globals\(\), (\w+)", PAGES[chapter])
    (module,) = (
        node.module
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]
    )
    config = getattr(importlib.import_module(str(module)), name)
    annotated = {
        node.target.id
        for cell, tree in zip(sources, trees, strict=True)
        if "parameters" in cell["metadata"].get("tags", [])
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return config, frozenset(annotated) | frozenset(config.model_fields)


def problems_of_papermill(text: str) -> list[str]:
    """Return what is wrong with the papermill commands of a text."""
    found = []
    for chapter, _, options in PAPERMILL.findall(text):
        if chapter not in PAGES:
            found.append(f"no {chapter}")
            continue
        config, known = configuration(chapter)
        given = dict(re.findall(rf"-p +(\w+) +({WORD})", options))
        found += [f"{chapter} has no parameter {name}" for name in given if name not in known]
        plain = {n: v for n, v in given.items() if n in known and not re.search(r"[/$]", v)}
        try:
            config.create(**plain)
        except ValueError as error:
            found.append(f"{chapter}: {error}")
    return found


def problems_of_modules(text: str) -> list[str]:
    """Return the modules that cannot be run, and options that theirs do not mention."""
    found = []
    for module, rest in MODULE.findall(text):
        file = ROOT / f"{module.replace('.', '/')}.py"
        if not file.exists() or '__name__ == "__main__"' not in file.read_text():
            found.append(f"{module} cannot be run")
            continue
        source = file.read_text()
        options = re.findall(r"--([a-z][a-z-]*)", rest.partition("#")[0])
        for option in [each for each in options if each != "help"]:  # that one is argparse's own
            if f'"--{option}"' not in source and option.replace("-", "_") not in source:
                found.append(f"{module} has no option --{option}")
    return found


def problems_of_make(text: str) -> list[str]:
    targets = set(re.findall(r"^([a-z0-9]+):", PAGES["Makefile"], re.MULTILINE))
    named = re.findall(r"(?:`|^ {4}|^)make (?:-k )?([a-z0-9]+)\b", text, re.MULTILINE)
    return [f"no target {name}" for name in named if name not in targets]


def problems_of_parameters(text: str) -> list[str]:
    """Return the names after `-p`, in a command or alone, that no chapter takes."""
    known = frozenset[str]().union(*(configuration(f"notebooks/{c.name}")[1] for c in CHAPTERS))
    return [f"-p {name}" for name in re.findall(r"-p (\w+) ", text) if name not in known]


def problems_of_folders(text: str) -> list[str]:
    """Return the folders that papermill writes to, and refuses to make, if nothing makes them."""
    written = {path.strip('"').rpartition("/")[0] for _, path, _ in PAPERMILL.findall(text)}
    made = {path.strip('"') for path in re.findall(r"mkdir -p (\S+?);?(?:\s|$)", text)}
    return [f"nothing makes {folder}" for folder in sorted(written - made - {""})]


CHECKS = [
    problems_of_papermill,
    problems_of_modules,
    problems_of_make,
    problems_of_parameters,
    problems_of_folders,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_a_page_name_what_is_there(
    name: str, check: Callable[[str], list[str]]
) -> None:
    assert check(PAGES[name]) == []


@pytest.mark.parametrize(
    ("check", "text", "problem"),
    [
        (problems_of_papermill, "papermill notebooks/08_x.ipynb out.ipynb", "no notebooks/08_x"),
        (problems_of_papermill, "papermill notebooks/03_search.ipynb o -p epoch 5", "no parameter"),
        (problems_of_papermill, "papermill notebooks/03_search.ipynb o -p order 3", "order='3'"),
        (problems_of_modules, "`python -m darts_lib.train x`", "darts_lib.train cannot be run"),
        (problems_of_modules, "python -m darts_lib.genotype", "genotype cannot be run"),
        (problems_of_modules, "python -m darts_lib.sweep --colour red", "no option --colour"),
        (problems_of_make, "`make everything`", "no target everything"),
        (problems_of_parameters, "with `-p epoch 5` it", "-p epoch"),
        (
            problems_of_folders,
            'papermill notebooks/03_search.ipynb "runs/a b/o.ipynb" -p epochs 1',
            "nothing makes runs/a b",
        ),
    ],
)
def test_a_command_that_names_what_is_not_there_is_found(
    check: Callable[[str], list[str]], text: str, problem: str
) -> None:
    found = check(text)
    assert len(found) == 1
    assert problem in found[0]


def test_the_commands_are_found() -> None:
    """The checks above look at something: the README's and the Makefile's commands are many."""
    assert len(PAPERMILL.findall(PAGES["README.md"])) >= 5
    assert len(PAPERMILL.findall(PAGES["Makefile"])) >= 8
    assert len(MODULE.findall(PAGES["README.md"])) >= 6
