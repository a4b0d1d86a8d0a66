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
from chapter_tools import FOLDER, load, text
from fuzz_tools import Patch, Printed
from kind_tools import CELL, SEARCH, end_of, stop_after, values
from same_bits import bits
from step_tools import live_tensors
from torch import Tensor, nn

from darts_lib import search as searching
from darts_lib.bilevel import ROUTES, InnerStep, held
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
from darts_lib.genotype import PUBLISHED, GenotypeError
from darts_lib.network import Network
from darts_lib.operations import OPERATIONS, add_operation
from darts_lib.relaxation import Supernet, initial_alphas, mix
from darts_lib.retrain import RetrainConfig
from darts_lib.search import Search, SearchConfig, load_search, read_search, search
from darts_lib.search_space import OWN_PRIMITIVES, PRIMITIVES

THREE_CELLS = {"channels": 2, "layers": 3, "nodes": 2, "batch_size": 8, "scale": "laptop"}


def config(path: Path | str = "", **given: object) -> SearchConfig:
    return SearchConfig.create(**{**SEARCH, "run_dir": str(path), **given})


def started(**given: object) -> tuple[Search, Batch, Batch]:
    """Return a search of a normal, a reduction and a normal cell, and batches for a step."""
    run = Search(SearchConfig.create(**{**THREE_CELLS, **given}))
    train, valid = next(run.batches(torch.Generator().manual_seed(0)))
    return run, train, valid


def test_order_chooses_an_unnamed_route() -> None:
    ignored = ["route=exact is given, so order=1 is ignored."]
    rows = {(1, ""): "first_order", (2, ""): "finite_difference", (1, "exact"): "exact"}
    for (order, route), chosen in rows.items():
        settings = SearchConfig.create(order=order, route=route)
        assert settings.chosen_route == chosen
        assert advice.ignored_order(settings) == (ignored if route else [])


def test_what_differentiates_twice_is_neither_compiled_nor_recorded(monkeypatch: Patch) -> None:
    monkeypatch.setattr("darts_lib.engine.settings.resolve_device", lambda _: torch.device("cuda"))
    for switch in ("compile", "graph"):
        config(route="finite_difference", **{switch: "on"})
        for route in ("exact", "unrolled"):
            with pytest.raises(SettingsError, match=f"{switch}='on' cannot be with .*'{route}'"):
                config(route=route, **{switch: "on"})


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


def test_alphas_of_every_epoch_are_kept_and_their_cells_can_be_trained(searched: Path) -> None:
    """Of quark0/darts#54: the last epoch's cell is the result, and every other one is kept."""
    assert read_json(searched / "config.json")["settings"]["max_skip"] == 1
    result, start = read_search(searched), initial_alphas(1, seed=0)
    for kind, alphas in result.alphas.items():
        assert alphas.shape == (4, 2, 8)
        assert torch.equal(alphas[0], start[kind].detach())
        assert not torch.equal(alphas[1], alphas[0])
    cells = genotypes_of(result.history)
    for epoch, (row, cell) in enumerate(zip(result.history, cells, strict=True), start=1):
        now = {kind: alphas[epoch] for kind, alphas in result.alphas.items()}
        assert derive(now, max_skip=1) == cell
        assert RetrainConfig.create(scale="laptop", genotype=str(cell)).cell == cell
        weights = mix(now)["normal"]
        by_hand = -(weights * weights.log()).sum(1).mean()
        assert row["entropy_normal"] == pytest.approx(float(by_hand), rel=1e-5)
        moved = [now[kind] - alphas[epoch - 1] for kind, alphas in result.alphas.items()]
        assert row["alpha_change"] == pytest.approx(float(torch.cat(moved).norm()), rel=1e-5)
        assert 0 <= row["train_accuracy"] <= 1
    assert (len(cells), find_genotype(str(searched))) == (3, cells[-1])


