"""What every kind of run must do: go on to the same bits, leave its files, wait for nothing."""

import contextlib
import re
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz_tools import Patch, Printed
from kill_tools import differences
from kind_tools import KINDS, Kind, end_of, stop_after, values, write_text
from picture_tools import make
from same_bits import bits
from step_tools import Elsewhere, Watching, no_float64, no_waiting
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from darts_lib import retrain as retraining
from darts_lib import search as searching
from darts_lib.bilevel import ROUTES
from darts_lib.cost.complexity import count_parameters
from darts_lib.cost.expected_cost import edge_costs, expected_cost
from darts_lib.data.images import ImageSet, augmented_batch, clean_batch
from darts_lib.engine.devices import step_memory
from darts_lib.engine.files import unpack
from darts_lib.engine.folder import CHECKPOINTS, read_history, read_json
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.settings import RunConfig
from darts_lib.recurrent import search as recurrent_searching

SEARCHES = ("search", "recurrent search")
FILES = {"config.json", *CHECKPOINTS, "history.jsonl", "result.json"}
TEXT = "epoch learning_rate seconds train_loss valid_loss train_perplexity valid_perplexity "
ROWS = {
    "search": "epoch learning_rate seconds train_loss valid_loss train_accuracy valid_accuracy "
    "alpha_change genotype entropy_normal entropy_reduce expected_madds skips",
    "retraining": "epoch learning_rate seconds train_loss train_accuracy drop_path",
    "ImageNet retraining": "epoch learning_rate seconds train_loss train_accuracy drop_path",
    "recurrent search": TEXT + "alpha_change genotype entropy_recurrent",
    "recurrent retraining": TEXT + "averaged rollbacks",
}
STEPS: dict[str, list[dict[str, Any]]] = {name: [{}] for name in KINDS}
STEPS |= {name: [{"route": route} for route in ROUTES] for name in SEARCHES}
STEPS["search"] += [{"recompute": True}, {"madds_weight": 0.1}]
STEPS["retraining"] += [{"accumulate": 3}]
"""The settings that make another step."""


