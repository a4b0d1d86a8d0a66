"""Several processes, one run: two ranks with half batches each are one rank with the whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from darts_lib.engine.command_line import read_config
from darts_lib.engine.files import unpack
from darts_lib.engine.folder import read_alphas
from darts_lib.engine.ranks import Ranks
from darts_lib.engine.refusals import SettingsError
from darts_lib.retrain import RetrainConfig, Retraining
from darts_lib.search import Search, SearchConfig, search

TINY = {"scale": "laptop", "channels": 2, "layers": 3, "nodes": 1, "batch_size": 8}
TINY |= {"epochs": 3, "max_steps": 2, "device": "cpu"}
HERE = Path(__file__).resolve().parents[1]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command with one thread a process, and show what it said if it failed."""
    own = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=own, cwd=HERE.parent, capture_output=True, text=True, timeout=300
    )
    print(done.stdout, done.stderr)
    return done


@pytest.mark.deep
def test_two_ranks_search_and_retrain_as_one(tmp_path: Path) -> None:
    """To float64's rounding, which Adam and the finite difference make larger."""
    ends = []
    for start in ([sys.executable], [*TORCHRUN, "2"]):
        path = tmp_path / f"{len(ends)}.pt"
        assert run(*start, str(HERE / "two_ranks.py"), "steps", str(path)).returncode == 0
        ends.append(torch.load(path, weights_only=True))
    alone, shared = ends
    assert alone.keys() == shared.keys()
    for name, value in alone.items():
        torch.testing.assert_close(
            shared[name], value, rtol=0, atol=1e-7, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.deep
def test_when_a_rank_dies_the_job_ends_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """The end is that of a job in which nobody died, bit for bit; ranks leave no trace in it."""
    configs = {name: tmp_path / f"{name}.json" for name in ("straight", "stopped")}
    for name, path in configs.items():
        path.write_text(json.dumps({**TINY, "run_dir": str(tmp_path / name)}))
    script = [*TORCHRUN, "2", str(HERE / "two_ranks.py")]
    assert run(*script, "search", str(configs["straight"])).returncode == 0
    assert run(*script, "dies", str(configs["stopped"])).returncode != 0
    assert not (tmp_path / "stopped" / "result.json").exists()
    done = run(*TORCHRUN, "2", "-m", "darts_lib.search", str(configs["stopped"]))
    assert done.returncode == 0
    assert done.stdout.count("resuming at epoch") == 1  # one rank speaks for all
    straight, stopped = (read_alphas(tmp_path / name) for name in configs)
    assert all(torch.equal(stopped[kind], straight[kind]) for kind in straight)
    weights = unpack(tmp_path / "stopped" / "checkpoint.pt")["state"]["weights"]
    assert weights.keys() == Search(SearchConfig.create(**TINY)).net.state_dict().keys()
    assert search(read_config(configs["stopped"], SearchConfig)).history  # one process reads it


def test_a_route_that_ranks_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ranks, "current", lambda: Ranks(0, 2))
    with pytest.raises(SettingsError, match="route='exact' is for one process, not 2"):
        Search(SearchConfig.create(**TINY, route="exact"))


def test_one_process_is_one_rank_and_sends_nothing() -> None:
    ranks, pair = Ranks.current(), (torch.arange(5), torch.arange(5))
    assert (ranks.rank, ranks.count, ranks.first) == (0, 1, True)
    assert torch.equal(ranks.part(pair)[0], pair[0])
    assert ranks.mean(list(pair))[0] is pair[0]
    assert ranks.after_first(lambda: 3) == 3


def test_the_mean_over_ranks_is_one_message_and_keeps_shapes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent = []

    def summed(_: Ranks, tensor: torch.Tensor) -> torch.Tensor:
        sent.append(tensor.clone())
        return tensor.mul_(4)  # each of two ranks sent twice this

    monkeypatch.setattr(Ranks, "sum", summed)
    means = Ranks(0, 2).mean([torch.ones(2, 3), torch.tensor(5.0)])
    assert [mean.tolist() for mean in means] == [[[2.0] * 3] * 2, 10.0]
    assert [tensor.tolist() for tensor in sent] == [[1.0] * 6 + [5.0]]


def test_the_parts_of_a_batch_are_equal_and_disjoint() -> None:
    batch = (torch.arange(11), torch.arange(11))
    parts = [Ranks(rank, 3).part(batch)[0].tolist() for rank in range(3)]
    assert parts == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


def test_batches_too_small_for_the_ranks_are_left_out_or_refused() -> None:
    batches = [torch.arange(8), torch.arange(8), torch.arange(3)]
    assert Ranks().shared(batches) is batches
    assert [len(batch) for batch in Ranks(0, 2).shared(batches)] == [8, 8]
    with pytest.raises(SettingsError, match="batch of 8 is too small for 5 ranks"):
        Ranks(0, 5).shared(batches)


def test_statistics_of_all_ranks_are_for_gpus() -> None:
    given = {"scale": "laptop", "channels": 4, "genotype": "DARTS_V1", "device": "cpu"}
    config = RetrainConfig.create(**given, sync_batch_norm=True)
    with pytest.raises(SettingsError, match="sync_batch_norm=True needs GPUs, not 'cpu'"):
        Retraining(config)
