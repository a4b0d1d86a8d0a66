"""What a process of test_ranks.py runs, alone or by torchrun.

    two_ranks.py steps OUT.pt             some steps in float64, normalised without the batch
    two_ranks.py search CONFIG.json       a search as its command does it
    two_ranks.py dies CONFIG.json         the same, but the second rank dies after the second epoch

Normalisation looks at one example and channel only (GroupNorm), so that half a batch on each of two
ranks is the same calculation as the whole on one.
"""

import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darts_lib.engine.command_line import read_config
from darts_lib.engine.folder import Row
from darts_lib.engine.ranks import Ranks, joined
from darts_lib.fast import fan
from darts_lib.retrain import RetrainConfig, Retraining
from darts_lib.search import Search, SearchConfig, search


def normalise(x: Tensor, gain: Tensor | None = None) -> Tensor:
    return F.group_norm(x, x.shape[1] // 2, gain)


def use_group_norm(net: nn.Module) -> None:
    """Put GroupNorm, with the same gain and bias, where a network has BatchNorm.

    Groups of two channels: with one, the mean over an image would be 0 and so would all gradients.
    """
    fan.normalise = normalise
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                group = nn.GroupNorm(child.num_features // 2, child.num_features)
                group.weight, group.bias = child.weight, child.bias
                setattr(module, name, group)


def steps(path: str) -> None:
    """Take three steps of a search of either order, and of a retraining; store where they ended."""
    torch.set_default_dtype(torch.float64)
    given = {"scale": "laptop", "channels": 4, "layers": 3, "batch_size": 12, "max_steps": 3}
    given |= {"max_images": 240, "device": "cpu"}  # ranks leave out some of an uneven batch
    # Of two ranks each takes its half of a batch in two parts.
    parts = {"genotype": "DARTS_V1", "drop_path": 0.0, "accumulate": Ranks.current().count}
    runs: dict[str, Search | Retraining] = {
        "retrained": Retraining(RetrainConfig.create(**given, **parts)),
        "order 1": Search(SearchConfig.create(**given, nodes=2, order=1)),
        "order 2": Search(SearchConfig.create(**given, nodes=2, order=2)),
    }
    ended = {}
    for name, run in runs.items():
        use_group_norm(run.net)
        run.epoch(0)
        reached = {**dict(run.net.named_parameters()), **run.alphas}
        ended |= {f"{name}: {key}": value.detach() for key, value in reached.items()}
    if Ranks.current().first:
        torch.save(ended, path)


def die(row: Row) -> None:
    if Ranks.current().rank == 1 and row["epoch"] == 2:
        os._exit(9)


if __name__ == "__main__":
    what, path = sys.argv[1:]
    with joined():
        if what == "steps":
            steps(path)
        else:
            search(read_config(Path(path), SearchConfig), die if what == "dies" else None)
