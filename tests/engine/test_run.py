"""The run itself: epochs, steps, state and what is said before the first step."""

import gc
import math
import weakref
from collections.abc import Generator
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
import torch
from fuzz_tools import Patch, Said, refusal_of
from same_bits import bits
from torch import Tensor, nn
from toy_run import CELL, ToyConfig, ToyRun, end, killed, toy, toy_config

from darts_lib.engine import devices
from darts_lib.engine.devices import free_memory, step_memory
from darts_lib.engine.folder import read_alphas, read_history
from darts_lib.engine.ranks import Ranks
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.run import EVERY, Batch, Result, run_in_folder
from darts_lib.genotype import Genotype


def test_every_epoch_is_run_saved_and_told(path: Path, said: Said) -> None:
    saved_by_then: list[int] = []
    result = toy(toy_config(path), lambda _: saved_by_then.append(len(read_history(path))))
    assert saved_by_then == [1, 2, 3, 4], "an epoch is told when it is on the disk"
    lines = said().splitlines()
    losses = [f"{row['train_loss']:.4g}" for row in result.history]
    assert [line.split("  ")[:2] for line in lines if line.startswith("epoch ")] == [
        [f"epoch {epoch}/4", f"train_loss {loss}"] for epoch, loss in enumerate(losses, 1)
    ]
    assert lines[-1] == "warning: nothing was learnt in 4 epochs"
    assert result.figures["loss"] == result.history[-1]["train_loss"]
    rates = [row["learning_rate"] for row in result.history]
    assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * k / 4)) for k in range(4)])
    assert all(row["seconds"] > 0 for row in result.history)
    assert len(read_alphas(path)["normal"].unique(dim=0)) == 5, "recorded as they were"