@pytest.fixture(scope="module", params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def kind(name: str, tmp_path_factory: pytest.TempPathFactory) -> Kind:
    """Return a kind of run that has the data which it reads."""
    write = write_text if "recurrent" in name else make
    root = write(tmp_path_factory.mktemp("data"))
    return replace(KINDS[name], given={**KINDS[name].given, "data_root": str(root)})


@pytest.fixture(scope="module")
def straight(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that was never stopped; what it printed lies beside it."""
    path = tmp_path_factory.mktemp("kinds") / "straight"
    with path.with_suffix(".log").open("w") as out, contextlib.redirect_stdout(out):
        kind.go(kind.settings(path))
    return path


def test_a_stopped_run_goes_on_to_the_same_bits(kind: Kind, straight: Path, tmp_path: Path) -> None:
    for left in (2, 1):
        settings, epochs = kind.settings(tmp_path / str(left)), []
        last = settings.epochs - left
        with pytest.raises(KeyboardInterrupt):
            kind.go(settings, stop_after(last))
        torch.rand(5)
        kind.go(settings, lambda row, epochs=epochs: epochs.append(row["epoch"]))
        assert epochs == list(range(last + 1, settings.epochs + 1)), "no epoch is done twice"
        assert differences(tmp_path / str(left), straight) == []
    state: Any = unpack(straight / "checkpoint.pt")["state"]
    moments = [part["state"] for name, part in state.items() if "optimiser" in name]
    assert any(moments) or state["averaged_steps"] > 0, "what steps leave behind is compared"


def test_a_run_leaves_its_files_and_figures_and_is_read_back(
    name: str, kind: Kind, straight: Path, capsys: Printed
) -> None:
    own = {"alphas.npz", "genotype.json"} if name in SEARCHES else {"weights.safetensors"}
    assert {file.name for file in straight.iterdir()} == FILES | own
    before = end_of(straight)
    result = kind.go(kind.settings(straight), stop_after(1))
    assert f"finished already; read back from {straight}" in capsys.readouterr().out
    assert end_of(straight) == before
    for gone in own | {"history.jsonl"}:
        (straight / gone).unlink()
    kind.go(kind.settings(straight), stop_after(1))
    assert end_of(straight) == before, "what is gone comes back from the checkpoint"
    assert [row["epoch"] for row in result.history] == list(range(1, len(result.history) + 1))
    assert all(row.keys() == set(ROWS[name].split()) for row in result.history)
    assert all(row["seconds"] > 0 for row in result.history)
    assert result.figures == read_json(straight / "result.json")
    assert result.genotype.to_dict() == result.figures["genotype"]
    for read in (searching.read_search, recurrent_searching.read_search):
        if name not in SEARCHES:
            with pytest.raises(SettingsError, match="is not the folder of a search"):
                read(straight)


def test_another_seed_ends_in_other_bits_and_a_run_writes_only_into_its_folder(
    kind: Kind, straight: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    """Of quark0/darts#90, stopped by each newer torch's warnings, and of nteract/papermill#316."""
    data, caller = Path(kind.given["data_root"]), tmp_path / "caller"
    before = {file: file.stat().st_mtime_ns for file in data.rglob("*")}
    caller.mkdir()
    monkeypatch.chdir(caller)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = kind.go(kind.settings(tmp_path / "run", seed=1, epochs=1))
    assert list(caller.iterdir()) == []
    assert {file: file.stat().st_mtime_ns for file in data.rglob("*")} == before
    assert other.history[0]["train_loss"] != read_history(straight)[0]["train_loss"]


def test_size_memory_time_and_settings_are_told_before_the_first_step(
    kind: Kind, straight: Path
) -> None:
    """Of quark0/darts#98 and #80: what a run takes was found by crashing, or by waiting."""
    run, _ = kind.start()
    before, _, after = straight.with_suffix(".log").read_text().partition("epoch 1/")
    assert after
    assert f" {count_parameters(run.net):,} " in before.replace("(", " ")
    words = re.escape(f"MiB (less with {run.LESS_MEMORY})")
    epochs = run.config.epochs
    assert re.search(rf"a step keeps about \d+ {words}; about .+ for {epochs} epochs", before)
    for setting, value in run.config.settings_that_matter().items():
        assert f"{setting}={value}" in before
    lines = ("epoch 1/" + after).splitlines()
    for line, row in zip(lines, read_history(straight), strict=False):
        assert all(f"  {figure} {row[figure]:.4g}  " in line for figure in run.PRINTED), line
    named = set(re.findall(r"[a-z_]+", run.LESS_MEMORY)) - {"or", "a", "smaller"}
    assert {"batch_size"} <= named <= set(type(run.config).model_fields), "they are settings"


def test_nothing_in_a_step_waits_for_the_device(name: str, kind: Kind) -> None:
    for given in STEPS[name]:
        run, batches = kind.start(**given)
        run.averaging = True
        with Watching(no_waiting):
            run.step(*batches)
            run.step(*batches)
    with pytest.raises(AssertionError, match="makes the host wait"), Watching(no_waiting):
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
    assert min(run.trial()) > 0
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
    name: str, kind: Kind, monkeypatch: Patch
) -> None:
    """Of quark0/darts#67; tensors on `meta` have a shape and a device, so it needs no GPU."""
    _, batches = kind.start()
    monkeypatch.setattr(RunConfig, "open_device", lambda _: torch.device("meta"))
    monkeypatch.setattr("darts_lib.engine.run.seed_epoch", lambda *_: None)
    for module in ("torch.optim.sgd", "torch.optim.adam"):  # the fused kernels are not run here
        monkeypatch.setattr(sys.modules[module], "_device_dtype_check_for_fused", lambda _: None)
    first, *others = pytree.tree_map(lambda tensor: tensor.to("meta"), batches)
    for given in STEPS[name]:
        with Elsewhere() as mode:
            run: Any = kind.run(kind.settings(**given))
            mode.strict = True
            assert run.step(first, *others).is_meta
            labels = torch.zeros(first[1].shape, dtype=torch.int64)
            with pytest.raises(AssertionError, match=r"reads tensors on \['cpu'"):
                run.step((first[0], labels), *others)


def test_batches_are_made_where_the_pictures_lie() -> None:
    cuda = torch.device("cuda", 0)
    with FakeTensorMode():
        images = torch.empty(20, 3, 8, 8, dtype=torch.uint8, device=cuda)
        labels = torch.empty(20, dtype=torch.int64, device=cuda)
        own = ImageSet("own", images, labels, ("a", "b"), (0.5,) * 3, (0.2,) * 3, 1, flip=True)
        augmented = augmented_batch(own, torch.arange(9), 4, torch.Generator())
        places = {tensor.device for tensor in (*augmented, *clean_batch(own, torch.arange(9)))}
    assert places == {cuda}


def test_evaluation_builds_no_graph_and_gives_plain_numbers(kind: Kind) -> None:
    """Of yuhuixu1993/PC-DARTS#16: a pass without gradients ran out of memory."""
    run, _ = kind.start()
    run.begin(0, torch.Generator().manual_seed(0))
    with step_memory(run.device, []) as memory:
        figures = run.end() if hasattr(run, "valid") else run.test()
    assert memory.peak == 0, "of a step it is not: the trial"
    assert {type(value) for value in figures.values()} <= {float, int, bool, dict}


def test_no_number_of_a_step_is_wider_than_apples_gpus_have(kind: Kind) -> None:
    """Of pytorch/pytorch#122602: float64 does not exist there."""
    run, given = kind.start()
    run.begin(0, torch.Generator().manual_seed(0))
    with Watching(no_float64):
        run.step(*given)
        if hasattr(run, "valid"):
            run.evaluate() if run.alphas else run.end()
        else:
            retraining.tested(run.net, [given[0]])


def test_the_expected_cost_needs_nothing_wider_either() -> None:
    """A fake Apple GPU: it has shapes, types and a device. The figure is float64's elsewhere."""
    costs = edge_costs(4, 3, 2, (8, 8))
    with FakeTensorMode(allow_non_fake_inputs=True), Watching(no_float64):
        alphas = {kind: torch.zeros(cost.shape, device="mps") for kind, cost in costs.items()}
        cost = expected_cost(alphas, costs)
        assert (cost.device.type, cost.dtype) == ("mps", torch.float32)
    real = {kind: torch.zeros(cost.shape) for kind, cost in costs.items()}
    with pytest.raises(AssertionError, match="float64"), Watching(no_float64):
        expected_cost(real, costs)
