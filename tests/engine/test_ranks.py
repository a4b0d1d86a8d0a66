"""Several processes, one run: two ranks with half batches each are one rank with the whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fuzz_tools import Patch, refusal_of

from darts_lib.engine.command_line import read_config
from darts_lib.engine.files import unpack
from darts_lib.engine.folder import read_alphas
from darts_lib.engine.ranks import Ranks
from darts_lib.retrain import RetrainConfig, Retraining
from darts_lib.search import Search, SearchConfig, search

TINY = {"scale": "laptop", "channels": 2, "layers": 3, "nodes": 1, "batch_size": 8}
TINY |= {"epochs": 3, "max_steps": 2, "device": "cpu"}
HERE = Path(__file__).resolve().parents[1]
SCRIPT = HERE / "two_ranks.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
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
        assert run(*start, SCRIPT, "steps", path).returncode == 0
        ends.append(torch.load(path, weights_only=True))
    alone, shared = ends
    torch.testing.assert_close(shared, alone, rtol=0, atol=1e-7)


@pytest.mark.deep
def test_when_a_rank_dies_the_job_ends_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """The end is that of a job in which nobody died, bit for bit; ranks leave no trace in it."""
    configs = {name: tmp_path / f"{name}.json" for name in ("straight", "stopped")}
    for name, path in configs.items():
        path.write_text(json.dumps({**TINY, "run_dir": str(tmp_path / name)}))
    assert run(*TORCHRUN, "2", SCRIPT, "search", configs["straight"]).returncode == 0
    assert run(*TORCHRUN, "2", SCRIPT, "dies", configs["stopped"]).returncode != 0
    assert not (tmp_path / "stopped" / "result.json").exists()
    done = run(*TORCHRUN, "2", "-m", "darts_lib.search", configs["stopped"])
    assert done.returncode == 0
    assert done.stdout.count("resuming at epoch") == 1  # one rank speaks for all
    straight, stopped = (read_alphas(tmp_path / name) for name in configs)
    assert all(torch.equal(stopped[kind], straight[kind]) for kind in straight)
    weights = unpack(tmp_path / "stopped" / "checkpoint.pt")["state"]["weights"]
    assert weights.keys() == Search(SearchConfig.create(**TINY)).net.state_dict().keys()
    assert search(read_config(configs["stopped"], SearchConfig)).history  # one process reads it


def test_what_ranks_cannot_share_is_refused(monkeypatch: Patch) -> None:
    own = {"scale": "laptop", "channels": 4, "genotype": "DARTS_V1", "device": "cpu"}
    retraining = RetrainConfig.create(**own, sync_batch_norm=True)
    refusal_of(lambda: Retraining(retraining), "sync_batch_norm=True needs GPUs, not 'cpu'")
    monkeypatch.setattr(Ranks, "current", lambda: Ranks(0, 2))
    exact = SearchConfig.create(**TINY, route="exact")
    refusal_of(lambda: Search(exact), "route='exact' is for one process, not 2")


def test_one_process_is_one_rank_and_two_have_equal_parts() -> None:
    ranks, pair = Ranks.current(), (torch.arange(5), torch.arange(5))
    assert (ranks.rank, ranks.count, ranks.first) == (0, 1, True)
    assert torch.equal(ranks.part(pair)[0], pair[0])
    parts = [Ranks(rank, 2).part(pair)[0].tolist() for rank in range(2)]
    assert parts == [[0, 2], [1, 3]], "equal and disjoint"
    assert ranks.mean(list(pair))[0] is pair[0]
    assert ranks.after_first(lambda: 3) == 3


def test_the_mean_over_ranks_is_one_message_and_keeps_shapes(monkeypatch: Patch) -> None:
    sent = []

    def summed(_: Ranks, tensor: torch.Tensor) -> torch.Tensor:
        sent.append(tensor.clone())
        return tensor.mul_(4)  # each of two ranks sent twice this

    monkeypatch.setattr(Ranks, "sum", summed)
    means = Ranks(0, 2).mean([torch.ones(2, 3), torch.tensor(5.0)])
    assert [mean.tolist() for mean in means] == [[[2.0] * 3] * 2, 10.0]
    assert [tensor.tolist() for tensor in sent] == [[1.0] * 6 + [5.0]]


def test_batches_too_small_for_the_ranks_are_left_out_or_refused() -> None:
    batches = [torch.arange(8), torch.arange(8), torch.arange(3)]
    assert Ranks().shared(batches) is batches
    assert [len(batch) for batch in Ranks(0, 2).shared(batches)] == [8, 8]
    refusal_of(lambda: Ranks(0, 5).shared(batches), "batch of 8 is too small for 5 ranks")