def test_the_randomness_of_an_epoch_is_that_of_seed_number_and_attempt() -> None:
    ends = {}
    for seed, epoch, attempt in [(0, 0, 0), (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]:
        run = ToyRun(toy_config(seed=0))
        run.config, run.attempt = toy_config(seed=seed), attempt
        torch.rand(7)  # whatever was drawn before must not matter
        seen: list[Batch] = []
        run.take = lambda batch, run=run, seen=seen: seen.append(batch) or run.step(batch)
        run.epoch(epoch)
        key = seed, epoch, attempt
        ends.setdefault(key, []).append((bits([*seen]), bits(run.net.state_dict())))
    assert ends[0, 0, 0][0] == ends[0, 0, 0][1]
    for part in (0, 1):  # what the epoch's generator drew, and what torch's own (dropout) gave
        assert len({str(found[0][part]) for found in ends.values()}) == 4


def test_an_epochs_figures_are_the_sums_of_its_steps_over_all_ranks() -> None:
    class Two(Ranks):
        def sum(self, tensor: Tensor) -> Tensor:
            return tensor + torch.tensor([5.0, 1.0])

    run, losses = ToyRun(toy_config()), []
    run.ranks = Two()
    run.take = lambda batch: losses.append(run.step(batch)) or losses[-1]
    row = run.epoch(2)
    assert row["train_loss"] == pytest.approx((sum(float(x[0]) for x in losses) + 5) / 4)
    assert row["epoch"] == 3
    assert row["genotype"] == CELL.to_dict(), "what is measured after the steps"


def test_an_epoch_with_a_gradient_that_is_no_number_ends_at_the_next_look(tmp_path: Path) -> None:
    """Its batches are closed, so that no worker stays; the step itself is left out."""

    class Odd(ToyRun):
        def batches(self, generator: torch.Generator) -> Generator[tuple[Batch, ...]]:
            self.closed, self.count = False, 0
            try:
                for given in super().batches(generator):
                    self.count += 1
                    yield given if self.count != 7 else ((given[0][0] * math.nan,),)
            finally:
                self.closed = True

    for steps, taken in ((3 * EVERY, EVERY), (9, 9)):
        run = Odd(toy_config(max_steps=steps), tmp_path)
        with pytest.raises(FloatingPointError, match="the loss was no number in step 7 of epoch 2"):
            run.epoch(1)
        assert (run.count, run.closed) == (taken, True)
        assert all(t.isfinite().all() for t in run.changed() if t is not run.guard.first)
    run.batches = lambda generator: ToyRun.batches(run, generator)
    run.epoch(1)  # the next attempt counts and looks anew


@pytest.mark.parametrize(("gradient", "clip", "ended"), [
    ([6.0, 8.0], math.inf, [0.0, 0.0]),
    ([6.0, 8.0], 100.0, [0.0, 0.0]),
    ([6.0, 8.0], 5.0, [1.5, 2.0]),  # of norm 10
    (None, math.inf, [2.0, 3.0]),  # along the gradients that are there
    ([math.nan, 8.0], 5.0, [3.0, 4.0]),
    ([math.inf, 8.0], math.inf, [3.0, 4.0]),
])  # fmt: skip
def test_descend_by_hand(gradient: list[float] | None, clip: float, ended: list[float]) -> None:
    """Of a weight of (3, 4), by SGD at rate 0.5."""
    run, weight = ToyRun(toy_config()), torch.tensor([3.0, 4.0], requires_grad=True)
    weight.grad = torch.tensor([2.0, 2.0])
    given = None if gradient is None else [torch.tensor(gradient)]
    run.descend(torch.optim.SGD([weight], 0.5, fused=True), torch.tensor(1.0), given, clip)
    assert weight.tolist() == pytest.approx(ended, abs=1e-5)
    assert bool(run.guard.first[0]) == (ended == [3.0, 4.0]), "told by the guard"


def test_gradients_are_as_many_as_variables() -> None:
    run = ToyRun(toy_config())
    with pytest.raises(ValueError, match="zip"):
        run.descend(run.optimiser, torch.tensor(0.0), [torch.zeros(100, 100)])


@pytest.mark.parametrize("weights", [None, {}, nn.Linear(3, 1).state_dict()])
def test_a_state_of_another_network_is_refused_in_one_line(weights: Any) -> None:
    run = ToyRun(toy_config(), "folder")
    state = {} if weights is None else {**run.state(), "weights": weights}
    refusal_of(lambda: run.restore(state), "the checkpoint in folder is of another network")


def test_a_run_is_rebuilt_from_its_folder(tmp_path: Path, path: Path) -> None:
    run = ToyRun.loaded(path, killed(path, 2))
    assert bits(run.state()) == end(path)
    assert (run.config.seed, run.config.device, run.folder) == (0, "cpu", path)
    words = "holds no checkpoint.pt; search first"
    refusal_of(lambda: ToyRun.loaded(tmp_path, missing="search first"), words)


def test_a_result_is_that_of_the_last_epoch_until_the_run_has_finished(path: Path) -> None:
    killed(path, 2)
    result = Result.read(path, Genotype)
    assert (result.genotype, len(result.history), result.figures) == (CELL, 2, {})
    (path / "history.jsonl").write_text("")
    refusal_of(lambda: Result.read(path, Genotype), "has no finished epoch: run it again")


def test_a_run_says_settings_data_network_cost_and_doubts(said: Said, monkeypatch: Patch) -> None:
    monkeypatch.setattr(ToyRun, "trial", lambda run: (2.0, 84 * 2**20))
    run = ToyRun(toy_config(max_steps=1500))
    run.describe()
    assert said().splitlines() == [
        run.config.line,
        "random numbers, 1,500 steps an epoch",
        "supernet: 10,100 weights; a step keeps about 84 MiB (less with a smaller batch_size); "
        "about 3 h 20 min for 4 epochs",
        "warning: toys learn nothing",
    ]


def test_a_trial_leaves_no_trace_in_what_comes_after_it() -> None:
    """That the state itself is put back is tested of every kind of run, in test_kinds.py."""
    ends = []
    for tried in (False, True):
        run = ToyRun(toy_config())
        run.epoch(0)
        assert not tried or min(run.trial()) > 0
        run.epoch(1)
        ends.append(bits(run.state()))
    assert ends[0] == ends[1]


def test_the_trial_times_the_second_step(monkeypatch: Patch) -> None:
    clock, run = [0.0], ToyRun(toy_config())
    monkeypatch.setattr("darts_lib.engine.run.time.perf_counter", lambda: clock[0])
    duration, step = iter([100.0, 3.0]), run.step

    def timed(batch: Batch) -> Tensor:
        clock[0] += next(duration)
        return step(batch)

    run.step = timed
    assert run.trial()[0] == 3.0


def test_the_memory_of_a_step_by_hand() -> None:
    """Bytes that autograd keeps, at the peak, each storage once and none that was there before."""
    known, cpu = torch.ones(100, requires_grad=True), torch.device("cpu")
    with step_memory(cpu, [known]) as memory:
        first = known.exp()  # keeps its result: 400 bytes
        assert memory.peak == 400
        second = first * first  # keeps first, twice, which is kept already
        third = second * known  # keeps second, and known which it does not add
        assert memory.peak == 800
        third.sum().backward()
        del first, second, third
        again = known.exp() + known.exp()  # each keeps 400: after the others were freed
    assert memory.peak == 800
    with step_memory(cpu, []) as memory:
        (known[:50] * known[50:]).sum()
    assert memory.peak == 400, "a part keeps its whole storage"
    del again


def test_measuring_a_step_that_differentiates_twice_keeps_nothing_alive() -> None:
    """An output that a hook keeps with its node is a ring through C++, which nothing frees."""
    x, beside = torch.ones(10, requires_grad=True), torch.ones(10, requires_grad=True)
    with step_memory(torch.device("cpu"), []):
        loss = x.exp().sum() + beside.exp().sum()  # whose graph the second time does not visit
        (first,) = torch.autograd.grad(loss, x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
    assert torch.equal(second, x.exp())
    del loss, first, second
    gc.collect()
    kept = [each for each in gc.get_objects() if type(each) is FunctionType]
    assert [each for each in kept if "step_memory.<locals>.pack" in each.__qualname__] == []


def raising(words: str, error: type[BaseException] = RuntimeError) -> Any:
    def fail(*_: object) -> None:
        raise error(words)

    return fail


@pytest.mark.parametrize("words", ["CUDA out of memory. Tried", "[enforce] DefaultCPUAllocator: x"])
@pytest.mark.parametrize("epoch", [1, 3])
def test_a_step_that_does_not_fit_is_told_with_the_way_out(
    words: str, epoch: int, path: Path, monkeypatch: Patch
) -> None:
    """Before the first epoch in the trial, later in the epoch; what is finished is kept."""
    config = killed(path, 2) if epoch == 3 else toy_config(path)
    if epoch == 3:
        monkeypatch.setattr(ToyRun, "trial", lambda _: (0.0, 0))
    monkeypatch.setattr(ToyRun, "take" if epoch == 3 else "step", raising(f"{words}\nmore"))
    step, kept = ("a step of epoch 3", "2 finished") if epoch == 3 else ("a step", "Finished")
    assert refusal_of(lambda: toy(config)) == (
        f"{step} does not fit into memory ({words}); less with a smaller batch_size. {kept} epochs "
        f"are kept in {path}."
    )


@pytest.mark.parametrize(("words", "error"), [
    ("DefaultCPUAllocator: can't allocate memory", RuntimeError),
    ("Unable to allocate 17.5 GiB for an array", MemoryError),
])  # fmt: skip
def test_a_start_that_does_not_fit_is_told_too(
    words: str, error: type[BaseException], path: Path, monkeypatch: Patch
) -> None:
    """Building, loading and describing, as a step."""
    for place in ("__init__", "data_line"):
        monkeypatch.setattr(ToyRun, place, raising(words, error))
        told = "the start of the run does not fit into memory", words, "smaller batch_size"
        refusal_of(lambda: toy(toy_config(path)), *told)


def test_what_cannot_fit_is_refused_before_it_is_asked_for(monkeypatch: Patch, path: Path) -> None:
    """Linux hands out more than there is, and ends the process that uses it."""
    monkeypatch.setattr(devices, "free_memory", lambda: 100_000.0)
    run = ToyRun(toy_config())
    refused = pytest.raises(MemoryError, match="training its weights takes 0.0 GiB, 0.0 are free")
    assert run.placed(lambda: nn.Linear(80, 100)).weight.shape == (100, 80)
    with refused:
        run.placed(lambda: nn.Linear(90, 100))
    with pytest.raises(MemoryError, match="the next tensor"), step_memory(run.device, []):
        torch.ones(2**18, requires_grad=True).exp()
    monkeypatch.undo()
    assert free_memory() > 2**20


def test_a_limit_of_the_container_counts_and_other_systems_have_none(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    monkeypatch.setattr(devices, "CGROUP", tmp_path)
    whole = free_memory()
    (tmp_path / "memory.current").write_text("1000\n")
    for limit, free in (("3000\n", 2000), ("max\n", whole)):
        (tmp_path / "memory.max").write_text(limit)
        assert free_memory() == pytest.approx(free, rel=0.2)
    monkeypatch.setattr(devices, "read_text", raising("no such file", SettingsError))
    assert free_memory() == math.inf


def test_compiling_is_told_beforehand(monkeypatch: Patch, said: Said) -> None:
    monkeypatch.setattr(ToyRun, "trial", lambda run: (2.0, 0))
    for switch, times in (("on", 1), ("off", 0)):
        ToyRun(toy_config(compile=switch)).describe()
        text = said()
        assert text.count("compiling the cells comes first") == text.count("on top") == times


def test_another_error_stays_what_it_is(monkeypatch: Patch, path: Path) -> None:
    monkeypatch.setattr(ToyRun, "step", raising("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        toy(toy_config(path))
    assert not path.exists()


def test_ctrl_c_is_told_in_one_line_and_what_is_finished_is_kept(path: Path) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        toy(toy_config(path), raising("", KeyboardInterrupt))
    line = f"stopped; finished epochs are kept in {path}: run the same cell or command to go on."
    shown: Any = caught.value
    assert str(shown) == line
    assert shown._render_traceback_() == [f"KeyboardInterrupt: {line}"], "as a notebook shows it"
    assert len(toy(toy_config(path)).history) == 4


def test_an_error_that_is_kept_keeps_no_network(path: Path, monkeypatch: Patch) -> None:
    """As a notebook's kernel keeps its last error, with the frames of it and of what it hides."""
    nets: list[weakref.ref[nn.Module]] = []

    class Kept(ToyRun):
        def __init__(self, config: ToyConfig, folder: object = "") -> None:
            super().__init__(config, folder)
            nets.append(weakref.ref(self.net))

    monkeypatch.setattr(ToyRun, "end", raising("out of memory"))
    gc.disable()
    try:
        with pytest.raises(SettingsError) as caught:
            run_in_folder(toy_config(path), Kept, Genotype)
        assert isinstance(caught.value.__cause__, RuntimeError)
        assert nets[0]() is None
        monkeypatch.undo()
        run_in_folder(toy_config(path), Kept, Genotype)
        assert nets[1]() is None, "nor does a run that has ended well, with no collection"
    finally:
        gc.enable()