def test_a_search_is_rebuilt_as_it_stood(searched: Path, tmp_path: Path) -> None:
    assert bits(load_search(searched).state()) == bits(unpack(searched / "checkpoint.pt")["state"])
    with pytest.raises(SettingsError, match=r"holds no checkpoint\.pt; run chapter 03's search"):
        load_search(tmp_path)


def test_the_supernets_accuracy_is_never_called_the_result(searched: Path) -> None:
    """Of quark0/darts#60: a supernet's figure was compared with that of a retrained cell."""
    result = read_json(searched / "result.json")
    assert [name for name in result if "accuracy" in name] == ["supernet_valid_accuracy"]
    chapters = (FOLDER / name for name in ("03_search.ipynb", "05_retrain.ipynb"))
    of_search, of_retrain = ("".join(map(text, load(path)["cells"])) for path in chapters)
    assert "supernet, proxy" in of_retrain
    assert "retrained, final" in of_retrain
    assert "](05_retrain.ipynb)" in of_search.split("a proxy**", 1)[1]


def test_a_normal_cell_without_weights_is_told(monkeypatch: Patch, capsys: Printed) -> None:
    """Of D-X-Y/AutoDL-Projects#110: a cell of nothing but skips and pools."""
    poor = replace(PUBLISHED["DARTS_V2"], normal=(("max_pool_3x3", 0), ("skip_connect", 1)) * 4)
    monkeypatch.setattr(searching, "derive", lambda *_: poor)
    # At a rate of 0, to see on the way that alphas which nothing moved are told.
    result = search(config(epochs=1, alpha_learning_rate=0))
    said = capsys.readouterr().out
    assert "warning: no edge of the normal cell has weights, only pools and skip" in said
    assert "warning: the alphas never moved" in said
    assert "warning: 4 of the normal cell's edges are skip connections" in said
    assert result.genotype == poor, "and still given"


def test_rates_logged_used_and_of_inner_steps_are_the_cosines(monkeypatch: Patch) -> None:
    """Of chenxin061/pdarts#23: the rate was logged, used, and handed to the inner step apart."""
    run, used, inner = Search(config(epochs=4, max_steps=1)), list[float](), list[float]()
    inner_step = run.inner_step

    def watched(rate: Tensor) -> InnerStep:
        inner.append(float(rate))
        return inner_step(rate)

    monkeypatch.setattr(run, "inner_step", watched)
    run.optimiser.register_step_pre_hook(
        lambda optimiser, *_: used.append(float(optimiser.param_groups[0]["lr"]))
    )
    logged = [run.epoch(epoch)["learning_rate"] for epoch in range(4)]
    formula = [0.001 + 0.024 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]
    for rates in (logged, used, inner):
        assert rates == pytest.approx(formula, rel=1e-6)


@pytest.mark.parametrize("route", ["first_order", "finite_difference"])
@pytest.mark.parametrize("bad", ["train", "valid"])
def test_a_bad_gradient_of_either_half_leaves_its_update_out(bad: str, route: str) -> None:
    run, train, valid = started(route=route)
    run.guard.begin()
    run.take(train, valid)
    batch, kept, optimiser = {
        "train": (train, run.weights, run.optimiser),
        "valid": (valid, run.alphas, run.alpha_optimiser),
    }[bad]
    before = bits([dict(kept), list(optimiser.state.values())])
    batch[0][0, 0, 0, 0] = math.nan
    run.take(train, valid)
    assert bits([dict(kept), list(optimiser.state.values())]) == before
    assert all(value.isfinite().all() for value in (*run.weights.values(), *run.alphas.values()))
    with pytest.raises(FloatingPointError, match="the loss was no number in step"):
        run.guard.check(7, 0.5, "here")


