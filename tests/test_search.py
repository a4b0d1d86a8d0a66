"""A tiny search into its folder: what it leaves, exact resume, refusals and warnings."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from same_bits import bits, digest
from torch import Tensor

from darts_lib.derivation import derive
from darts_lib.engine import folder as runs
from darts_lib.engine.files import unpack
from darts_lib.engine.refusals import SettingsError
from darts_lib.relaxation import initial_alphas
from darts_lib.search import (
    SearchConfig,
    load_search,
    missing_cells,
    read_search,
    search,
    warnings_of,
)
from darts_lib.search_epoch import Search

TINY = {
    "scale": "laptop",
    "channels": 2,
    "layers": 1,
    "nodes": 1,
    "max_steps": 2,
    "batch_size": 8,
    "epochs": 3,
}


def config(path: Path | str, **given: object) -> SearchConfig:
    return SearchConfig.create(**{**TINY, "run_dir": str(path), **given})


def stop_after(last: int) -> Callable[[dict[str, Any]], None]:
    def on_epoch(row: dict[str, Any]) -> None:
        if row["epoch"] == last:
            raise KeyboardInterrupt

    return on_epoch


def stopped(path: Path, last: int) -> SearchConfig:
    settings = config(path)
    with pytest.raises(KeyboardInterrupt):
        search(settings, stop_after(last))
    return settings


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a search that was never stopped."""
    path = tmp_path_factory.mktemp("search") / "straight"
    search(config(path))
    return path


def assert_same_bits(path: Path, other: Path) -> None:
    """Compare weights, alphas, both optimisers and the history, first and last to the bit."""
    here, there = (bits(unpack(folder / "checkpoint.pt")) for folder in (path, other))
    assert set(here["state"]) == {"weights", "alphas", "optimiser", "alpha_optimiser"}
    assert here["state"]["optimiser"]["state"], "momentum must be among what is compared"
    assert here["state"]["alpha_optimiser"]["state"]
    for part in ("state", "alphas", "history"):
        assert here[part] == there[part], part
    for name in ("alphas.npz", "genotype.json"):
        assert digest(path / name) == digest(other / name)


# What a search leaves ---------------------------------------------------------------------------


def test_the_presets_are_the_papers_and_the_laptops() -> None:
    paper = SearchConfig.create(scale="paper")
    assert (paper.dataset, paper.channels, paper.layers, paper.nodes) == ("cifar10", 16, 8, 4)
    assert (paper.batch_size, paper.order, paper.seed) == (64, 2, 0)
    assert (paper.learning_rate, paper.final_learning_rate) == (0.025, 0.001)
    assert (paper.momentum, paper.weight_decay, paper.gradient_clip) == (0.9, 3e-4, 5.0)
    assert (paper.alpha_learning_rate, paper.alpha_weight_decay) == (3e-4, 1e-3)
    laptop = SearchConfig.create(scale="laptop")
    assert laptop.dataset == "digits"
    assert laptop.alpha_learning_rate > paper.alpha_learning_rate
    assert SearchConfig.create(scale="laptop", epochs=50, channels=16).channels == 16


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"order": 3}, "order=3"),
        ({"route": "exct"}, "unknown route 'exct'; choose one of first_order"),
        ({"layers": 0}, "layers=0"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"max_skip": -2}, "max_skip=-2"),
        ({"learningrate": 0.1}, "unknown setting 'learningrate'; did you mean 'learning_rate'"),
    ],
)
def test_wrong_settings_of_a_search_are_named(given: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        SearchConfig.create(scale="laptop", **given)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("order", "route", "chosen"),
    [(1, "", "first_order"), (2, "", "finite_difference"), (1, "exact", "exact")],
)
def test_order_chooses_the_route_unless_a_route_is_named(
    order: int, route: str, chosen: str
) -> None:
    assert SearchConfig.create(order=order, route=route).chosen_route == chosen


@pytest.mark.parametrize(("layers", "kinds"), [(1, ["normal"]), (2, ["normal"]), (3, [])])
def test_a_kind_of_cell_that_the_supernet_lacks_is_told(
    layers: int, kinds: list[str], tmp_path: Path
) -> None:
    run = Search(config(tmp_path, layers=layers))
    said = missing_cells(run)
    assert len(said) == len(kinds)
    assert all(
        f"layers={layers} there is no {kind} cell" in line
        for kind, line in zip(kinds, said, strict=True)
    )
    run.step(*next(iter(run.batches(torch.Generator()))))
    still = [kind for kind, alphas in run.alphas.items() if not bool(torch.any(alphas.grad))]
    assert still == kinds, "what is said is so"


