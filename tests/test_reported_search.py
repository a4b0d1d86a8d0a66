"""Faults that people reported of searches elsewhere, from memory to the cell, kept away here."""

import contextlib
import gc
import io
import json
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from same_bits import digest
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from darts_lib import operations, search_step
from darts_lib.bilevel import ROUTES
from darts_lib.cost.complexity import count_parameters, multiply_adds
from darts_lib.cost.step_cost import WITHOUT_FAKE, StepCost, trace
from darts_lib.derivation import derive, genotypes_of
from darts_lib.drawing.cell_plots import draw_genotype
from darts_lib.engine.command_line import run_from_file
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.run_files import read_history, read_json
from darts_lib.fast.fused import FusedSupernet
from darts_lib.formats.cell_choice import find_genotype
from darts_lib.formats.dialects import read
from darts_lib.genotype import PUBLISHED, Genotype, GenotypeError
from darts_lib.network import Network
from darts_lib.operations import OPERATIONS, add_operation
from darts_lib.recurrent.retrain_step import RecurrentRetrainConfig, RecurrentRetraining
from darts_lib.recurrent.search_epoch import RecurrentSearch, figures
from darts_lib.recurrent.search_step import RecurrentSearchConfig, RecurrentSearchStep
from darts_lib.relaxation import Supernet, initial_alphas
from darts_lib.retrain import RetrainConfig, evaluate, retrain
from darts_lib.retrain_epoch import Retraining
from darts_lib.retrain_step import RetrainStep
from darts_lib.search import SearchConfig, poor_cell, search
from darts_lib.search_epoch import Search
from darts_lib.search_space import KINDS, OWN_PRIMITIVES, PRIMITIVES, edges
from darts_lib.search_step import SearchStep

CPU = torch.device("cpu")
NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
V2 = PUBLISHED["DARTS_V2"]
CELL = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1)], normal_concat=[2], "
    "reduce=[('max_pool_3x3', 0), ('dil_conv_3x3', 1)], reduce_concat=[2])"
)
SMALL = {"scale": "laptop", "batch_size": 8, "max_steps": 1, "epochs": 2}
TINY: dict[str, Any] = {**SMALL, "channels": 2, "layers": 1, "nodes": 1}
DERIVED: dict[str, Any] = {**SMALL, "channels": 4, "layers": 2, "genotype": CELL}
WORDS: dict[str, Any] = {"scale": "laptop", "width": 2, "batch_size": 2, "bptt": 2, "max_steps": 2}


def said_by(run: Callable[[], object]) -> str:
    """Return what a call prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        run()
    return out.getvalue()


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder of a finished search with a limit of skips, and what it printed."""
    path = tmp_path_factory.mktemp("reported") / "search"
    config = SearchConfig.create(**TINY, run_dir=str(path), max_skip=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepCost, "seconds", lambda *_: 1.0)  # to measure them takes long
        return path, said_by(lambda: search(config))


# Memory -----------------------------------------------------------------------------------------