@pytest.mark.parametrize("supernet", ["plain", "fused"])
@pytest.mark.parametrize("route", ROUTES)
def test_what_is_frozen_stays_and_all_else_learns(supernet: str, route: str) -> None:
    """Neither decayed nor pushed by a momentum that it has from before."""
    run, *batches = started(supernet=supernet, route=route)
    run.step(*batches)
    frozen = [*run.net.stem.parameters(), *run.net.cells[1].parameters(), run.alphas["reduce"]]
    for each in frozen:
        each.requires_grad_(False)
    every = [*run.net.parameters(), *run.alphas.values()]
    before = [each.detach().clone() for each in every]
    run.step(*batches)
    run.guard.check(1, 0.1, "")
    for each, value in zip(every, before, strict=True):
        assert torch.equal(each, value) == any(each is other for other in frozen)


def test_bfloat16_gives_nearly_the_same_step() -> None:
    """Autocast on the CPU: the loss within 2 %, the alphas' gradient in the same direction."""
    steps = []
    for amp in ("off", "on"):
        run, train, valid = started(order=1, amp=amp, channels=4, batch_size=64)
        total = run.step(train, valid)
        gradients = [value.grad.flatten() for value in run.alphas.values()]  # type: ignore[union-attr]
        steps.append((total[0] / total[2], torch.cat(gradients)))
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
    net, weights, images = kind(4, 3, 2), mix(initial_alphas(2)), torch.randn(6, 3, 8, 8)
    training = net.train()(3 + 5 * images, weights)  # which would move running statistics
    assert torch.equal(net.eval()(3 + 5 * images, weights), training)


@pytest.mark.parametrize("route", ["finite_difference", "unrolled"])
def test_second_order_steps_leave_no_tensor_behind(route: str) -> None:
    """Of dragen1860/DARTS-PyTorch#1: the copies of the virtual step piled up."""
    run, *batches = started(route=route)
    counts = []
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
    assert peak(order=1, recompute=True)[0] < 0.6 * first, "recomputed cells hold less"


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


@pytest.fixture
def own_operation() -> Iterator[str]:
    """Add an operation as a reader would, and take it out again."""
    add_operation("relu_conv", lambda channels, stride, affine: nn.Sequential(
        nn.ReLU(), nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
    ))  # fmt: skip
    yield "relu_conv"
    OWN_PRIMITIVES.remove("relu_conv")
    del OPERATIONS["relu_conv"]


@pytest.mark.parametrize("others", [["none", "skip_connect"], ["skip_connect"]], ids=" ".join)
def test_an_operation_of_ones_own_is_searched_and_derived_and_its_search_goes_on(
    others: list[str], own_operation: str, tmp_path: Path
) -> None:
    """Of automl/ConfigurableOptimizer#63: another list of primitives broke the derivation."""
    names = [own_operation, *others]
    given: dict[str, Any] = {"primitives": names, "max_skip": 0, "layers": 3, "epochs": 2}
    result = search(config(tmp_path / "straight", **given))
    assert result.alphas["normal"].shape == (3, 2, len(names))
    assert {name for name, _ in result.genotype.normal} == {own_operation}, "no skips are left"
    assert {name for name, _ in result.genotype.reduce} <= {own_operation, "skip_connect"}
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
    assert float(run.alphas["normal"][place].detach()) != before, "what it may have is searched"
    assert set(run.derived().normal) == {("sep_conv_3x3", 0), ("skip_connect", 1)}
    row = run.begin(0, torch.Generator()) | run.end()
    expected = weights["normal"][place] * run.costs["normal"][place]
    reduce = (weights["reduce"] * run.costs["reduce"]).sum()
    assert row["expected_madds"] == pytest.approx(1e6 * float(expected + reduce), rel=1e-5)
    assert 0 < row["entropy_normal"] < math.log(2)


def test_a_search_on_the_plain_supernet_goes_on_on_no_other(tmp_path: Path) -> None:
    search(config(tmp_path, supernet="plain", epochs=1))
    assert not isinstance(load_search(tmp_path).net, FusedSupernet)
    with pytest.raises(SettingsError, match="supernet 'plain' there, None here"):
        search(config(tmp_path, epochs=1))