def test_the_history_has_a_row_an_epoch_with_every_figure(straight: Path) -> None:
    found = read_search(straight)
    assert [row["epoch"] for row in found.history] == [1, 2, 3]
    for row in found.history:
        assert set(row) == {
            "epoch",
            "learning_rate",
            "train_loss",
            "train_accuracy",
            "valid_loss",
            "valid_accuracy",
            "entropy_normal",
            "entropy_reduce",
            "alpha_change",
            "expected_madds",
            "skips",
            "genotype",
            "seconds",
        }
        assert 0 <= row["train_accuracy"] <= 1
        assert 0 < row["entropy_normal"] <= 2.0795
        assert row["seconds"] > 0


def test_alphas_are_kept_from_the_start_and_the_last_give_the_genotype(straight: Path) -> None:
    found = read_search(straight)
    start = initial_alphas(1, seed=0)
    assert set(found.alphas) == {"normal", "reduce"}
    for kind, alphas in found.alphas.items():
        assert alphas.shape == (4, 2, 8)
        assert torch.equal(alphas[0], start[kind].detach())
        assert not torch.equal(alphas[1], alphas[0])
    for epoch, row in enumerate(found.history, start=1):
        cell = derive({kind: alphas[epoch] for kind, alphas in found.alphas.items()})
        assert cell.to_dict() == row["genotype"]
    assert found.genotype.to_dict() == found.history[-1]["genotype"]
    assert json.loads((straight / "genotype.json").read_text()) == found.genotype.to_dict()


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [(0, 0.025), (1, 0.02497632074113926), (49, 0.0010236792588607412)],
)
def test_the_learning_rate_follows_the_papers_cosine(epoch: int, rate: float) -> None:
    run = Search(config("", epochs=50, max_steps=1, order=1))
    row = run.epoch(epoch)
    assert row["learning_rate"] == pytest.approx(rate, rel=1e-9)
    assert float(run.optimiser.param_groups[0]["lr"]) == pytest.approx(rate, rel=1e-6)
    assert row["epoch"] == epoch + 1


def test_another_seed_is_another_search(tmp_path: Path, straight: Path) -> None:
    other = search(config(tmp_path / "other", seed=1, epochs=1))
    first = read_search(straight)
    assert not torch.equal(other.alphas["normal"][0], first.alphas["normal"][0])
    assert other.history[0]["train_loss"] != first.history[0]["train_loss"]


# Exact resume -----------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [1, 2, 3])
def test_a_stopped_search_continued_has_the_same_bits(
    last: int, tmp_path: Path, straight: Path
) -> None:
    settings = stopped(tmp_path / "run", last)
    torch.rand(5)
    rows: list[int] = []
    result = search(settings, lambda row: rows.append(row["epoch"]))
    assert rows == [epoch for epoch in (1, 2, 3) if epoch > last], "no epoch is done twice"
    assert_same_bits(tmp_path / "run", straight)
    assert result.genotype == read_search(straight).genotype
    assert (tmp_path / "run" / "result.json").exists()


