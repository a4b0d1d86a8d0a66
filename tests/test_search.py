"""A search of cells for images: its settings, its step, its records, and its seams."""

import gc
import math
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kind_tools import CELL, SEARCH, end_of, stop_after, values
from same_bits import bits
from step_tools import live_tensors
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from darts_lib import search as searching
from darts_lib.bilevel import ROUTES, held
from darts_lib.cost import advice
from darts_lib.cost.complexity import multiply_adds
from darts_lib.data.images import Batch
from darts_lib.derivation import derive, genotypes_of
from darts_lib.drawing.cell_plots import draw_genotype
from darts_lib.engine.devices import step_memory
from darts_lib.engine.files import unpack
from darts_lib.engine.folder import read_json
from darts_lib.engine.opening import default_folder
from darts_lib.engine.refusals import SettingsError
from darts_lib.fast.fused import FusedSupernet
from darts_lib.formats.cell_choice import find_genotype
from darts_lib.genotype import PUBLISHED, Genotype, GenotypeError
from darts_lib.network import Network
from darts_lib.operations import OPERATIONS, add_operation
from darts_lib.relaxation import Supernet, initial_alphas, mix
from darts_lib.retrain import RetrainConfig
from darts_lib.search import Search, SearchConfig, load_search, read_search, search
from darts_lib.search_space import KINDS, OWN_PRIMITIVES, PRIMITIVES
from darts_lib.tools.benchmark import both_gradients

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
THREE_CELLS = {"channels": 2, "layers": 3, "nodes": 2, "batch_size": 8, "scale": "laptop"}


def config(path: Path | str = "", **given: object) -> SearchConfig:
    return SearchConfig.create(**{**SEARCH, "run_dir": str(path), **given})


def started(**given: object) -> tuple[Search, Batch, Batch]:
    """Return a search of a normal, a reduction and a normal cell, and batches for a step."""
    run = Search(SearchConfig.create(**{**THREE_CELLS, **given}))
    train, valid = next(run.batches(torch.Generator().manual_seed(0)))
    return run, train, valid


@pytest.mark.parametrize(("order", "route", "chosen", "said"), [
    (1, "", "first_order", []),
    (2, "", "finite_difference", []),
    (1, "exact", "exact", ["route=exact is given, so order=1 is ignored."]),
])  # fmt: skip
def test_order_chooses_an_unnamed_route(
    order: int, route: str, chosen: str, said: list[str]
) -> None:
    settings = SearchConfig.create(order=order, route=route)
    assert (settings.chosen_route, advice.ignored_order(settings)) == (chosen, said)