def test_size_memory_and_what_lowers_it_are_told_before_the_first_step(
    searched: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of quark0/darts#98: the memory was found by crashing."""
    monkeypatch.setattr(StepCost, "seconds", lambda *_: 1.0)
    config = RetrainConfig.create(**DERIVED, run_dir=str(tmp_path / "run"))
    for run, said in (
        (Search(SearchConfig.create(**TINY)), searched[1]),
        (Retraining(config), said_by(lambda: retrain(config))),
    ):
        before = said.split("epoch 1/2")[0]
        assert f"{count_parameters(run.net):,} " in before
        words = re.escape(f"MiB (less with {run.LESS_MEMORY})")
        assert re.search(rf"a step adds about \d+ {words}", before), before


@pytest.mark.parametrize(
    ("run", "config"),
    [
        (Search, SearchConfig),
        (Retraining, RetrainConfig),
        (RecurrentSearch, RecurrentSearchConfig),
        (RecurrentRetraining, RecurrentRetrainConfig),
    ],
)
def test_what_lowers_memory_are_settings_of_the_run(run: Any, config: Any) -> None:
    named = set(re.findall(r"[a-z_]+", run.LESS_MEMORY)) - {"or", "a", "smaller"}
    assert "batch_size" in named
    assert named <= set(config.model_fields)


def of_cuda() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has ...")


def of_the_cpu() -> None:
    torch.empty(2**50)  # more than a process can address


@pytest.mark.parametrize("spend", [of_cuda, of_the_cpu])
@pytest.mark.parametrize(
    ("run", "go", "config"),
    [
        (Search, search, SearchConfig.create(**TINY)),
        (Retraining, retrain, RetrainConfig.create(**DERIVED)),
    ],
    ids=["search", "retrain"],
)
def test_too_little_memory_ends_a_run_in_one_line_and_keeps_its_checkpoint(
    run: Any,
    go: Any,
    config: Any,
    spend: Callable[[], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config.model_copy(update={"run_dir": str(tmp_path / "run")})
    step, kept = run.step, tmp_path / "run" / "checkpoint.pt"
    states: list[str] = []
    monkeypatch.setattr(f"{go.__module__}.describe", lambda _: None)  # it takes its time

    def spending(self: Any, *batches: Any) -> Any:
        if kept.exists():  # so the first epoch is done
            states.append(digest(kept))
            spend()
        return step(self, *batches)

    monkeypatch.setattr(run, "step", spending)
    with pytest.raises(SettingsError) as caught:
        go(config)
    message = str(caught.value)
    assert message.startswith("a step of epoch 2 does not fit into memory (")
    assert f"less with {run.LESS_MEMORY}. 1 finished epochs are kept in {tmp_path}" in message
    assert "\n" not in message
    assert [digest(kept)] == states
    assert not list(kept.parent.glob(".*.part"))
    monkeypatch.setattr(run, "step", step)
    go(config)
    assert len(read_history(tmp_path / "run")) == 2, "the same command goes on"


def test_too_little_memory_ends_the_command_line_with_a_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**TINY, "run_dir": str(tmp_path / "run")}))
    monkeypatch.setattr("darts_lib.search.describe", lambda _: None)
    monkeypatch.setattr(Search, "step", lambda *_: of_cuda())
    monkeypatch.setattr(sys, "argv", ["darts_lib.search", str(file)])
    with pytest.raises(SystemExit) as ended:
        run_from_file(SearchConfig, search, str)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "does not fit into memory (CUDA out of memory. Tried to allocate 2 GiB.); less" in line