PROGRAM = """
import json, os, signal, sys
import torch
from darts_lib.search import SearchConfig, search
from darts_lib.search_epoch import Search
torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # under nohup it would be ignored
settings, number, steps, step = json.loads(sys.argv[1]), int(sys.argv[2]), [], Search.step
def stopped_step(*arguments):
    steps.append(1)
    if len(steps) == 4:  # the second step of the second epoch
        os.kill(os.getpid(), number)
    return step(*arguments)
Search.step = stopped_step
search(SearchConfig.create(**settings))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl_c"])
def test_another_process_stopped_in_an_epoch_is_continued_here_to_the_same_bits(
    number: signal.Signals, tmp_path: Path, straight: Path
) -> None:
    settings = config(tmp_path / "run")
    given = json.dumps({**TINY, "run_dir": str(tmp_path / "run")})
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, given, str(int(number))],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == -number, done.stderr
    assert "epoch 1/3" in done.stdout
    assert "epoch 2/3" not in done.stdout
    assert list((tmp_path / "run").glob(".*.part")) == []
    search(settings)
    assert_same_bits(tmp_path / "run", straight)


@pytest.mark.parametrize("how", ["truncated", "empty", "bit flipped"])
def test_a_damaged_checkpoint_costs_one_epoch_and_no_bit(
    how: str, tmp_path: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = stopped(tmp_path / "run", 2)
    file = tmp_path / "run" / "checkpoint.pt"
    content = bytearray(file.read_bytes())
    if how == "bit flipped":
        weights = unpack(file)["state"]["weights"]  # type: ignore[index]
        largest = max(weights.values(), key=lambda tensor: tensor.numel())
        content[content.index(largest.numpy().tobytes()[:64]) + 5] ^= 2
    file.write_bytes({"truncated": content[:20_000], "empty": b""}.get(how, content))
    capsys.readouterr()
    search(settings)
    said = capsys.readouterr().out
    assert f"{file}" in said
    assert "resuming at epoch 2" in said
    assert_same_bits(tmp_path / "run", straight)


def test_a_search_is_rebuilt_as_it_stood(straight: Path) -> None:
    run = load_search(straight)
    state = unpack(straight / "checkpoint.pt")["state"]
    assert bits(run.state()) == bits(state)


# Finished, other, older, newer ------------------------------------------------------------------


def contents(path: Path) -> dict[str, tuple[bytes, int]]:
    return {file.name: (digest(file), file.stat().st_mtime_ns) for file in path.iterdir()}


def test_a_finished_search_is_read_back_not_redone(
    straight: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(straight)
    result = search(config(straight), stop_after(1))
    assert contents(straight) == before
    assert result.genotype == read_search(straight).genotype
    said = capsys.readouterr().out
    assert f"finished already; read back from {straight}" in said
    assert "was made by" not in said
    monkeypatch.setattr(runs, "__version__", "99.0")
    search(config(straight))
    assert f"{straight} was made by darts_lib" in capsys.readouterr().out
    assert contents(straight) == before


def test_other_settings_are_refused_and_listed(straight: Path) -> None:
    before = contents(straight)
    with pytest.raises(SettingsError, match=r"nodes 1 there, 2 here; order 2 there, 1 here"):
        search(config(straight, nodes=2, order=1))
    assert contents(straight) == before


def test_resume_false_searches_anew_and_keeps_the_earlier_run(tmp_path: Path) -> None:
    first = search(config(tmp_path / "run", epochs=1))
    again = search(config(tmp_path / "run", epochs=2, resume=False))
    assert len(again.history) == 2
    assert read_search(tmp_path / "run.before-1").history == first.history


def test_settings_that_could_not_run_may_be_mended_in_the_same_folder(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="batch_size=5000 is more than the 718"):
        search(config(tmp_path / "run", batch_size=5000, epochs=1))
    search(config(tmp_path / "run", epochs=1))


# What goes wrong --------------------------------------------------------------------------------

SOUND = {"train_loss": 0.5, "skips": 1, "alpha_change": 0.1}


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        ([SOUND, {**SOUND, "skips": 3}], "3 of the normal cell's edges are skip connections"),
        ([{**SOUND, "alpha_change": 0.0}] * 2, "alphas never moved"),
        ([{**SOUND, "train_loss": 2.3}] * 2, "stayed at chance"),
    ],
)
def test_a_history_that_looks_wrong_is_told(rows: list[dict[str, Any]], word: str) -> None:
    warnings = warnings_of(rows, classes=10)
    assert len(warnings) == 1
    assert word in warnings[0]


@pytest.mark.parametrize(
    "rows",
    [
        [SOUND],
        [{**SOUND, "skips": 3}, SOUND],  # only the last cell counts
        [{**SOUND, "alpha_change": 0.0}, SOUND],
        [{**SOUND, "train_loss": 2.3}, SOUND],
    ],
)
def test_a_sound_history_is_not_warned_of(rows: list[dict[str, Any]]) -> None:
    assert warnings_of(rows, classes=10) == []


def test_alphas_without_a_learning_rate_stay_and_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = search(config(tmp_path / "run", alpha_learning_rate=0, epochs=2))
    assert torch.equal(result.alphas["normal"][0], result.alphas["normal"][2])
    assert "warning: the alphas never moved" in capsys.readouterr().out


def test_max_skip_limits_the_skip_connections_of_the_cell_found(tmp_path: Path) -> None:
    result = search(config(tmp_path / "run", max_skip=0, epochs=1, nodes=2))
    assert result.genotype.skips() == 0


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = stopped(tmp_path / "run", 1)
    before = digest(tmp_path / "run" / "checkpoint.pt")
    step = Search.eager_step

    def spoilt(self: Search, *batches: Tensor) -> Tensor:
        total = step(self, *batches)
        with torch.no_grad():
            next(iter(self.weights.values())).fill_(torch.nan)
        return total

    monkeypatch.setattr(Search, "eager_step", spoilt)
    with pytest.raises(
        FloatingPointError,
        match=r"no number in step \d of epoch 2 \(loss nan, learning rate 0\.019",
    ):
        search(settings)
    assert digest(tmp_path / "run" / "checkpoint.pt") == before