@pytest.mark.parametrize("switch", ["compile", "graph"])
@pytest.mark.parametrize("route", ["exact", "unrolled"])
def test_what_differentiates_twice_is_neither_compiled_nor_recorded(
    switch: str, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("darts_lib.engine.settings.resolve_device", lambda _: torch.device("cuda"))
    with pytest.raises(SettingsError, match=f"{switch}='on' cannot be with route='{route}'"):
        config(route=route, **{switch: "on"})
    config(route="finite_difference", **{switch: "on"})


def test_settings_at_their_defaults_leave_the_folder_its_name(runs_root: Path) -> None:
    """The names are those of version 2c14a44, which had no method, supernet or primitives."""
    plain = {"method": "darts", "supernet": "fused", "primitives": list(PRIMITIVES)}
    for given in ({}, plain, {"edge_primitives": {}}):
        settings = SearchConfig.create(scale="laptop", **given)
        assert default_folder(settings) == runs_root / "search-digits-eb299529"
    paper = SearchConfig.create(scale="paper", device="cpu")
    assert default_folder(paper) == runs_root / "search-cifar10-2bc2c086"
    assert default_folder(config()) != default_folder(config(supernet="plain"))


@pytest.mark.parametrize(("layers", "kinds"), [(1, ["normal"]), (2, ["normal"]), (3, [])])
def test_a_kind_of_cell_that_the_supernet_lacks_is_told(layers: int, kinds: list[str]) -> None:
    run = Search(config(layers=layers, order=1))
    said = [line for line in run.advice() if f"layers={layers} there is no" in line]
    assert [line.split(" cell", 1)[0].rsplit(" ", 1)[1] for line in said] == kinds
    run.step(*next(run.batches(torch.Generator())))
    still = [kind for kind, alphas in run.alphas.items() if not bool(torch.any(alphas.grad))]
    assert still == kinds, "what is said is so"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished search with a limit of skips."""
    path = tmp_path_factory.mktemp("search") / "run"
    search(config(path, max_skip=1))
    return path


def test_alphas_are_kept_from_the_start_and_the_last_give_the_genotype(searched: Path) -> None:
    result, start = read_search(searched), initial_alphas(1, seed=0)
    assert {kind: tuple(a.shape) for kind, a in result.alphas.items()} == dict.fromkeys(
        ("normal", "reduce"), (4, 2, 8)
    )
    for kind, alphas in result.alphas.items():
        assert torch.equal(alphas[0], start[kind].detach())
        assert not torch.equal(alphas[1], alphas[0])
    for epoch, row in enumerate(result.history, start=1):
        now = {kind: alphas[epoch] for kind, alphas in result.alphas.items()}
        assert derive(now, max_skip=1).to_dict() == row["genotype"]
        weights = mix(now)["normal"]
        by_hand = -(weights * weights.log()).sum(1).mean()
        assert row["entropy_normal"] == pytest.approx(float(by_hand), rel=1e-5)
        moved = [now[kind] - alphas[epoch - 1] for kind, alphas in result.alphas.items()]
        assert row["alpha_change"] == pytest.approx(float(torch.cat(moved).norm()), rel=1e-5)
        assert 0 <= row["train_accuracy"] <= 1
    assert result.history[-1]["genotype"] == read_json(searched / "genotype.json")


def test_the_cell_of_any_epoch_can_be_trained(searched: Path) -> None:
    """Of quark0/darts#54: the last epoch's cell is the result, and every other one is kept."""
    cells = genotypes_of(read_search(searched).history)
    assert (len(cells), find_genotype(str(searched))) == (3, cells[-1])
    for cell in cells:
        assert RetrainConfig.create(scale="laptop", genotype=str(cell)).cell == cell


def test_a_search_is_rebuilt_as_it_stood(searched: Path, tmp_path: Path) -> None:
    assert bits(load_search(searched).state()) == bits(unpack(searched / "checkpoint.pt")["state"])
    with pytest.raises(SettingsError, match=r"holds no checkpoint\.pt; run chapter 03's search"):
        load_search(tmp_path)


def test_the_rule_for_skips_is_kept_and_stored_with_the_cell(
    searched: Path, tmp_path: Path
) -> None:
    assert read_json(searched / "config.json")["settings"]["max_skip"] == 1
    assert all(cell.skips() <= 1 for cell in genotypes_of(read_search(searched).history))
    given: dict[str, Any] = {"max_skip": 0, "epochs": 1, "nodes": 2}
    assert search(config(tmp_path / "run", **given)).genotype.skips() == 0


def test_the_supernets_accuracy_is_never_called_the_result(searched: Path) -> None:
    """Of quark0/darts#60: a supernet's figure was compared with that of a retrained cell."""
    result = read_json(searched / "result.json")
    assert [name for name in result if "accuracy" in name] == ["supernet_valid_accuracy"]
    search_, retrain_ = (
        "".join("".join(cell["source"]) for cell in read_json(NOTEBOOKS / name)["cells"])
        for name in ("03_search.ipynb", "05_retrain.ipynb")
    )
    assert "supernet, proxy" in retrain_
    assert "retrained, final" in retrain_
    assert "](05_retrain.ipynb)" in search_.split("supernet, proxy", 1)[1]


def test_a_normal_cell_without_weights_is_told_and_still_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of D-X-Y/AutoDL-Projects#110: a cell of nothing but skips and pools."""
    poor = replace(PUBLISHED["DARTS_V2"], normal=(("max_pool_3x3", 0), ("skip_connect", 1)) * 4)
    monkeypatch.setattr(searching, "derive", lambda *_: poor)
    # At a rate of 0, to see on the way that alphas which nothing moved are told.
    result = search(config(tmp_path / "run", epochs=1, alpha_learning_rate=0))
    said = capsys.readouterr().out
    for words in (
        "no edge of the normal cell has weights, only pools and skip",
        "the alphas never moved",
        "4 of the normal cell's edges are skip connections",
    ):
        assert f"warning: {words}" in said
    assert torch.equal(result.alphas["normal"][0], result.alphas["normal"][1])
    assert Genotype.from_dict(read_json(tmp_path / "run" / "genotype.json")) == poor


def test_none_with_almost_half_of_every_edge_leaves_the_order_of_the_others() -> None:
    """Of quark0/darts#32: `none` had 0.47 of every edge and was in no cell."""
    torch.manual_seed(4)
    others = torch.rand(14, 7).softmax(1)
    weights = torch.cat([torch.full((14, 1), 0.47), 0.53 * others], dim=1)
    cells = [derive(dict.fromkeys(KINDS, weights.log()))]
    cells.append(derive(dict.fromkeys(KINDS, others.log()), PRIMITIVES[1:]))
    assert cells[0] == cells[1]


def test_rates_logged_used_and_of_inner_steps_are_the_cosines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of chenxin061/pdarts#23: the rate was logged, used, and handed to the inner step apart."""
    inner: list[float] = []
    used: list[float] = []
    logged: list[float] = []
    gradient = searching.architecture_gradient

    def watched(*arguments: Any, **options: Any) -> Any:
        inner.append(float(arguments[4].learning_rate))
        return gradient(*arguments, **options)

    monkeypatch.setattr(searching, "architecture_gradient", watched)
    state = None
    for first in (0, 2):  # a run that was stopped goes on with another object
        run = Search(config(epochs=4, max_steps=1))
        run.optimiser.register_step_pre_hook(
            lambda optimiser, *_: used.append(float(optimiser.param_groups[0]["lr"]))
        )
        if state:
            run.restore(state)
        logged += [run.epoch(epoch)["learning_rate"] for epoch in (first, first + 1)]
        state = run.state()
    formula = [0.001 + 0.024 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert logged[0] == 0.025
    for rates in (logged, used, inner):
        assert rates == pytest.approx(formula, rel=1e-6)


@pytest.mark.parametrize("route", ["first_order", "finite_difference"])
@pytest.mark.parametrize("bad", ["train", "valid"])
def test_a_bad_gradient_of_either_half_leaves_its_update_out(bad: str, route: str) -> None:
    run, train, valid = started(route=route)
    run.guard.begin()
    run.take(train, valid)
    kept, optimiser = (
        (run.weights, run.optimiser) if bad == "train" else (run.alphas, run.alpha_optimiser)
    )
    before = bits([dict(kept), list(optimiser.state.values())])
    (train if bad == "train" else valid)[0][0, 0, 0, 0] = math.nan
    for _ in range(2):
        run.take(train, valid)
    assert bits([dict(kept), list(optimiser.state.values())]) == before
    values = (*run.weights.values(), *run.alphas.values())
    assert all(torch.isfinite(value).all() for value in values)
    with pytest.raises(FloatingPointError, match=r"in step \d of epoch 7 \(loss nan, "):
        run.guard.check(7, 0.5, "here")


def test_bfloat16_gives_nearly_the_same_step() -> None:
    """Autocast on the CPU: the loss within 2 %, the alphas' gradient in the same direction."""
    steps = []
    for amp in ("off", "on"):
        run, train, valid = started(order=1, amp=amp, channels=4, batch_size=64)
        total = run.step(train, valid)
        gradients = [value.grad.flatten() for value in run.alphas.values()]  # type: ignore[union-attr]
        steps.append((total[0] / total[2], torch.cat(gradients)))
        assert all(weight.dtype == torch.float32 for weight in run.weights.values())
    (loss, gradient), (near_loss, near_gradient) = steps
    assert not torch.equal(gradient, near_gradient), "autocast had no effect"
    assert float(near_loss) == pytest.approx(float(loss), rel=0.02)
    assert torch.cosine_similarity(gradient, near_gradient, dim=0) > 0.98


def test_the_perturbed_passes_stay_in_float32_under_amp() -> None:
    """By the types of what the supernet computes: only its two perturbed passes are float32."""
    run, *batches = started(amp="on")
    types = []
    run.net.classifier.register_forward_pre_hook(lambda _, args: types.append(args[0].dtype))
    run.step(*batches)
    low, full = torch.bfloat16, torch.float32
    assert types == [low, low, full, full, low]  # unrolling, validation, plus, minus, weights


@pytest.mark.parametrize(("order", "passes"), [(1, 1), (2, 3)])
def test_weight_gradients_are_computed_only_where_weights_need_them(
    order: int, passes: int
) -> None:
    """First order: in the weights' pass. Second: also the virtual step's and the validation's."""
    run, train, valid = started(order=order)
    with WeightGradients() as once:
        both_gradients(run, train)
    with WeightGradients() as whole:
        run.step(train, valid)
    assert whole.count == passes * once.count > 0


class WeightGradients(TorchDispatchMode):
    """Counts the convolutions' backward passes that compute a gradient by the weight."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            self.count += args[-1][1]  # the mask of what is wanted: input, weight, bias
        return func(*args, **kwargs or {})


def test_casts_of_constant_weights_live_until_the_next_pass() -> None:
    """No node of the graph keeps them, and on CUDA branches may still read them backward."""
    run, train, _ = started(amp="on")
    with run.fast.autocast():
        loss = run.loss(train)(held(run.weights), run.alphas)
        kept = weakref.ref(run.read["classifier.weight"].untyped_storage())
        torch.autograd.grad(loss, list(run.alphas.values()))
        gc.collect()
        assert kept() is not None
        run.loss(train)(run.weights, run.alphas)
        gc.collect()
        assert kept() is None


@pytest.mark.parametrize("route", ROUTES)
def test_recomputing_a_cell_changes_no_gradient(route: str) -> None:
    ends = []
    for recompute in (False, True):
        run, *batches = started(route=route, recompute=recompute)
        run.step(*batches)
        run.step(*batches)
        ends.append(values(run))
    assert all(map(torch.equal, *ends))


@pytest.mark.parametrize("kind", [Supernet, FusedSupernet])
def test_evaluation_mode_is_the_same_function_of_a_supernet(kind: type[Supernet]) -> None:
    """Of automl/NASLib pull 92: running statistics of a mixture made evaluation useless."""
    torch.manual_seed(0)
    net, weights, images = kind(4, 3, 2), mix(initial_alphas(2)), torch.randn(6, 3, 8, 8)
    for _ in range(3):  # what would move running statistics
        net(3 + 5 * torch.randn(6, 3, 8, 8), weights)
    training = net.train()(images, weights)
    assert torch.equal(net.eval()(images, weights), training)
    assert not [name for name in net.state_dict() if "running" in name or "num_batches" in name]


@pytest.mark.parametrize("route", ["finite_difference", "unrolled"])
def test_second_order_steps_leave_no_tensor_behind(route: str) -> None:
    """Of dragen1860/DARTS-PyTorch#1: the copies of the virtual step piled up."""
    run = Search(config(route=route))
    batches, counts = next(run.batches(torch.Generator().manual_seed(0))), []
    for steps in (3, 5):
        for _ in range(steps):
            run.step(*batches)
        counts.append(live_tensors())
    assert counts[0] == counts[1], "(tensors, bytes) after 3 and after 8 steps"


def peak(**given: object) -> tuple[int, int]:
    """Return the bytes that a step keeps at its peak, and those of the weights."""
    run, train, valid = started(batch_size=64, **given)
    with step_memory(run.device, run.changed()) as memory:
        run.step(train, valid)
    return memory.peak, sum(weight.nbytes for weight in run.weights.values())


def test_second_order_never_holds_the_graphs_of_two_passes() -> None:
    """Beyond a first-order step it needs copies of the weights, not a second net's activations."""
    (first, weights), (second, _) = peak(order=1), peak(order=2)
    assert 0 <= second - first < min(8 * weights, 0.5 * first)


def test_recomputed_cells_hold_less() -> None:
    assert peak(order=1, recompute=True)[0] < 0.6 * peak(order=1)[0]


def test_a_budget_adds_its_gradient_to_that_of_the_validation_loss() -> None:
    plain, train, valid = started(order=1)
    budget, *_ = started(order=1, madds_weight=3.0)
    plain.step(train, valid)
    budget.step(train, valid)
    fresh, *_ = started()
    gradients = torch.autograd.grad(fresh.madds(fresh.alphas), [*fresh.alphas.values()])
    for kind, value in zip(fresh.alphas, gradients, strict=True):
        added = budget.alphas[kind].grad - plain.alphas[kind].grad  # type: ignore[operator]
        torch.testing.assert_close(added, 3.0 * value, rtol=1e-4, atol=1e-6)


def test_a_heavy_budget_makes_the_cell_cheaper() -> None:
    ends = []
    for weight in (0.0, 1e4):
        run, *batches = started(order=1, madds_weight=weight)
        for _ in range(10):
            run.step(*batches)
        ends.append(float(run.madds(run.alphas).detach()))
    assert ends[1] < 0.8 * ends[0]


@pytest.fixture
def own_operation() -> Iterator[str]:
    """Add an operation as a reader would, and take it out again."""
    add_operation("relu_conv", lambda channels, stride, affine: nn.Sequential(
        nn.ReLU(), nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
    ))  # fmt: skip
    yield "relu_conv"
    OWN_PRIMITIVES.remove("relu_conv")
    del OPERATIONS["relu_conv"]


@pytest.mark.parametrize("place", [0, 1, None], ids=["none first", "none second", "without none"])
def test_an_operation_of_ones_own_is_searched_and_derived_and_its_search_goes_on(
    place: int | None, own_operation: str, tmp_path: Path
) -> None:
    """Of automl/ConfigurableOptimizer#63: another list of primitives broke the derivation."""
    names = [own_operation, "skip_connect"]
    if place is not None:
        names.insert(place, "none")
    given: dict[str, Any] = {"primitives": names, "max_skip": 0, "layers": 3, "epochs": 2}
    result = search(config(tmp_path / "straight", **given))
    assert result.alphas["normal"].shape == (3, 2, len(names))
    assert {name for name, _ in result.genotype.normal} == {own_operation}, "no skips are left"
    assert {name for name, _ in result.genotype.reduce} <= {own_operation, "skip_connect"}
    assert find_genotype(str(result.path)) == result.genotype
    draw_genotype(result.genotype)
    derived = Network(result.genotype, 4, 3)
    assert derived(torch.randn(2, 3, 8, 8))[0].shape == (2, 10)
    assert multiply_adds(derived, (3, 8, 8)) > 0
    with pytest.raises(KeyboardInterrupt):
        search(config(tmp_path / "run", **given), stop_after(1))
    search(config(tmp_path / "run", **given))
    assert end_of(tmp_path / "run") == end_of(result.path)
    assert load_search(result.path).config.primitives == tuple(names)


def test_the_librarys_operations_are_not_replaced_and_ones_own_is_no_longer_known() -> None:
    with pytest.raises(ValueError, match=r"'skip_connect' is there already; choose another name"):
        add_operation("skip_connect", OPERATIONS["none"])
    with pytest.raises(GenotypeError, match="unknown operation 'relu_conv'; "):
        find_genotype(CELL.replace("sep_conv_3x3", "relu_conv"))
    assert OWN_PRIMITIVES == []


SOME = {"normal": [["none", "sep_conv_3x3"], ["skip_connect"]]}


@pytest.mark.parametrize("supernet", ["fused", "plain"])
def test_an_edge_never_gets_what_it_may_not_have(supernet: str) -> None:
    run = Search(config(supernet=supernet, edge_primitives=SOME, madds_weight=1.0))
    may = torch.tensor([[name in row for name in PRIMITIVES] for row in SOME["normal"]])
    place = 0, PRIMITIVES.index("sep_conv_3x3")
    with torch.no_grad():
        run.alphas["normal"][~may] = 9.0  # as much as can be wished for
    before = float(run.alphas["normal"][place].detach())
    for batches in run.batches(torch.Generator().manual_seed(0)):
        assert torch.isfinite(run.step(*batches)).all()
    weights = {kind: mixed.detach() for kind, mixed in run.mixed(run.alphas).items()}
    assert torch.equal(weights["normal"] != 0, may), "exactly 0"
    assert bool((weights["reduce"] > 0).all())
    torch.testing.assert_close(weights["normal"].sum(1), torch.ones(2))
    assert float(run.alphas["normal"][place].detach()) != before, "what it may have is searched"
    assert set(run.derived().normal) == {("sep_conv_3x3", 0), ("skip_connect", 1)}
    full = Search(config()).costs["normal"]
    assert float(full.sum()) == float(run.costs["normal"].sum()), "the weights leave out the rest"
    row = run.begin(0, torch.Generator()) | run.end()
    expected = weights["normal"][place] * run.costs["normal"][place]
    reduce = (weights["reduce"] * run.costs["reduce"]).sum()
    assert row["expected_madds"] == pytest.approx(1e6 * float(expected + reduce), rel=1e-5)
    assert 0 < row["entropy_normal"] < math.log(2)


def test_the_plain_and_the_fused_supernet_are_searched_alike(tmp_path: Path) -> None:
    """In float64 the same history to rounding; neither goes on as the other."""
    torch.set_default_dtype(torch.float64)
    histories = []
    for supernet in ("fused", "plain"):
        run = Search(config(supernet=supernet, layers=3, nodes=2))
        assert isinstance(run.net, FusedSupernet) is (supernet == "fused")
        histories.append({**run.epoch(0), "seconds": 0})
    row, other = histories
    assert row.pop("genotype") == other.pop("genotype")
    assert row == pytest.approx(other, rel=1e-9)
    torch.set_default_dtype(torch.float32)
    search(config(tmp_path, supernet="plain", epochs=1))
    with pytest.raises(SettingsError, match="supernet 'plain' there, None here"):
        search(config(tmp_path, epochs=1))
