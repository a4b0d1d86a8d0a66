"""What every kind of run must do: go on to the same bits, leave its files, wait for nothing."""

import contextlib
import io
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kind_tools import KINDS, Kind, end_of, stop_after, values, write_pictures, write_text
from same_bits import bits
from step_tools import Elsewhere, NoWaiting
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from darts_lib import retrain as retraining
from darts_lib import search as searching
from darts_lib.bilevel import ROUTES
from darts_lib.cost.complexity import count_parameters
from darts_lib.cost.expected_cost import edge_costs, expected_cost
from darts_lib.engine.devices import step_memory
from darts_lib.engine.folder import read_history, read_json
from darts_lib.engine.opening import default_folder
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.settings import RunConfig, project_root
from darts_lib.recurrent import search as recurrent_searching

SEARCHES = ("search", "recurrent search")
FILES = {"config.json", "checkpoint.pt", "checkpoint.previous.pt", "history.jsonl", "result.json"}
LOSSES = {"train_loss", "valid_loss"}
ALPHAS = {"alpha_change", "genotype"}
IMAGES = LOSSES | {"train_accuracy", "valid_accuracy"}
TEXT = LOSSES | {"train_perplexity", "valid_perplexity"}
OF_SEARCH = {"entropy_normal", "entropy_reduce", "expected_madds", "skips"}
RETRAINED = {"drop_path", "train_loss", "train_accuracy"}
ROWS = {
    "search": IMAGES | ALPHAS | OF_SEARCH,
    "retraining": RETRAINED,
    "ImageNet retraining": RETRAINED,
    "recurrent search": TEXT | ALPHAS | {"entropy_recurrent"},
    "recurrent retraining": TEXT | {"averaged", "rollbacks"},
}
"""The figures of a row, beside those of `COMMON`."""
COMMON = {"epoch", "learning_rate", "seconds"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the folder that a kind reads, if it needs one."""
    text = str(write_text(tmp_path_factory.mktemp("text")))
    pictures = str(write_pictures(tmp_path_factory.mktemp("pictures")))
    recurrent = {"recurrent search": text, "recurrent retraining": text}
    return {"ImageNet retraining": pictures, **recurrent}


@pytest.fixture(scope="module", params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def kind(name: str, data: dict[str, str]) -> Kind:
    given = {**KINDS[name].given, "data_root": data.get(name, "")}
    return replace(KINDS[name], given=given)


@pytest.fixture(scope="module")
def straight(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder of a run that was never stopped, and what it printed."""
    path, out = tmp_path_factory.mktemp("kinds") / "straight", io.StringIO()
    with contextlib.redirect_stdout(out):
        kind.go(kind.settings(path))
    return path, out.getvalue()


# The folder -------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [2, 1])
def test_a_stopped_run_goes_on_to_the_same_bits(
    kind: Kind, left: int, straight: tuple[Path, str], tmp_path: Path
) -> None:
    settings, epochs = kind.settings(tmp_path / "run"), []
    last = settings.epochs - left
    with pytest.raises(KeyboardInterrupt):
        kind.go(settings, stop_after(last))
    torch.rand(5)
    kind.go(settings, lambda row: epochs.append(row["epoch"]))
    assert epochs == list(range(last + 1, settings.epochs + 1)), "no epoch is done twice"
    here, there = end_of(tmp_path / "run"), end_of(straight[0])
    assert [file for file in there if here.get(file) != there[file]] == []
    assert set(here) == set(there)
    state = there["checkpoint.pt"]["state"]
    moments = [part["state"] for name, part in state.items() if "optimiser" in name]
    assert any(moments) or state["averaged_steps"] > 0, "what steps leave behind is compared"


def test_a_run_leaves_its_files_and_figures_and_is_read_back(
    name: str, kind: Kind, straight: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = straight
    own = {"alphas.npz", "genotype.json"} if name in SEARCHES else {"weights.safetensors"}
    assert {file.name for file in path.iterdir()} == FILES | own
    before = end_of(path)
    result = kind.go(kind.settings(path), stop_after(1))
    assert f"finished already; read back from {path}" in capsys.readouterr().out
    assert end_of(path) == before
    assert [row["epoch"] for row in result.history] == list(range(1, len(result.history) + 1))
    assert {tuple(sorted(row)) for row in result.history} == {tuple(sorted(ROWS[name] | COMMON))}
    assert all(row["seconds"] > 0 for row in result.history)
    assert result.figures == read_json(path / "result.json")
    assert result.genotype.to_dict() == result.figures["genotype"]


def test_another_seed_ends_in_other_bits(
    kind: Kind, straight: tuple[Path, str], tmp_path: Path
) -> None:
    other = kind.go(kind.settings(tmp_path / "run", seed=1, epochs=1))
    assert other.history[0]["train_loss"] != read_history(straight[0])[0]["train_loss"]


def test_size_memory_time_and_settings_are_told_before_the_first_step(
    kind: Kind, straight: tuple[Path, str]
) -> None:
    """Of quark0/darts#98 and #80: what a run takes was found by crashing, or by waiting."""
    run, _ = kind.start()
    before, _, after = straight[1].partition("epoch 1/")
    assert after
    assert f" {count_parameters(run.net):,} " in before.replace("(", " ")
    words = re.escape(f"MiB (less with {run.LESS_MEMORY})")
    epochs = run.config.epochs
    assert re.search(rf"a step keeps about \d+ {words}; about .+ for {epochs} epochs", before)
    for setting, value in run.config.settings_that_matter().items():
        assert f"{setting}={value}" in before
    lines = ("epoch 1/" + after).splitlines()
    for line, row in zip(lines, read_history(straight[0]), strict=False):
        assert all(f"  {figure} {row[figure]:.4g}  " in line for figure in run.PRINTED), line
    named = set(re.findall(r"[a-z_]+", run.LESS_MEMORY)) - {"or", "a", "smaller"}
    assert "batch_size" in named
    assert named <= set(type(run.config).model_fields), "what lowers memory are settings"


# The step ---------------------------------------------------------------------------------------


def routes(name: str) -> tuple[str, ...]:
    return ROUTES if name in SEARCHES else ("",)


def started(name: str, kind: Kind) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield a run for each route that its kind can take."""
    for route in routes(name):
        yield kind.start(**{"route": route} if route else {})


def test_nothing_in_a_step_waits_for_the_device(name: str, kind: Kind) -> None:
    for run, given in started(name, kind):
        run.averaging = True
        with NoWaiting():
            run.step(*given)
            run.step(*given)


def test_the_mode_that_looks_for_waiting_finds_it() -> None:
    with pytest.raises(AssertionError, match="makes the host wait"), NoWaiting():
        float(torch.ones(()) + 1)


def test_what_a_step_changes_is_all_that_it_changes_and_stays_in_place(kind: Kind) -> None:
    """Put back, the next step gives the same bits: how a graph's warm-up leaves no trace."""
    run, given = kind.start()
    run.step(*given)
    places, before, ends = [tensor.data_ptr() for tensor in run.changed()], values(run), []
    for _ in range(2):
        torch.manual_seed(1)  # drop path
        run.step(*given)
        ends.append(values(run))
        with torch.no_grad():
            for tensor, value in zip(run.changed(), before, strict=True):
                tensor.copy_(value)
    assert all(map(torch.equal, *ends))
    assert [tensor.data_ptr() for tensor in run.changed()] == places
    weights = {parameter.data_ptr() for parameter in run.net.parameters()}
    moved = zip(places, ends[0], before, strict=True)
    assert all(not torch.equal(a, b) for place, a, b in moved if place in weights)


def test_the_trial_before_a_run_leaves_everything_as_it_was(kind: Kind) -> None:
    run, _ = kind.start()
    before = bits(run.state())
    seconds, size = run.trial()
    assert seconds > 0
    assert size > 0
    assert bits(run.state()) == before


def test_a_gradient_that_is_no_number_leaves_the_update_out_and_is_told(kind: Kind) -> None:
    run, given = kind.start()
    run.guard.begin()
    run.take(*given)
    run.guard.check(1, 0.1, "here")

    def kept() -> Any:
        optimisers = [run.optimiser, *([run.alpha_optimiser] if run.alphas else [])]
        return bits([dict(run.net.named_parameters()), run.alphas, [o.state for o in optimisers]])

    before = kept()
    last = run.net.decoder if hasattr(run.net, "decoder") else run.net.classifier
    hook = last.register_forward_hook(lambda _, __, out: out * torch.nan)
    run.take(*given)
    assert kept() == before
    hook.remove()
    run.take(*given)
    assert kept() != before, "a good step moves again"
    with pytest.raises(FloatingPointError, match=r"in step \d of epoch 7 \(loss nan, learning "):
        run.guard.check(7, 0.5, "here")


def test_a_step_makes_every_tensor_on_the_device_of_the_run(
    name: str, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of quark0/darts#67; tensors on `meta` have a shape and a device, so it needs no GPU."""
    _, given = kind.start()
    monkeypatch.setattr(RunConfig, "open_device", lambda _: torch.device("meta"))
    monkeypatch.setattr("darts_lib.engine.run.seed_epoch", lambda *_: None)
    for module in ("sgd", "adam"):  # the fused kernels are not run here
        place = sys.modules[f"torch.optim.{module}"]
        monkeypatch.setattr(place, "_device_dtype_check_for_fused", lambda _: None)
    given = pytree.tree_map(lambda tensor: tensor.to("meta"), given)
    for route in routes(name):
        with Elsewhere() as mode:
            run: Any = kind.run(kind.settings(**{"route": route} if route else {}))
            mode.strict = True
            run.step(*given)


def test_evaluation_builds_no_graph_and_gives_plain_numbers(kind: Kind) -> None:
    """Of yuhuixu1993/PC-DARTS#16: a pass without gradients ran out of memory."""
    run, _ = kind.start()
    run.begin(0, torch.Generator().manual_seed(0))
    with step_memory(run.device, []) as memory:
        figures = run.end() if hasattr(run, "valid") else run.test()
    assert memory.peak == 0, "of a step it is not: the trial"
    assert {type(value) for value in figures.values()} <= {float, int, bool, dict}


# What users of other code reported --------------------------------------------------------------


def test_a_run_warns_of_nothing_and_leaves_nothing_in_the_callers_folder(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of quark0/darts#90, stopped by each newer torch, and of nteract/papermill#316."""
    caller = tmp_path / "caller"
    caller.mkdir()
    monkeypatch.chdir(caller)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kind.go(kind.settings(tmp_path / "run", epochs=1))
    assert list(caller.iterdir()) == []


def test_run_and_data_folders_are_the_same_from_every_folder_of_the_project(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root, places, settings = project_root(), set(), KINDS["search"].settings()
    for folder in (tmp_path, root, root / "notebooks"):
        monkeypatch.chdir(folder)
        places.add((project_root(), default_folder(settings), settings.data_folder))
    assert len(places) == 1


class Wide(TorchDispatchMode):
    """Notes the operations that put out float64."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        leaves = [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)]
        self.operations += [str(func) for leaf in leaves if leaf.dtype == torch.float64]
        return out


def test_no_number_of_a_step_is_wider_than_apples_gpus_have(kind: Kind) -> None:
    """Of pytorch/pytorch#122602: float64 does not exist there."""
    run, given = kind.start()
    run.begin(0, torch.Generator().manual_seed(0))
    with Wide() as wide:
        run.step(*given)
        if hasattr(run, "valid"):
            run.evaluate() if run.alphas else run.end()
        else:
            retraining.tested(run.net, [given[0]])
    assert wide.operations == []


def test_the_expected_cost_needs_nothing_wider_either() -> None:
    """A fake Apple GPU: it has shapes, types and a device. The figure is float64's elsewhere."""
    costs = edge_costs(4, 3, 2, (8, 8))
    with FakeTensorMode(allow_non_fake_inputs=True), Wide() as wide:
        alphas = {kind: torch.zeros(cost.shape, device="mps") for kind, cost in costs.items()}
        cost = expected_cost(alphas, costs)
        assert (cost.device.type, cost.dtype) == ("mps", torch.float32)
    assert wide.operations == []
    real = {kind: torch.zeros(cost.shape) for kind, cost in costs.items()}
    assert expected_cost(real, costs).dtype == torch.float64


def test_a_search_is_read_from_the_folder_of_a_search_alone(
    name: str, straight: tuple[Path, str]
) -> None:
    for read in (searching.read_search, recurrent_searching.read_search):
        if name not in SEARCHES:
            with pytest.raises(SettingsError, match="is not the folder of a search"):
                read(straight[0])