def test_another_error_of_a_step_is_not_taken_for_too_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("darts_lib.search.describe", lambda _: None)
    monkeypatch.setattr(Search, "step", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        search(SearchConfig.create(**TINY, run_dir=str(tmp_path / "run")))


@contextlib.contextmanager
def kept_for_backward() -> Iterator[list[int]]:
    """Count the tensors that autograd keeps for a backward pass."""
    kept = [0]

    def count(tensor: Tensor) -> Tensor:
        kept[0] += 1
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        yield kept


def evaluated_search() -> tuple[Callable[[], object], Callable[[], dict[str, float]]]:
    run = Search(SearchConfig.create(**TINY))
    (batches,) = run.batches(torch.Generator().manual_seed(0))
    return lambda: run.step(*batches), run.evaluate


def evaluated_network() -> tuple[Callable[[], object], Callable[[], dict[str, float]]]:
    run = Retraining(RetrainConfig.create(**{**DERIVED, "max_images": 40}))
    (batch,) = run.batches(torch.Generator().manual_seed(0))
    return lambda: run.step(batch), lambda: evaluate(run.net, run.train, 8)


def evaluated_text() -> tuple[Callable[[], object], Callable[[], dict[str, float]]]:
    run = RecurrentSearch(RecurrentSearchConfig.create(**WORDS, nodes=1))
    segments = next(iter(run.batches(torch.Generator().manual_seed(0))))
    return lambda: run.step(*segments), lambda: figures("valid", run.evaluate())


@pytest.mark.parametrize("start", [evaluated_search, evaluated_network, evaluated_text])
def test_evaluation_builds_no_graph_and_gives_plain_numbers(
    start: Callable[[], tuple[Callable[[], object], Callable[[], dict[str, float]]]],
) -> None:
    """Of yuhuixu1993/PC-DARTS#16: a pass without gradients ran out of memory."""
    step, evaluation = start()
    with kept_for_backward() as kept:
        found = evaluation()
    assert kept == [0]
    assert all(type(value) is float for value in found.values()), found
    with kept_for_backward() as kept:
        step()
    assert kept[0] > 0, "the counter must see the graph of a step"


def fixed_step(config: SearchConfig) -> tuple[SearchStep, Callable[[SearchStep], object]]:
    """Return a search and a step of it on a batch that is made anew each time."""

    def step(run: SearchStep) -> object:
        images = torch.zeros(config.batch_size, 1, 8, 8)
        labels = torch.zeros(config.batch_size, dtype=torch.int64)
        return run.eager_step(images, labels, images, labels)

    return SearchStep(config, 10, (1, 8, 8), CPU), step


def live() -> tuple[int, int]:
    """Return how many tensors there are, and their bytes."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
    return len(tensors), sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("route", ["finite_difference", "unrolled"])
def test_second_order_steps_leave_no_tensor_behind(route: str) -> None:
    """Of dragen1860/DARTS-PyTorch#1: the copies of the virtual step piled up."""
    run, step = fixed_step(SearchConfig.create(**TINY, route=route))
    found = []
    for number in range(1, 9):
        step(run)
        if number in (3, 8):
            found.append(live())
    assert found[0] == found[1], "(tensors, bytes) after 3 and after 8 steps"


def test_second_order_never_holds_the_graphs_of_two_passes() -> None:
    """Beyond a first-order step it needs copies of the weights, not a second net's activations."""
    costs, weights = {}, 0
    for order in (1, 2):
        run, step = fixed_step(SearchConfig.create(**{**TINY, "batch_size": 64}, order=order))
        weights = sum(weight.nbytes for weight in run.weights.values())
        costs[order] = trace(run, step).peak_bytes
    extra = costs[2] - costs[1]
    assert 0 <= extra < 8 * weights
    assert extra < 0.5 * costs[1]


# What a search tells ----------------------------------------------------------------------------


def test_every_epochs_line_says_how_far_the_alphas_moved(searched: tuple[Path, str]) -> None:
    """Of yuhuixu1993/PC-DARTS#56: alphas that nothing moved looked like any others."""
    path, said = searched
    lines = [line for line in said.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2
    for line, row in zip(lines, read_history(path), strict=True):
        assert row["alpha_change"] > 0
        assert f"  alpha_change {row['alpha_change']:.4g}  " in line
        assert f"  entropy_normal {row['entropy_normal']:.4g}  " in line


FREE = (("max_pool_3x3", 0), ("skip_connect", 1)) * 4


def test_a_normal_cell_without_weights_is_told_and_still_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of D-X-Y/AutoDL-Projects#110: a cell of nothing but skips and pools."""
    poor = Genotype(FREE, V2.normal_concat, V2.reduce, V2.reduce_concat)
    monkeypatch.setattr("darts_lib.search.describe", lambda _: None)
    monkeypatch.setattr("darts_lib.search_epoch.derive", lambda *_: poor)
    config = SearchConfig.create(**{**TINY, "epochs": 1, "run_dir": str(tmp_path / "run")})
    said = said_by(lambda: search(config))
    assert "warning: no edge of the normal cell has weights, only pools and skip" in said
    assert "warning: 4 of the normal cell's edges are skip connections" in said
    assert Genotype.from_dict(read_json(tmp_path / "run" / "genotype.json")) == poor


def test_a_reduction_cell_of_pools_is_no_reason_to_warn() -> None:
    """The published reduction cells have pools and skips alone."""
    for cell in (V2, PUBLISHED["DARTS_V1"]):
        assert poor_cell(cell) == []
    one = (*FREE[:-1], ("dil_conv_5x5", 3))
    assert poor_cell(Genotype(one, V2.normal_concat, V2.reduce, V2.reduce_concat)) == []


def test_the_rule_for_skips_is_told_and_stored_beside_the_cell(
    searched: tuple[Path, str],
) -> None:
    path, said = searched
    assert "  max_skip=1  " in said.split("epoch 1/2")[0]
    assert read_json(path / "config.json")["settings"]["max_skip"] == 1
    assert Genotype.from_dict(read_json(path / "genotype.json")).skips() <= 1


def test_the_cell_of_any_epoch_can_be_trained(searched: tuple[Path, str]) -> None:
    """Of quark0/darts#54: the last epoch's cell is the result, and every other one is kept."""
    cells = genotypes_of(read_history(searched[0]))
    assert len(cells) == 2
    assert find_genotype(str(searched[0])) == cells[-1]
    for cell in cells:
        assert RetrainConfig.create(scale="laptop", genotype=str(cell)).cell == cell


def test_the_supernets_accuracy_is_never_called_the_result(searched: tuple[Path, str]) -> None:
    """Of quark0/darts#60: a supernet's figure was compared with that of a retrained cell."""
    result = read_json(searched[0] / "result.json")
    accuracies = [name for name in result if "accuracy" in name]
    assert accuracies == ["supernet_valid_accuracy"]
    chapters = [
        "".join("".join(cell["source"]) for cell in read_json(NOTEBOOKS / name)["cells"])
        for name in ("03_search.ipynb", "05_retrain.ipynb")
    ]
    assert all("supernet, proxy" in text for text in chapters)
    assert "retrained, final" in chapters[1]
    assert "](05_retrain.ipynb)" in chapters[0].split("supernet, proxy", 1)[1]


# The step ---------------------------------------------------------------------------------------


class Elsewhere(TorchDispatchMode):
    """Once `strict`, fails where an operation reads a tensor that is not on `meta`."""

    strict = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.strict:
            leaves = pytree.tree_leaves((args, kwargs or {}))
            places = {leaf.device.type for leaf in leaves if isinstance(leaf, Tensor)}
            assert places <= {"meta"} or func in MOVING, f"{func} reads tensors on {sorted(places)}"
        elif func is torch.ops.aten._local_scalar_dense.default:
            return 0  # an optimiser that is made asks whether its rate is below zero
        if func._schema.name.removeprefix("aten::") in WITHOUT_FAKE:
            return None
        return func(*args, **(kwargs or {}))


MOVING = (torch.ops.aten.lift_fresh.default, torch.ops.aten._to_copy.default)
"""What may read a tensor made of numbers on its way to the device."""


def images_on(device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.zeros(4, 3, 8, 8, device=device), torch.zeros(4, dtype=torch.int64, device=device)


def step_of_a_search(device: torch.device, route: str) -> Callable[[], object]:
    run = SearchStep(SearchConfig.create(**TINY, route=route), 10, (3, 8, 8), device)
    batch = images_on(device)
    return lambda: run.step(batch, batch)


def step_of_a_retraining(device: torch.device, _: str) -> Callable[[], object]:
    run = RetrainStep(RetrainConfig.create(**DERIVED, drop_path=0.3, accumulate=2), 10, 3, device)
    batch = images_on(device)
    return lambda: run.step(batch)


def step_on_words(device: torch.device, route: str) -> Callable[[], object]:
    run = RecurrentSearchStep(
        RecurrentSearchConfig.create(**WORDS, nodes=1, route=route), 20, device
    )
    words = torch.zeros(2, 2, dtype=torch.int64, device=device)

    def step() -> None:
        run.train_masks.draw()
        run.valid_masks.draw()
        run.step((words, words), (words, words))

    return step


@pytest.mark.parametrize(
    ("start", "route"),
    [(step_of_a_retraining, "")]
    + [(start, route) for start in (step_of_a_search, step_on_words) for route in ROUTES],
)
def test_a_step_makes_every_tensor_on_the_device_of_the_run(
    start: Callable[[torch.device, str], Callable[[], object]],
    route: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of quark0/darts#67; tensors on `meta` have a shape and a device, so it needs no GPU."""
    no_costs = {kind: torch.zeros(len(edges(1)), len(PRIMITIVES)) for kind in KINDS}
    monkeypatch.setattr(search_step, "edge_costs", lambda *_: no_costs)
    for name in ("sgd", "adam"):  # the fused kernels are not run here
        module = sys.modules[f"torch.optim.{name}"]
        monkeypatch.setattr(module, "_device_dtype_check_for_fused", lambda _: None)
    with Elsewhere() as mode:
        step = start(torch.device("meta"), route)
        mode.strict = True
        step()


@pytest.mark.parametrize("kind", [Supernet, FusedSupernet])
def test_evaluation_mode_is_the_same_function_of_a_supernet(kind: type[Supernet]) -> None:
    """Of automl/NASLib pull 92: running statistics of a mixture made evaluation useless."""
    torch.manual_seed(0)
    net, alphas, images = kind(4, 3, 2), initial_alphas(2), torch.randn(6, 3, 8, 8)
    for _ in range(3):  # what would move running statistics
        net(3 + 5 * torch.randn(6, 3, 8, 8), alphas)
    training = net.train()(images, alphas)
    assert torch.equal(net.eval()(images, alphas), training)
    held = {name: value.clone() for name, value in net.state_dict().items()}
    assert not [name for name in held if "running" in name or "num_batches" in name]


def test_the_logged_rate_the_optimisers_and_the_inner_steps_are_the_cosines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of chenxin061/pdarts#23: the rate was logged, used, and handed to the inner step apart."""
    inner: list[float] = []
    gradient = search_step.architecture_gradient

    def watched(*arguments: Any, **options: Any) -> Any:
        inner.append(float(arguments[4].learning_rate))
        return gradient(*arguments, **options)

    def watched_run() -> Search:
        run = Search(config)
        run.optimiser.register_step_pre_hook(
            lambda optimiser, *_: used.append(float(optimiser.param_groups[0]["lr"]))
        )
        return run

    monkeypatch.setattr(search_step, "architecture_gradient", watched)
    config = SearchConfig.create(**{**TINY, "epochs": 4})
    used: list[float] = []
    logged: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = watched_run()
        for epoch in range(4):
            if epoch == 2:  # a run that was stopped goes on with another object
                state = run.state()
                run = watched_run()
                run.restore(state)
            logged.append(run.epoch(epoch)["learning_rate"])
    formula = [0.001 + 0.024 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert logged[0] == 0.025
    for rates in (logged, used, inner):
        assert rates == pytest.approx(formula, rel=1e-6)


# The cell ---------------------------------------------------------------------------------------


@pytest.fixture
def own_operation() -> Iterator[str]:
    """Add an operation as a reader would, and take it out again."""

    def build(channels: int, stride: int, affine: bool) -> nn.Module:
        return nn.Sequential(nn.ReLU(), nn.Conv2d(channels, channels, 3, stride, 1, bias=False))

    add_operation("relu_conv", build)
    yield "relu_conv"
    OWN_PRIMITIVES.remove("relu_conv")
    del OPERATIONS["relu_conv"]


@pytest.mark.parametrize("place", [0, 2, None])
def test_an_operation_of_ones_own_is_searched_derived_drawn_and_trained(
    place: int | None, own_operation: str
) -> None:
    """Of automl/ConfigurableOptimizer#63: another list of primitives broke the derivation."""
    names = [own_operation, "skip_connect"]
    if place is not None:
        names.insert(place, "none")
    alphas = {kind: torch.zeros(len(edges(2)), len(names)) for kind in KINDS}
    for table in alphas.values():
        table[:, names.index(own_operation)] = 1.0
        if place is not None:
            table[:, place] = 5.0
    net = FusedSupernet(4, 3, 2, primitives=names)
    assert net(torch.randn(2, 3, 8, 8), alphas).shape == (2, 10)
    cell = derive(alphas, names)
    assert {name for kind in KINDS for name, _ in cell.pairs(kind)} == {own_operation}
    assert find_genotype(str(cell)) == Genotype.from_dict(cell.to_dict()) == cell
    derived = Network(cell, 4, 3)
    assert derived(torch.randn(2, 3, 8, 8))[0].shape == (2, 10)
    assert multiply_adds(derived, (3, 8, 8)) > 0
    draw_genotype(cell)


def test_the_librarys_operations_are_not_replaced_and_ones_own_is_no_longer_known() -> None:
    with pytest.raises(ValueError, match=r"'skip_connect' is there already; choose another name"):
        add_operation("skip_connect", operations.OPERATIONS["none"])
    with pytest.raises(GenotypeError, match="unknown operation 'relu_conv'; "):
        find_genotype(CELL.replace("sep_conv_3x3", "relu_conv"))
    assert OWN_PRIMITIVES == []


def flat(pairs: tuple[tuple[str, int], ...], tail: str = "") -> str:
    return ", ".join(f"('{name}', {source}{tail})" for name, source in pairs)


def by_node(pairs: tuple[tuple[str, int], ...], tail: str = "") -> str:
    return ", ".join(f"[{flat(pairs[i : i + 2], tail)}]" for i in range(0, len(pairs), 2))


SPELLINGS = {
    "flat": (flat, "", "[2, 3, 4, 5]"),
    "a range": (flat, "", "range(2, 6)"),
    "a list for each node": (by_node, "", "range(2, 6)"),
    "a weight in each pair": (flat, ", 0.130174", "range(2, 6)"),
    "both": (by_node, ", 1.0", "(2, 3, 4, 5)"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("spread", [False, True])
def test_a_cell_is_read_in_whatever_way_other_projects_spell_it(
    spelling: str, spread: bool
) -> None:
    """Of D-X-Y/AutoDL-Projects#11 and khanrc/pt.darts#44."""
    pairs, tail, concat = SPELLINGS[spelling]
    text = (
        f"Genotype(normal=[{pairs(V2.normal, tail)}], normal_concat={concat}, "
        f"reduce=[{pairs(V2.reduce, tail)}], reduce_concat={concat})"
    )
    if spread:
        text = "\n  " + re.sub(r"([\[(,=])", r" \1\n\t ", text) + "  # copied from a log\n"
    assert find_genotype(text) == read(text) == V2
    assert RetrainConfig.create(scale="laptop", genotype=text).genotype == str(V2)
    again = Genotype.from_dict(json.loads(json.dumps(find_genotype(text).to_dict())))
    assert again == V2


@pytest.mark.parametrize("third", ["1", "None", "'0.5'", "0.1, 0.2"])
def test_what_is_no_weight_is_no_pair(third: str) -> None:
    with pytest.raises(GenotypeError, match=r"is not a pair \('operation', source\)"):
        find_genotype(CELL.replace("'sep_conv_3x3', 0", f"'sep_conv_3x3', 0, {third}"))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("__import__('os').abort()", "unknown genotype"),
        (CELL.replace("[('sep", "__import__('os').abort() or [('sep", 1), "line 1, column 17"),
        (CELL.replace("('max_pool_3x3', 0)", "\n(print(1), 0)"), "'reduce' at line 1, column"),
    ],
)
def test_a_hostile_text_is_refused_with_its_place_and_never_run(text: str, place: str) -> None:
    with pytest.raises(GenotypeError, match=place):
        find_genotype(text)


def test_none_with_almost_half_of_every_edge_leaves_the_order_of_the_others() -> None:
    """Of quark0/darts#32: `none` had 0.47 of every edge and was in no cell."""
    torch.manual_seed(4)
    others = torch.rand(14, 7).softmax(1)
    weights = torch.cat([torch.full((14, 1), 0.47), 0.53 * others], dim=1)
    alphas = {kind: weights.log() for kind in KINDS}
    without = {kind: others.log() for kind in KINDS}
    assert derive(alphas) == derive(without, PRIMITIVES[1:])
